//! Layers on rows: of the encoder of genes, and what sits on embeddings in training.

use rand::Rng;
use restage_nn::{
    Layer, LayerNorm, Linear, Matrix, Network, ParamId, Params, Source, batch_norm, dfdx::prelude::*,
};

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

/// What normalises what a [`Projector`]'s hidden layers give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadNorm {
    /// Layer norm: spots do not see each other.
    Layer,
    /// Batch norm, without scale and shift of its own.
    Batch,
    /// The same, and what it gives as well.
    BatchThroughout,
}

/// Linear layers with a norm and ReLU between them: what sits on embeddings during training only.
pub(crate) struct Projector {
    /// Batch norms stand between them: they are no layers of networks, which give each spot the same in any batch.
    parts: Vec<Network>,
    norm: HeadNorm,
    outputs: usize,
}

impl Projector {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name.
    pub(crate) fn new(
        params: &mut Params,
        name: &str,
        (inputs, sizes): (usize, &[usize]),
        norm: HeadNorm,
        rng: &mut impl Rng,
    ) -> Self {
        let mut width = inputs;
        let (mut parts, mut layers) = (Vec::new(), Vec::with_capacity(3 * sizes.len()));
        for (position, &size) in sizes.iter().enumerate() {
            let linear = Linear::new(params, &format!("{name}.{}", 3 * position), width, size, rng);
            layers.push(Layer::Linear(linear));
            if position + 1 < sizes.len() {
                if norm == HeadNorm::Layer {
                    let norm = LayerNorm::new(params, &format!("{name}.{}", 3 * position + 1), size);
                    layers.push(Layer::LayerNorm(norm));
                } else {
                    parts.push(Network(std::mem::take(&mut layers)));
                }
                layers.push(Layer::Relu);
            }
            width = size;
        }
        parts.push(Network(layers));
        Self { parts, norm, outputs: width }
    }

    /// How many values it makes of an embedding.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Its parameters.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        self.parts.iter().flat_map(Network::parameters).collect()
    }

    /// Embeddings of a batch to what the loss sees.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, mut x: Matrix<T>) -> Matrix<T> {
        for (position, part) in self.parts.iter().enumerate() {
            if position > 0 {
                x = batch_norm(x);
            }
            x = part.forward(params, x.into(), Source::Op).rows();
        }
        if self.norm == HeadNorm::BatchThroughout { batch_norm(x) } else { x }
    }
}
