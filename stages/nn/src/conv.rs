//! A convolution over images: products whose left rows are the windows, read where they lie in the padded image.

use dfdx::prelude::*;
use rand::Rng;
use rayon::prelude::*;

use crate::{
    gemm::{COLUMNS_DEPTH, DEPTH, Inner, Left, Panels, Start, product},
    op::{Back, Shared, Step, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    tensor::{Images, Source, gradient_mut},
};

/// Windows that one task takes at least: whole images. Of fixed sizes, as all splits here: sums must not depend on the
/// number of threads.
const GROUP: usize = 96;
/// Values of a window whose gradients one task computes: whole tiles of a product.
const WEIGHTS: usize = 288;
/// Tasks that the gradient of weights is for, or more.
const TASKS: usize = 16;
/// Outputs whose weights one task brings from one order to the other.
const OUTPUTS: usize = 16;

/// A convolution with square windows and no bias: the norm that follows brings one.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// Channels of its input.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
    /// Side of a window in pixels.
    pub side: usize,
    /// From window to window, in pixels.
    pub stride: usize,
    /// Zeros on every edge.
    pub padding: usize,
    /// Outputs x inputs x side x side.
    pub weight: ParamId,
}

impl Conv2d {
    /// Adds `NAME.weight` (outputs x inputs x side x side, as in PyTorch) to `params`. The image is padded with
    /// `side / 2` zeros on every edge.
    pub fn new(
        params: &mut Params,
        name: &str,
        (inputs, outputs): (usize, usize),
        (side, stride): (usize, usize),
        rng: &mut impl Rng,
    ) -> Self {
        let shape = vec![outputs, inputs, side, side];
        let weight = params.weight(format!("{name}.weight"), shape, inputs * side * side, rng);
        Self { inputs, outputs, side, stride, padding: side / 2, weight }
    }

    /// Images with `inputs` channels to images with `outputs` channels, smaller by the stride (rounded up).
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>, source: Source) -> Images<T> {
        let (items, height, width, channels) = *x.shape();
        let run = |x| self.run(params, x, Dims { items, height, width, channels });
        on_tape(x, source, run, |dims| (dims.items, dims.height, dims.width, dims.channels))
    }

    pub(crate) fn run(&self, params: &Params, x: Shared, dims: Dims) -> Step {
        assert_eq!(dims.channels, self.inputs, "channels of the input of a convolution");
        let windows = Windows::new(self, dims.height, dims.width);
        let (weight, w) = (params[self.weight].key.clone(), params[self.weight].shared());
        let mut y = Scratch::new(dims.items * windows.result());
        windows.convolve(&x, &w, &mut y);
        let back: Back = Box::new(move |dy, gradients, wanted| {
            windows.add_weight_gradient(&x, &dy, gradient_mut(gradients, &weight)?);
            drop(x);
            Ok(wanted.product(dims.values(), |dx, start| windows.input_gradient(&dy, &w, start, dx)))
        });
        let dims =
            Dims { height: windows.out_height, width: windows.out_width, channels: self.outputs, ..dims };
        Step { values: y.into(), dims, back }
    }
}

/// The windows of a convolution over images of one size.
#[derive(Clone, Copy)]
struct Windows {
    height: usize,
    width: usize,
    channels: usize,
    side: usize,
    stride: usize,
    padding: usize,
    out_height: usize,
    out_width: usize,
    outputs: usize,
}

impl Windows {
    fn new(conv: &Conv2d, height: usize, width: usize) -> Self {
        let out = |length: usize| (length + 2 * conv.padding - conv.side) / conv.stride + 1;
        Self {
            height,
            width,
            channels: conv.inputs,
            side: conv.side,
            stride: conv.stride,
            padding: conv.padding,
            out_height: out(height),
            out_width: out(width),
            outputs: conv.outputs,
        }
    }

    /// Values of an image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Values of its result.
    fn result(&self) -> usize {
        self.count() * self.outputs
    }

