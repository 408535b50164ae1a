//! An 8-bit RGB image with its scale factors. On disk: a pyramid as OME-NGFF has it, with what SpatialData wants of one,
//! so that the folder is an element of a SpatialData as it is.

use std::{collections::BTreeMap, ops::Range, path::Path};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::{
    Artifact,
    zarr::{Attributes, Reader, Rows, Writer, file_rows},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

/// What SpatialData calls the pixels of the full-resolution image, in which all of a section's elements meet.
pub const COORDINATE_SYSTEM: &str = "global";

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
    /// Whatever else the file says in numbers, by its name: `microns_per_pixel` and `bin_size_um` of Visium HD,
    /// `regist_target_img_scalef` of CytAssist.
    pub others: BTreeMap<String, f64>,
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

    /// Refuses pixels that do not fill it.
    fn check(&self) -> Result<()> {
        let (height, width, bytes) = (self.height, self.width, self.pixels.len());
        if bytes == height * width * 3 {
            return Ok(());
        }
        Err(Error::invalid(format!("an RGB image of {width} x {height} pixels cannot have {bytes} bytes")))
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
        self.check()?;
        let (height, width) = (self.height, self.width);
        group.array(name, &[height, width, 3], &self.pixels, attributes)
    }
}

/// The longer side that the smallest level of the pyramid has at most.
const SMALLEST: usize = 512;
/// Rows that are halved at a time.
const WINDOW: usize = 512;

impl Artifact for Image {
    const PORT: PortType = PortType::Image;

    fn read(path: &Path) -> Result<Self> {
        let file = ImageFile::open(path)?;
        let pixels = file.rows(0..file.about.height)?;
        Ok(Self { pixels, ..file.about })
    }

    fn write(&self, path: &Path) -> Result<()> {
        self.check()?;
        let mut rows = ImageRows::create(path, self)?;
        rows.push(&self.pixels)?;
        rows.finish()
    }
}

