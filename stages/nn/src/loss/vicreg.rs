//! Variance-invariance-covariance regularisation.

use dfdx::prelude::*;

use crate::tensor::{self, Matrix, Recording, Scalar};

/// How much each term of [`vicreg`] counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VicRegWeights {
    /// Of the distance between two views of one item; 25 in the paper.
    pub invariance: f32,
    /// Of the hinge that keeps every dimension's sd at 1 or more; 25 in the paper.
    pub variance: f32,
    /// Of the squared covariances between dimensions; 1 in the paper.
    pub covariance: f32,
}

/// [`vicreg`]'s loss and its unweighted terms.
pub struct VicReg<T> {
    /// The weighted sum.
    pub loss: Scalar<T>,
    /// Mean squared distance between the views.
    pub invariance: f32,
    /// Mean shortfall of the dimensions' sd from 1, averaged over the views.
    pub variance: f32,
    /// Sum of squared covariances of different dimensions over their number, summed over the views.
    pub covariance: f32,
}

/// Variance-invariance-covariance regularisation of two views, items x dimensions (Bardes et al. 2022).
///
/// With the authors' code's conventions: sd = √(unbiased variance + 1e-4), and a half on the variance term of each
/// view, which some libraries leave out.
///
/// # Panics
/// If the views differ in shape.
pub fn vicreg(a: Matrix<Recording>, b: Matrix<Recording>, weights: VicRegWeights) -> VicReg<Recording> {
    let (variance_a, covariance_a) = spread(a.with_empty_tape());
    let (variance_b, covariance_b) = spread(b.with_empty_tape());
    let invariance = (a - b).square().mean::<(), _>();
    let variance = (variance_a + variance_b) * 0.5;
    let covariance = covariance_a + covariance_b;
    let terms = [invariance.array(), variance.array(), covariance.array()];
    let loss =
        invariance * weights.invariance + variance * weights.variance + covariance * weights.covariance;
    VicReg { loss, invariance: terms[0], variance: terms[1], covariance: terms[2] }
}

/// The variance and covariance terms of one view.
fn spread(z: Matrix<Recording>) -> (Scalar<Recording>, Scalar<Recording>) {
    let shape @ (items, dims) = *z.shape();
    let degrees = (items.max(2) - 1) as f32;
    let mean = z.with_empty_tape().mean::<(usize,), Axis<0>>().broadcast_like::<_, Axis<0>>(&shape);
    let centred = z - mean;
    let sd = (centred.with_empty_tape().square().sum::<(usize,), Axis<0>>() / degrees + 1e-4).sqrt();
    let shortfall = (sd.negate() + 1.0).relu().mean::<(), _>();

    // dfdx cannot multiply a tensor with itself; `* 1.0` makes the left side another one.
    let left = (centred.with_empty_tape() * 1.0).permute::<(usize, usize), Axes2<1, 0>>();
    let off_diagonal = (0..dims * dims).map(|i| if i / dims == i % dims { 0.0 } else { 1.0 }).collect();
    #[expect(clippy::disallowed_methods, reason = "both sides are different tensors")]
    let product = left.matmul(centred);
    let covariance = product / degrees * tensor::tensor(off_diagonal, (dims, dims));
    (shortfall, covariance.square().sum::<(), _>() / dims as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, golden, golden_views},
    };

    const PAPER: VicRegWeights = VicRegWeights { invariance: 25.0, variance: 25.0, covariance: 1.0 };

    #[test]
    fn vicreg_has_the_values_of_the_authors_code() {
        let Some(golden) = golden() else { return };
        let expected = |name: &str| golden["vicreg"][name].as_f64().unwrap();
        let (a, b) = golden_views();
        let [a, b] = [a, b].map(|z| tensor::tensor(z, (6, 4)).leaky_traced());
        let found = vicreg(a, b, PAPER);
        for (name, found) in [
            ("inv", found.invariance),
            ("var", found.variance),
            ("cov", found.covariance),
            ("loss", found.loss.array()),
        ] {
            assert!((f64::from(found) - expected(name)).abs() < 1e-5, "{name}: {found}");
        }
    }

    #[test]
    fn vicreg_gradients_are_those_of_finite_differences() {
        let (a, b) = golden_views();
        let loss = |a: Matrix<_>, b: Matrix<_>| vicreg(a, b, PAPER).loss;
        let other = tensor::tensor(b, (6, 4));
        check(&Params::default(), tensor::tensor(a, (6, 4)), move |_, a| loss(a, other.leaky_trace()));
    }
}
