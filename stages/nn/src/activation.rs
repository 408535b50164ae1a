//! Elementwise activations.

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    tensor::{self, gradient_mut, take_gradient},
    wide::{self, normal},
};

/// Values that one task takes.
pub(crate) const CHUNK: usize = 4096;

/// `max(x, 0)`.
pub fn relu<S: Shape, T: Tape<f32, Cpu>>(x: Tensor<S, f32, Cpu, T>) -> Tensor<S, f32, Cpu, T> {
    elementwise(x, |x| x.max(0.0), |x| if x > 0.0 { 1.0 } else { 0.0 })
}

/// `x Φ(x)` with the normal distribution's Φ (Hendrycks & Gimpel 2016), not its tanh approximation.
///
/// In place of dfdx's `accurate_gelu`, whose derivative lacks a factor of 1/√2.
pub fn gelu<S: Shape, T: Tape<f32, Cpu>>(x: Tensor<S, f32, Cpu, T>) -> Tensor<S, f32, Cpu, T> {
    elementwise(x, gelu_of, gelu_slope)
}

/// GELU of one value.
#[inline(always)]
pub(crate) fn gelu_of(x: f32) -> f32 {
    x * normal(x).0
}

/// Its derivative.
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    /// 1 / √2π.
    const SHARE: f32 = 0.398_942_3;
    let (phi, density) = normal(x);
    phi + x * density * SHARE
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid<S: Shape, T: Tape<f32, Cpu>>(x: Tensor<S, f32, Cpu, T>) -> Tensor<S, f32, Cpu, T> {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    elementwise(x, sigmoid, move |x| sigmoid(x) * (1.0 - sigmoid(x)))
}

fn elementwise<S: Shape, T: Tape<f32, Cpu>>(
    x: Tensor<S, f32, Cpu, T>,
    function: impl Fn(f32) -> f32 + Sync,
    derivative: impl Fn(f32) -> f32 + Sync + 'static,
) -> Tensor<S, f32, Cpu, T> {
    let (x, mut tape) = x.split_tape();
    let input = tensor::values(&x);
    let mut output = vec![0.0; input.len()];
    output.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).for_each(|(output, input)| {
        wide::map(input, output, &function);
    });
    let y = tensor::tensor(output, *x.shape());

    let out = y.clone();
    tape.add_backward_op(move |gradients| {
        let dy = take_gradient(gradients, &out)?;
        let dx = gradient_mut(gradients, &x)?;
        dx.par_chunks_mut(CHUNK)
            .zip(dy.par_chunks(CHUNK))
            .zip(input.par_chunks(CHUNK))
            .for_each(|((dx, dy), x)| wide::add_slopes(dx, dy, x, &derivative));
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
    fn gelu_has_its_published_values() {
        // x Φ(x) with Φ from tables: Φ(1) = 0.8413447, Φ(-2) = 0.0227501.
        let y = tensor::values(&gelu(tensor::tensor(vec![0.0, 1.0, -2.0], (3,))));
        let expected = [0.0, 0.841_344_7, -0.045_500_2];
        assert!(y.iter().zip(expected).all(|(y, expected)| (y - expected).abs() < 1e-6), "{y:?}");
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check(&Params::default(), wave((6, 7)), |_, x| gelu(x));
        check(&Params::default(), wave((6, 7)), |_, x| relu(x));
        check(&Params::default(), wave((6, 7)), |_, x| sigmoid(x));
    }
}
