//! Global average pooling.

use dfdx::prelude::*;

use crate::tensor::{self, Images, Matrix, gradient_mut, take_gradient};

/// Images to their mean per channel: images x channels.
pub fn global_average_pool<T: Tape<f32, Cpu>>(x: Images<T>) -> Matrix<T> {
    let (count, height, width, channels) = *x.shape();
    let (x, mut tape) = x.split_tape();
    let (input, share) = (tensor::values(&x), 1.0 / (height * width) as f32);

    let mut output = vec![0.0; count * channels];
    let image = height * width * channels;
    for (mean, image) in output.chunks_exact_mut(channels).zip(input.chunks_exact(image)) {
        for pixel in image.chunks_exact(channels) {
            mean.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
        }
        mean.iter_mut().for_each(|sum| *sum *= share);
    }
    let y = tensor::tensor(output, (count, channels));

    let out = y.clone();
    tape.add_backward_op(move |gradients| {
        let dy = take_gradient(gradients, &out)?;
        let dx = gradient_mut(gradients, &x)?;
        for (dx, dy) in dx.chunks_exact_mut(image).zip(dy.chunks_exact(channels)) {
            for pixel in dx.chunks_exact_mut(channels) {
                pixel.iter_mut().zip(dy).for_each(|(sum, value)| *sum += share * value);
            }
        }
        Ok(())
    });
    y.put_tape(tape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, wave},
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
