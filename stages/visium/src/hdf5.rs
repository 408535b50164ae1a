//! HDF5 files, read by a crate in pure Rust: numbers of whatever type the writer chose, and what is wrong with a file.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use hdf5_reader::{
    Dataset, Datatype, H5Type, Hdf5File, OpenOptions, SliceInfo, SliceInfoElem, io::Cursor,
    superblock::Superblock,
};
use rayon::prelude::*;
use restage_stage::{Error, Result};

use crate::filters::{self, Largest};

/// No superblock of any version is longer.
const SUPERBLOCK: u64 = 256;
/// How many numbers a task reads at least: what is converted stays small beside what is kept.
const BLOCK: u64 = 1 << 16;
/// Deflate, the best that these files are packed with, makes no more of a byte.
const MOST_OF_A_BYTE: u64 = 1032;
/// A dataset as large as this may be a lie without harm.
const HARMLESS: u64 = 1 << 24;

/// How many bytes a file says that it has, if it is HDF5: what lies beyond them may be missed late, or never.
fn whole_size(path: &Path) -> Option<u64> {
    let mut begin = Vec::new();
    File::open(path).ok()?.take(SUPERBLOCK).read_to_end(&mut begin).ok()?;
    Superblock::parse(&mut Cursor::new(&begin)).ok().map(|superblock| superblock.eof_address)
}

/// A file that is being read.
pub(crate) struct Hdf5 {
    path: PathBuf,
    /// Bytes of the file.
    size: u64,
    largest: Largest,
    pub(crate) file: Hdf5File,
}

