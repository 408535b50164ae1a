//! Group and layer normalisation.

mod groups;

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    layer_norm,
    op::{Back, Shared, Step, Wanted, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    tensor::{Images, Source, add_all, gradient_mut},
    wide,
};

/// Images that one task takes. Fixed: partial sums must not depend on the number of threads.
const IMAGES: usize = 4;

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
        Self(Norm::new(params, name, channels, groups))
    }

    /// Images to images of the same shape: normalised, scaled, shifted, negative values cut to 0.
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn relu_forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        self.on_tape(params, x, true)
    }

    /// The same without cutting.
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>) -> Images<T> {
        self.on_tape(params, x, false)
    }

    fn on_tape<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>, relu: bool) -> Images<T> {
        let shape @ (items, height, width, channels) = *x.shape();
        let run = |x| self.run(params, x, Dims { items, height, width, channels }, relu);
        on_tape(x, Source::Op, run, |_| shape)
    }

    pub(crate) fn run(&self, params: &Params, x: Shared, dims: Dims, relu: bool) -> Step {
        let Norm { channels, groups, weight, bias } = self.0;
        assert_eq!(dims.channels, channels, "channels of the input of a norm");
        let (gamma, beta) = (params[weight].shared(), params[bias].shared());
        let (weight, bias) = (params[weight].key.clone(), params[bias].key.clone());
        let image = dims.height * dims.width * channels;
        let mut y = Scratch::new(x.len());
        let mut moments = vec![Moments::default(); dims.items * groups];
        let of = groups::Groups { gamma: &gamma, beta: &beta, groups, relu };
        y.par_chunks_mut(image)
            .zip(x.par_chunks(image))
            .zip(moments.par_chunks_mut(groups))
            .for_each(|((y, x), moments)| wide::run(groups::Forward { of, x, y, moments }));
        let back: Back = Box::new(move |mut dy, gradients, wanted| {
            let of = groups::Groups { gamma: &gamma, beta: &beta, groups, relu };
            let (dgamma, dbeta): (Vec<_>, Vec<_>) = dy
                .par_chunks_mut(IMAGES * image)
                .zip(x.par_chunks(IMAGES * image))
                .zip(moments.par_chunks(IMAGES * groups))
                .map(|((dy, x), moments)| {
                    let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
                    let images = dy.chunks_exact_mut(image).zip(x.chunks_exact(image));
                    for ((dy, x), moments) in images.zip(moments.chunks_exact(groups)) {
                        let (dgamma, dbeta) = (&mut dgamma, &mut dbeta);
                        wide::run(groups::Backward { of, x, dy, moments, dgamma, dbeta });
                    }
                    (dgamma, dbeta)
                })
                .unzip();
            add_all(gradient_mut(gradients, &weight)?, &dgamma);
            add_all(gradient_mut(gradients, &bias)?, &dbeta);
            Ok(wanted.of(dy))
        });
        Step { values: y.into(), dims, back }
    }
}

impl LayerNorm {
    /// Adds `NAME.weight` and `NAME.bias` to `params`.
    pub fn new(params: &mut Params, name: &str, columns: usize) -> Self {
        Self(Norm::new(params, name, columns, 1))
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
        let shape = *x.shape();
        let channels = shape.concrete().into_iter().last().unwrap_or_default();
        let rows = shape.num_elements().checked_div(channels).unwrap_or_default();
        on_tape(x, Source::Op, |x| self.run(params, x, Dims::rows(rows, channels)), |_| shape)
    }

    /// Of rows, or of the pixels of images.
    pub(crate) fn run(&self, params: &Params, x: Shared, dims: Dims) -> Step {
        let Norm { channels, weight, bias, .. } = self.0;
        assert_eq!(dims.channels, channels, "channels of the input of a norm");
        let (gamma, beta) = (params[weight].shared(), params[bias].shared());
        let (weight, bias) = (params[weight].key.clone(), params[bias].key.clone());
        let moments = layer_norm::moments(&x, channels);
        let mut y = Scratch::new(x.len());
        layer_norm::normalise(&x, &moments, [&gamma, &beta], &mut y);
        let back: Back = Box::new(move |dy, gradients, wanted| {
            let mut dx = match wanted {
                Wanted::Added(sum) => sum,
                Wanted::Nothing | Wanted::Alone => Scratch::zeros(x.len()),
            };
            let [dgamma, dbeta] = layer_norm::slopes(&mut dx, &dy, &x, &moments, &gamma);
            add_all(gradient_mut(gradients, &weight)?, &dgamma);
            add_all(gradient_mut(gradients, &bias)?, &dbeta);
            Ok(Some(dx))
        });
        Step { values: y.into(), dims, back }
    }
}

/// What both have.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Of a pixel.
    pub channels: usize,
    /// Of channels that lie together and have one mean and one variance in each item.
    pub groups: usize,
    /// What a normalised channel is multiplied by.
    pub weight: ParamId,
    /// What is added to it then.
    pub bias: ParamId,
}

impl Norm {
    fn new(params: &mut Params, name: &str, channels: usize, groups: usize) -> Self {
        let weight = params.constant(format!("{name}.weight"), channels, 1.0);
        let bias = params.constant(format!("{name}.bias"), channels, 0.0);
        Self { channels, groups, weight, bias }
    }
}

/// Mean and 1/sd of a group of an image's channels.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    mean: f32,
    inverse: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradcheck::{check, wave},
        tensor,
    };

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

    /// Channels by 32, 16, 8 and singly, of more images than one task takes; on enough pixels, a group's values have mean β and
    /// deviation γ.
    #[test]
    fn every_group_of_channels_is_normalised() {
        let mut params = Params::default();
        let norm = GroupNorm::new(&mut params, "n", 59 * 2);
        assert_eq!(norm.0.groups, 2);
        let x = wave((5, 3, 4, 118));
        let y = tensor::values(&norm.forward(&params, x.clone()));
        let cut = tensor::values(&norm.relu_forward(&params, x));
        assert!(y.iter().zip(&cut).all(|(y, cut)| y.max(0.0) == *cut));
        for image in y.chunks_exact(12 * 118) {
            for group in 0..2 {
                let values =
                    || image.iter().enumerate().filter(|(at, _)| at % 118 / 59 == group).map(|(_, y)| *y);
                let mean = values().sum::<f32>() / (12.0 * 59.0);
                let variance = values().map(|y| (y - mean) * (y - mean)).sum::<f32>() / (12.0 * 59.0);
                assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
            }
        }
    }
}
