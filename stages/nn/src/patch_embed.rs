//! Images as tokens: a linear layer on squares that do not overlap, and where each square is.

use dfdx::prelude::*;
use rand::Rng;
use rayon::prelude::*;

use crate::{
    gemm::{Start, par_gemm, view},
    op::{Back, Shared, Step, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    tensor::{self, Images, Source, gradient_mut},
};

/// Squares of an image to tokens (Dosovitskiy et al. 2021), each plus its place's [`positions`].
#[derive(Clone, Copy, Debug)]
pub struct PatchEmbed {
    /// Of a pixel.
    pub channels: usize,
    /// Pixels of a square's side.
    pub side: usize,
    /// Of a token.
    pub width: usize,
    /// Width x channels x side x side.
    pub weight: ParamId,
    /// Of a token.
    pub bias: ParamId,
}

impl PatchEmbed {
    /// Adds `NAME.weight` (width x channels x side x side, as of PyTorch's `Conv2d`) and `NAME.bias` to `params`.
    ///
    /// # Panics
    /// If `width` is no multiple of 4, or `side` is 0.
    pub fn new(
        params: &mut Params,
        name: &str,
        channels: usize,
        (side, width): (usize, usize),
        rng: &mut impl Rng,
    ) -> Self {
        assert!(side > 0 && width.is_multiple_of(4), "sides of 1 or more, a width of a multiple of 4");
        let fan_in = channels * side * side;
        let shape = vec![width, channels, side, side];
        let weight = params.weight(format!("{name}.weight"), shape, fan_in, rng);
        let bias = params.bias(format!("{name}.bias"), width, fan_in, rng);
        Self { channels, side, width, weight, bias }
    }

    /// Images x height x width x channels to images x rows x columns x width, of squares.
    ///
    /// # Panics
    /// If the images have another number of channels, or sides that are no multiples of a square's.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>, source: Source) -> Images<T> {
        let (items, height, width, channels) = *x.shape();
        let run = |x| self.run(params, x, Dims { items, height, width, channels });
        on_tape(x, source, run, |dims| (dims.items, dims.height, dims.width, dims.channels))
    }

    pub(crate) fn run(&self, params: &Params, x: Shared, dims: Dims) -> Step {
        let Dims { items, height, width, channels } = dims;
        assert_eq!(channels, self.channels, "channels of images that become tokens");
        let fits = height.is_multiple_of(self.side) && width.is_multiple_of(self.side);
        assert!(fits, "sides of images that become tokens, multiples of a square's");
        let (rows, columns) = (height / self.side, width / self.side);
        let (layer, squares, pixels) = (*self, items * rows * columns, self.side * self.side * channels);
        let (weight, bias) = (params[self.weight].key.clone(), params[self.bias].key.clone());
        let w = self.by_pixel(&params[self.weight].shared());
        let matrix = self.gather(&x, width);
        drop(x);

        let bias_values = params[self.bias].shared();
        let mut shift = positions(rows, columns, self.width);
        for token in shift.chunks_exact_mut(self.width) {
            token.iter_mut().zip(bias_values.iter()).for_each(|(sum, bias)| *sum += bias);
        }
        let mut y = Scratch::new(squares * self.width);
        y.par_chunks_mut(shift.len()).for_each(|image| image.copy_from_slice(&shift));
        let w_view = view(&w, self.width, pixels);
        par_gemm(view(&matrix, squares, pixels), w_view.reversed_axes(), 1.0, &mut y);

        let back: Back = Box::new(move |dy, gradients, wanted| {
            let dy_view = view(&dy, squares, layer.width);
            let mut dw = Scratch::new(w.len());
            par_gemm(dy_view.reversed_axes(), view(&matrix, squares, pixels), 0.0, &mut dw);
            let sums = gradient_mut(gradients, &weight)?;
            layer.pairs().for_each(|(torch, pixel)| sums[torch] += dw[pixel]);
            tensor::add_rows(gradient_mut(gradients, &bias)?, &dy);
            let by_input = |dx: &mut [f32], start: Start<'_>| {
                let mut matrix = Scratch::new(squares * pixels);
                par_gemm(dy_view, view(&w, layer.width, pixels), 0.0, &mut matrix);
                if let Start::Zero = start {
                    dx.fill(0.0);
                }
                layer.scatter(&matrix, dx, width);
            };
            Ok(wanted.product(dims.values(), by_input))
        });
        Step {
            values: y.into(),
            dims: Dims { items, height: rows, width: columns, channels: self.width },
            back,
        }
    }

    /// The squares, one a row: row by row of pixels, a pixel's channels together.
    fn gather(&self, images: &[f32], width: usize) -> Scratch {
        let mut matrix = Scratch::new(images.len());
        let (strip, run) = (self.side * width * self.channels, self.side * self.channels);
        matrix.par_chunks_mut(strip).zip(images.par_chunks(strip)).for_each(|(squares, strip)| {
            self.runs(width, |square, pixels| {
                squares[square..square + run].copy_from_slice(&strip[pixels..pixels + run])
            });
        });
        matrix
    }

    /// Adds squares back to where in the images they came from.
    fn scatter(&self, matrix: &[f32], images: &mut [f32], width: usize) {
        let (strip, run) = (self.side * width * self.channels, self.side * self.channels);
        images.par_chunks_mut(strip).zip(matrix.par_chunks(strip)).for_each(|(strip, squares)| {
            self.runs(width, |square, pixels| {
                let sums = strip[pixels..pixels + run].iter_mut();
                sums.zip(&squares[square..square + run]).for_each(|(sum, value)| *sum += value);
            });
        });
    }

    /// Calls `visit(position in the squares, position in the image)` for every row of pixels of every square of a strip of
    /// squares.
    fn runs(&self, width: usize, mut visit: impl FnMut(usize, usize)) {
        let run = self.side * self.channels;
        for (square, row) in
            (0..width / self.side).flat_map(|square| (0..self.side).map(move |row| (square, row)))
        {
            visit((square * self.side + row) * run, row * width * self.channels + square * run);
        }
    }

    /// Weights from PyTorch's order (token, channel, y, x) to that of a square (token, y, x, channel).
    fn by_pixel(&self, weight: &[f32]) -> Vec<f32> {
        let mut result = vec![0.0; weight.len()];
        self.pairs().for_each(|(torch, pixel)| result[pixel] = weight[torch]);
        result
    }

    /// Positions of one weight in PyTorch's order and in that of a square.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (channels, area) = (self.channels, self.side * self.side);
        (0..self.width * channels * area).map(move |torch| {
            let (token, channel, pixel) = (torch / (channels * area), torch / area % channels, torch % area);
            (torch, (token * area + pixel) * channels + channel)
        })
    }
}

