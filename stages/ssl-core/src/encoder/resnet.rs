//! ResNet (He et al. 2016), with group norm in place of batch norm: no image sees another.

use rand::Rng;
use restage_nn::{Conv2d, GroupNorm, Layer, Network, Params};

/// How often a ResNet halves an image: its stem, and three of its four stages.
pub(super) const HALVINGS: usize = 4;

/// A stem and four stages of basic blocks. Parameters as torchvision's `resnet` names them (`conv1`, `bn1`, `layer1.0.conv1` …),
/// but with a stem for small images: 3 x 3 with stride 2, and no pooling after it. Stages have `blocks` blocks each, of `width`,
/// 2, 4, 8 `width` channels.
pub(super) fn layers(
    params: &mut Params,
    name: &str,
    blocks: usize,
    width: usize,
    rng: &mut impl Rng,
) -> Vec<Layer> {
    let mut conv_norm = |names: [String; 2], channels: (usize, usize), window: (usize, usize)| {
        let conv = Layer::Conv2d(Conv2d::new(params, &names[0], channels, window, rng));
        (conv, GroupNorm::new(params, &names[1], channels.1))
    };
    let (conv, norm) = conv_norm(["conv1", "bn1"].map(|layer| format!("{name}.{layer}")), (3, width), (3, 2));
    let mut made = vec![conv, Layer::GroupNormRelu(norm)];
    let mut inputs = width;
    for stage in 0..4 {
        let outputs = width << stage;
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let at = |layer: &str| format!("{name}.layer{}.{block}.{layer}", stage + 1);
            // Two 3 x 3 convolutions beside a shortcut; where sizes differ, that is a 1 x 1 convolution.
            let (first, first_norm) = conv_norm(["conv1", "bn1"].map(at), (inputs, outputs), (3, stride));
            let (second, second_norm) = conv_norm(["conv2", "bn2"].map(at), (outputs, outputs), (3, 1));
            let body = vec![first, Layer::GroupNormRelu(first_norm), second, Layer::GroupNorm(second_norm)];
            let shortcut = if stride != 1 || inputs != outputs {
                let names = ["downsample.0", "downsample.1"].map(at);
                let (conv, norm) = conv_norm(names, (inputs, outputs), (1, stride));
                vec![conv, Layer::GroupNorm(norm)]
            } else {
                Vec::new()
            };
            made.push(Layer::Residual { body: Network(body), shortcut: Network(shortcut) });
            made.push(Layer::Relu);
            inputs = outputs;
        }
    }
    made
}
