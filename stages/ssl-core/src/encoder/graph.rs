//! Encoders of genes on a graph: as the `mlp`, but what a hidden layer makes of a spot depends on its neighbours too.

use std::sync::Arc;

use rand::Rng;
use restage_nn::{
    GraphAttention, GraphConv, LayerNorm, Linear, Matrix, Params, Source, Sparse, dfdx::prelude::*, gelu,
};
use restage_stage::{Error, Result};

use super::Encoder;

/// Graph layer, layer norm, GELU per hidden layer, then linear, which sees no neighbours.
pub(crate) struct GraphNet {
    hidden: Vec<(GraphLayer, LayerNorm)>,
    output: Linear,
}

impl GraphNet {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name, with graph layers' own as PyTorch Geometric names them.
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
        Ok(Self { hidden, output })
    }

    /// Spots x genes to spots x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        edges: &Arc<Sparse>,
        x: Matrix<T>,
        source: Source,
    ) -> Matrix<T> {
        let (mut x, mut source) = (x, source);
        for (layer, norm) in &self.hidden {
            x = gelu(norm.forward(params, layer.forward(params, edges, x, source)));
            source = Source::Op;
        }
        self.output.forward(params, x, source)
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

    /// From embeddings back to genes: a layer of the encoder's kind, with one head.
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
