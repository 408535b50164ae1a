//! Layers on rows: of the encoder of genes, and what sits on embeddings in training.

use rand::Rng;
use restage_nn::{Layer, LayerNorm, Linear, Matrix, Network, ParamId, Params, Source, dfdx::prelude::*};

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
    network: Network,
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
        let mut layers = Vec::with_capacity(3 * sizes.len());
        for (position, &size) in sizes.iter().enumerate() {
            let linear = Linear::new(params, &format!("{name}.{}", 3 * position), width, size, rng);
            layers.push(Layer::Linear(linear));
            if position + 1 < sizes.len() {
                let norm = LayerNorm::new(params, &format!("{name}.{}", 3 * position + 1), size);
                layers.extend([Layer::LayerNorm(norm), Layer::Relu]);
            }
            width = size;
        }
        Self { network: Network(layers), outputs: width }
    }

    /// How many values it makes of an embedding.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Its parameters.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        self.network.parameters()
    }

    /// Embeddings to what the loss sees.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>) -> Matrix<T> {
        self.network.forward(params, x.into(), Source::Op).rows()
    }
}