    /// Windows in an image.
    fn count(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Pixels of a window.
    fn area(&self) -> usize {
        self.side * self.side
    }

    /// Images that one task takes.
    fn group(&self) -> usize {
        GROUP.div_ceil(self.count())
    }

    fn padded(&self) -> Padded {
        let edges = (self.padding, self.padding);
        Padded {
            height: self.height,
            width: self.width,
            channels: self.channels,
            above: edges,
            beside: edges,
        }
    }

    /// Where every window of some images starts in those, padded.
    fn starts(&self, images: usize) -> Vec<usize> {
        let padded = self.padded();
        let pixels = (0..self.out_height).flat_map(|y| (0..self.out_width).map(move |x| (y, x)));
        let starts: Vec<usize> = pixels.map(|(y, x)| padded.at(y * self.stride, x * self.stride)).collect();
        (0..images)
            .flat_map(|image| starts.iter().map(move |start| image * padded.values() + start))
            .collect()
    }

    /// A window's rows.
    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let (padded, length) = (self.padded(), self.side * self.channels);
        (0..self.side).map(move |y| (padded.at(y, 0), length))
    }

    fn convolve(&self, images: &[f32], weights: &[f32], output: &mut [f32]) {
        let area = self.area();
        // A window has the channels of a pixel together, PyTorch's weights the pixels of a channel.
        let row = |k: usize| k % self.channels * area + k / self.channels;
        let panels =
            Panels::new(weights, self.outputs, Inner::new(self.rows(), DEPTH), row, self.channels * area);
        let (starts, targets) =
            (self.starts(self.group()), multiples(self.group() * self.count(), self.outputs));
        output
            .par_chunks_mut(self.group() * self.result())
            .zip(images.par_chunks(self.group() * self.image()))
            .for_each(|(output, images)| {
                let padded = self.padded().of(images);
                let count = output.len() / self.outputs;
                let left = Left::Rows { values: padded.values(images), starts: &starts[..count] };
                product(left, &panels, Start::Zero, output, &targets[..count]);
            });
    }

    /// Adds to the gradient by the weights, in PyTorch's order.
    fn add_weight_gradient(&self, images: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (length, area, count) = (self.area() * self.channels, self.area(), images.len() / self.image());
        // Some weights of some images each; what the parts of the images give is added in their order.
        let parts = TASKS.div_ceil(length.div_ceil(WEIGHTS)).min(count).max(1);
        let starts = self.starts(self.group());
        let mut partial = Scratch::new(parts * length * self.outputs);
        let tasks: Vec<_> = partial
            .chunks_mut(length * self.outputs)
            .enumerate()
            .flat_map(|(part, dw)| {
                dw.chunks_mut(WEIGHTS * self.outputs).enumerate().map(move |(w, dw)| (part, w * WEIGHTS, dw))
            })
            .collect();
        tasks.into_par_iter().for_each(|(part, first, dw)| {
            let of = |part: usize| count * part / parts;
            let images = &images[of(part) * self.image()..of(part + 1) * self.image()];
            let dy = &dy[of(part) * self.result()..of(part + 1) * self.result()];
            let groups =
                images.chunks(self.group() * self.image()).zip(dy.chunks(self.group() * self.result()));
            for (group, (images, dy)) in groups.enumerate() {
                let start = if group == 0 { Start::Zero } else { Start::Scaled(1.0) };
                let padded = self.padded().of(images);
                let pixels = dy.len() / self.outputs;
                let panels = Panels::new(
                    dy,
                    self.outputs,
                    Inner::new([(0, pixels)], COLUMNS_DEPTH),
                    |k| k * self.outputs,
                    1,
                );
                let last = first + dw.len() / self.outputs;
                let mut at = 0;
                for (offset, length) in self.rows() {
                    let (from, to) = (first.max(at), last.min(at + length));
                    if from < to {
                        let values = &padded.values(images)[offset + from - at..];
                        let left = Left::Columns { values, starts: &starts[..pixels] };
                        let dw = &mut dw[(from - first) * self.outputs..(to - first) * self.outputs];
                        product(left, &panels, start, dw, &multiples(to - from, self.outputs));
                    }
                    at += length;
                }
            }
        });
        dw.par_chunks_mut(OUTPUTS * self.channels * area).enumerate().for_each(|(task, dw)| {
            for channel in 0..self.channels {
                for (output, dw) in dw.chunks_exact_mut(self.channels * area).enumerate() {
                    for (pixel, dw) in dw[channel * area..][..area].iter_mut().enumerate() {
                        let at = (pixel * self.channels + channel) * self.outputs + task * OUTPUTS + output;
                        *dw += partial[at..].iter().step_by(length * self.outputs).sum::<f32>();
                    }
                }
            }
        });
    }

