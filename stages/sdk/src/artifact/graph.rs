//! Which spots are neighbours, and how strongly: an AnnData group whose `obsp` squidpy and scanpy use.

use std::path::Path;

use super::{
    Artifact, Csr, Frame, anndata,
    zarr::{Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

/// Where squidpy keeps the edges.
const EDGES: &str = "spatial_connectivities";

/// A graph over spots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Spots x spots: the weight of the edge from the spot of the column to the spot of the row.
    pub edges: Csr,
}

impl Artifact for Graph {
    const PORT: PortType = PortType::Graph;

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        anndata::expect_encoding(&root, "anndata")?;
        let spots = anndata::read_frame(&root.group("obs")?)?.index;
        let edges = anndata::read_matrix(&root.group("obsp")?, EDGES)?;
        if (edges.n_rows(), edges.n_cols) != (spots.len(), spots.len()) {
            let (rows, cols, spots) = (edges.n_rows(), edges.n_cols, spots.len());
            return Err(root.wrong(format!("has edges of {rows} x {cols} for {spots} spots")));
        }
        Ok(Self { spots, edges })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let spots = self.spots.len();
        if (self.edges.n_rows(), self.edges.n_cols) != (spots, spots) {
            return Err(Error::invalid(format!(
                "a graph of {spots} spots cannot have edges of {} x {}",
                self.edges.n_rows(),
                self.edges.n_cols
            )));
        }
        let root = Writer::create(path, anndata::root())?;
        let obs = Frame { index: self.spots.clone(), columns: Vec::new() };
        anndata::frame(&obs, |attributes| root.group("obs", attributes))?;
        anndata::frame(&Frame::default(), |attributes| root.group("var", attributes))?;
        anndata::csr(&anndata::dict(&root, "obsp")?, EDGES, &self.edges)?;
        ["layers", "obsm", "uns", "varm", "varp"]
            .iter()
            .try_for_each(|name| anndata::dict(&root, name).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_from_disk() {
        let folder = tempfile::tempdir().unwrap();
        let graph = Graph {
            spots: vec!["a".into(), "b".into()],
            edges: Csr::from_rows(2, [vec![(1, 0.5)], vec![(0, 1.0)]]),
        };
        let path = folder.path().join("graph.zarr");
        graph.write(&path).unwrap();
        assert!(Graph::read(&path).unwrap() == graph);
        let wrong = Graph { spots: vec!["a".into()], ..graph };
        assert!(
            wrong.write(&folder.path().join("no")).unwrap_err().to_string().contains("a graph of 1 spots")
        );
    }
}
