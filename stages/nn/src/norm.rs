//! Group and layer normalisation.

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    layer_norm,
    params::{ParamId, Params},
    tensor::{self, Images, add_all, gradient_mut, take_gradient},
};

/// Items that one task takes. Fixed: partial sums must not depend on the number of threads.
const CHUNK: usize = 16;

/// Added to variances before the root.
pub(crate) const EPSILON: f32 = 1e-5;

/// Normalises groups of channels of each image, then ReLU (Wu & He, "Group Normalization", 2018). Unlike batch
/// normalisation it knows no other image, so training and inference are one function.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm(pub Norm);

/// Normalises each row (Ba et al., "Layer Normalization", 2016).
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm(pub Norm);

impl GroupNorm {
    /// Adds `NAME.weight` and `NAME.bias` to `params`. Groups: as many as divide the channels evenly, at most 8.
    pub fn new(params: &mut Params, name: &str, channels: usize) -> Self {
        let groups = (1..=8).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1);
        Self(Norm::new(params, name, channels, groups, true))
    }

    /// Images to images of the same shape: normalised, scaled, shifted, negative values cut to 0.
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn relu_forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        let (_, height, width, channels) = *x.shape();
        self.0.forward(params, x, height * width, channels)
    }

    /// The same without cutting.
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        let (_, height, width, channels) = *x.shape();
        Norm { relu: false, ..self.0 }.forward(params, x, height * width, channels)
    }
}

impl LayerNorm {
    /// Adds `NAME.weight` and `NAME.bias` to `params`.
    pub fn new(params: &mut Params, name: &str, columns: usize) -> Self {
        Self(Norm::new(params, name, columns, 1, false))
    }

    /// Rows to rows of the same length, pixels of images to pixels: normalised, scaled, shifted.
    ///
    /// # Panics
    /// If the rows, or the pixels, have another length.
    pub fn forward<S: Shape, T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        x: Tensor<S, f32, Cpu, T>,
    ) -> Tensor<S, f32, Cpu, T> {
        let Norm { channels: columns, weight, bias, .. } = self.0;
        let width = x.shape().concrete().into_iter().last().unwrap_or_default();
        assert_eq!(width, columns, "channels of the input of a norm");
        let (x, mut tape) = x.split_tape();
        let (weight, bias) = (params[weight].tensor.clone(), params[bias].tensor.clone());
        let (input, gamma) = (tensor::values(&x), tensor::values(&weight));
        let moments = layer_norm::moments(&input, columns);
        let mut output = vec![0.0; input.len()];
        layer_norm::normalise(&input, &moments, [&gamma, &tensor::values(&bias)], &mut output);
        let y = tensor::tensor(output, *x.shape());

        let (x, out) = (x.ghost(), y.ghost());
        tape.add_backward_op(move |gradients| {
            let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
            let dx = gradients.get_or_alloc_mut(&x)?;
            let [dgamma, dbeta] = layer_norm::slopes(dx, &dy, &input, &moments, &gamma);
            add_all(gradient_mut(gradients, &weight)?, &dgamma);
            add_all(gradient_mut(gradients, &bias)?, &dbeta);
            Ok(())
        });
        y.put_tape(tape)
    }
}

/// Both: items of pixels x channels, normalised by groups of channels. A row is an image of one pixel.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Of a pixel.
    pub channels: usize,
    /// Of channels that lie together and have one mean and one variance in each item.
    pub groups: usize,
    relu: bool,
    /// What a normalised channel is multiplied by.
    pub weight: ParamId,
    /// What is added to it then.
    pub bias: ParamId,
}

impl Norm {
    fn new(params: &mut Params, name: &str, channels: usize, groups: usize, relu: bool) -> Self {
        let weight = params.constant(format!("{name}.weight"), channels, 1.0);
        let bias = params.constant(format!("{name}.bias"), channels, 0.0);
        Self { channels, groups, relu, weight, bias }
    }

