//! Batch normalisation of rows (Ioffe & Szegedy 2015), without a scale and shift of its own: for heads, which exist in training only.

use std::rc::Rc;

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    op::{Back, Step, on_tape},
    resident::Dims,
    scratch::Scratch,
    tensor::{Matrix, Source},
};

/// Added to variances, as PyTorch does.
const EPSILON: f64 = 1e-5;

/// Items x dimensions to the same, each dimension of mean 0 and variance 1 (biased, + 1e-5) over the items. Items see each other.
pub fn batch_norm<T: Tape<f32, Cpu>>(x: Matrix<T>) -> Matrix<T> {
    let shape @ (items, dims) = *x.shape();
    let run = |x: Rc<Scratch>| {
        let standard = Standard::of(&x, dims);
        let mut y = Scratch::new(items * dims);
        y.copy_from_slice(&standard.values);
        let back: Back = Box::new(move |dy, _, wanted| {
            let mut dx = Scratch::new(items * dims);
            dx.copy_from_slice(&standard.back(&dy));
            Ok(wanted.of(dx))
        });
        Step { values: y.into(), dims: Dims::rows(items, dims), back }
    };
    on_tape(x, Source::Op, run, |_| shape)
}

/// Columns of mean 0 and variance 1.
pub(crate) struct Standard {
    pub(crate) values: Vec<f32>,
    /// Per column, 1 / sd.
    inverse: Vec<f64>,
}

impl Standard {
    pub(crate) fn of(values: &[f32], dims: usize) -> Self {
        let items = (values.len() / dims) as f64;
        let mean = sums(values, dims, |value, _| value).map(|sum| sum / items);
        let mean: Vec<f64> = mean.collect();
        let variance = sums(values, dims, |value, column| (value - mean[column]).powi(2));
        let inverse: Vec<f64> = variance.map(|sum| (sum / items + EPSILON).sqrt().recip()).collect();
        let mut standard = values.to_vec();
        standard.par_chunks_mut(dims).for_each(|row| {
            for (value, (mean, inverse)) in row.iter_mut().zip(mean.iter().zip(&inverse)) {
                *value = ((f64::from(*value) - mean) * inverse) as f32;
            }
        });
        Self { values: standard, inverse }
    }

    /// The gradient by the columns as they were: (g − mean(g) − x̂ mean(g x̂)) / sd.
    pub(crate) fn back(&self, gradient: &[f32]) -> Vec<f32> {
        let dims = self.inverse.len();
        let items = (gradient.len() / dims) as f64;
        let shift: Vec<f64> = sums(gradient, dims, |value, _| value).map(|sum| sum / items).collect();
        let products: Vec<f32> = gradient.iter().zip(&self.values).map(|(g, x)| g * x).collect();
        let slope: Vec<f64> = sums(&products, dims, |value, _| value).map(|sum| sum / items).collect();
        let mut by = gradient.to_vec();
        by.par_chunks_mut(dims).zip(self.values.par_chunks(dims)).for_each(|(by, x)| {
            for (column, (by, x)) in by.iter_mut().zip(x).enumerate() {
                let centred = f64::from(*by) - shift[column] - f64::from(*x) * slope[column];
                *by = (centred * self.inverse[column]) as f32;
            }
        });
        by
    }
}

/// Per column the sum of what `of` makes of its values.
fn sums(values: &[f32], dims: usize, of: impl Fn(f64, usize) -> f64) -> impl Iterator<Item = f64> {
    let mut sums = vec![0.0; dims];
    for row in values.chunks_exact(dims) {
        for (column, (sum, value)) in sums.iter_mut().zip(row).enumerate() {
            *sum += of(f64::from(*value), column);
        }
    }
    sums.into_iter()
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
    fn dimensions_have_mean_0_and_variance_1_over_the_batch() {
        let x = tensor::tensor(vec![1.0, 5.0, 3.0, 5.0, 5.0, 5.0], (3, 2));
        let y = tensor::values(&batch_norm(x));
        let edge = 2.0 / (8.0_f32 / 3.0 + 1e-5).sqrt();
        for (found, wanted) in y.iter().zip([-edge, 0.0, 0.0, 0.0, edge, 0.0]) {
            assert!((found - wanted).abs() < 1e-6, "{y:?}");
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        check(&Params::default(), wave((6, 5)), |_, x| batch_norm(x));
    }
}
