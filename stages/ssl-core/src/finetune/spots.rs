//! All spots of a model's inputs, and their embeddings, to learn from or to look at.

use std::collections::HashMap;

use restage_nn::{
    Matrix, ParamId, Params,
    dfdx::prelude::{Cpu, NoneTape, PutTape, Tape},
    tensor, values,
};
use restage_stage::{
    Context, Error, Result,
    artifact::{Graph, Patches, Table},
};

use super::BATCH;
use crate::{
    architecture::{ALONE, Encoders, FUSION, OF_GENES, OF_PATCHES, OfGenes, OfPatches},
    encoder::{Fuse, GeneEncoder, Net},
    expression::{Genes, Scaler},
};

/// One of a thing, or one for each of a pair of embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parts<V> {
    pub(super) first: V,
    pub(super) second: Option<V>,
}

impl<V> Parts<V> {
    pub(super) fn as_ref(&self) -> Parts<&V> {
        Parts { first: &self.first, second: self.second.as_ref() }
    }

    pub(super) fn zip<W>(self, other: Parts<W>) -> Parts<(V, W)> {
        Parts { first: (self.first, other.first), second: self.second.zip(other.second) }
    }

    pub(super) fn map<W>(self, mut of: impl FnMut(V) -> W) -> Parts<W> {
        Parts { first: of(self.first), second: self.second.map(of) }
    }
}

/// Spots that have all inputs of a model that are connected.
pub(super) struct Spots {
    ids: Vec<String>,
    sees: Sees,
}

/// What is seen of them.
enum Sees {
    Patches(Box<OfPatch>),
    Genes(Box<OfGene>),
    Both(Box<OfPatch>, Box<OfGene>, Option<Fuse>),
}

struct OfPatch {
    net: Net,
    kind: OfPatches,
    patches: Patches,
    /// Position of each spot's patch.
    rows: Vec<usize>,
    is_alone: bool,
}

struct OfGene {
    encoder: GeneEncoder,
    kind: OfGenes,
    table: Table,
    columns: Genes,
    /// Row of each spot.
    rows: Vec<usize>,
    is_alone: bool,
}

impl Spots {
    /// Reads those inputs.
    ///
    /// # Errors
    /// If what the model needs is not connected, or does not fit it.
    pub(super) fn new(ctx: &Context, encoders: Encoders) -> Result<Self> {
        let used = encoders.used(ctx)?;
        let is_alone = encoders.patches.is_none() || encoders.genes.is_none();
        let patches = match encoders.patches.filter(|_| used.patches) {
            None => None,
            Some((net, kind)) => {
                let patches: Patches = ctx.read("patches")?;
                kind.check(&patches)?;
                Some((net, kind, patches))
            }
        };
        let genes = match encoders.genes.filter(|_| used.genes) {
            None => None,
            Some((net, kind)) => {
                let table: Table = ctx.read("table")?;
                Scaler::check_table(&table)?;
                let columns = kind.scaler.find(&table.var.index)?;
                Some((net, kind, table, columns))
            }
        };
        let with_rows = |(net, kind, patches), rows| OfPatch { net, kind, patches, rows, is_alone };
        let with_graph = |(net, kind, table, columns), rows: Vec<usize>| -> Result<OfGene> {
            let graph: Option<Graph> = ctx.read_optional("graph")?;
            let encoder = GeneEncoder::new(net, &table, graph.as_ref(), &rows)?;
            Ok(OfGene { encoder, kind, table, columns, rows, is_alone })
        };
        let all = |count: usize| (0..count).collect::<Vec<_>>();
        Ok(match (patches, genes) {
            (Some(patches), Some(genes)) => {
                let places: HashMap<&str, usize> =
                    genes.2.obs.index.iter().map(String::as_str).zip(0..).collect();
                let spots = patches.2.spots.iter().enumerate();
                let both = spots.filter_map(|(at, spot)| Some((at, *places.get(spot.as_str())?)));
                let (at, rows): (Vec<usize>, Vec<usize>) = both.unzip();
                if rows.is_empty() {
                    return Err(Error::invalid(
                        "no spot is in both the table and the patches: are they of the same sections?",
                    ));
                }
                let ids = rows.iter().map(|row| genes.2.obs.index[*row].clone()).collect();
                let sees = Sees::Both(
                    Box::new(with_rows(patches, at)),
                    Box::new(with_graph(genes, rows)?),
                    encoders.fuse,
                );
                Self { ids, sees }
            }
            (Some(patches), None) => {
                let ids = patches.2.spots.clone();
                let rows = all(ids.len());
                Self { ids, sees: Sees::Patches(Box::new(with_rows(patches, rows))) }
            }
            (None, Some(genes)) => {
                let ids = genes.2.obs.index.clone();
                let rows = all(ids.len());
                Self { ids, sees: Sees::Genes(Box::new(with_graph(genes, rows)?)) }
            }
            (None, None) => {
                return Err(Error::invalid(
                    "the model has no encoder: make it with `ssl/pretrain` or `ssl/import`",
                ));
            }
        })
    }

