//! Elementwise activations.

use std::rc::Rc;

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    op::{Back, CHUNK, Shared, Step, on_tape},
    resident::Dims,
    scratch::Scratch,
    tensor::Source,
    wide::{self, exp, normal},
};

/// `max(x, 0)`.
pub fn relu<S: Shape, T: Tape<f32, Cpu>>(x: Tensor<S, f32, Cpu, T>) -> Tensor<S, f32, Cpu, T> {
    flat(x, run_relu)
}

/// `x Φ(x)` with the normal distribution's Φ (Hendrycks & Gimpel 2016), not its tanh approximation.
///
/// In place of dfdx's `accurate_gelu`, whose derivative lacks a factor of 1/√2.
pub fn gelu<S: Shape, T: Tape<f32, Cpu>>(x: Tensor<S, f32, Cpu, T>) -> Tensor<S, f32, Cpu, T> {
    flat(x, run_gelu)
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid<S: Shape, T: Tape<f32, Cpu>>(x: Tensor<S, f32, Cpu, T>) -> Tensor<S, f32, Cpu, T> {
    let sigmoid = |x: f32| 1.0 / (1.0 + exp(-x));
    flat(x, move |x, dims| run(x, dims, sigmoid, move |x| sigmoid(x) * (1.0 - sigmoid(x))))
}

fn flat<S: Shape, T: Tape<f32, Cpu>>(
    x: Tensor<S, f32, Cpu, T>,
    run: impl FnOnce(Shared, Dims) -> Step,
) -> Tensor<S, f32, Cpu, T> {
    let shape = *x.shape();
    on_tape(x, Source::Op, |x| run(x, Dims::rows(shape.num_elements(), 1)), |_| shape)
}

pub(crate) fn run_gelu(x: Shared, dims: Dims) -> Step {
    run(x, dims, gelu_of, |x| gelu_with_slope(x).1)
}

/// GELU of one value.
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    x * normal(x).0
}

/// The same, and its derivative.
#[inline(always)]
fn gelu_with_slope(x: f32) -> (f32, f32) {
    /// 1 / √2π.
    const SHARE: f32 = 0.398_942_3;
    let (phi, density) = normal(x);
    (x * phi, phi + x * density * SHARE)
}

/// GELU of every value, in whose places its derivatives go: one exponential gives both.
pub(crate) fn gelu_and_slopes(x: &mut [f32]) -> Scratch {
    let mut y = Scratch::new(x.len());
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks_mut(CHUNK))
        .for_each(|(y, x)| wide::split(x, y, gelu_with_slope));
    y
}

/// A function of every value, in parallel.
fn map(x: &[f32], function: impl Fn(f32) -> f32 + Sync) -> Scratch {
    let mut y = Scratch::new(x.len());
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| wide::map(x, y, &function));
    y
}

/// Multiplies gradients by the derivative at every value.
pub(crate) fn scale_slopes(dy: &mut [f32], x: &[f32], derivative: impl Fn(f32) -> f32 + Sync) {
    dy.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(dy, x)| {
        wide::update(dy, x, |dy, x| dy * derivative(x));
    });
}

fn run(
    x: Shared,
    dims: Dims,
    function: impl Fn(f32) -> f32 + Sync,
    derivative: impl Fn(f32) -> f32 + Sync + 'static,
) -> Step {
    let y = map(&x, function);
    let back: Back = Box::new(move |mut dy, _, wanted| {
        scale_slopes(&mut dy, &x, derivative);
        Ok(wanted.of(dy))
    });
    Step { values: y.into(), dims, back }
}

/// In place, if nobody else reads the input.
pub(crate) fn run_relu(x: Shared, dims: Dims) -> Step {
    let mut y = Rc::try_unwrap(x).unwrap_or_else(|x| Scratch::from(&x[..]));
    y.par_chunks_mut(CHUNK).for_each(|y| y.iter_mut().for_each(|y| *y = y.max(0.0)));
    let y = Rc::new(y);
    let values = y.clone();
    let back: Back = Box::new(move |mut dy, _, wanted| {
        cut(&mut dy, &y);
        Ok(wanted.of(dy))
    });
    Step { values, dims, back }
}

/// The gradient before ReLU, of that after it and what it gave.
pub(crate) fn cut(dy: &mut [f32], y: &[f32]) {
    dy.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(dy, y)| {
        wide::update(dy, y, |dy, y| if y > 0.0 { dy } else { 0.0 });
    });
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
