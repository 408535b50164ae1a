//! The two containers that AnnData's elements lie in, HDF5 and Zarr, as one tree of groups and arrays.

use std::path::{Path, PathBuf};

use hdf5_reader::Datatype;
use restage_stage::{
    Error, Result,
    artifact::zarr::{Numbers, Reader},
};
use serde_json::Value;

use crate::hdf5::Hdf5;

/// A container. Paths are like `/obs/region`; `""` is the root.
pub(crate) trait Tree {
    /// Whether there is a group.
    fn has_group(&self, path: &str) -> bool;
    /// Whether there is an array.
    fn has_array(&self, path: &str) -> bool;
    /// Names in a group, sorted.
    fn children(&self, path: &str) -> Result<Vec<String>>;
    /// What a group says of itself.
    fn attribute(&self, path: &str, name: &str) -> Option<Value>;
    /// Shape of an array.
    fn shape(&self, path: &str) -> Result<Vec<usize>>;
    /// Numbers of an array of any shape, row-major.
    fn numbers(&self, path: &str) -> Result<Numbers>;
    /// Real numbers as they are needed of counts.
    fn reals(&self, path: &str) -> Result<Vec<f32>> {
        Ok(match self.numbers(path)? {
            Numbers::Float(values) => values.into_iter().map(|value| value as f32).collect(),
            Numbers::Int(values) => values.into_iter().map(|value| value as f32).collect(),
            Numbers::Bool(values) => values.into_iter().map(f32::from).collect(),
        })
    }
    /// Whether an array holds text.
    fn is_text(&self, path: &str) -> Result<bool>;
    /// Texts of a list.
    fn texts(&self, path: &str) -> Result<Vec<String>>;
    /// An error that names the file.
    fn wrong(&self, problem: String) -> Error;
}

/// Opens whichever it is.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Tree>> {
    if path.is_dir() {
        return Ok(Box::new(Zarr { path: path.into(), root: Reader::open(path)? }));
    }
    Ok(Box::new(Hdf5::open(path)?))
}

impl Tree for Hdf5 {
    fn has_group(&self, path: &str) -> bool {
        path.is_empty() || self.file.group(path).is_ok()
    }

    fn has_array(&self, path: &str) -> bool {
        self.has(path)
    }

    fn children(&self, path: &str) -> Result<Vec<String>> {
        let group = if path.is_empty() { self.file.root_group() } else { self.file.group(path) };
        let (groups, datasets) =
            group.and_then(|group| group.member_names()).map_err(self.unreadable(path))?;
        let mut names: Vec<String> = groups.into_iter().chain(datasets).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn attribute(&self, path: &str, name: &str) -> Option<Value> {
        let attribute = if self.has_array(path) {
            self.file.dataset(path).ok()?.attribute(name).ok()?
        } else {
            let group = if path.is_empty() { self.file.root_group() } else { self.file.group(path) };
            group.ok()?.attribute(name).ok()?
        };
        let whole = |values: Vec<i64>| Value::from(values);
        match attribute.num_elements() {
            // A list of texts of which there are none is written as one of numbers.
            Ok(0) => Some(Value::Array(Vec::new())),
            _ => None
                .or_else(|| {
                    attribute.read_strings().ok().filter(|_| !attribute.shape.is_empty()).map(Value::from)
                })
                .or_else(|| attribute.read_string().ok().map(Value::from))
                .or_else(|| attribute.read_1d::<i64>().ok().map(whole))
                .or_else(|| attribute.read_as_f64().ok().map(Value::from)),
        }
    }

    fn shape(&self, path: &str) -> Result<Vec<usize>> {
        Ok(self.dataset(path)?.shape().iter().map(|&size| size as usize).collect())
    }

    fn numbers(&self, path: &str) -> Result<Numbers> {
        let dataset = self.dataset(path)?;
        match dataset.dtype() {
            // h5py's booleans are an enumeration of two bytes.
            Datatype::Enum { .. } => {
                let bytes = dataset.read_raw_bytes().map_err(self.unreadable(path))?;
                Ok(Numbers::Bool(bytes.into_iter().map(|byte| byte != 0).collect()))
            }
            Datatype::FloatingPoint { .. } => Ok(Numbers::Float(Hdf5::numbers(self, path, |_| None, Some)?)),
            _ => Ok(Numbers::Int(Hdf5::numbers(self, path, Some, |_| None)?)),
        }
    }

    fn reals(&self, path: &str) -> Result<Vec<f32>> {
        Hdf5::numbers(self, path, |value| Some(value as f32), |value| Some(value as f32))
    }

    fn is_text(&self, path: &str) -> Result<bool> {
        Ok(matches!(self.dataset(path)?.dtype(), Datatype::VarLen { .. } | Datatype::String { .. }))
    }

    fn texts(&self, path: &str) -> Result<Vec<String>> {
        Hdf5::texts(self, path)
    }

    fn wrong(&self, problem: String) -> Error {
        Hdf5::wrong(self, problem)
    }
}

struct Zarr {
    path: PathBuf,
    root: Reader,
}

impl Zarr {
    /// The group that a node is in, and the node's name there.
    fn parent<'a>(&self, path: &'a str) -> Result<(Reader, &'a str)> {
        let (groups, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.group(groups)?, name))
    }

    fn group(&self, path: &str) -> Result<Reader> {
        let mut group = Reader::open(&self.path)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            group = group.group(name)?;
        }
        Ok(group)
    }
}

impl Tree for Zarr {
    fn has_group(&self, path: &str) -> bool {
        self.group(path).is_ok()
    }

    fn has_array(&self, path: &str) -> bool {
        self.shape(path).is_ok()
    }

    fn children(&self, path: &str) -> Result<Vec<String>> {
        self.group(path)?.children()
    }

    fn attribute(&self, path: &str, name: &str) -> Option<Value> {
        match self.group(path) {
            Ok(group) => group.attributes().get(name).cloned(),
            Err(_) => None,
        }
    }

    fn shape(&self, path: &str) -> Result<Vec<usize>> {
        let (group, name) = self.parent(path)?;
        group.shape(name)
    }

    fn numbers(&self, path: &str) -> Result<Numbers> {
        let (group, name) = self.parent(path)?;
        group.numbers(name, &vec![None; group.shape(name)?.len()])
    }

    fn is_text(&self, path: &str) -> Result<bool> {
        let (group, name) = self.parent(path)?;
        group.is_text(name)
    }

    fn texts(&self, path: &str) -> Result<Vec<String>> {
        let (group, name) = self.parent(path)?;
        group.texts(name, None)
    }

    fn wrong(&self, problem: String) -> Error {
        self.root.wrong(problem)
    }
}