    /// The gradient by the images. Of a stride s there are s x s kinds of pixels: each is seen by windows at
    /// other places of themselves, and is a convolution of `dy` with those weights, turned round.
    fn input_gradient(&self, dy: &[f32], weights: &[f32], start: Start<'_>, dx: &mut [f32]) {
        let reach = self.side.div_ceil(self.stride) - 1;
        let edges = |length: usize, out: usize| {
            (reach, ((length - 1 + self.padding) / self.stride).saturating_sub(out - 1))
        };
        let padded = Padded {
            height: self.out_height,
            width: self.out_width,
            channels: self.outputs,
            above: edges(self.height, self.out_height),
            beside: edges(self.width, self.out_width),
        };
        let kinds: Vec<_> = (0..self.stride)
            .flat_map(|y| (0..self.stride).map(move |x| (y, x)))
            .filter_map(|kind| self.seen(kind, padded, weights))
            .collect();
        dx.par_chunks_mut(self.group() * self.image())
            .zip(dy.par_chunks(self.group() * self.result()))
            .for_each(|(dx, dy)| {
                let count = dx.len() / self.image();
                let memory = padded.of(dy);
                if kinds.len() < self.stride * self.stride && matches!(start, Start::Zero) {
                    dx.fill(0.0); // some pixels are not seen
                }
                for Seen { panels, starts, targets } in &kinds {
                    let length = starts.len() / self.group() * count;
                    let left = Left::Rows { values: memory.values(dy), starts: &starts[..length] };
                    product(left, panels, start, dx, &targets[..length]);
                }
            });
    }

    /// How windows see the pixels whose place in the padded image is this plus a multiple of the stride, if they do.
    fn seen(&self, (y, x): (usize, usize), padded: Padded, weights: &[f32]) -> Option<Seen> {
        let Self { side, stride, outputs, channels, .. } = *self;
        let area = self.area();
        let taps = |place: usize| side.saturating_sub(place).div_ceil(stride);
        let (high, wide) = (taps(y), taps(x));
        if high == 0 || wide == 0 {
            return None;
        }
        let rows = (0..high).map(|line| (padded.at(line, 0), wide * outputs));
        let row = |k: usize| {
            let (output, right, down) = (k % outputs, k / outputs % wide, k / outputs / wide);
            let pixel = (y + stride * (high - 1 - down)) * side + x + stride * (wide - 1 - right);
            output * channels * area + pixel
        };
        let panels = Panels::new(weights, channels, Inner::new(rows, DEPTH), row, area);
        // Pixels of this kind along an edge, each with the first output that sees it, counted from the padding's edge on.
        let along = |length: usize, place: usize, taps: usize, edge: usize| -> Vec<(usize, usize)> {
            (0..length)
                .filter(|at| (at + self.padding) % stride == place)
                .map(|at| (at, (at + self.padding) / stride + edge + 1 - taps))
                .collect()
        };
        let down = along(self.height, y, high, padded.above.0);
        let right = along(self.width, x, wide, padded.beside.0);
        let (mut starts, mut targets) = (Vec::new(), Vec::new());
        for image in 0..self.group() {
            for (y, out_y) in &down {
                for (x, out_x) in &right {
                    starts.push(image * padded.values() + padded.at(*out_y, *out_x));
                    targets.push(image * self.image() + (y * self.width + x) * channels);
                }
            }
        }
        Some(Seen { panels, starts, targets })
    }
}

/// One kind of pixels: weights, and where each pixel's outputs start and its gradient lies.
struct Seen {
    panels: Panels,
    starts: Vec<usize>,
    targets: Vec<usize>,
}

fn multiples(count: usize, of: usize) -> Vec<usize> {
    (0..count).map(|index| index * of).collect()
}

/// Images with zeros around.
#[derive(Clone, Copy)]
struct Padded {
    height: usize,
    width: usize,
    channels: usize,
    /// Lines above and below.
    above: (usize, usize),
    /// Pixels to the left and to the right.
    beside: (usize, usize),
}