    pub(super) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Lengths of the embeddings.
    pub(super) fn dims(&self) -> Parts<usize> {
        match &self.sees {
            Sees::Patches(of) => Parts { first: of.kind.dim, second: None },
            Sees::Genes(of) => Parts { first: of.kind.dim, second: None },
            Sees::Both(of, _, Some(_)) => Parts { first: of.kind.dim, second: None },
            Sees::Both(patches, genes, None) => {
                Parts { first: patches.kind.dim, second: Some(genes.kind.dim) }
            }
        }
    }

    /// Parameters of the networks of the encoders, which a device may have.
    pub(super) fn parameters(&self) -> Vec<ParamId> {
        match &self.sees {
            Sees::Patches(of) => of.net.parameters(),
            Sees::Genes(of) => of.encoder.parameters(),
            Sees::Both(patches, genes, _) => [patches.net.parameters(), genes.encoder.parameters()].concat(),
        }
    }

    /// What the names of the parameters of the encoders begin with.
    pub(super) fn prefixes(&self) -> Vec<&'static str> {
        match &self.sees {
            Sees::Patches(of) if of.is_alone => vec![ALONE],
            Sees::Genes(of) if of.is_alone => vec![ALONE],
            Sees::Patches(_) => vec![OF_PATCHES],
            Sees::Genes(_) => vec![OF_GENES],
            Sees::Both(..) => vec![OF_PATCHES, OF_GENES, FUSION],
        }
    }

    /// Embeddings of spots, by their positions.
    pub(super) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, spots: &[usize]) -> Parts<Matrix<T>> {
        match &self.sees {
            Sees::Patches(of) => Parts { first: of.forward(params, spots), second: None },
            Sees::Genes(of) => Parts { first: of.forward(params, spots), second: None },
            Sees::Both(patches, genes, fuse) => {
                let (patches, genes) = (patches.forward(params, spots), genes.forward(params, spots));
                match fuse {
                    Some(fuse) => Parts { first: fuse.forward(params, patches, genes), second: None },
                    None => Parts { first: patches, second: Some(genes) },
                }
            }
        }
    }

    /// The same of many, as values.
    pub(super) fn embeddings(
        &self,
        ctx: &Context,
        params: &Params,
        spots: &[usize],
    ) -> Result<Parts<Vec<f32>>> {
        let mut all = self.dims().map(|_| Vec::new());
        for batch in spots.chunks(BATCH) {
            ctx.check_cancelled()?;
            let found = self.forward::<NoneTape>(params, batch);
            all.first.extend(values(&found.first));
            if let (Some(all), Some(found)) = (&mut all.second, &found.second) {
                all.extend(values(found));
            }
        }
        Ok(all)
    }
}

impl OfPatch {
    fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, spots: &[usize]) -> Matrix<T> {
        let at: Vec<usize> = spots.iter().map(|spot| self.rows[*spot]).collect();
        let mut images = self.kind.colours.patches(&self.patches, &at);
        self.kind.sees.apply(&mut images, &self.kind.colours);
        let size = self.kind.size;
        self.net.forward(params, tensor(images, (spots.len(), size, size, 3)).put_tape(T::default()))
    }
}

impl OfGene {
    fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, spots: &[usize]) -> Matrix<T> {
        let around = self.encoder.around(spots);
        let rows: Vec<usize> = around.spots.iter().map(|spot| self.rows[*spot]).collect();
        let x = self.kind.scaler.rows(&self.table.x, &self.columns, &rows);
        let x = tensor(x, (rows.len(), self.kind.scaler.genes.len())).put_tape(T::default());
        self.encoder.forward(params, &around.edges, x, spots.len())
    }
}
