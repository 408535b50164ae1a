//! Spots x genes: an AnnData group that scanpy and squidpy open.

use std::collections::BTreeMap;

use super::{Frame, Image, ScaleFactors};

/// A sparse matrix, compressed by row; column indices of a row are sorted and unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Csr {
    /// Number of columns.
    pub n_cols: usize,
    /// Row `i` is `indptr[i]..indptr[i + 1]`; one longer than the number of rows.
    pub indptr: Vec<i64>,
    /// Column of each stored value.
    pub indices: Vec<i32>,
    /// The stored values.
    pub data: Vec<f32>,
}
// Methods wanted: n_rows(), row(i) -> (&[i32], &[f32]), select_rows, select_cols, dense_row(i, &mut [f32])

/// Images and scale factors of one section, as squidpy and scanpy look for them in `uns["spatial"][library]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Library {
    /// `"hires"`, `"lowres"`: 8-bit RGB.
    pub images: BTreeMap<String, Image>,
    /// Full-resolution pixels to those of an image, spot diameter.
    pub scale_factors: ScaleFactors,
}

/// Spots x genes with annotations and coordinates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Counts or normalised expression.
    pub x: Csr,
    /// Per spot: index = spot id; columns `barcode`, `section` and `patient` (categorical), and others.
    pub obs: Frame,
    /// Per gene: index = unique gene name; column `gene_ids` and others (`highly_variable`: bool).
    pub var: Frame,
    /// Per spot (x, y) in pixels of the full-resolution image.
    pub spatial: Vec<[f64; 2]>,
    /// Per section.
    pub libraries: BTreeMap<String, Library>,
}
