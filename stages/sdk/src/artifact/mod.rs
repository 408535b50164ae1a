//! What flows through ports, in memory and as Zarr groups.
//!
//! Every artifact that speaks of spots names them by *spot id*, `<section>_<barcode>`, unique over a workflow:
//! stages join by it, never by position.

mod anndata;
mod csr;
mod embedding;
mod frame;
mod graph;
mod image;
mod labels;
mod libraries;
mod metrics;
mod model;
mod patches;
mod predictions;
pub mod section;
mod split;
mod table;
pub mod zarr;

use std::collections::HashMap;

pub use csr::Csr;
pub use embedding::Embedding;
pub use frame::{Categorical, Column, Frame};
pub use graph::Graph;
pub use image::{COORDINATE_SYSTEM, Image, ImageFile, ImageRows, ScaleFactors};
pub use labels::{Labels, TestLabels, TrainLabels};
pub use libraries::Library;
pub use metrics::Metrics;
pub use model::{Model, Weight};
pub use patches::Patches;
pub use predictions::Predictions;
pub use split::{Role, Split};
pub use table::Table;

pub use crate::stage::Artifact;

/// Id to position.
fn positions(ids: &[String]) -> HashMap<&str, usize> {
    ids.iter().map(String::as_str).zip(0..).collect()
}
