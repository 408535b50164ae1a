//! One vector per spot: an AnnData group with a dense X.

use std::{collections::HashMap, path::Path};

use super::{
    Artifact, Frame, anndata,
    zarr::{Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

/// One vector per spot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Length of a vector.
    pub dims: usize,
    /// `spots.len() * dims` values, a spot's together.
    pub values: Vec<f32>,
}

impl Embedding {
    /// The vector of the spot at a position.
    pub fn row(&self, position: usize) -> &[f32] {
        &self.values[position * self.dims..][..self.dims]
    }

    /// Writes it, as [`Artifact::write`] does, with names of its dimensions, which Python finds in `var`.
    ///
    /// # Errors
    /// If names are missing or come twice, or as [`Artifact::write`].
    pub fn write_named(&self, path: &Path, names: &[String]) -> Result<()> {
        if self.values.len() != self.spots.len() * self.dims {
            return Err(Error::invalid(format!(
                "an embedding of {} spots with {} dimensions cannot have {} values",
                self.spots.len(),
                self.dims,
                self.values.len()
            )));
        }
        if names.len() != self.dims {
            return Err(Error::invalid(format!("{} names for {} dimensions", names.len(), self.dims)));
        }
        let root = Writer::create(path, anndata::root())?;
        anndata::array(&root, "X", &[self.spots.len(), self.dims], &self.values)?;
        let obs = Frame { index: self.spots.clone(), columns: Vec::new() };
        let var = Frame { index: names.to_vec(), columns: Vec::new() };
        anndata::frame(&obs, |attributes| root.group("obs", attributes))?;
        anndata::frame(&var, |attributes| root.group("var", attributes))?;
        ["layers", "obsm", "obsp", "uns", "varm", "varp"]
            .iter()
            .try_for_each(|name| anndata::dict(&root, name).map(drop))
    }

    /// Spot id to position.
    pub fn positions(&self) -> HashMap<&str, usize> {
        super::positions(&self.spots)
    }
}

impl Artifact for Embedding {
    const PORT: PortType = PortType::Embedding;

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        anndata::expect_encoding(&root, "anndata")?;
        let spots = anndata::read_frame(&root.group("obs")?)?.index;
        if let Ok(sparse) = root.group("X") {
            return Err(sparse.wrong("is sparse; an embedding's is dense: `X.toarray()` before writing it"));
        }
        let values = root.floats("X", &[Some(spots.len()), None])?;
        Ok(Self { spots, dims: root.shape("X")?.get(1).copied().unwrap_or(0), values })
    }

    fn write(&self, path: &Path) -> Result<()> {
        self.write_named(path, &(0..self.dims).map(|dim| format!("dim_{dim}")).collect::<Vec<_>>())
    }
}
