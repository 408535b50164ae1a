//! Encoders of genes: of a spot's alone, or of its neighbours' as well.

use std::sync::Arc;

use restage_nn::{Matrix, ParamId, Params, Source, Sparse, dfdx::prelude::*, pick};
use restage_stage::{
    Error, Result,
    artifact::{Graph, Table},
};

use super::{GraphNet, Net};
use crate::sections::Sections;

/// The network of an encoder of genes.
pub(crate) enum GeneNet {
    /// It sees a spot.
    Alone(Net),
    /// It sees a spot and those around it.
    Graph(GraphNet),
}

/// An encoder of genes, with who is whose neighbour where it sees that.
pub(crate) enum GeneEncoder {
    Alone(Net),
    Graph(GraphNet, Arc<Sections>),
}

/// What an encoder takes of a batch.
pub(crate) struct Around {
    /// Positions of the spots of the batch, and then of those around them that it sees too.
    pub(crate) spots: Vec<usize>,
    /// Among all of these; none if it sees no graph.
    pub(crate) edges: Arc<Sparse>,
}

impl GeneNet {
    /// Its parameters.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        match self {
            Self::Alone(net) => net.parameters(),
            Self::Graph(net) => net.parameters(),
        }
    }
}

impl GeneEncoder {
    /// To train on these rows of a table.
    ///
    /// # Errors
    /// If the graph does not fit the table.
    pub(crate) fn new(net: GeneNet, table: &Table, graph: Option<&Graph>, rows: &[usize]) -> Result<Self> {
        Ok(match (net, graph) {
            (GeneNet::Alone(net), _) => Self::Alone(net),
            (GeneNet::Graph(net), Some(graph)) => {
                Self::Graph(net, Arc::new(Sections::new(table, graph, rows)?))
            }
            (GeneNet::Graph(_), None) => {
                return Err(Error::invalid("the encoder of genes sees neighbours: connect input `graph`"));
            }
        })
    }

    /// The training spots with the edges between them, if it sees them.
    pub(crate) fn sections(&self) -> Option<&Arc<Sections>> {
        match self {
            Self::Alone(_) => None,
            Self::Graph(_, sections) => Some(sections),
        }
    }

    /// Its network's parameters.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        match self {
            Self::Alone(net) => net.parameters(),
            Self::Graph(net, _) => net.parameters(),
        }
    }

    /// What it takes of a batch.
    pub(crate) fn around(&self, batch: &[usize]) -> Around {
        match self {
            Self::Alone(_) => Around { spots: batch.to_vec(), edges: Sparse::from_rows(0, []) },
            Self::Graph(net, sections) => {
                let (spots, edges) = sections.around(batch, net.rings());
                Around { spots, edges }
            }
        }
    }

    /// From the genes of all that it takes, spots x genes, to the embeddings of the `batch` first ones.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        batch: usize,
    ) -> Matrix<T> {
        match self {
            Self::Alone(net) => net.forward(params, x),
            Self::Graph(net, _) => {
                let all = net.forward(params, edges, x, Source::Data);
                pick(all, &(0..batch).collect::<Vec<_>>())
            }
        }
    }
}
