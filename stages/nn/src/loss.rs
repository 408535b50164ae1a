//! Losses of self-supervised objectives.

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::tensor::{self, Matrix, Recording, Scalar, gradient_mut, take_gradient};

/// Values that one partial sum takes. Fixed: it must not depend on the number of threads.
const CHUNK: usize = 8192;

/// The mean of (prediction − target)² over the entries that `mask` marks; 0 if it marks none.
///
/// # Panics
/// If the three have not as many entries.
pub fn masked_mse<T: Tape<f32, Cpu>>(prediction: Matrix<T>, target: Vec<f32>, mask: Vec<bool>) -> Scalar<T> {
    let (prediction, mut tape) = prediction.split_tape();
    let predicted = tensor::values(&prediction);
    assert!(
        predicted.len() == target.len() && target.len() == mask.len(),
        "entries of prediction, target, mask"
    );

    let sums: Vec<(f64, usize)> = predicted
        .par_chunks(CHUNK)
        .zip(target.par_chunks(CHUNK))
        .zip(mask.par_chunks(CHUNK))
        .map(|((predicted, target), mask)| {
            let squares = predicted.iter().zip(target).zip(mask).filter(|(_, mask)| **mask);
            squares.fold((0.0, 0), |(sum, count), ((predicted, target), _)| {
                (sum + f64::from(predicted - target).powi(2), count + 1)
            })
        })
        .collect();
    let (sum, count) = sums.iter().fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m));
    let count = count.max(1);
    let loss = tensor::tensor(vec![(sum / count as f64) as f32], ());

    let out = loss.clone();
    tape.add_backward_op(move |gradients| {
        let slope = 2.0 / count as f32 * take_gradient(gradients, &out)?.iter().sum::<f32>();
        let gradient = gradient_mut(gradients, &prediction)?;
        gradient
            .par_chunks_mut(CHUNK)
            .zip(predicted.par_chunks(CHUNK))
            .zip(target.par_chunks(CHUNK).zip(mask.par_chunks(CHUNK)))
            .for_each(|((gradient, predicted), (target, mask))| {
                let entries = gradient.iter_mut().zip(predicted).zip(target.iter().zip(mask));
                for ((gradient, predicted), (target, mask)) in entries {
                    *gradient += if *mask { slope * (predicted - target) } else { 0.0 };
                }
            });
        Ok(())
    });
    loss.put_tape(tape)
}

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
    let covariance = left.matmul(centred) / degrees * tensor::tensor(off_diagonal, (dims, dims));
    (shortfall, covariance.square().sum::<(), _>() / dims as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, wave},
    };

    const PAPER: VicRegWeights = VicRegWeights { invariance: 25.0, variance: 25.0, covariance: 1.0 };

    /// `sin(a + b i + c k)`: the inputs of the golden values.
    fn sines(a: f64, b: f64, c: f64) -> Vec<f64> {
        (0..24).map(|n| (a + b * f64::from(n / 4) + c * f64::from(n % 4)).sin()).collect()
    }

    fn views() -> (Vec<f32>, Vec<f32>) {
        let (z, noise) = (sines(0.1, 1.3, 0.7), sines(2.0, 0.9, 1.1));
        let other = z.iter().zip(&noise).map(|(z, noise)| (z + 0.3 * noise) as f32).collect();
        (z.iter().map(|z| *z as f32).collect(), other)
    }

    #[test]
    fn vicreg_has_the_values_of_the_authors_code() {
        let Some(golden) = crate::gradcheck::golden() else { return };
        let expected = |name: &str| golden["vicreg"][name].as_f64().unwrap();
        let (a, b) = views();
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
        let (a, b) = views();
        let loss = |a: Matrix<_>, b: Matrix<_>| vicreg(a, b, PAPER).loss;
        let other = tensor::tensor(b, (6, 4));
        check(&Params::default(), tensor::tensor(a, (6, 4)), move |_, a| loss(a, other.leaky_trace()));
    }

    #[test]
    fn masked_mse_sees_only_what_is_marked() {
        let loss = masked_mse(
            tensor::tensor(vec![1.0, 5.0, 2.0], (1, 3)),
            vec![3.0, 0.0, 1.0],
            vec![true, false, true],
        );
        assert_eq!(loss.array(), 2.5);
        let none = masked_mse(tensor::tensor(vec![1.0], (1, 1)), vec![3.0], vec![false]);
        assert_eq!(none.array(), 0.0);
    }

    #[test]
    fn masked_mse_gradients_are_those_of_finite_differences() {
        let target: Vec<f32> = (0..42).map(|i| (i as f32).cos()).collect();
        let mask: Vec<bool> = (0..42).map(|i| i % 3 != 0).collect();
        check(&Params::default(), wave((6, 7)), move |_, x| masked_mse(x, target.clone(), mask.clone()));
    }
}
