//! One image crop per spot.

use std::{collections::HashMap, path::Path};

use serde_json::json;

use super::{
    Artifact, anndata,
    zarr::{Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

const SPOTS: &str = "spots";
const SIDES: &str = "sides";

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

    /// Adds to patches that are written already how wide each is in the full-resolution image, in its pixels.
    ///
    /// # Errors
    /// If there are not as many as patches, or the disk refuses.
    pub fn write_sides(path: &Path, sides: &[f32]) -> Result<()> {
        let patches = Reader::open(path)?.shape(SPOTS)?;
        if patches != [sides.len()] {
            return Err(Error::invalid(format!("{} sides for patches of shape {patches:?}", sides.len())));
        }
        anndata::array(&Writer::open(path)?, SIDES, &[sides.len()], sides)
    }

    /// How wide each of the patches in a folder is in the full-resolution image, in its pixels; none where they do not tell.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_sides(path: &Path) -> Result<Option<Vec<f32>>> {
        let root = Reader::open(path)?;
        root.has(SIDES).then(|| Ok(root.array(SIDES, &[None])?.1)).transpose()
    }

    /// Spot id to position.
    pub fn positions(&self) -> HashMap<&str, usize> {
        super::positions(&self.spots)
    }
}

impl Artifact for Patches {
    const PORT: PortType = PortType::Patches;

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        let size: usize = root.attribute("size")?;
        let spots = root.texts("spots", None)?;
        let (_, pixels) = root.array("pixels", &[Some(spots.len()), Some(size), Some(size), Some(3)])?;
        Ok(Self { spots, size, pixels })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let (count, size) = (self.spots.len(), self.size);
        if self.pixels.len() != count * size * size * 3 {
            let bytes = self.pixels.len();
            return Err(Error::invalid(format!(
                "{count} RGB patches of {size} x {size} pixels cannot have {bytes} bytes"
            )));
        }
        anndata::check_unique("spots", &self.spots)?;
        let root = Writer::create(path, [("size".into(), json!(size))].into_iter().collect())?;
        anndata::texts(&root, "spots", &self.spots)?;
        anndata::array(&root, "pixels", &[count, size, size, 3], &self.pixels)
    }
}
