//! One image crop per spot.

use std::{collections::HashMap, path::Path};

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

/// One 8-bit RGB crop per spot, all of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patches {
    /// Spot ids; spots without an image, or whose crop leaves it, are not here.
    pub spots: Vec<String>,
    /// Side of a crop in pixels.
    pub size: usize,
    /// `spots.len() * size * size * 3` bytes: spot, row, column, colour.
    pub pixels: Vec<u8>,
}

impl Patches {
    /// The bytes of the crop at a position: row, column, colour.
    pub fn patch(&self, position: usize) -> &[u8] {
        let bytes = self.size * self.size * 3;
        &self.pixels[position * bytes..][..bytes]
    }

    /// Spot id to position.
    pub fn positions(&self) -> HashMap<&str, usize> {
        super::positions(&self.spots)
    }
}

impl Artifact for Patches {
    const PORT: PortType = PortType::Patches;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
