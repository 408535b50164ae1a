//! An 8-bit RGB image with its scale factors.

use std::path::Path;

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

/// How pixels of the delivered images relate to the full-resolution image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaleFactors {
    /// Full-resolution pixel x this = pixel of the `hires` image, where there is one.
    pub tissue_hires_scalef: Option<f64>,
    /// As above, of the `lowres` image.
    pub tissue_lowres_scalef: Option<f64>,
    /// Diameter of a spot in full-resolution pixels, as the file says (not 55 µm: see the research on formats).
    pub spot_diameter_fullres: f64,
    /// Diameter of a fiducial in full-resolution pixels, where the file says.
    pub fiducial_diameter_fullres: Option<f64>,
}

/// An 8-bit RGB image, rows from the top. As the artifact of an `image` port: of one section, at `hires` scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Section it shows.
    pub section: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width * 3` bytes.
    pub pixels: Vec<u8>,
    /// Full-resolution pixel x this = pixel of this image.
    pub scale: f64,
    /// Diameter of a spot in full-resolution pixels.
    pub spot_diameter_fullres: f64,
}

impl Image {
    /// Whether it has no pixels: the section came without an image.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }
}

impl Artifact for Image {
    const PORT: PortType = PortType::Image;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