/// Where the tokens of a grid are, rows x columns x `width`: sine and cosine of the column in a quarter of the width each, then of
/// the row, over wavelengths from 2π to 20000π (Vaswani et al. 2017; on a grid, and in this order, He et al. 2022). Fixed, so that
/// they need no training and are there for any grid.
///
/// # Panics
/// If `width` is no multiple of 4.
pub fn positions(rows: usize, columns: usize, width: usize) -> Vec<f32> {
    assert!(width.is_multiple_of(4), "width of tokens with positions, a multiple of 4");
    let quarter = width / 4;
    // In double precision: what is written into models must not depend on rounding.
    let angle = |place: usize, at: usize| place as f64 / 10_000_f64.powf(at as f64 / quarter as f64);
    let along = |place: usize| {
        let sines = (0..quarter).map(move |at| angle(place, at).sin() as f32);
        sines.chain((0..quarter).map(move |at| angle(place, at).cos() as f32))
    };
    let token = |(row, column): (usize, usize)| along(column).chain(along(row));
    (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).flat_map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check, rng, wave};

    /// The definition: a token is its square's pixels by a linear layer, plus where it is.
    #[test]
    fn tokens_are_those_of_their_squares() {
        let mut params = Params::default();
        let embed = PatchEmbed::new(&mut params, "e", 2, (2, 4), &mut rng());
        let x = wave((3, 4, 6, 2));
        let (values, w) = (tensor::values(&x), params[embed.weight].values());
        let (b, places) = (params[embed.bias].values(), positions(2, 3, 4));
        let found = tensor::values(&embed.forward(&params, x, Source::Data));
        for (at, found) in found.iter().enumerate() {
            let (image, row, column, token) = (at / 24, at / 12 % 2, at / 4 % 3, at % 4);
            let mut sum = b[token] + places[(row * 3 + column) * 4 + token];
            for (c, y, x) in (0..8).map(|i| (i / 4, i / 2 % 2, i % 2)) {
                let pixel = (image * 4 + row * 2 + y) * 6 + column * 2 + x;
                sum += w[((token * 2 + c) * 2 + y) * 2 + x] * values[pixel * 2 + c];
            }
            assert!((found - sum).abs() < 1e-5, "{at}: {found} {sum}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut params = Params::default();
        let embed = PatchEmbed::new(&mut params, "e", 2, (2, 4), &mut rng());
        check(&params, wave((3, 4, 6, 2)), |params, x| embed.forward(params, x, Source::Op));
    }

    #[test]
    fn positions_tell_columns_then_rows() {
        let places = positions(2, 3, 8);
        let at = |row: usize, column: usize| &places[(row * 3 + column) * 8..][..8];
        assert_eq!(at(0, 0), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        let [one, two] = [1.0_f64, 2.0]
            .map(|p| [p.sin(), (p / 100.0).sin(), p.cos(), (p / 100.0).cos()].map(|v| v as f32));
        assert_eq!((&at(1, 2)[..4], &at(1, 2)[4..]), (&two[..], &one[..]));
    }
}
