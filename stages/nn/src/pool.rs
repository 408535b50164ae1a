//! Global average pooling.

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    op::{Back, Shared, Step, on_tape},
    resident::Dims,
    scratch::Scratch,
    tensor::{Images, Matrix, Source},
    wide,
};

/// Images to their mean per channel: images x channels.
pub fn global_average_pool<T: Tape<f32, Cpu>>(x: Images<T>) -> Matrix<T> {
    let (items, height, width, channels) = *x.shape();
    let run = |x| pool(&x, Dims { items, height, width, channels });
    on_tape(x, Source::Op, run, |dims| (dims.items, dims.channels))
}

pub(crate) fn pool(x: &Shared, dims: Dims) -> Step {
    let (channels, pixels) = (dims.channels, dims.height * dims.width);
    let share = 1.0 / pixels as f32;
    let mut y = Scratch::new(dims.items * channels);
    y.par_chunks_mut(channels).zip(x.par_chunks(pixels * channels)).for_each(|(mean, image)| {
        mean.fill(0.0);
        for pixel in image.chunks_exact(channels) {
            mean.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
        }
        mean.iter_mut().for_each(|sum| *sum *= share);
    });
    let back: Back = Box::new(move |dy, _, wanted| {
        let mut dx = Scratch::new(dims.values());
        dx.par_chunks_mut(pixels * channels).zip(dy.par_chunks(channels)).for_each(|(dx, dy)| {
            for pixel in dx.chunks_exact_mut(channels) {
                wide::map(dy, pixel, |value| share * value);
            }
        });
        Ok(wanted.of(dx))
    });
    Step { values: y.into(), dims: Dims::rows(dims.items, channels), back }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, wave},
        tensor,
    };

    #[test]
    fn is_the_mean_of_each_channel() {
        let x = tensor::tensor(vec![1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 6.0, 60.0], (1, 2, 2, 2));
        assert_eq!(tensor::values(&global_average_pool(x)), [3.0, 30.0]);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check(&Params::default(), wave((3, 2, 3, 4)), |_, x| global_average_pool(x));
    }
}
