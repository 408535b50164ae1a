//! Encoders of genes on a graph: as the `mlp`, but what a hidden layer makes of a spot depends on its neighbours too; or a
//! transformer whose tokens are spots.

use std::sync::Arc;

use rand::Rng;
use restage_nn::{
    GraphAttention, GraphConv, Layer, LayerNorm, Linear, Matrix, NeighbourAttention, Network, ParamId,
    Params, Source, Sparse, dfdx::prelude::*,
};
use restage_stage::{Error, Result};

use super::{Encoder, vit};

/// What makes an embedding of a spot's genes and its neighbours'.
pub(crate) struct GraphNet {
    network: Network,
    rings: usize,
}

impl GraphNet {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name, with graph layers' own as PyTorch Geometric names them;
    /// those of a transformer as timm's `vit` names them, with `embed` for what makes tokens. The last layer, to the embedding, sees
    /// no neighbours.
    ///
    /// # Errors
    /// If it is a kind of encoder that sees no graph.
    pub(crate) fn new(
        params: &mut Params,
        name: &str,
        kind: &Encoder,
        (genes, dim): (usize, usize),
        rng: &mut impl Rng,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        let (rings, width, last) = match kind {
            Encoder::Gcn { hidden } | Encoder::Gat { hidden, .. } => {
                let mut width = genes;
                for (position, &size) in hidden.iter().enumerate() {
                    let name = |step: usize| format!("{name}.{}", 3 * position + step);
                    let GraphLayer(layer) = GraphLayer::new(params, &name(0), kind, (width, size), rng);
                    let norm = LayerNorm::new(params, &name(1), size);
                    layers.extend([layer, Layer::LayerNorm(norm), Layer::Gelu]);
                    width = size;
                }
                (hidden.len(), width, format!("{name}.{}", 3 * hidden.len()))
            }
            Encoder::Transformer { width, depth, heads } => {
                layers.push(Layer::Linear(Linear::new(params, &format!("{name}.embed"), genes, *width, rng)));
                for number in 0..*depth {
                    layers.extend(block(params, &format!("{name}.blocks.{number}"), (*width, *heads), rng));
                }
                layers.push(Layer::LayerNorm(LayerNorm::new(params, &format!("{name}.norm"), *width)));
                (*depth, *width, format!("{name}.head"))
            }
            other => {
                return Err(Error::invalid(format!("an encoder on a graph cannot be a {}", other.name())));
            }
        };
        layers.push(Layer::Linear(Linear::new(params, &last, width, dim, rng)));
        Ok(Self { network: Network(layers), rings })
    }

    /// How many rings around a spot its embedding depends on.
    pub(crate) fn rings(&self) -> usize {
        self.rings
    }

    /// Its parameters.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        self.network.parameters()
    }

    /// Spots x genes to spots x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        source: Source,
    ) -> Matrix<T> {
        self.network.forward_on(params, edges, x.into(), source).rows()
    }
}

/// A transformer's block: normalised, a spot attends to itself and its neighbours; then two layers with GELU on each spot; both
/// beside a shortcut.
fn block(params: &mut Params, block: &str, (width, heads): (usize, usize), rng: &mut impl Rng) -> [Layer; 2] {
    let among = vec![
        Layer::LayerNorm(LayerNorm::new(params, &format!("{block}.norm1"), width)),
        Layer::NeighbourAttention(NeighbourAttention::new(
            params,
            &format!("{block}.attn"),
            width,
            heads,
            rng,
        )),
    ];
    let among = Layer::Residual { body: Network(among), shortcut: Network::default() };
    [among, vit::alone(params, block, width, rng)]
}

/// A layer in which spots see their neighbours.
pub(crate) struct GraphLayer(Layer);

impl GraphLayer {
    fn new(
        params: &mut Params,
        name: &str,
        kind: &Encoder,
        (inputs, outputs): (usize, usize),
        rng: &mut impl Rng,
    ) -> Self {
        Self(match kind {
            Encoder::Gat { heads, .. } => {
                Layer::GraphAttention(GraphAttention::new(params, name, inputs, (outputs, *heads), rng))
            }
            _ => Layer::GraphConv(GraphConv::new(params, name, inputs, outputs, rng)),
        })
    }

    /// From embeddings back to genes: a layer of the encoder's kind, with one head; a graph convolution of a transformer's.
    pub(crate) fn decoder(
        params: &mut Params,
        name: &str,
        kind: &Encoder,
        (dim, genes): (usize, usize),
        rng: &mut impl Rng,
    ) -> Self {
        let kind = match kind {
            Encoder::Gat { .. } => &Encoder::Gat { hidden: Vec::new(), heads: 1 },
            other => other,
        };
        Self::new(params, name, kind, (dim, genes), rng)
    }

    fn network(&self) -> Network {
        Network(vec![self.0.clone()])
    }

    /// Its parameters.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        self.network().parameters()
    }

    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        source: Source,
    ) -> Matrix<T> {
        self.network().forward_on(params, edges, x.into(), source).rows()
    }
}

#[cfg(test)]
mod tests {
    use restage_nn::{tensor, values};
    use restage_stage::context::rng;

    use super::*;
    use crate::encoder::Net;

    /// Of spots that have only themselves, a GCN is the MLP of the same weights.
    #[test]
    fn without_neighbours_a_gcn_is_an_mlp() {
        let (mut of_mlp, mut of_gcn) = (Params::default(), Params::default());
        let mlp = Encoder::Mlp { hidden: vec![5, 4] };
        let gcn = Encoder::Gcn { hidden: vec![5, 4] };
        let mlp = Net::of_genes(&mut of_mlp, "encoder", &mlp, (6, 3), &mut rng(1, "init")).unwrap();
        let gcn = GraphNet::new(&mut of_gcn, "encoder", &gcn, (6, 3), &mut rng(1, "init")).unwrap();
        let saved: Vec<_> = of_mlp.iter().map(|param| (&param.name, &param.shape, param.values())).collect();
        of_gcn
            .load(|name| {
                let (_, shape, values) =
                    saved.iter().find(|(other, ..)| **other == name.replace(".lin.", "."))?;
                Some((&shape[..], &values[..]))
            })
            .unwrap();
        let x = || tensor((0..24).map(|at| (at as f32).sin()).collect(), (4, 6));
        let alone = Sparse::from_rows(4, (0..4).map(|spot| vec![(spot, 1.0)]));
        let (a, b) = (mlp.forward(&of_mlp, x()), gcn.forward(&of_gcn, &alone, x(), Source::Data));
        for (a, b) in values(&a).iter().zip(values(&b)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
