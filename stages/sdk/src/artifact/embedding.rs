//! One vector per spot: an AnnData group with a dense X.

use std::{collections::HashMap, path::Path};

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

/// One vector per spot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Length of a vector.
    pub dims: usize,
    /// `spots.len() * dims` values, a spot's together.
    pub values: Vec<f32>,
}

impl Embedding {
    /// The vector of the spot at a position.
    pub fn row(&self, position: usize) -> &[f32] {
        &self.values[position * self.dims..][..self.dims]
    }

    /// Spot id to position.
    pub fn positions(&self) -> HashMap<&str, usize> {
        super::positions(&self.spots)
    }
}

impl Artifact for Embedding {
    const PORT: PortType = PortType::Embedding;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