impl Padded {
    /// Place of a pixel's first value, counted from the padding's corner.
    fn at(&self, y: usize, x: usize) -> usize {
        (y * (self.beside.0 + self.width + self.beside.1) + x) * self.channels
    }

    /// Values of an image with its padding.
    fn values(&self) -> usize {
        self.at(self.above.0 + self.height + self.above.1, 0)
    }

    fn of(&self, images: &[f32]) -> Filled {
        let line = self.width * self.channels;
        if self.values() == self.height * line {
            return Filled(None);
        }
        let images = images.chunks_exact(self.height * line);
        let mut result = Scratch::new(images.len() * self.values());
        for (padded, image) in result.chunks_exact_mut(self.values()).zip(images) {
            // Between two lines lie the right edge of one and the left of the next.
            let mut filled = 0;
            for (y, values) in image.chunks_exact(line).enumerate() {
                let at = self.at(self.above.0 + y, self.beside.0);
                padded[filled..at].fill(0.0);
                padded[at..at + line].copy_from_slice(values);
                filled = at + line;
            }
            padded[filled..].fill(0.0);
        }
        Filled(Some(result))
    }
}

/// Padded images, or nothing where they need no padding.
struct Filled(Option<Scratch>);

impl Filled {
    fn values<'a>(&'a self, images: &'a [f32]) -> &'a [f32] {
        self.0.as_deref().unwrap_or(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradcheck::{check, rng, wave},
        tensor,
    };

    /// The definition, in `f64`.
    fn direct(
        conv: &Conv2d,
        x: &[f32],
        w: &[f32],
        (count, height, width): (usize, usize, usize),
    ) -> Vec<f64> {
        let windows = Windows::new(conv, height, width);
        let mut result = Vec::new();
        for n in 0..count {
            for (y, x0) in (0..windows.out_height).flat_map(|y| (0..windows.out_width).map(move |x| (y, x))) {
                for o in 0..conv.outputs {
                    let mut sum = 0.0;
                    for (i, ky, kx) in triples(conv.inputs, conv.side, conv.side) {
                        let (py, px) = (y * conv.stride + ky, x0 * conv.stride + kx);
                        let inside = |p: usize, length: usize| p >= conv.padding && p < length + conv.padding;
                        if inside(py, height) && inside(px, width) {
                            let pixel = (n * height + py - conv.padding) * width + px - conv.padding;
                            let weight = w[((o * conv.inputs + i) * conv.side + ky) * conv.side + kx];
                            sum += f64::from(x[pixel * conv.inputs + i]) * f64::from(weight);
                        }
                    }
                    result.push(sum);
                }
            }
        }
        result
    }

    fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
    }

    #[test]
    fn is_the_convolution_of_its_definition() {
        for (side, stride, height, width) in
            [(3, 2, 6, 5), (3, 1, 4, 4), (1, 1, 3, 3), (5, 2, 2, 7), (3, 3, 7, 8)]
        {
            let mut params = Params::default();
            let conv = Conv2d::new(&mut params, "c", (2, 3), (side, stride), &mut rng());
            let x = wave((9, height, width, 2));
            let expected =
                direct(&conv, &tensor::values(&x), &params[conv.weight].values(), (9, height, width));
            let found = tensor::values(&conv.forward(&params, x, Source::Data));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut params = Params::default();
        let conv = Conv2d::new(&mut params, "c", (2, 3), (3, 2), &mut rng());
        check(&params, wave((9, 5, 4, 2)), |params, x| conv.forward(params, x, Source::Op));
        let mut params = Params::default();
        let point = Conv2d::new(&mut params, "c", (2, 3), (1, 2), &mut rng());
        check(&params, wave((3, 5, 4, 2)), |params, x| point.forward(params, x, Source::Op));
        for (side, stride) in [(3, 1), (5, 2), (3, 3), (5, 1)] {
            let mut params = Params::default();
            let conv = Conv2d::new(&mut params, "c", (3, 2), (side, stride), &mut rng());
            check(&params, wave((2, 4, 5, 3)), |params, x| conv.forward(params, x, Source::Op));
        }
    }
}
