//! Directions that should agree with others', which have no gradient.

use dfdx::prelude::*;

use super::{Unit, rows::dot, with_gradients};
use crate::tensor::{self, Matrix, Recording, Scalar};

/// −cos of each row and its target, the mean over rows: SimSiam's loss (Chen & He 2021) of one direction. BYOL's (Grill et al.
/// 2020) is 2 + 2 of it.
///
/// # Panics
/// If there are not as many targets.
pub fn negative_cosine(prediction: Matrix<Recording>, target: &[f32]) -> Scalar<Recording> {
    of_cosines(prediction, target, |cosine| (-cosine, -1.0))
}

/// (1 − cos)^`alpha` of each row and its target, the mean over rows: GraphMAE's loss (Hou et al. 2022), which cares less for
/// rows that are nearly right.
///
/// # Panics
/// If there are not as many targets.
pub fn scaled_cosine_error(prediction: Matrix<Recording>, target: &[f32], alpha: f64) -> Scalar<Recording> {
    of_cosines(prediction, target, |cosine| {
        let distance = (1.0 - cosine).max(0.0);
        (distance.powf(alpha), -alpha * distance.powf(alpha - 1.0))
    })
}

/// The mean over rows of what `of` makes of a cosine: value and derivative.
fn of_cosines(
    prediction: Matrix<Recording>,
    target: &[f32],
    of: impl Fn(f64) -> (f64, f64),
) -> Scalar<Recording> {
    let (items, dims) = *prediction.shape();
    assert_eq!(target.len(), items * dims, "as many targets as predictions");
    let (unit, target) = (Unit::of(&tensor::values(&prediction), dims), Unit::of(target, dims));
    let mut gradient = target.rows.clone();
    let mut sum = 0.0;
    for (row, target) in unit.rows.chunks_exact(dims).zip(gradient.chunks_exact_mut(dims)) {
        let (value, slope) = of(dot(row, target));
        sum += value;
        target.iter_mut().for_each(|target| *target *= (slope / items as f64) as f32);
    }
    with_gradients([prediction], sum / items as f64, [unit.back(gradient)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{assert_golden, check, golden, golden_views},
    };

    #[test]
    fn losses_have_the_golden_values() {
        let Some(golden) = golden() else { return };
        let (a, b) = golden_views();
        let a = || tensor::tensor(a.clone(), (6, 4)).leaky_traced();
        assert_golden(negative_cosine(a(), &b).array(), &golden["simsiam_-cos"]);
        assert_golden(2.0 + 2.0 * negative_cosine(a(), &b).array(), &golden["byol_2-2cos"]);
        assert_golden(scaled_cosine_error(a(), &b, 3.0).array(), &golden["sce_alpha3"]);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (a, b) = golden_views();
        let (a, none) = (tensor::tensor(a, (6, 4)), Params::default());
        check(&none, a.clone(), |_, a| negative_cosine(a, &b));
        // Of targets that are far off, so that the error is not all rounding.
        let other: Vec<f32> = b.iter().rev().copied().collect();
        check(&none, a, |_, a| scaled_cosine_error(a, &other, 3.0));
    }
}
