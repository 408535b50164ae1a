//! A plain convolutional network: small, and fast on a CPU.

use rand::Rng;
use restage_nn::{Conv2d, GroupNorm, Images, Params, Source, dfdx::prelude::*};

/// 3 x 3 convolution with stride 2, group norm, ReLU per block.
pub(super) struct Cnn(Vec<(Conv2d, GroupNorm)>);

impl Cnn {
    /// Adds its parameters as those of a PyTorch `Sequential` of that name.
    pub(super) fn new(params: &mut Params, name: &str, channels: &[usize], rng: &mut impl Rng) -> Self {
        let mut inputs = 3;
        let block = |(position, &outputs): (usize, &usize)| {
            let layer = |offset: usize| format!("{name}.{}", 3 * position + offset);
            let conv = Conv2d::new(params, &layer(0), (inputs, outputs), (3, 2), rng);
            inputs = outputs;
            (conv, GroupNorm::new(params, &layer(1), outputs))
        };
        Self(channels.iter().enumerate().map(block).collect())
    }

    /// Its last map.
    pub(super) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        let mut source = Source::Data;
        self.0.iter().fold(x, |x, (conv, norm)| {
            let x = conv.forward(params, x, source);
            source = Source::Op;
            norm.relu_forward(params, x)
        })
    }
}
