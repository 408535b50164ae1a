//! Counts in Cell Ranger's HDF5 layouts: one group `matrix` since version 3, before that one group per genome.

use std::path::Path;

use rayon::prelude::*;
use restage_stage::{Result, artifact::Csr};

use super::counts::Features;
use crate::hdf5::Hdf5;

/// Barcodes, features and counts of spots x features.
pub(super) fn read(path: &Path, genome: Option<&str>) -> Result<(Vec<String>, Features, Csr)> {
    let file = Hdf5::open(path)?;
    let names = |node: &str| file.texts(node);
    let names_if = |node: &str| file.has(node).then(|| names(node)).transpose();
    let (group, features) = if file.file.group("/matrix").is_ok() {
        let features = Features {
            names: names("/matrix/features/name")?,
            ids: names_if("/matrix/features/id")?.map_or_else(|| names("/matrix/features/name"), Ok)?,
            kinds: names_if("/matrix/features/feature_type")?.unwrap_or_default(),
            genomes: names_if("/matrix/features/genome")?.unwrap_or_default(),
        };
        ("matrix".to_owned(), features)
    } else {
        let group = legacy_genome(&file, genome)?;
        let ids = names(&format!("/{group}/genes"))?;
        let features =
            Features { names: names(&format!("/{group}/gene_names"))?, ids, ..Features::default() };
        (group, features)
    };
    let barcodes = names(&format!("/{group}/barcodes"))?;
    let x = counts(&file, &group, barcodes.len(), features.names.len())?;
    Ok((barcodes, features, x))
}

/// The group of a genome in a file of Cell Ranger 2.
fn legacy_genome(file: &Hdf5, wanted: Option<&str>) -> Result<String> {
    let (groups, _) =
        file.file.root_group().and_then(|root| root.member_names()).map_err(file.unreadable("/"))?;
    let is_genome = |name: &String| file.has(&format!("/{name}/gene_names"));
    let mut genomes: Vec<String> = groups.into_iter().filter(is_genome).collect();
    genomes.sort_unstable();
    match (wanted, &genomes[..]) {
        (_, []) => {
            Err(file.wrong("has neither a group `matrix` nor one of a genome: it is not Cell Ranger's"))
        }
        (None, [only]) => Ok(only.clone()),
        (Some(wanted), genomes) if genomes.iter().any(|genome| genome == wanted) => Ok(wanted.into()),
        (wanted, genomes) => {
            let wanted = wanted.map_or("several genomes".into(), |wanted| format!("no genome `{wanted}`"));
            Err(file.wrong(format!("has {wanted}; set `genome` to one of {}", genomes.join(", "))))
        }
    }
}

/// The file's features x spots, compressed by spot, are byte for byte spots x features compressed by row, except that
/// the indices of a spot need not be sorted.
fn counts(file: &Hdf5, group: &str, spots: usize, features: usize) -> Result<Csr> {
    let node = |name| format!("/{group}/{name}");
    let indptr: Vec<i64> = file.numbers(&node("indptr"), Some, |_| None)?;
    let indices: Vec<i32> = file.numbers(&node("indices"), |index| i32::try_from(index).ok(), |_| None)?;
    let data: Vec<f32> =
        file.numbers(&node("data"), |count| Some(count as f32), |count| Some(count as f32))?;
    let ends_fit = indptr.first() == Some(&0) && indptr.last() == Some(&(data.len() as i64));
    if indptr.len() != spots + 1 || !ends_fit || !indptr.is_sorted() || indices.len() != data.len() {
        return Err(file.wrong("contradicts itself: data, indices, indptr and barcodes do not agree"));
    }
    if !indices.par_iter().all(|&index| usize::try_from(index).is_ok_and(|index| index < features)) {
        return Err(file.wrong(format!("has counts of features beyond its {features}")));
    }
    Csr::from_parts(features, indptr, indices, data).map_err(|error| file.wrong(error))
}
