//! A plain convolutional network: small, and fast on a CPU.

use rand::Rng;
use restage_nn::{Conv2d, GroupNorm, Layer, Params};

/// 3 x 3 convolution with stride 2, group norm, ReLU per block; parameters as those of a PyTorch `Sequential` of that name.
pub(super) fn layers(params: &mut Params, name: &str, channels: &[usize], rng: &mut impl Rng) -> Vec<Layer> {
    let mut inputs = 3;
    let block = |(position, &outputs): (usize, &usize)| {
        let layer = |offset: usize| format!("{name}.{}", 3 * position + offset);
        let conv = Conv2d::new(params, &layer(0), (inputs, outputs), (3, 2), rng);
        inputs = outputs;
        [Layer::Conv2d(conv), Layer::GroupNormRelu(GroupNorm::new(params, &layer(1), outputs))]
    };
    channels.iter().enumerate().flat_map(block).collect()
}
