//! The two encoders: an MLP on genes, a CNN on patches.

use rand::Rng;
use restage_nn::{
    Conv2d, GroupNorm, Images, LayerNorm, Linear, Matrix, Params, Recording, Source, dfdx::prelude::*, gelu,
    global_average_pool, relu,
};

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

/// 3 x 3 convolution with stride 2, group norm, ReLU per block, then the mean over the image and a linear layer.
pub(crate) struct Cnn {
    blocks: Vec<(Conv2d, GroupNorm)>,
    output: Linear,
}

impl Cnn {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name, pooling and flattening included.
    pub(crate) fn new(
        params: &mut Params,
        name: &str,
        channels: &[usize],
        dim: usize,
        rng: &mut impl Rng,
    ) -> Self {
        let mut inputs = 3;
        let mut block = |(position, &outputs): (usize, &usize)| {
            let layer = |offset: usize| format!("{name}.{}", 3 * position + offset);
            let conv = Conv2d::new(params, &layer(0), (inputs, outputs), (3, 2), rng);
            inputs = outputs;
            (conv, GroupNorm::new(params, &layer(1), outputs))
        };
        let blocks: Vec<_> = channels.iter().enumerate().map(&mut block).collect();
        let output = Linear::new(params, &format!("{name}.{}", 3 * blocks.len() + 2), inputs, dim, rng);
        Self { blocks, output }
    }

    /// Patches x height x width x 3 to patches x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Matrix<T> {
        self.output.forward(params, global_average_pool(self.features(params, x)), Source::Op)
    }

    /// What is pooled: of the last block.
    fn features<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        let mut source = Source::Data;
        let mut x = x;
        for (conv, norm) in &self.blocks {
            x = norm.relu_forward(params, conv.forward(params, x, source));
            source = Source::Op;
        }
        x
    }

    /// The embeddings, patches x dim, and what they are the means of: patches x height x width x dim, of places.
    pub(crate) fn forward_places(
        &self,
        params: &Params,
        x: Images<Recording>,
    ) -> (Matrix<Recording>, Images<Recording>) {
        let features = self.features(params, x);
        let (count, height, width, channels) = *features.shape();
        let pooled = self.output.forward(params, global_average_pool(features.with_empty_tape()), Source::Op);
        let places = features.reshape_like(&(count * height * width, channels));
        let places = self.output.forward(params, places, Source::Op);
        let dim = places.shape().1;
        (pooled, places.reshape_like(&(count, height, width, dim)))
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
