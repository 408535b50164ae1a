//! An 8-bit RGB image with its scale factors.

use std::path::Path;

use serde_json::json;

use super::{
    Artifact,
    zarr::{Attributes, Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

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

    /// Height, width and pixels of a child array.
    pub(super) fn read_pixels(group: &Reader, name: &str) -> Result<(usize, usize, Vec<u8>)> {
        let (shape, pixels) = group.array(name, &[None, None, Some(3)])?;
        match shape[..] {
            [height, width, _] => Ok((height, width, pixels)),
            _ => Err(group.wrong(format!("has no image `{name}`"))),
        }
    }

    pub(super) fn write_pixels(&self, group: &Writer, name: &str, attributes: Attributes) -> Result<()> {
        let (height, width) = (self.height, self.width);
        if self.pixels.len() != height * width * 3 {
            return Err(Error::invalid(format!(
                "an RGB image of {width} x {height} pixels cannot have {} bytes",
                self.pixels.len()
            )));
        }
        group.array(name, &[height, width, 3], &self.pixels, attributes)
    }
}

impl Artifact for Image {
    const PORT: PortType = PortType::Image;

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        let (height, width, pixels) = Self::read_pixels(&root, "pixels")?;
        Ok(Self {
            section: root.attribute("section")?,
            height,
            width,
            pixels,
            scale: root.attribute("scale")?,
            spot_diameter_fullres: root.attribute("spot_diameter_fullres")?,
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let attributes = [
            ("section", json!(self.section)),
            ("scale", json!(self.scale)),
            ("spot_diameter_fullres", json!(self.spot_diameter_fullres)),
        ];
        let root =
            Writer::create(path, attributes.into_iter().map(|(name, value)| (name.into(), value)).collect())?;
        self.write_pixels(&root, "pixels", Attributes::new())
    }
}
