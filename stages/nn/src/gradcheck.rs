//! For tests: gradients against finite differences, and the golden values.

use std::path::{Path, PathBuf};

use dfdx::prelude::*;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    params::Params,
    tensor::{self, Recording, Scalar, gradient_mut, take_gradient},
};

/// Half the distance between the two points of a difference.
const STEP: f32 = 4e-3;

pub(crate) fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

/// Values without symmetry, none within [`STEP`] of 0, where ReLU has no derivative.
pub(crate) fn wave<S: Shape>(shape: S) -> Tensor<S, f32, Cpu> {
    let value = |i: usize| (0.3 + 1.7 * i as f32).sin() * (1.0 + 0.2 * (0.9 * i as f32).cos());
    let values =
        (0..shape.num_elements()).map(value).map(|v| if v.abs() < 0.02 { 0.05 } else { v }).collect();
    tensor::tensor(values, shape)
}

/// Σ weights · x: turns any op into a loss whose gradient by x is known.
fn weigh<S: Shape>(x: Tensor<S, f32, Cpu, Recording>) -> Scalar<Recording> {
    let (x, mut tape) = x.split_tape();
    let loss = tensor::tensor(vec![weighted(&x) as f32], ());
    let out = loss.clone();
    tape.add_backward_op(move |gradients| {
        let slope = take_gradient(gradients, &out)?[0];
        gradient_mut(gradients, &x)?.iter_mut().enumerate().for_each(|(i, sum)| *sum += slope * weight(i));
        Ok(())
    });
    loss.put_tape(tape)
}

fn weight(index: usize) -> f32 {
    (1.1 + 0.7 * index as f32).cos()
}

/// The same in `f64`: a difference of two sums in `f32` would be noise.
fn weighted<S: Shape, T>(x: &Tensor<S, f32, Cpu, T>) -> f64 {
    tensor::values(x).iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(weight(i))).sum()
}

/// Asserts that the gradients of `op` by its input and by every parameter are its finite differences.
pub(crate) fn check<S: Shape, R: Shape>(
    params: &Params,
    input: Tensor<S, f32, Cpu>,
    op: impl Fn(&Params, Tensor<S, f32, Cpu, Recording>) -> Tensor<R, f32, Cpu, Recording>,
) {
    let mut gradients = weigh(op(params, input.leaky_trace())).backward();
    let analytic = take_gradient(&mut gradients, &input).unwrap();
    let values = tensor::values(&input);
    let at = |params: &Params, values: &[f32]| {
        weighted(&op(params, tensor::tensor(values.to_vec(), *input.shape()).leaky_traced()))
    };
    compare("input", &analytic, &values, |moved| at(params, moved));

    for param in params.iter() {
        let analytic = take_gradient(&mut gradients, &param.key).unwrap();
        compare(&param.name, &analytic, &param.values(), |moved| {
            let mut params = params.clone();
            let name = &param.name;
            params.update(|_, other, values| {
                if other.name == *name {
                    values.copy_from_slice(moved);
                }
            });
            at(&params, &values)
        });
    }
}

fn compare(what: &str, analytic: &[f32], values: &[f32], f: impl Fn(&[f32]) -> f64) {
    for (i, analytic) in analytic.iter().enumerate() {
        let moved = |step: f32| {
            let mut values = values.to_vec();
            values[i] += step;
            (f64::from(values[i]), f(&values))
        };
        let ((above, high), (below, low)) = (moved(STEP), moved(-STEP));
        let numeric = (high - low) / (above - below);
        let error = (numeric - f64::from(*analytic)).abs();
        assert!(error < 2e-3 * (1.0 + numeric.abs()), "{what}[{i}]: {analytic}, by differences {numeric}");
    }
}

/// Golden losses and schedules, where they are at hand.
pub(crate) fn golden() -> Option<serde_json::Value> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("RESTAGE_SHARED").map_or(default, PathBuf::from);
    let path = shared.join("golden/losses_metrics.json");
    match std::fs::read(&path) {
        Ok(text) => Some(serde_json::from_slice(&text).unwrap()),
        Err(_) => {
            println!("skipped: no {}", path.display());
            None
        }
    }
}

/// `sin(a + b i + c k)`: the inputs of the golden values.
fn sines(a: f64, b: f64, c: f64) -> Vec<f64> {
    (0..24).map(|n| (a + b * f64::from(n / 4) + c * f64::from(n % 4)).sin()).collect()
}

/// The two views, 6 x 4, that the golden losses are of.
pub(crate) fn golden_views() -> (Vec<f32>, Vec<f32>) {
    let (z, noise) = (sines(0.1, 1.3, 0.7), sines(2.0, 0.9, 1.1));
    let other = z.iter().zip(&noise).map(|(z, noise)| (z + 0.3 * noise) as f32).collect();
    (z.iter().map(|z| *z as f32).collect(), other)
}

/// Asserts that a loss is a golden one.
pub(crate) fn assert_golden(found: f32, golden: &serde_json::Value) {
    let golden = golden.as_f64().unwrap();
    assert!((f64::from(found) - golden).abs() < 1e-5, "{found} is not {golden}");
}

/// The same as tensors.
pub(crate) fn golden_matrices() -> [crate::Matrix; 2] {
    let (a, b) = golden_views();
    [a, b].map(|z| tensor::tensor(z, (6, 4)))
}
