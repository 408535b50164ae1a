//! The steps from counts on disk to components, in memory and one after another: what `examples/preprocess.rs` times. Stages
//! do the same and keep each step's result.

use std::path::Path;

use restage_stage::{Result, artifact::Table};

use crate::{load::counts::Source, normalize, pca, qc};

/// Counts of an HDF5 file, or of the folder of a triple, without coordinates.
///
/// # Errors
/// If they cannot be read.
pub fn read(counts: &Path) -> Result<Table> {
    let counts = Source::named(counts)?.read(None)?;
    let mut table = Table { x: counts.x, var: counts.genes, ..Table::default() };
    table.spatial = vec![[0.0; 2]; counts.barcodes.len()];
    table.obs.index = counts.barcodes;
    Ok(table)
}

/// As `visium/qc` with its defaults.
///
/// # Errors
/// If nothing is left.
pub fn clean(table: Table) -> Result<Table> {
    qc::filter(table, &qc::Params::default()).map(|(table, _)| table)
}

/// As `visium/normalize` with its defaults.
///
/// # Errors
/// If the table does not hold counts.
pub fn normalize(table: Table) -> Result<Table> {
    let every: Vec<usize> = (0..table.n_spots()).collect();
    normalize::normalize(table, &every, &normalize::Params::default())
}

/// As `visium/pca` with its defaults: scores, a spot's together.
///
/// # Errors
/// If the table has fewer components.
pub fn components(table: &Table) -> Result<Vec<f32>> {
    let every: Vec<usize> = (0..table.n_spots()).collect();
    pca::scores(&table.x, &every, &pca::Params::default())
}
