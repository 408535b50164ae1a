//! Spots x genes: an AnnData group that scanpy and squidpy open.

use std::{collections::BTreeMap, path::Path};

use super::{
    Artifact, Csr, Frame, Library, anndata, libraries,
    zarr::{Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

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

    /// The spots and genes at these positions, of a table that is not needed any more: nothing is copied that can stay.
    #[must_use]
    pub fn into_selected(self, spots: &[usize], genes: &[usize]) -> Self {
        let all = |places: &[usize], count| places.iter().copied().eq(0..count);
        let (every_spot, every_gene) = (all(spots, self.n_spots()), all(genes, self.n_genes()));
        Self {
            x: self.x.into_selected(spots, genes),
            obs: if every_spot { self.obs } else { self.obs.into_selected(spots) },
            var: if every_gene { self.var } else { self.var.into_selected(genes) },
            spatial: spots.iter().map(|&spot| self.spatial[spot]).collect(),
            libraries: self.libraries,
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

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        anndata::expect_encoding(&root, "anndata")?;
        let obs = anndata::read_frame(&root.group("obs")?)?;
        let var = anndata::read_frame(&root.group("var")?)?;
        let x = anndata::read_matrix(&root, "X")?;
        if (x.n_rows(), x.n_cols) != (obs.len(), var.len()) {
            let (rows, cols, spots, genes) = (x.n_rows(), x.n_cols, obs.len(), var.len());
            return Err(
                root.wrong(format!("has an X of {rows} x {cols} for {spots} spots and {genes} genes"))
            );
        }
        let obsm = root.group("obsm")?;
        if !obsm.has("spatial") {
            return Err(obsm.wrong(
                "lacks `spatial`: where each spot is, x and y in pixels of the full-resolution image",
            ));
        }
        let spatial = obsm.doubles("spatial", &[Some(obs.len()), Some(2)])?;
        let (spatial, _) = spatial.as_chunks();
        Ok(Self { x, spatial: spatial.to_vec(), libraries: libraries::read(&root.group("uns")?)?, obs, var })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let (spots, genes) = (self.n_spots(), self.n_genes());
        if (self.x.n_rows(), self.x.n_cols, self.spatial.len()) != (spots, genes, spots) {
            return Err(Error::invalid(format!(
                "a table of {spots} spots and {genes} genes cannot have {} x {} values and {} coordinates",
                self.x.n_rows(),
                self.x.n_cols,
                self.spatial.len()
            )));
        }
        let root = Writer::create(path, anndata::root())?;
        anndata::csr(&root, "X", &self.x)?;
        anndata::frame(&self.obs, |attributes| root.group("obs", attributes))?;
        anndata::frame(&self.var, |attributes| root.group("var", attributes))?;
        let obsm = anndata::dict(&root, "obsm")?;
        anndata::array(&obsm, "spatial", &[spots, 2], self.spatial.as_flattened())?;
        libraries::write(&self.libraries, &anndata::dict(&root, "uns")?)?;
        ["layers", "obsp", "varm", "varp"].iter().try_for_each(|name| anndata::dict(&root, name).map(drop))
    }
}
