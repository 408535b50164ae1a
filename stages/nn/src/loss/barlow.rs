//! Barlow Twins (Zbontar et al. 2021): dimensions of two views that agree with themselves, and with no other.

use dfdx::prelude::*;

use super::with_gradients;
use crate::{
    batch_norm::Standard,
    gemm::{par_gemm, view},
    tensor::{self, Matrix, Recording, Scalar},
};

/// [`barlow`]'s loss and its unweighted terms.
pub struct Barlow {
    /// `on_diagonal + off_weight off_diagonal`.
    pub loss: Scalar<Recording>,
    /// Σ (C_ii − 1)².
    pub on_diagonal: f32,
    /// Σ C_ij² of different dimensions.
    pub off_diagonal: f32,
}

/// C is the correlation of the dimensions of two views, items x dimensions. With the authors' code's conventions: dimensions
/// standardised by the batch (biased variance + 1e-5), no scale on the sum; `off_weight` is 0.0051 there, 0.005 in the paper.
///
/// # Panics
/// If the views differ in shape.
pub fn barlow(a: Matrix<Recording>, b: Matrix<Recording>, off_weight: f32) -> Barlow {
    assert_eq!(a.shape(), b.shape(), "shapes of two views");
    let (items, dims) = *a.shape();
    let [x, y] = [&a, &b].map(|z| Standard::of(&tensor::values(z), dims));
    let (left, right) = (view(&x.values, items, dims), view(&y.values, items, dims));
    let mut correlation = vec![0.0; dims * dims];
    par_gemm(left.reversed_axes(), right, 0.0, &mut correlation);
    let (mut on, mut off) = (0.0, 0.0);
    for (at, value) in correlation.iter_mut().enumerate() {
        let c = f64::from(*value) / items as f64;
        // From here on the slope by the sum of products, not by C.
        let slope = if at / dims == at % dims {
            on += (c - 1.0).powi(2);
            2.0 * (c - 1.0)
        } else {
            off += c * c;
            2.0 * f64::from(off_weight) * c
        };
        *value = (slope / items as f64) as f32;
    }
    let slopes = view(&correlation, dims, dims);
    let mut by_left = vec![0.0; items * dims];
    par_gemm(right, slopes.reversed_axes(), 0.0, &mut by_left);
    let mut by_right = vec![0.0; items * dims];
    par_gemm(left, slopes, 0.0, &mut by_right);
    let gradients = [x.back(&by_left), y.back(&by_right)];
    let loss = with_gradients([a, b], on + f64::from(off_weight) * off, gradients);
    Barlow { loss, on_diagonal: on as f32, off_diagonal: off as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{assert_golden, check, golden, golden_matrices},
    };

    #[test]
    fn has_the_golden_values() {
        let Some(golden) = golden() else { return };
        let [a, b] = golden_matrices();
        for weight in ["0.005", "0.0051"] {
            let found = barlow(a.leaky_trace(), b.leaky_trace(), weight.parse().unwrap());
            let golden = &golden[format!("barlow_l{weight}")];
            assert_golden(found.on_diagonal, &golden["on"]);
            assert_golden(found.off_diagonal, &golden["off"]);
            assert_golden(found.loss.array(), &golden["loss"]);
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let [a, b] = golden_matrices();
        check(&Params::default(), a.clone(), |_, a| barlow(a, b.leaky_trace(), 0.1).loss);
        check(&Params::default(), b.clone(), |_, b| barlow(a.leaky_trace(), b, 0.1).loss);
    }
}
