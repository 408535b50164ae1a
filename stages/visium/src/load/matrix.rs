//! `filtered_feature_bc_matrix.h5`: counts in Cell Ranger's HDF5 layout, version 3 and later.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use hdf5_reader::{Dataset, Datatype, H5Type, Hdf5File};
use restage_stage::{
    Error, Result,
    artifact::{Column, Csr, Frame},
};

/// The file inside `outs`.
pub(super) const FILE: &str = "filtered_feature_bc_matrix.h5";

/// Counts of spots x genes.
#[derive(Debug)]
pub(super) struct Counts {
    /// Barcode of each row.
    pub barcodes: Vec<String>,
    /// Counts.
    pub x: Csr,
    /// Per gene: unique name; `gene_ids`, `feature_types`.
    pub genes: Frame,
}

/// Reads the file; features that are not "Gene Expression" (antibodies, guides) are left out.
pub(super) fn read(path: &Path) -> Result<Counts> {
    if !path.is_file() {
        return Err(Error::invalid(format!(
            "{} does not exist: `path` should be the `outs` folder of spaceranger",
            path.display()
        )));
    }
    let file =
        Hdf5File::open(path).map_err(Error::other(format!("cannot read {} as HDF5", path.display())))?;
    let matrix = Matrix { path, file };
    if matrix.file.group("/matrix").is_err() {
        return Err(matrix.wrong("has no group `matrix`: it is not of Cell Ranger 3 or later"));
    }
    let barcodes = matrix.texts("barcodes")?;
    let names = matrix.texts("features/name")?;
    let ids = matrix.texts("features/id")?;
    let kinds = matrix.texts("features/feature_type")?;
    if ids.len() != names.len() || kinds.len() != names.len() {
        return Err(matrix.wrong("has feature names, ids and types of different lengths"));
    }
    let x = matrix.counts(barcodes.len(), names.len())?;

    let genes: Vec<usize> = (0..names.len()).filter(|&gene| kinds[gene] == "Gene Expression").collect();
    if genes.is_empty() && !names.is_empty() {
        return Err(matrix.wrong("has no feature of type `Gene Expression`"));
    }
    let frame = Frame {
        index: names,
        columns: vec![("gene_ids".into(), Column::Text(ids)), ("feature_types".into(), Column::Text(kinds))],
    };
    let mut frame = frame.select(&genes);
    frame.index = unique(frame.index);
    let x = if genes.len() == x.n_cols { x } else { x.select_cols(&genes) };
    Ok(Counts { barcodes, x, genes: frame })
}

/// Names that come again get `-1`, `-2`, … in order of appearance, as anndata's `var_names_make_unique` does.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut count: HashMap<String, usize> = HashMap::new();
    let next = |name: String| match count.get_mut(&name) {
        None => {
            count.insert(name.clone(), 0);
            name
        }
        Some(last) => loop {
            *last += 1;
            let candidate = format!("{name}-{last}");
            if taken.insert(candidate.clone()) {
                break candidate;
            }
        },
    };
    names.into_iter().map(next).collect()
}

struct Matrix<'a> {
    path: &'a Path,
    file: Hdf5File,
}

impl Matrix<'_> {
    fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{} {problem}", self.path.display()))
    }

    fn dataset(&self, name: &str) -> Result<Dataset> {
        let node = format!("/matrix/{name}");
        self.file.dataset(&node).map_err(Error::other(format!("{} lacks `{node}`", self.path.display())))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let texts = self.dataset(name)?.read_strings();
        texts.map_err(Error::other(format!("cannot read `matrix/{name}` of {}", self.path.display())))
    }

    fn values<T: H5Type + Copy, U>(
        &self,
        name: &str,
        dataset: &Dataset,
        convert: fn(T) -> Option<U>,
    ) -> Result<Vec<U>> {
        let values = dataset.read_array::<T>();
        let values = values
            .map_err(Error::other(format!("cannot read `matrix/{name}` of {}", self.path.display())))?;
        let values: Option<Vec<U>> = values.iter().map(|&value| convert(value)).collect();
        values.ok_or_else(|| self.wrong(format!("has a value out of range in `matrix/{name}`")))
    }

    /// Integers of whatever width the writer chose.
    fn integers<U: TryFrom<i64> + TryFrom<u64>>(&self, name: &str) -> Result<Vec<U>> {
        fn signed<T: Into<i64>, U: TryFrom<i64>>(value: T) -> Option<U> {
            U::try_from(value.into()).ok()
        }
        let dataset = self.dataset(name)?;
        match dataset.dtype() {
            Datatype::FixedPoint { size: 4, signed: true, .. } => {
                self.values(name, &dataset, signed::<i32, U>)
            }
            Datatype::FixedPoint { size: 4, signed: false, .. } => {
                self.values(name, &dataset, signed::<u32, U>)
            }
            Datatype::FixedPoint { size: 8, signed: true, .. } => {
                self.values(name, &dataset, signed::<i64, U>)
            }
            Datatype::FixedPoint { size: 8, signed: false, .. } => {
                self.values(name, &dataset, |value: u64| U::try_from(value).ok())
            }
            other => Err(self.wrong(format!("has `matrix/{name}` of type {other:?}; expected integers"))),
        }
    }

    fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        let dataset = self.dataset(name)?;
        match dataset.dtype() {
            Datatype::FloatingPoint { size: 4, .. } => self.values(name, &dataset, |value: f32| Some(value)),
            Datatype::FloatingPoint { size: 8, .. } => {
                self.values(name, &dataset, |value: f64| Some(value as f32))
            }
            _ => Ok(self.integers::<i64>(name)?.into_iter().map(|value| value as f32).collect()),
        }
    }

    /// The file's genes x spots, compressed by spot, are byte for byte spots x genes compressed by row, except that
    /// the indices of a spot need not be sorted.
    fn counts(&self, spots: usize, features: usize) -> Result<Csr> {
        let indptr: Vec<usize> = self.integers("indptr")?;
        let indices: Vec<i32> = self.integers("indices")?;
        let data = self.numbers("data")?;
        let ends_fit = indptr.first() == Some(&0) && indptr.last() == Some(&data.len()) && indptr.is_sorted();
        if indptr.len() != spots + 1 || !ends_fit || indices.len() != data.len() {
            return Err(self.wrong("contradicts itself: data, indices, indptr and barcodes do not agree"));
        }
        let in_range = |&index: &i32| usize::try_from(index).is_ok_and(|index| index < features);
        if !indices.iter().all(in_range) {
            return Err(self.wrong(format!("has counts of features beyond its {features}")));
        }
        let entries = |stored: std::ops::Range<usize>| {
            indices[stored.clone()].iter().copied().zip(data[stored].iter().copied()).collect()
        };
        Ok(Csr::from_rows(features, indptr.windows(2).map(|ends| entries(ends[0]..ends[1]))))
    }
}

#[cfg(test)]
mod tests {
    use super::unique;

    #[test]
    fn names_that_come_again_are_numbered() {
        let names = ["A", "B", "A", "A-1", "A", "B"].map(str::to_owned).to_vec();
        // anndata 0.13.4: make_index_unique(pd.Index(["A", "B", "A", "A-1", "A", "B"]))
        assert_eq!(unique(names), ["A", "B", "A-2", "A-1", "A-3", "B-1"]);
    }
}
