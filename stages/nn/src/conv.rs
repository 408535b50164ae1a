//! A convolution over images, as a product with the matrix of their windows (im2col).

use dfdx::prelude::*;
use rand::Rng;
use rayon::prelude::*;

use crate::{
    gemm::{gemm, view},
    params::{ParamId, Params},
    tensor::{self, Images, Source, add_all, gradient_mut, take_gradient},
};

/// Images that one task takes. Fixed: partial sums must not depend on the number of threads.
const GROUP: usize = 8;

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
        let (count, height, width, channels) = *x.shape();
        assert_eq!(channels, self.inputs, "channels of the input of a convolution");
        let windows = Windows::new(self, height, width);
        let (x, mut tape) = x.split_tape();
        let weight = params[self.weight].tensor.clone();
        let (input, w) = (tensor::values(&x), self.by_window(&tensor::values(&weight)));

        let mut output = vec![0.0; count * windows.rows() * self.outputs];
        output
            .par_chunks_mut(GROUP * windows.rows() * self.outputs)
            .zip(input.par_chunks(GROUP * windows.image()))
            .for_each(|(output, input)| {
                let matrix = windows.gather(input);
                let rows = matrix.len() / windows.columns();
                let w = view(&w, self.outputs, windows.columns());
                gemm(view(&matrix, rows, windows.columns()), w.reversed_axes(), 0.0, output);
            });
        let y = tensor::tensor(output, (count, windows.out_height, windows.out_width, self.outputs));

        let (layer, out) = (*self, y.clone());
        tape.add_backward_op(move |gradients| {
            let dy = take_gradient(gradients, &out)?;
            let groups = dy.par_chunks(GROUP * windows.rows() * layer.outputs);
            let partial = |dy: &[f32], input: &[f32]| {
                let matrix = windows.gather(input);
                let rows = matrix.len() / windows.columns();
                let mut dw = vec![0.0; w.len()];
                let dy = view(dy, rows, layer.outputs);
                gemm(dy.reversed_axes(), view(&matrix, rows, windows.columns()), 0.0, &mut dw);
                dw
            };
            let inputs = input.par_chunks(GROUP * windows.image());
            let partials: Vec<_> = groups.clone().zip(inputs).map(|(dy, input)| partial(dy, input)).collect();
            let mut dw = vec![0.0; w.len()];
            add_all(&mut dw, &partials);
            layer.add_by_channel(&dw, gradient_mut(gradients, &weight)?);

            if source == Source::Op {
                let dx = gradient_mut(gradients, &x)?.par_chunks_mut(GROUP * windows.image());
                groups.zip(dx).for_each(|(dy, dx)| {
                    let rows = dy.len() / layer.outputs;
                    let mut matrix = vec![0.0; rows * windows.columns()];
                    let w = view(&w, layer.outputs, windows.columns());
                    gemm(view(dy, rows, layer.outputs), w, 0.0, &mut matrix);
                    windows.scatter(&matrix, dx);
                });
            }
            Ok(())
        });
        y.put_tape(tape)
    }

    /// Weights from PyTorch's order (output, input, y, x) to that of a window (output, y, x, input).
    fn by_window(&self, weight: &[f32]) -> Vec<f32> {
        let mut result = vec![0.0; weight.len()];
        self.pairs().for_each(|(torch, window)| result[window] = weight[torch]);
        result
    }

    /// Adds gradients in the order of a window to those in PyTorch's order.
    fn add_by_channel(&self, gradient: &[f32], sum: &mut [f32]) {
        self.pairs().for_each(|(torch, window)| sum[torch] += gradient[window]);
    }

    /// Positions of one weight in PyTorch's order and in that of a window.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let (inputs, area) = (self.inputs, self.side * self.side);
        (0..self.outputs * inputs * area).map(move |torch| {
            let (output, input, pixel) = (torch / (inputs * area), torch / area % inputs, torch % area);
            (torch, (output * area + pixel) * inputs + input)
        })
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
        }
    }

    /// Values of an image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Windows in an image.
    fn rows(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Values of a window.
    fn columns(&self) -> usize {
        self.side * self.side * self.channels
    }

    /// The windows of images, one a row, with zeros beyond the edges.
    fn gather(&self, images: &[f32]) -> Vec<f32> {
        let mut matrix = vec![0.0; images.len() / self.image() * self.rows() * self.columns()];
        let windows = matrix.chunks_exact_mut(self.rows() * self.columns());
        for (image, windows) in images.chunks_exact(self.image()).zip(windows) {
            self.runs(|from, to, length| {
                windows[to..to + length].copy_from_slice(&image[from..from + length])
            });
        }
        matrix
    }

    /// Adds windows back to where in the images they came from.
    fn scatter(&self, matrix: &[f32], images: &mut [f32]) {
        let windows = matrix.chunks_exact(self.rows() * self.columns());
        for (image, windows) in images.chunks_exact_mut(self.image()).zip(windows) {
            self.runs(|from, to, length| {
                let sums = image[from..from + length].iter_mut();
                sums.zip(&windows[to..to + length]).for_each(|(sum, value)| *sum += value);
            });
        }
    }

    /// Calls `visit(position in the image, position in its windows, length)` for every run of values that lie
    /// together in both: a row of a window, as far as it is inside the image.
    fn runs(&self, mut visit: impl FnMut(usize, usize, usize)) {
        for (row, (out_y, out_x)) in
            (0..self.out_height).flat_map(|y| (0..self.out_width).map(move |x| (y, x))).enumerate()
        {
            let left = out_x * self.stride;
            let skipped = self.padding.saturating_sub(left);
            let end = self.side.min(self.width + self.padding - left);
            for window_y in 0..self.side {
                let padded_y = out_y * self.stride + window_y;
                if padded_y < self.padding || padded_y >= self.height + self.padding || skipped >= end {
                    continue;
                }
                let from = (padded_y - self.padding) * self.width + left + skipped - self.padding;
                let to = (row * self.side + window_y) * self.side + skipped;
                visit(from * self.channels, to * self.channels, (end - skipped) * self.channels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check, rng, wave};

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
        for (side, stride, height, width) in [(3, 2, 6, 5), (3, 1, 4, 4), (1, 1, 3, 3), (5, 2, 2, 7)] {
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
    }
}
