//! An 8-bit RGB image with its scale factors.

use std::{ops::Range, path::Path};

use serde_json::json;

use super::{
    Artifact,
    zarr::{Attributes, Reader, Rows, Writer},
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
        let mut rows = ImageRows::create(path, self)?;
        rows.push(&self.pixels)?;
        rows.finish()
    }
}

/// An image of any size that is being written from the top, so that it need never be in memory.
pub struct ImageRows(Rows<u8>);

impl ImageRows {
    /// Begins an image of the height, width, section and scales of `image`, whatever pixels that has.
    ///
    /// # Errors
    /// If the folder holds one already, or the disk refuses.
    pub fn create(path: &Path, image: &Image) -> Result<Self> {
        let attributes = [
            ("section", json!(image.section)),
            ("scale", json!(image.scale)),
            ("spot_diameter_fullres", json!(image.spot_diameter_fullres)),
        ];
        let root =
            Writer::create(path, attributes.into_iter().map(|(name, value)| (name.into(), value)).collect())?;
        root.rows("pixels", &[image.height, image.width, 3], Attributes::new()).map(Self)
    }

    /// Appends rows of RGB pixels.
    ///
    /// # Errors
    /// If there are more than the image has, or the disk refuses.
    pub fn push(&mut self, rows: &[u8]) -> Result<()> {
        self.0.push(rows)
    }

    /// Checks that all rows came.
    ///
    /// # Errors
    /// If some did not.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// An image on disk, of which parts are read.
pub struct ImageFile {
    root: Reader,
    /// What the artifact says of the image; without its pixels.
    pub about: Image,
}

impl ImageFile {
    /// Opens the artifact of an `image` port.
    ///
    /// # Errors
    /// If the folder holds none.
    pub fn open(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        let [height, width, 3] = root.shape("pixels")?[..] else {
            return Err(root.wrong("should hold `pixels` of height x width x 3"));
        };
        let about = Image {
            section: root.attribute("section")?,
            height,
            width,
            pixels: Vec::new(),
            scale: root.attribute("scale")?,
            spot_diameter_fullres: root.attribute("spot_diameter_fullres")?,
        };
        Ok(Self { root, about })
    }

    /// The RGB pixels of some rows.
    ///
    /// # Errors
    /// If the image lacks them.
    pub fn rows(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        self.root.rows_of("pixels", rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(height: usize, width: usize) -> Image {
        let pixels = (0..height * width * 3).map(|byte| (byte % 251) as u8).collect();
        Image { section: "A".into(), height, width, pixels, scale: 0.5, spot_diameter_fullres: 9.0 }
    }

    /// Larger than a file, so that parts are written and read over the border of two.
    #[test]
    fn rows_that_come_in_parts_are_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(9000, 2600);
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        image.write(&whole).unwrap();
        let mut rows = ImageRows::create(&parts, &image).unwrap();
        image.pixels.chunks(777 * 2600 * 3).for_each(|part| rows.push(part).unwrap());
        rows.finish().unwrap();
        assert!(Image::read(&parts).unwrap() == image);
        let files = |root: &Path| std::fs::read_dir(root.join("pixels/c")).unwrap().count();
        assert_eq!((files(&whole), files(&parts)), (2, 2));

        let file = ImageFile::open(&parts).unwrap();
        assert_eq!((file.about.height, file.about.scale), (9000, 0.5));
        let row = 2600 * 3;
        assert!(file.rows(8500..8700).unwrap() == image.pixels[8500 * row..8700 * row]);
        assert!(file.rows(8999..9001).unwrap_err().to_string().contains("has no rows 8999..9001"));
    }

    #[test]
    fn too_few_and_too_many_rows_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(4, 5);
        let mut rows = ImageRows::create(&folder.path().join("few"), &image).unwrap();
        rows.push(&[0; 15]).unwrap();
        assert!(rows.finish().unwrap_err().to_string().contains("of its 4 rows"));
        let mut rows = ImageRows::create(&folder.path().join("many"), &image).unwrap();
        assert!(rows.push(&[0; 75]).unwrap_err().to_string().contains("more rows than its shape has"));
    }

    #[test]
    fn an_image_without_pixels_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image { section: "A".into(), scale: 1.0, ..Image::default() };
        image.write(&folder.path().join("none")).unwrap();
        assert!(Image::read(&folder.path().join("none")).unwrap() == image);
    }
}
