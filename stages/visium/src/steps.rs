//! The steps from counts on disk to components, and from an image to stained patches, in memory and one after another: what
//! `examples/preprocess.rs` times. Stages do the same and keep each step's result.

use std::{collections::BTreeMap, path::Path};

use restage_stage::{
    Result,
    artifact::{Categorical, Column, Image, Library, Patches, Table},
};

use crate::{
    load::{counts::Source, images, positions},
    normalize, patches, pca, qc, stain,
};

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
    let every: Vec<usize> = (0..table.n_spots()).collect();
    qc::filter(table, &every, &qc::Params::default()).map(|(table, _)| table)
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

/// A section's `hires` image, and its spots under tissue.
///
/// # Errors
/// If they cannot be read.
pub fn image(outs: &Path) -> Result<(Table, Vec<Image>)> {
    let spatial = outs.join("spatial");
    let library = Library { scale_factors: images::read_scale_factors(&spatial)?, images: BTreeMap::new() };
    let mut library = images::add_images(library, &spatial, "s")?;
    let positions = positions::read(&spatial)?;
    let mut table = Table::default();
    table.obs.index = positions.under_tissue().map(str::to_owned).collect();
    let spots = positions.in_order_of(&table.obs.index)?;
    table.spatial = spots.iter().map(|spot| [spot.pxl_col, spot.pxl_row]).collect();
    let section = Categorical::encode(spots.iter().map(|_| Some("s")));
    table.obs.push("section", Column::Categorical(section));
    Ok((table, library.images.remove("hires").into_iter().collect()))
}

/// As `visium/patches`, of `size` pixels.
///
/// # Errors
/// If spots have no coordinates.
pub fn cut(table: &Table, images: Vec<Image>, size: usize) -> Result<Patches> {
    patches::of_images(table, images, &patches::Params { size, ..patches::Params::default() })
}

/// As `visium/stain-normalize` with its defaults.
///
/// # Errors
/// If a patch is of no spot of the table.
pub fn stain(patches: &mut Patches, table: &Table) -> Result<()> {
    stain::normalize(patches, table, None, &stain::Params::default(), |_, _| Ok(())).map(drop)
}
