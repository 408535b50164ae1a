//! ResNet (He et al. 2016), with group norm in place of batch norm: no image sees another.

use rand::Rng;
use restage_nn::{Conv2d, GroupNorm, Images, Params, Source, dfdx::prelude::*, relu};

/// How often a ResNet halves an image: its stem, and three of its four stages.
pub(super) const HALVINGS: usize = 4;

/// A stem and four stages of basic blocks.
pub(super) struct ResNet {
    stem: (Conv2d, GroupNorm),
    blocks: Vec<Block>,
}

/// Two 3 x 3 convolutions beside a shortcut.
struct Block {
    first: (Conv2d, GroupNorm),
    second: (Conv2d, GroupNorm),
    /// Where sizes differ: a 1 x 1 convolution.
    shortcut: Option<(Conv2d, GroupNorm)>,
}

impl ResNet {
    /// Adds its parameters as torchvision's `resnet` names them (`conv1`, `bn1`, `layer1.0.conv1` …), but with a stem for small
    /// images: 3 x 3 with stride 2, and no pooling after it. Stages have `blocks` blocks each, of `width`, 2, 4, 8 `width`
    /// channels.
    pub(super) fn new(
        params: &mut Params,
        name: &str,
        blocks: usize,
        width: usize,
        rng: &mut impl Rng,
    ) -> Self {
        let conv_norm = |params: &mut Params,
                         rng: &mut _,
                         names: [String; 2],
                         channels: (usize, usize),
                         window: (usize, usize)| {
            let conv = Conv2d::new(params, &names[0], channels, window, rng);
            (conv, GroupNorm::new(params, &names[1], channels.1))
        };
        let stem = conv_norm(
            params,
            rng,
            ["conv1", "bn1"].map(|layer| format!("{name}.{layer}")),
            (3, width),
            (3, 2),
        );
        let mut made = Vec::with_capacity(4 * blocks);
        let mut inputs = width;
        for stage in 0..4 {
            let outputs = width << stage;
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let at = |layer: &str| format!("{name}.layer{}.{block}.{layer}", stage + 1);
                let first = conv_norm(params, rng, ["conv1", "bn1"].map(at), (inputs, outputs), (3, stride));
                let second = conv_norm(params, rng, ["conv2", "bn2"].map(at), (outputs, outputs), (3, 1));
                let names = || ["downsample.0", "downsample.1"].map(at);
                let shortcut = (stride != 1 || inputs != outputs)
                    .then(|| conv_norm(params, rng, names(), (inputs, outputs), (1, stride)));
                made.push(Block { first, second, shortcut });
                inputs = outputs;
            }
        }
        Self { stem, blocks: made }
    }

    /// Its last map.
    pub(super) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        let x = self.stem.1.relu_forward(params, self.stem.0.forward(params, x, Source::Data));
        self.blocks.iter().fold(x, |x, block| block.forward(params, x))
    }
}

impl Block {
    fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        let aside = match &self.shortcut {
            Some((conv, norm)) => norm.forward(params, conv.forward(params, x.with_empty_tape(), Source::Op)),
            None => x.with_empty_tape(),
        };
        let x = self.first.1.relu_forward(params, self.first.0.forward(params, x, Source::Op));
        let x = self.second.1.forward(params, self.second.0.forward(params, x, Source::Op));
        relu(x + aside)
    }
}
