//! Layers on rows: the encoder of genes, and what sits on embeddings in training.

use rand::Rng;
use restage_nn::{LayerNorm, Linear, Matrix, Params, Source, dfdx::prelude::*, gelu, relu};

/// Linear, layer norm, GELU per hidden layer, then linear.
pub(crate) struct Mlp {
    hidden: Vec<(Linear, LayerNorm)>,
    output: Linear,
}

impl Mlp {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name.
    pub(crate) fn new(
        params: &mut Params,
        name: &str,
        inputs: usize,
        hidden: &[usize],
        dim: usize,
        rng: &mut impl Rng,
    ) -> Self {
        let mut width = inputs;
        let mut layer = |(position, &size): (usize, &usize)| {
            let linear = Linear::new(params, &format!("{name}.{}", 3 * position), width, size, rng);
            width = size;
            (linear, LayerNorm::new(params, &format!("{name}.{}", 3 * position + 1), size))
        };
        let hidden: Vec<_> = hidden.iter().enumerate().map(&mut layer).collect();
        let output = Linear::new(params, &format!("{name}.{}", 3 * hidden.len()), width, dim, rng);
        Self { hidden, output }
    }

    /// Spots x genes to spots x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>) -> Matrix<T> {
        let mut source = Source::Data;
        let mut x = x;
        for (linear, norm) in &self.hidden {
            x = gelu(norm.forward(params, linear.forward(params, x, source)));
            source = Source::Op;
        }
        self.output.forward(params, x, source)
    }
}

/// Linear layers with layer norm and ReLU between them: what sits on embeddings during training only.
pub(crate) struct Projector {
    layers: Vec<(Linear, Option<LayerNorm>)>,
    outputs: usize,
}

impl Projector {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name.
    pub(crate) fn new(
        params: &mut Params,
        name: &str,
        inputs: usize,
        sizes: &[usize],
        rng: &mut impl Rng,
    ) -> Self {
        let mut width = inputs;
        let mut layer = |(position, &size): (usize, &usize)| {
            let linear = Linear::new(params, &format!("{name}.{}", 3 * position), width, size, rng);
            width = size;
            let last = position + 1 == sizes.len();
            let norm = (!last).then(|| LayerNorm::new(params, &format!("{name}.{}", 3 * position + 1), size));
            (linear, norm)
        };
        let layers = sizes.iter().enumerate().map(&mut layer).collect();
        Self { layers, outputs: width }
    }

    /// How many values it makes of an embedding.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Embeddings to what the loss sees.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>) -> Matrix<T> {
        self.layers.iter().fold(x, |x, (linear, norm)| {
            let x = linear.forward(params, x, Source::Op);
            match norm {
                Some(norm) => relu(norm.forward(params, x)),
                None => x,
            }
        })
    }
}
