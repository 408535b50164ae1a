//! What a report reads of artifacts: parts of them only, so that a section's counts stay on disk.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use image::RgbImage;
use serde_json::{Map, Value};
use zarrs::{
    array::{Array, ArraySubset, ElementOwned},
    filesystem::FilesystemStore,
    plugin::ExtensionName,
};

type Stored = Array<FilesystemStore>;
/// Told to people: which artifact, and why.
type Result<T> = std::result::Result<T, String>;

/// Class probabilities of spots.
pub(super) struct Predictions {
    pub(super) spots: Vec<String>,
    pub(super) classes: Vec<String>,
    /// A spot's together.
    pub(super) probabilities: Vec<f32>,
}

/// What an expert said of spots.
pub(super) struct Labels {
    pub(super) spots: Vec<String>,
    pub(super) regions: Vec<Option<String>>,
}

/// Where spots lie.
pub(super) struct Places {
    pub(super) spots: Vec<String>,
    pub(super) sections: Vec<Option<String>>,
    /// In pixels of the full-resolution image.
    pub(super) at: Vec<[f64; 2]>,
}

/// An image of a section, and which of its pixels a pixel at full resolution is.
pub(super) struct Picture {
    pub(super) pixels: RgbImage,
    pub(super) scale: f64,
}

impl Predictions {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let folder = Folder::open(root)?;
        let (spots, classes) = (folder.texts("/spots")?, folder.texts("/classes")?);
        let probabilities: Vec<f32> =
            folder.numbers("/probabilities")?.into_iter().map(|value| value as f32).collect();
        if probabilities.len() != spots.len() * classes.len() {
            return Err(folder.wrong("its probabilities are not one per spot and class"));
        }
        Ok(Self { spots, classes, probabilities })
    }
}

impl Labels {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let folder = Folder::open(root)?;
        let spots = folder.index("")?;
        let regions = folder.category("/region")?;
        if regions.len() != spots.len() {
            return Err(folder.wrong("its regions are not one per spot"));
        }
        Ok(Self { spots, regions })
    }
}

impl Places {
    /// Of a table.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let folder = Folder::open(root)?;
        let spots = folder.index("/obs")?;
        let sections = folder.category("/obs/section")?;
        let at = folder.numbers("/obsm/spatial")?.as_chunks().0.to_vec();
        if at.len() != spots.len() || sections.len() != spots.len() {
            return Err(folder.wrong("its coordinates are not two per spot"));
        }
        Ok(Self { spots, sections, at })
    }

    /// How many spots a table has, from its metadata only.
    pub(super) fn count(root: &Path) -> usize {
        let index = metadata(&root.join("obs")).and_then(|obs| attribute_text(&obs, "_index"));
        let array = metadata(&root.join("obs").join(index.unwrap_or_else(|| "_index".into())));
        array.and_then(|array| array.get("shape")?.get(0)?.as_u64()).unwrap_or(0) as usize
    }
}

/// The small image that a table has of a section: its `lowres`, or its `hires`.
pub(super) fn picture_of_table(root: &Path, section: &str) -> Option<Picture> {
    let group = root.join("uns/spatial").join(section);
    let name = ["lowres", "hires"].into_iter().find(|name| group.join("images").join(name).is_dir())?;
    let folder = Folder::open(root).ok()?;
    let node = format!("/uns/spatial/{section}");
    let scale =
        folder.numbers(&format!("{node}/scalefactors/tissue_{name}_scalef")).ok()?.first().copied()?;
    let array = folder.array(&format!("{node}/images/{name}")).ok()?;
    let &[height, width, 3] = array.shape() else { return None };
    let pixels = array.retrieve_array_subset::<Vec<u8>>(&array.subset_all()).ok()?;
    Some(Picture { pixels: RgbImage::from_raw(width as u32, height as u32, pixels)?, scale })
}

/// A level of an image's pyramid that is just large enough, with the section that it shows.
pub(super) fn picture_of_image(root: &Path, longest: usize) -> Option<(String, Picture)> {
    let about = metadata(root)?;
    let section = attribute_text(&about, "section")?;
    let scale = about.get("attributes")?.get("scale")?.as_f64()?;
    let folder = Folder::open(root).ok()?;
    let levels =
        (0..32).map(|level| (level, root.join(format!("s{level}")))).take_while(|(_, path)| path.is_dir());
    let arrays: Vec<(i32, Stored)> =
        levels.filter_map(|(level, _)| Some((level, folder.array(&format!("/s{level}")).ok()?))).collect();
    let side = |array: &Stored| array.shape().iter().skip(1).max().copied().unwrap_or(0) as usize;
    let (level, array) = arrays.iter().rev().find(|(_, array)| side(array) >= longest).or(arrays.first())?;
    let &[3, height, width] = array.shape() else { return None };
    let planes = array.retrieve_array_subset::<Vec<u8>>(&array.subset_all()).ok()?;
    let size = (height * width) as usize;
    let pixels = (0..size).flat_map(|at| [planes[at], planes[size + at], planes[2 * size + at]]).collect();
    let pixels = RgbImage::from_raw(width as u32, height as u32, pixels)?;
    Some((section, Picture { pixels, scale: scale / 2_f64.powi(*level) }))
}

