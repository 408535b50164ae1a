//! HDF5 files, read by a crate in pure Rust: numbers of whatever type the writer chose, and what is wrong with a file.

use std::path::{Path, PathBuf};

use hdf5_reader::{Dataset, Datatype, H5Type, Hdf5File, SliceInfo, SliceInfoElem};
use restage_stage::{Error, Result};

/// How many numbers are read at a time: what is converted stays small beside what is kept.
const BLOCK: u64 = 1 << 22;

/// A file that is being read.
pub(crate) struct Hdf5 {
    path: PathBuf,
    pub(crate) file: Hdf5File,
}

impl Hdf5 {
    /// Opens the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file =
            Hdf5File::open(path).map_err(Error::other(format!("cannot read {} as HDF5", path.display())))?;
        Ok(Self { path: path.into(), file })
    }

    /// An error that names the file.
    pub(crate) fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{} {problem}", self.path.display()))
    }

    /// Whether there is a dataset.
    pub(crate) fn has(&self, node: &str) -> bool {
        self.file.dataset(node).is_ok()
    }

    /// A dataset.
    pub(crate) fn dataset(&self, node: &str) -> Result<Dataset> {
        self.file.dataset(node).map_err(Error::other(format!("{} lacks `{node}`", self.path.display())))
    }

    pub(crate) fn unreadable<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        node: &str,
    ) -> impl FnOnce(E) -> Error {
        Error::other(format!("cannot read `{node}` of {}: is the file cut off?", self.path.display()))
    }

    /// A dataset of texts.
    pub(crate) fn texts(&self, node: &str) -> Result<Vec<String>> {
        self.dataset(node)?.read_strings().map_err(self.unreadable(node))
    }

    /// Converts a dataset's values, row-major, block by block along the first axis.
    fn values<T: H5Type + Copy, U>(
        &self,
        node: &str,
        dataset: &Dataset,
        convert: impl Fn(T) -> Option<U>,
    ) -> Result<Vec<U>> {
        let out_of_range = || self.wrong(format!("has a value out of range in `{node}`"));
        let Some((&rows, rest)) = dataset.shape().split_first() else {
            let values = dataset.read_array::<T>().map_err(self.unreadable(node))?;
            return values.iter().map(|&value| convert(value).ok_or_else(out_of_range)).collect();
        };
        let row = rest.iter().product::<u64>().max(1);
        let block_rows = (BLOCK / row).max(1);
        let mut converted = Vec::new();
        for start in (0..rows).step_by(block_rows as usize) {
            let end = (start + block_rows).min(rows);
            let mut selections = vec![SliceInfoElem::Slice { start, end, step: 1 }];
            selections.extend(rest.iter().map(|&size| SliceInfoElem::Slice { start: 0, end: size, step: 1 }));
            let block = dataset.read_slice::<T>(&SliceInfo { selections }).map_err(self.unreadable(node))?;
            if start == 0 {
                // Only now is it sure that the file holds what it says: a false length must not take memory.
                converted.reserve_exact(if end == rows { block.len() } else { (rows * row) as usize });
            }
            for &value in &block {
                converted.push(convert(value).ok_or_else(out_of_range)?);
            }
        }
        Ok(converted)
    }

    /// Numbers of whatever type the writer chose; integers as `integer` makes them, reals as `real` does.
    pub(crate) fn numbers<U>(
        &self,
        node: &str,
        integer: impl Fn(i64) -> Option<U>,
        real: impl Fn(f64) -> Option<U>,
    ) -> Result<Vec<U>> {
        let dataset = self.dataset(node)?;
        let dataset = &dataset;
        macro_rules! whole {
            ($type:ty) => {
                self.values(node, dataset, |value: $type| integer(i64::try_from(value).ok()?))
            };
        }
        match dataset.dtype() {
            Datatype::FixedPoint { size: 1, signed: true, .. } => whole!(i8),
            Datatype::FixedPoint { size: 1, signed: false, .. } => whole!(u8),
            Datatype::FixedPoint { size: 2, signed: true, .. } => whole!(i16),
            Datatype::FixedPoint { size: 2, signed: false, .. } => whole!(u16),
            Datatype::FixedPoint { size: 4, signed: true, .. } => whole!(i32),
            Datatype::FixedPoint { size: 4, signed: false, .. } => whole!(u32),
            Datatype::FixedPoint { size: 8, signed: true, .. } => whole!(i64),
            Datatype::FixedPoint { size: 8, signed: false, .. } => whole!(u64),
            Datatype::FloatingPoint { size: 4, .. } => {
                self.values(node, dataset, |value: f32| real(value.into()))
            }
            Datatype::FloatingPoint { size: 8, .. } => self.values(node, dataset, real),
            other => Err(self.wrong(format!("has `{node}` of type {other:?}; expected numbers"))),
        }
    }
}
