//! The two encoders: an MLP on genes, a CNN on patches.

use rand::Rng;
use restage_nn::{
    Conv2d, GroupNorm, Images, LayerNorm, Linear, Matrix, Params, Source, dfdx::prelude::*, gelu,
    global_average_pool, relu,
};

/// Linear, layer norm, GELU per hidden layer, then linear.
pub(crate) struct Mlp {
    hidden: Vec<(Linear, LayerNorm)>,
    output: Linear,
}

impl Mlp {
    /// Adds its parameters as those of a PyTorch `Sequential` named `encoder`.
    pub(crate) fn new(
        params: &mut Params,
        inputs: usize,
        hidden: &[usize],
        dim: usize,
        rng: &mut impl Rng,
    ) -> Self {
        let mut width = inputs;
        let mut layer = |(position, &size): (usize, &usize)| {
            let linear = Linear::new(params, &format!("encoder.{}", 3 * position), width, size, rng);
            width = size;
            (linear, LayerNorm::new(params, &format!("encoder.{}", 3 * position + 1), size))
        };
        let hidden: Vec<_> = hidden.iter().enumerate().map(&mut layer).collect();
        let output = Linear::new(params, &format!("encoder.{}", 3 * hidden.len()), width, dim, rng);
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
    /// Adds its parameters as those of a PyTorch `Sequential` named `encoder`, pooling and flattening included.
    pub(crate) fn new(params: &mut Params, channels: &[usize], dim: usize, rng: &mut impl Rng) -> Self {
        let mut inputs = 3;
        let mut block = |(position, &outputs): (usize, &usize)| {
            let name = |offset: usize| format!("encoder.{}", 3 * position + offset);
            let conv = Conv2d::new(params, &name(0), (inputs, outputs), (3, 2), rng);
            inputs = outputs;
            (conv, GroupNorm::new(params, &name(1), outputs))
        };
        let blocks: Vec<_> = channels.iter().enumerate().map(&mut block).collect();
        let output = Linear::new(params, &format!("encoder.{}", 3 * blocks.len() + 2), inputs, dim, rng);
        Self { blocks, output }
    }

    /// Patches x height x width x 3 to patches x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Matrix<T> {
        let mut source = Source::Data;
        let mut x = x;
        for (conv, norm) in &self.blocks {
            x = norm.relu_forward(params, conv.forward(params, x, source));
            source = Source::Op;
        }
        self.output.forward(params, global_average_pool(x), Source::Op)
    }
}

/// Linear layers on the embedding, with layer norm and ReLU between them: VICReg's projector.
pub(crate) struct Projector(Vec<(Linear, Option<LayerNorm>)>);

impl Projector {
    /// Adds its parameters as those of a PyTorch `Sequential` named `projector`.
    pub(crate) fn new(params: &mut Params, inputs: usize, sizes: &[usize], rng: &mut impl Rng) -> Self {
        let mut width = inputs;
        let mut layer = |(position, &size): (usize, &usize)| {
            let linear = Linear::new(params, &format!("projector.{}", 3 * position), width, size, rng);
            width = size;
            let last = position + 1 == sizes.len();
            let norm =
                (!last).then(|| LayerNorm::new(params, &format!("projector.{}", 3 * position + 1), size));
            (linear, norm)
        };
        Self(sizes.iter().enumerate().map(&mut layer).collect())
    }

    /// Embeddings to what the loss sees.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>) -> Matrix<T> {
        self.0.iter().fold(x, |x, (linear, norm)| {
            let x = linear.forward(params, x, Source::Op);
            match norm {
                Some(norm) => relu(norm.forward(params, x)),
                None => x,
            }
        })
    }
}