/// Curves of a metrics artifact: one value per step, from 0.
pub(super) fn curves(root: &Path) -> BTreeMap<String, Vec<f64>> {
    let Ok(folder) = Folder::open(root) else { return BTreeMap::new() };
    let entries = fs::read_dir(root.join("curves")).into_iter().flatten().flatten();
    let names = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some((name.clone(), folder.numbers(&format!("/curves/{name}")).ok()?))).collect()
}

/// What a node says of itself.
fn metadata(folder: &Path) -> Option<Map<String, Value>> {
    serde_json::from_slice(&fs::read(folder.join("zarr.json")).ok()?).ok()
}

fn attribute_text(metadata: &Map<String, Value>, name: &str) -> Option<String> {
    Some(metadata.get("attributes")?.get(name)?.as_str()?.to_owned())
}

/// An artifact that is being read.
struct Folder<'a> {
    root: &'a Path,
    store: Arc<FilesystemStore>,
}

impl<'a> Folder<'a> {
    fn open(root: &'a Path) -> Result<Self> {
        let store =
            FilesystemStore::new(root).map_err(|error| format!("cannot open {}: {error}", root.display()))?;
        Ok(Self { root, store: Arc::new(store) })
    }

    fn wrong(&self, what: impl std::fmt::Display) -> String {
        format!("cannot read {}: {what}", self.root.display())
    }

    fn array(&self, node: &str) -> Result<Stored> {
        Array::open(self.store.clone(), node).map_err(|error| self.wrong(format_args!("{node}: {error}")))
    }

    fn values<T: ElementOwned>(&self, node: &str, array: &Stored) -> Result<Vec<T>> {
        let all: ArraySubset = array.subset_all();
        array.retrieve_array_subset(&all).map_err(|error| self.wrong(format_args!("{node}: {error}")))
    }

    fn texts(&self, node: &str) -> Result<Vec<String>> {
        // Newer pandas write what may be missing; nothing is, where it names rows.
        let inner = format!("{node}/values");
        let node = if self.root.join(&inner[1..]).is_dir() { &inner } else { node };
        let array = self.array(node)?;
        self.values(node, &array)
    }

    /// Numbers of any type.
    fn numbers(&self, node: &str) -> Result<Vec<f64>> {
        let array = self.array(node)?;
        let name = array.data_type().name_v3().map_or_else(String::new, |name| name.into_owned());
        macro_rules! read {
            ($($known:literal => $type:ty),+) => {
                match name.as_str() {
                    $($known => self.values::<$type>(node, &array)?.into_iter().map(|value| value as f64).collect(),)+
                    _ => return Err(self.wrong(format_args!("{node} holds {name}, not numbers"))),
                }
            };
        }
        Ok(read! {
            "float64" => f64, "float32" => f32, "int8" => i8, "int16" => i16, "int32" => i32, "int64" => i64,
            "uint8" => u8, "uint16" => u16, "uint32" => u32, "uint64" => u64
        })
    }

    /// The names of a frame's rows.
    fn index(&self, frame: &str) -> Result<Vec<String>> {
        let about = metadata(&self.root.join(frame.trim_start_matches('/')));
        let name = about.and_then(|about| attribute_text(&about, "_index"));
        self.texts(&format!("{frame}/{}", name.unwrap_or_else(|| "_index".into())))
    }

    /// A column of few values, or of text.
    fn category(&self, column: &str) -> Result<Vec<Option<String>>> {
        let codes = format!("{column}/codes");
        if !self.root.join(&codes[1..]).is_dir() {
            return Ok(self.texts(column)?.into_iter().map(Some).collect());
        }
        let categories = self.texts(&format!("{column}/categories"))?;
        let named = |code: f64| if code < 0.0 { None } else { categories.get(code as usize).cloned() };
        Ok(self.numbers(&codes)?.into_iter().map(named).collect())
    }
}
