//! Layers on rows: of the encoder of genes, and what sits on embeddings in training.

use rand::Rng;
use restage_nn::{Layer, LayerNorm, Linear, Matrix, Params, Source, dfdx::prelude::*, relu};

/// Linear, layer norm, GELU per hidden layer; parameters as those of a PyTorch `Sequential` of that name.
pub(super) fn layers(
    params: &mut Params,
    name: &str,
    inputs: usize,
    hidden: &[usize],
    rng: &mut impl Rng,
) -> Vec<Layer> {
    let mut width = inputs;
    let layer = |(position, &size): (usize, &usize)| {
        let linear = Linear::new(params, &format!("{name}.{}", 3 * position), width, size, rng);
        width = size;
        let norm = LayerNorm::new(params, &format!("{name}.{}", 3 * position + 1), size);
        [Layer::Linear(linear), Layer::LayerNorm(norm), Layer::Gelu]
    };
    hidden.iter().enumerate().flat_map(layer).collect()
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
