//! Counts in Cell Ranger's HDF5 layouts: one group `matrix` since version 3, before that one group per genome.

use std::path::Path;

use rayon::prelude::*;
use restage_stage::{Result, artifact::Csr};

use super::counts::Features;
use crate::hdf5::Hdf5;

/// Barcodes, features and counts of spots x features.
pub(super) fn read(path: &Path, genome: Option<&str>) -> Result<(Vec<String>, Features, Csr)> {
    let file = Hdf5::open(path)?;
    let group = match file.file.group("/matrix") {
        Ok(_) => "matrix".to_owned(),
        Err(_) => legacy_genome(&file, genome)?,
    };
    // Names and counts are packed apart, and read side by side.
    let (names, x) = rayon::join(|| names(&file, &group, genome), || Parts::read(&file, &group));
    let (barcodes, features) = names?;
    let x = x?.checked(&file, barcodes.len(), features.names.len())?;
    Ok((barcodes, features, x))
}

/// Barcodes and features; their genomes where somebody asks for one, or there are several.
fn names(file: &Hdf5, group: &str, genome: Option<&str>) -> Result<(Vec<String>, Features)> {
    let names = |node: &str| file.texts(&format!("/{group}/{node}"));
    let names_if = |node: &str| match file.has(&format!("/{group}/{node}")) {
        true => names(node).map(Some),
        false => Ok(None),
    };
    let barcodes = names("barcodes")?;
    if group != "matrix" {
        let ids = names("genes")?;
        return Ok((barcodes, Features { names: names("gene_names")?, ids, ..Features::default() }));
    }
    let ((genes, ids), (kinds, genomes)) = rayon::join(
        || rayon::join(|| names("features/name"), || names_if("features/id")),
        || {
            let genomes = || {
                let node = "features/genome";
                let one = genome.is_none() && file.is_constant(&format!("/{group}/{node}"));
                if one { Ok(None) } else { names_if(node) }
            };
            rayon::join(|| names_if("features/feature_type"), genomes)
        },
    );
    let genes = genes?;
    let ids = ids?.unwrap_or_else(|| genes.clone());
    let (kinds, genomes) = (kinds?.unwrap_or_default(), genomes?.unwrap_or_default());
    Ok((barcodes, Features { names: genes, ids, kinds, genomes }))
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

/// Counts as the file has them: features x spots, compressed by spot, are byte for byte spots x features compressed by row,
/// except that the indices of a spot need not be sorted.
struct Parts {
    indptr: Vec<i64>,
    indices: Vec<i32>,
    data: Vec<f32>,
}

impl Parts {
    fn read(file: &Hdf5, group: &str) -> Result<Self> {
        let node = |name| format!("/{group}/{name}");
        let (indices, data) = rayon::join(
            || file.numbers(&node("indices"), |index| i32::try_from(index).ok(), |_| None),
            || file.numbers(&node("data"), |count| Some(count as f32), |count| Some(count as f32)),
        );
        Ok(Self { indptr: file.numbers(&node("indptr"), Some, |_| None)?, indices: indices?, data: data? })
    }

    fn checked(self, file: &Hdf5, spots: usize, features: usize) -> Result<Csr> {
        let Self { indptr, indices, data } = self;
        let ends_fit = indptr.first() == Some(&0) && indptr.last() == Some(&(data.len() as i64));
        if indptr.len() != spots + 1 || !ends_fit || !indptr.is_sorted() || indices.len() != data.len() {
            return Err(file.wrong("contradicts itself: data, indices, indptr and barcodes do not agree"));
        }
        if !indices.par_iter().all(|&index| usize::try_from(index).is_ok_and(|index| index < features)) {
            return Err(file.wrong(format!("has counts of features beyond its {features}")));
        }
        // All else that could be wrong with them was looked at.
        Csr::from_parts(features, indptr, indices, data)
            .map_err(|_| file.wrong("has two counts of one feature in a spot"))
    }
}