    fn forward<S: Shape, T: Tape<f32, Cpu>>(
        self,
        params: &Params,
        x: Tensor<S, f32, Cpu, T>,
        pixels: usize,
        channels: usize,
    ) -> Tensor<S, f32, Cpu, T> {
        assert_eq!(channels, self.channels, "channels of the input of a norm");
        let (x, mut tape) = x.split_tape();
        let (weight, bias) = (params[self.weight].tensor.clone(), params[self.bias].tensor.clone());
        let (input, gamma, beta) = (tensor::values(&x), tensor::values(&weight), tensor::values(&bias));
        let item = pixels * channels;

        let mut output = vec![0.0; input.len()];
        let moments: Vec<Moments> = output
            .par_chunks_mut(item)
            .with_min_len(CHUNK)
            .zip(input.par_chunks(item))
            .map(|(output, input)| {
                let moments = self.moments(input);
                let scale: Vec<f32> =
                    gamma.iter().zip(&moments.inverse).map(|(gamma, inverse)| gamma * inverse).collect();
                let shift: Vec<f32> = beta
                    .iter()
                    .zip(&moments.mean)
                    .zip(&scale)
                    .map(|((beta, mean), scale)| beta - mean * scale)
                    .collect();
                let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
                for (output, input) in output.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                    let affine =
                        input.iter().zip(&scale).zip(&shift).map(|((x, scale), shift)| x * scale + shift);
                    output.iter_mut().zip(affine).for_each(|(output, value)| *output = value.max(floor));
                }
                moments
            })
            .collect();
        let y = tensor::tensor(output, *x.shape());

