//! Encoders of genes on a graph: as the `mlp`, but what a hidden layer makes of a spot depends on its neighbours too; or a
//! transformer whose tokens are spots.

use std::sync::Arc;

use rand::Rng;
use restage_nn::{
    GraphAttention, GraphConv, Layer, LayerNorm, Linear, Matrix, NeighbourAttention, Network, Params, Source,
    Sparse, dfdx::prelude::*, gelu,
};
use restage_stage::{Error, Result};

use super::{Encoder, vit};

/// What makes an embedding of a spot's genes and its neighbours'.
pub(crate) struct GraphNet {
    body: Body,
    /// To the embedding; it sees no neighbours.
    output: Linear,
}

enum Body {
    /// Graph layer, layer norm, GELU per hidden layer.
    Layers(Vec<(GraphLayer, LayerNorm)>),
    /// A linear layer on each spot, blocks of a transformer, a layer norm.
    Transformer { embed: Linear, blocks: Vec<Block>, norm: Network },
}

/// A transformer's block: normalised, a spot attends to itself and its neighbours; then two layers with GELU on each spot; both
/// beside a shortcut.
struct Block {
    norm: LayerNorm,
    among: NeighbourAttention,
    alone: Network,
}

impl GraphNet {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name, with graph layers' own as PyTorch Geometric names them;
    /// those of a transformer as timm's `vit` names them, with `embed` for what makes tokens.
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
        let sizes = match kind {
            Encoder::Gcn { hidden } | Encoder::Gat { hidden, .. } => hidden,
            Encoder::Transformer { width, depth, heads } => {
                let embed = Linear::new(params, &format!("{name}.embed"), genes, *width, rng);
                let mut block = |number: usize| {
                    let block = format!("{name}.blocks.{number}");
                    Block {
                        norm: LayerNorm::new(params, &format!("{block}.norm1"), *width),
                        among: NeighbourAttention::new(params, &format!("{block}.attn"), *width, *heads, rng),
                        alone: Network(vec![vit::alone(params, &block, *width, rng)]),
                    }
                };
                let blocks = (0..*depth).map(&mut block).collect();
                let norm =
                    Network(vec![Layer::LayerNorm(LayerNorm::new(params, &format!("{name}.norm"), *width))]);
                let output = Linear::new(params, &format!("{name}.head"), *width, dim, rng);
                return Ok(Self { body: Body::Transformer { embed, blocks, norm }, output });
            }
            other => {
                return Err(Error::invalid(format!("an encoder on a graph cannot be a {}", other.name())));
            }
        };
        let mut width = genes;
        let layer = |(position, &size): (usize, &usize)| {
            let layer =
                GraphLayer::new(params, &format!("{name}.{}", 3 * position), kind, (width, size), rng);
            width = size;
            (layer, LayerNorm::new(params, &format!("{name}.{}", 3 * position + 1), size))
        };
        let hidden = sizes.iter().enumerate().map(layer).collect();
        let output = Linear::new(params, &format!("{name}.{}", 3 * sizes.len()), width, dim, rng);
        Ok(Self { body: Body::Layers(hidden), output })
    }

    /// How many rings around a spot its embedding depends on.
    pub(crate) fn rings(&self) -> usize {
        match &self.body {
            Body::Layers(hidden) => hidden.len(),
            Body::Transformer { blocks, .. } => blocks.len(),
        }
    }

    /// Spots x genes to spots x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        source: Source,
    ) -> Matrix<T> {
        let body = match &self.body {
            Body::Layers(hidden) => {
                let (mut x, mut source) = (x, source);
                for (layer, norm) in hidden {
                    x = gelu(norm.forward(params, layer.forward(params, edges, x, source)));
                    source = Source::Op;
                }
                return self.output.forward(params, x, source);
            }
            Body::Transformer { embed, blocks, norm } => {
                let mut tokens = embed.forward(params, x, source);
                for Block { norm, among, alone } in blocks {
                    let seen = norm.forward(params, tokens.with_empty_tape());
                    tokens = tokens + among.forward(params, edges, seen, Source::Op);
                    tokens = alone.forward(params, tokens.into(), Source::Op).rows();
                }
                norm.forward(params, tokens.into(), Source::Op).rows()
            }
        };
        self.output.forward(params, body, Source::Op)
    }
}

/// A layer in which spots see their neighbours.
pub(crate) enum GraphLayer {
    Convolution(GraphConv),
    Attention(GraphAttention),
}

impl GraphLayer {
    fn new(
        params: &mut Params,
        name: &str,
        kind: &Encoder,
        (inputs, outputs): (usize, usize),
        rng: &mut impl Rng,
    ) -> Self {
        match kind {
            Encoder::Gat { heads, .. } => {
                Self::Attention(GraphAttention::new(params, name, inputs, (outputs, *heads), rng))
            }
            _ => Self::Convolution(GraphConv::new(params, name, inputs, outputs, rng)),
        }
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

    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        source: Source,
    ) -> Matrix<T> {
        match self {
            Self::Convolution(layer) => layer.forward(params, edges, x, source),
            Self::Attention(layer) => layer.forward(params, edges, x, source),
        }
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
