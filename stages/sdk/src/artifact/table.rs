//! Spots x genes: an AnnData group that scanpy and squidpy open.

use std::{collections::BTreeMap, path::Path};

use super::{Artifact, Csr, Frame, Image, ScaleFactors};
use crate::{catalogue::PortType, error::Result};

/// Images and scale factors of one section, as squidpy and scanpy look for them in `uns["spatial"][library]`.
#[derive(Clone, Debug, Default, PartialEq)]
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

impl Table {
    /// Number of spots.
    pub fn n_spots(&self) -> usize {
        self.obs.len()
    }

    /// Number of genes.
    pub fn n_genes(&self) -> usize {
        self.var.len()
    }

    /// Section of the spot at a position, where `obs` says.
    pub fn section(&self, spot: usize) -> Option<&str> {
        self.obs.categorical("section").ok()?.get(spot)
    }

    /// Patient of the spot at a position, where `obs` says.
    pub fn patient(&self, spot: usize) -> Option<&str> {
        self.obs.categorical("patient").ok()?.get(spot)
    }

    /// The spots at these positions, in that order; every section's library stays.
    #[must_use]
    pub fn select_spots(&self, spots: &[usize]) -> Self {
        Self {
            x: self.x.select_rows(spots),
            obs: self.obs.select(spots),
            var: self.var.clone(),
            spatial: spots.iter().map(|&spot| self.spatial[spot]).collect(),
            libraries: self.libraries.clone(),
        }
    }

    /// The genes at these positions, in that order.
    #[must_use]
    pub fn select_genes(&self, genes: &[usize]) -> Self {
        Self {
            x: self.x.select_cols(genes),
            obs: self.obs.clone(),
            var: self.var.select(genes),
            spatial: self.spatial.clone(),
            libraries: self.libraries.clone(),
        }
    }
}

impl Artifact for Table {
    const PORT: PortType = PortType::Table;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
