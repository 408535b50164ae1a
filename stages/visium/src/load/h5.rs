//! Counts in Cell Ranger's HDF5 layouts: one group `matrix` since version 3, before that one group per genome.

use std::path::Path;

use hdf5_reader::{Dataset, Datatype, H5Type, Hdf5File, SliceInfo, SliceInfoElem};
use restage_stage::{Error, Result, artifact::Csr};

use super::counts::Features;

/// How many numbers are read at a time: what is converted stays small beside what is kept.
const BLOCK: u64 = 1 << 22;

/// Barcodes, features and counts of spots x features.
pub(super) fn read(path: &Path, genome: Option<&str>) -> Result<(Vec<String>, Features, Csr)> {
    let file =
        Hdf5File::open(path).map_err(Error::other(format!("cannot read {} as HDF5", path.display())))?;
    if file.group("/matrix").is_ok() {
        let matrix = Matrix { path, file, group: "matrix".into() };
        let features = Features {
            names: matrix.texts("features/name")?,
            ids: matrix.texts_if("features/id")?.map_or_else(|| matrix.texts("features/name"), Ok)?,
            kinds: matrix.texts_if("features/feature_type")?.unwrap_or_default(),
            genomes: matrix.texts_if("features/genome")?.unwrap_or_default(),
        };
        return matrix.read(features);
    }
    let group = legacy_genome(path, &file, genome)?;
    let matrix = Matrix { path, file, group };
    let features =
        Features { names: matrix.texts("gene_names")?, ids: matrix.texts("genes")?, ..Features::default() };
    matrix.read(features)
}

/// The group of a genome in a file of Cell Ranger 2.
fn legacy_genome(path: &Path, file: &Hdf5File, wanted: Option<&str>) -> Result<String> {
    let wrong = |problem: String| Error::invalid(format!("{} {problem}", path.display()));
    let (groups, _) = file
        .root_group()
        .and_then(|root| root.member_names())
        .map_err(Error::other(format!("cannot list the groups of {}", path.display())))?;
    let is_genome = |name: &String| file.dataset(&format!("/{name}/gene_names")).is_ok();
    let mut genomes: Vec<String> = groups.into_iter().filter(is_genome).collect();
    genomes.sort_unstable();
    match (wanted, &genomes[..]) {
        (_, []) => {
            Err(wrong("has neither a group `matrix` nor one of a genome: it is not Cell Ranger's".into()))
        }
        (None, [only]) => Ok(only.clone()),
        (Some(wanted), genomes) if genomes.iter().any(|genome| genome == wanted) => Ok(wanted.into()),
        (wanted, genomes) => {
            let wanted = wanted.map_or("several genomes".into(), |wanted| format!("no genome `{wanted}`"));
            Err(wrong(format!("has {wanted}; set `genome` to one of {}", genomes.join(", "))))
        }
    }
}

struct Matrix<'a> {
    path: &'a Path,
    file: Hdf5File,
    group: String,
}