/// What SpatialData and OME-NGFF's viewers want to know of a pyramid, and what we do.
fn attributes(image: &Image, levels: usize) -> Attributes {
    let axis = |name: &str| {
        if name == "c" {
            json!({"name": name, "type": "channel"})
        } else {
            json!({"name": name, "type": "space", "unit": "unit"})
        }
    };
    let axes: Vec<Value> = ["c", "y", "x"].into_iter().map(axis).collect();
    // Pixels of this image to those at full resolution, which everything of a section shares.
    let scale = if image.scale > 0.0 { 1.0 / image.scale } else { 1.0 };
    let to_full = json!({
        "type": "scale",
        "scale": [1.0, scale, scale],
        "input": {"name": "cyx", "axes": axes},
        "output": {"name": COORDINATE_SYSTEM, "axes": axes},
    });
    let level = |level: usize| {
        let factor = 2_f64.powi(level as i32);
        json!({
            "path": format!("s{level}"),
            "coordinateTransformations": [{"type": "scale", "scale": [1.0, factor, factor]}],
        })
    };
    let datasets: Vec<Value> = (0..levels).map(level).collect();
    let channels = ["r", "g", "b"].map(|label| json!({"label": label}));
    // Not 0.5: SpatialData's reader wants exactly this.
    let ome = json!({
        "version": "0.5-dev-spatialdata",
        "omero": {"channels": channels},
        "multiscales": [{
            "name": image.section,
            "axes": [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
            "coordinateTransformations": [to_full],
            "datasets": datasets,
        }],
    });
    [
        ("ome", ome),
        ("spatialdata_attrs", json!({"version": "0.3"})),
        ("section", json!(image.section)),
        ("scale", json!(image.scale)),
        ("spot_diameter_fullres", json!(image.spot_diameter_fullres)),
    ]
    .into_iter()
    .map(|(name, value)| (name.into(), value))
    .collect()
}

/// An image of any size that is being written from the top with its pyramid, so that it need never be in memory.
pub struct ImageRows {
    /// From the full size down, each half of the one before.
    levels: Vec<Level>,
}

struct Level {
    planes: Rows<u8>,
    height: usize,
    width: usize,
    /// Rows that came.
    seen: usize,
    /// What came and waits: for the rest of its row, and for the row below.
    waiting: Vec<u8>,
}

impl ImageRows {
    /// Begins an image of the height, width, section and scales of `image`, whatever pixels that has.
    ///
    /// # Errors
    /// If the folder holds one already, or the disk refuses.
    pub fn create(path: &Path, image: &Image) -> Result<Self> {
        let mut sizes = vec![(image.height, image.width)];
        while let Some(&(height, width)) =
            sizes.last().filter(|(height, width)| height.max(width) > &SMALLEST)
        {
            sizes.push((height.div_ceil(2), width.div_ceil(2)));
        }
        let root = Writer::create(path, attributes(image, sizes.len()))?;
        // Files of all levels have as many rows: so what waits in memory halves from level to level.
        let rows = file_rows(image.width);
        let level = |(at, (height, width)): (usize, (usize, usize))| {
            let planes = root.planes(&format!("s{at}"), height, width, rows)?;
            Ok(Level { planes, height, width, seen: 0, waiting: Vec::new() })
        };
        Ok(Self { levels: sizes.into_iter().enumerate().map(level).collect::<Result<_>>()? })
    }

    /// Appends rows of RGB pixels.
    ///
    /// # Errors
    /// If there are more than the image has, or the disk refuses.
    pub fn push(&mut self, rows: &[u8]) -> Result<()> {
        // A window at a time, so that no second copy of many rows waits.
        let row = self.levels.first().map_or(1, |level| level.width * 3).max(1);
        rows.chunks(row * WINDOW).try_for_each(|rows| push(&mut self.levels, rows))
    }

    /// Checks that all rows came.
    ///
    /// # Errors
    /// If some did not.
    pub fn finish(self) -> Result<()> {
        self.levels.into_iter().try_for_each(|level| level.planes.finish())
    }
}

/// Gives rows to the first of the levels, and their halves to the others.
fn push(levels: &mut [Level], rows: &[u8]) -> Result<()> {
    let Some((level, smaller)) = levels.split_first_mut() else { return Ok(()) };
    level.planes.push(rows)?;
    if smaller.is_empty() {
        return Ok(());
    }
    level.waiting.extend_from_slice(rows);
    let row = (level.width * 3).max(1);
    let whole = level.waiting.len() / row;
    let is_last = level.seen + whole == level.height;
    // An odd row at the end is halved with itself.
    let ready = if is_last { whole } else { whole & !1 };
    let halves: Vec<u8> = level.waiting[..ready * row]
        .chunks(2 * row)
        .collect::<Vec<_>>()
        .into_par_iter()
        .flat_map_iter(|pair| {
            let (above, below) = pair.split_at(row);
            halve(above, if below.is_empty() { above } else { below })
        })
        .collect();
    level.waiting.drain(..ready * row);
    level.seen += ready;
    push(smaller, &halves)
}

/// Two rows of RGB pixels as one of half as many: means of 2 x 2; an odd column at the end counts twice.
fn halve(above: &[u8], below: &[u8]) -> Vec<u8> {
    let mut half = Vec::with_capacity(above.len().div_ceil(6) * 3);
    for (above, below) in above.chunks(6).zip(below.chunks(6)) {
        let right = above.len() - 3;
        half.extend((0..3).map(|colour| {
            let values = [above[colour], above[right + colour], below[colour], below[right + colour]];
            ((values.into_iter().map(u16::from).sum::<u16>() + 2) / 4) as u8
        }));
    }
    half
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
        let [3, height, width] = root.shape("s0")?[..] else {
            return Err(root.wrong("should hold `s0` of 3 x height x width"));
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
        self.root.rgb_rows("s0", rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

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
        let files = |root: &Path| std::fs::read_dir(root.join("s0/c/0")).unwrap().count();
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Every level is the mean of 2 x 2 pixels of the one above, however its rows came; an odd edge counts twice.
        #[test]
        fn levels_halve(height in 500_usize..1300, width in 1_usize..1100, rows in 1_usize..400) {
            let folder = tempfile::tempdir().unwrap();
            let image = image(height, width);
            let path = folder.path().join("image");
            let mut writer = ImageRows::create(&path, &image).unwrap();
            image.pixels.chunks(rows * width * 3).for_each(|part| writer.push(part).unwrap());
            writer.finish().unwrap();
            let root = Reader::open(&path).unwrap();
            let (mut size, mut above) = ((height, width), image.pixels);
            for level in 1..10 {
                let name = format!("s{level}");
                if !root.has(&name) {
                    prop_assert!(size.0.max(size.1) <= SMALLEST);
                    break;
                }
                prop_assert!(size.0.max(size.1) > SMALLEST);
                let half = (size.0.div_ceil(2), size.1.div_ceil(2));
                prop_assert_eq!(root.shape(&name).unwrap(), vec![3, half.0, half.1]);
                let found = root.rgb_rows(&name, 0..half.0).unwrap();
                let at = |y: usize, x: usize, colour: usize| {
                    usize::from(above[(y.min(size.0 - 1) * size.1 + x.min(size.1 - 1)) * 3 + colour])
                };
                for (index, &value) in found.iter().enumerate() {
                    let (y, x, colour) = (index / 3 / half.1 * 2, index / 3 % half.1 * 2, index % 3);
                    let sum = at(y, x, colour) + at(y, x + 1, colour) + at(y + 1, x, colour) + at(y + 1, x + 1, colour);
                    prop_assert_eq!(usize::from(value), (sum + 2) / 4);
                }
                (size, above) = (half, found);
            }
        }
    }
}