impl Hdf5 {
    /// Opens the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if let Some(whole) = whole_size(path).filter(|whole| size < *whole) {
            return Err(Error::invalid(format!(
                "{} is cut off: it has {size} of its {whole} bytes; copy it again",
                path.display()
            )));
        }
        // Nothing is read twice: a cache of chunks would only hold them longer.
        let largest = Largest::default();
        let filters = filters::registry(&largest);
        let options = OpenOptions::default().with_chunk_cache_bytes(0).with_filter_registry(filters);
        let file = Hdf5File::open_with_options(path, options)
            .map_err(Error::other(format!("cannot read {} as HDF5", path.display())))?;
        Ok(Self { path: path.into(), size, largest, file })
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
        let lacks = || Error::other(format!("{} lacks `{node}`", self.path.display()));
        let dataset = self.file.dataset(node).map_err(lacks())?;
        let elements = dataset.chunks().into_iter().flatten().map(|size| size as usize);
        let chunk = elements.fold(dataset.raw_element_size().map_err(lacks())?, usize::saturating_mul);
        self.largest.fetch_max(chunk, Ordering::Relaxed);
        Ok(dataset)
    }

    pub(crate) fn unreadable<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        node: &str,
    ) -> impl FnOnce(E) -> Error {
        let (node, path) = (node.to_owned(), self.path.display().to_string());
        move |source| {
            let source = source.into();
            let told = source.to_string();
            let hint = match () {
                // Of what h5py and hdf5plugin offer, the ones that anndata's own `compression` names are read.
                () if told.contains("unsupported filter") => "write it with `compression=\"gzip\"`",
                () if told.contains("utf-8") => "its texts should be UTF-8",
                () => "is the file damaged?",
            };
            Error::other(format!("cannot read `{node}` of {path}: {hint}"))(source)
        }
    }

    /// A dataset of texts.
    pub(crate) fn texts(&self, node: &str) -> Result<Vec<String>> {
        self.dataset(node)?.read_strings().map_err(self.unreadable(node))
    }

    /// Whether all elements of a dataset are the same bytes, which it takes no text for each to tell. What cannot be read is not.
    pub(crate) fn is_constant(&self, node: &str) -> bool {
        let Ok(dataset) = self.dataset(node) else { return false };
        let (Ok(bytes), Ok(size @ 1..)) = (dataset.read_raw_bytes(), dataset.raw_element_size()) else {
            return false;
        };
        let mut elements = bytes.chunks(size);
        elements.next().is_some_and(|first| elements.all(|element| element == first))
    }

    /// Converts a dataset's values, row-major; blocks of whole chunks along the first axis, side by side.
    fn values<T: H5Type + Copy, U: Clone + Default + Send>(
        &self,
        node: &str,
        dataset: &Dataset,
        convert: impl Fn(T) -> Option<U> + Sync,
    ) -> Result<Vec<U>> {
        let out_of_range = || self.wrong(format!("has a value out of range in `{node}`"));
        let Some((&rows, rest)) = dataset.shape().split_first() else {
            let values = dataset.read_array::<T>().map_err(self.unreadable(node))?;
            return values.iter().map(|&value| convert(value).ok_or_else(out_of_range)).collect();
        };
        let row = rest.iter().product::<u64>().max(1);
        let count = dataset.num_elements().map_err(self.unreadable(node))?;
        // A false length must not take memory.
        if count > HARMLESS && count / MOST_OF_A_BYTE > self.size {
            return Err(self.wrong(format!("cannot hold the {count} values that it says `{node}` has")));
        }
        let chunk = dataset.chunks().and_then(|chunk| chunk.first().copied()).map_or(1, u64::from).max(1);
        let block_rows = (BLOCK / row).max(1).next_multiple_of(chunk);
        let mut converted = vec![U::default(); count as usize];
        let blocks = converted.par_chunks_mut((block_rows * row) as usize).enumerate();
        blocks.try_for_each(|(block, converted)| {
            let start = block as u64 * block_rows;
            let end = (start + block_rows).min(rows);
            let mut selections = vec![SliceInfoElem::Slice { start, end, step: 1 }];
            selections.extend(rest.iter().map(|&size| SliceInfoElem::Slice { start: 0, end: size, step: 1 }));
            let values = dataset.read_slice::<T>(&SliceInfo { selections }).map_err(self.unreadable(node))?;
            if values.len() != converted.len() {
                return Err(self.wrong(format!("has {} of the values of `{node}`", values.len())));
            }
            // One that is read is contiguous: an iterator over any array would look at each value's place.
            let values = values.as_slice().ok_or_else(|| self.wrong(format!("has no values of `{node}`")))?;
            for (converted, &value) in converted.iter_mut().zip(values) {
                *converted = convert(value).ok_or_else(out_of_range)?;
            }
            Ok(())
        })?;
        Ok(converted)
    }

    /// Numbers of whatever type the writer chose; integers as `integer` makes them, reals as `real` does.
    pub(crate) fn numbers<U: Clone + Default + Send>(
        &self,
        node: &str,
        integer: impl Fn(i64) -> Option<U> + Sync,
        real: impl Fn(f64) -> Option<U> + Sync,
    ) -> Result<Vec<U>> {
        let dataset = self.dataset(node)?;
        let dataset = &dataset;
        macro_rules! whole {
            ($type:ty) => {
                self.values(node, dataset, |value: $type| integer(i64::try_from(value).ok()?))
            };
        }
        match dataset.dtype() {
            // h5py's booleans.
            Datatype::Enum { .. } => {
                let bytes = dataset.read_raw_bytes().map_err(self.unreadable(node))?;
                let values = bytes.into_iter().map(|byte| integer(i64::from(byte != 0)));
                values
                    .collect::<Option<_>>()
                    .ok_or_else(|| self.wrong(format!("has a value out of range in `{node}`")))
            }
            Datatype::FixedPoint { size: 1, signed: true, .. } => whole!(i8),
            Datatype::FixedPoint { size: 1, signed: false, .. } => whole!(u8),
            Datatype::FixedPoint { size: 2, signed: true, .. } => whole!(i16),
            Datatype::FixedPoint { size: 2, signed: false, .. } => whole!(u16),
            Datatype::FixedPoint { size: 4, signed: true, .. } => whole!(i32),
            Datatype::FixedPoint { size: 4, signed: false, .. } => whole!(u32),
            Datatype::FixedPoint { size: 8, signed: true, .. } => whole!(i64),
            Datatype::FixedPoint { size: 8, signed: false, .. } => whole!(u64),
            // As models that ran in half precision leave them. The crate has no such type.
            Datatype::FloatingPoint { size: 2, .. } => {
                let bytes = dataset.read_native_bytes().map_err(self.unreadable(node))?;
                let values = bytes.as_chunks::<2>().0.iter();
                let value = |bytes: &[u8; 2]| real(half::f16::from_ne_bytes(*bytes).into());
                values
                    .map(value)
                    .collect::<Option<_>>()
                    .ok_or_else(|| self.wrong(format!("has a value out of range in `{node}`")))
            }
            Datatype::FloatingPoint { size: 4, .. } => {
                self.values(node, dataset, |value: f32| real(value.into()))
            }
            Datatype::FloatingPoint { size: 8, .. } => self.values(node, dataset, real),
            other => Err(self.wrong(format!("has `{node}` of type {other:?}; expected numbers"))),
        }
    }
}