impl Matrix<'_> {
    fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{} {problem}", self.path.display()))
    }

    fn dataset(&self, name: &str) -> Result<Dataset> {
        let node = format!("/{}/{name}", self.group);
        self.file.dataset(&node).map_err(Error::other(format!("{} lacks `{node}`", self.path.display())))
    }

    fn unreadable<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        name: &str,
    ) -> impl FnOnce(E) -> Error {
        Error::other(format!(
            "cannot read `{}/{name}` of {}: is the file cut off?",
            self.group,
            self.path.display()
        ))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.dataset(name)?.read_strings().map_err(self.unreadable(name))
    }

    fn texts_if(&self, name: &str) -> Result<Option<Vec<String>>> {
        let there = self.file.dataset(&format!("/{}/{name}", self.group)).is_ok();
        there.then(|| self.texts(name)).transpose()
    }

    fn read(&self, features: Features) -> Result<(Vec<String>, Features, Csr)> {
        let barcodes = self.texts("barcodes")?;
        let x = self.counts(barcodes.len(), features.names.len())?;
        Ok((barcodes, features, x))
    }

    /// Appends a dataset's values block by block.
    fn values<T: H5Type + Copy, U>(
        &self,
        name: &str,
        dataset: &Dataset,
        convert: impl Fn(T) -> Option<U>,
    ) -> Result<Vec<U>> {
        let [length] = dataset.shape() else {
            return Err(self.wrong(format!(
                "has `{}/{name}` of the shape {:?}",
                self.group,
                dataset.shape()
            )));
        };
        let out_of_range = || self.wrong(format!("has a value out of range in `{}/{name}`", self.group));
        let mut converted = Vec::new();
        for start in (0..*length).step_by(BLOCK as usize) {
            let block = SliceInfoElem::Slice { start, end: (start + BLOCK).min(*length), step: 1 };
            let block = dataset.read_slice::<T>(&SliceInfo { selections: vec![block] });
            let block = block.map_err(self.unreadable(name))?;
            if start == 0 {
                // Only now is it sure that the file holds as much as it says: a false length must not take memory.
                converted.reserve_exact(if *length <= BLOCK { block.len() } else { *length as usize });
            }
            for &value in &block {
                converted.push(convert(value).ok_or_else(out_of_range)?);
            }
        }
        Ok(converted)
    }

    /// Numbers of whatever type the writer chose; integers as `integer` makes them, reals as `real` does.
    fn numbers<U>(
        &self,
        name: &str,
        integer: impl Fn(i64) -> Option<U>,
        real: impl Fn(f64) -> Option<U>,
    ) -> Result<Vec<U>> {
        let dataset = self.dataset(name)?;
        let dataset = &dataset;
        match dataset.dtype() {
            Datatype::FixedPoint { size: 4, signed: true, .. } => {
                self.values(name, dataset, |value: i32| integer(value.into()))
            }
            Datatype::FixedPoint { size: 4, signed: false, .. } => {
                self.values(name, dataset, |value: u32| integer(value.into()))
            }
            Datatype::FixedPoint { size: 8, signed: true, .. } => self.values(name, dataset, integer),
            Datatype::FixedPoint { size: 8, signed: false, .. } => {
                self.values(name, dataset, |value: u64| integer(i64::try_from(value).ok()?))
            }
            Datatype::FixedPoint { size: 2, signed: false, .. } => {
                self.values(name, dataset, |value: u16| integer(value.into()))
            }
            Datatype::FixedPoint { size: 1, signed: false, .. } => {
                self.values(name, dataset, |value: u8| integer(value.into()))
            }
            Datatype::FloatingPoint { size: 4, .. } => {
                self.values(name, dataset, |value: f32| real(value.into()))
            }
            Datatype::FloatingPoint { size: 8, .. } => self.values(name, dataset, real),
            other => {
                Err(self.wrong(format!("has `{}/{name}` of type {other:?}; expected numbers", self.group)))
            }
        }
    }

    /// The file's features x spots, compressed by spot, are byte for byte spots x features compressed by row, except
    /// that the indices of a spot need not be sorted.
    fn counts(&self, spots: usize, features: usize) -> Result<Csr> {
        let indptr: Vec<i64> = self.numbers("indptr", Some, |_| None)?;
        let indices: Vec<i32> = self.numbers("indices", |index| i32::try_from(index).ok(), |_| None)?;
        let data: Vec<f32> = self.numbers("data", |count| Some(count as f32), |count| Some(count as f32))?;
        let ends_fit = indptr.first() == Some(&0) && indptr.last() == Some(&(data.len() as i64));
        if indptr.len() != spots + 1 || !ends_fit || !indptr.is_sorted() || indices.len() != data.len() {
            return Err(self.wrong("contradicts itself: data, indices, indptr and barcodes do not agree"));
        }
        if !indices.iter().all(|&index| usize::try_from(index).is_ok_and(|index| index < features)) {
            return Err(self.wrong(format!("has counts of features beyond its {features}")));
        }
        Csr::from_parts(features, indptr, indices, data).map_err(|error| self.wrong(error))
    }
}