        let out = y.clone();
        tape.add_backward_op(move |gradients| {
            let mut dy = take_gradient(gradients, &out)?;
            if self.relu {
                let output = tensor::values(&out);
                dy.iter_mut().zip(&output).for_each(|(dy, y)| *dy = if *y > 0.0 { *dy } else { 0.0 });
            }
            let dx = gradient_mut(gradients, &x)?;
            let chunk = CHUNK * item;
            let (dgamma, dbeta): (Vec<_>, Vec<_>) = dx
                .par_chunks_mut(chunk)
                .zip(dy.par_chunks(chunk))
                .zip(input.par_chunks(chunk))
                .zip(moments.par_chunks(CHUNK))
                .map(|(((dx, dy), x), moments)| {
                    let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
                    let items =
                        dx.chunks_exact_mut(item).zip(dy.chunks_exact(item)).zip(x.chunks_exact(item));
                    for (((dx, dy), x), moments) in items.zip(moments) {
                        self.backward(dx, dy, x, moments, &gamma, (&mut dgamma, &mut dbeta));
                    }
                    (dgamma, dbeta)
                })
                .unzip();
            add_all(gradient_mut(gradients, &weight)?, &dgamma);
            add_all(gradient_mut(gradients, &bias)?, &dbeta);
            Ok(())
        });
        y.put_tape(tape)
    }

    /// Mean and 1/sd of each channel's group in one item.
    fn moments(&self, item: &[f32]) -> Moments {
        let count = (item.len() / self.groups) as f32;
        let mut mean = vec![0.0; self.channels];
        for row in item.chunks_exact(self.channels) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        self.share(&mut mean, |sum| sum / count);
        let mut inverse = vec![0.0; self.channels];
        for row in item.chunks_exact(self.channels) {
            inverse
                .iter_mut()
                .zip(row)
                .zip(&mean)
                .for_each(|((sum, x), mean)| *sum += (x - mean) * (x - mean));
        }
        self.share(&mut inverse, |sum| 1.0 / (sum / count + EPSILON).sqrt());
        Moments { mean, inverse }
    }

    /// Replaces each channel's value by a function of its group's sum.
    fn share(&self, channels: &mut [f32], function: impl Fn(f32) -> f32) {
        for group in channels.chunks_exact_mut(self.channels / self.groups) {
            let value = function(group.iter().sum());
            group.fill(value);
        }
    }

    /// One item: dx = (γ dy − mean(γ dy) − x̂ mean(γ dy x̂)) / sd, with means over the group; dγ = Σ dy x̂; dβ = Σ dy.
    fn backward(
        &self,
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        Moments { mean, inverse }: &Moments,
        gamma: &[f32],
        (dgamma, dbeta): (&mut [f32], &mut [f32]),
    ) {
        let (mut shift, mut slope) = (vec![0.0; self.channels], vec![0.0; self.channels]);
        for (dy, x) in dy.chunks_exact(self.channels).zip(x.chunks_exact(self.channels)) {
            shift.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            let normal = x.iter().zip(mean).zip(inverse).map(|((x, mean), inverse)| (x - mean) * inverse);
            slope.iter_mut().zip(dy).zip(normal).for_each(|((sum, dy), normal)| *sum += dy * normal);
        }
        add(dbeta, &shift);
        add(dgamma, &slope);
        let count = (x.len() / self.groups) as f32;
        for sums in [&mut shift, &mut slope] {
            sums.iter_mut().zip(gamma).for_each(|(sum, gamma)| *sum *= gamma);
            self.share(sums, |sum| sum / count);
        }
        // As a x + b dy + c per channel, so that the loop over pixels stays a plain one.
        let a: Vec<f32> =
            inverse.iter().zip(&slope).map(|(inverse, slope)| -inverse * inverse * slope).collect();
        let b: Vec<f32> = inverse.iter().zip(gamma).map(|(inverse, gamma)| inverse * gamma).collect();
        let c: Vec<f32> = a
            .iter()
            .zip(mean)
            .zip(inverse.iter().zip(&shift))
            .map(|((a, m), (i, s))| -a * m - i * s)
            .collect();
        let rows = dx.chunks_exact_mut(self.channels).zip(dy.chunks_exact(self.channels));
        for ((dx, dy), x) in rows.zip(x.chunks_exact(self.channels)) {
            let coefficients = a.iter().zip(&b).zip(&c);
            let values = x.iter().zip(dy).zip(coefficients).map(|((x, dy), ((a, b), c))| a * x + b * dy + c);
            dx.iter_mut().zip(values).for_each(|(dx, value)| *dx += value);
        }
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// Per channel, of one item.
struct Moments {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check, wave};

    /// Scale and shift that are not 1 and 0, so that their gradients and their part in others are seen.
    fn uneven(params: &mut Params, channels: usize) {
        let shape = [channels];
        let scale: Vec<f32> = (0..channels).map(|c| 0.6 + 0.3 * c as f32).collect();
        let shift: Vec<f32> = (0..channels).map(|c| 0.4 - 0.17 * c as f32).collect();
        params.load(|name| Some((&shape, if name.ends_with("weight") { &scale } else { &shift }))).unwrap();
    }

    #[test]
    fn a_normalised_row_has_mean_0_and_variance_1() {
        let mut params = Params::default();
        let norm = LayerNorm::new(&mut params, "n", 50);
        let y = tensor::values(&norm.forward(&params, wave((20, 50))));
        for row in y.chunks_exact(50) {
            let mean = row.iter().sum::<f32>() / 50.0;
            let variance = row.iter().map(|y| (y - mean) * (y - mean)).sum::<f32>() / 50.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut params = Params::default();
        let norm = LayerNorm::new(&mut params, "n", 6);
        uneven(&mut params, 6);
        check(&params, wave((17, 6)), |params, x| norm.forward(params, x));

        let mut params = Params::default();
        let norm = GroupNorm::new(&mut params, "n", 12);
        assert_eq!(norm.0.groups, 6);
        uneven(&mut params, 12);
        check(&params, wave((3, 2, 3, 12)), |params, x| norm.relu_forward(params, x));
        check(&params, wave((3, 2, 3, 12)), |params, x| norm.forward(params, x));
    }
}
