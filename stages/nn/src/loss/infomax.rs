//! Deep Graph Infomax: tell nodes from corrupted ones by a summary of where they are.

use dfdx::prelude::*;

use super::{rows::dot, with_gradients};
use crate::tensor::{self, Matrix, Recording, Scalar};

/// The binary cross-entropy of telling by the score `row · summary` that a real row is real and a corrupted one is not
/// (Veličković et al. 2019). The mean over both kinds, as in the authors' code; PyTorch Geometric and GraphST add the two means:
/// twice as much. The bilinear discriminator's weights are in the summaries already; it has no bias.
///
/// # Panics
/// If the three have not the same shape: each row has its own summary.
pub fn infomax(
    real: Matrix<Recording>,
    corrupted: Matrix<Recording>,
    summaries: Matrix<Recording>,
) -> Scalar<Recording> {
    let shape @ (rows, dims) = *real.shape();
    assert!(shape == *corrupted.shape() && shape == *summaries.shape(), "rows with a summary each");
    let [of_real, of_corrupted, summary] = [&real, &corrupted, &summaries].map(tensor::values);
    let mut gradients = [(); 3].map(|()| vec![0.0; rows * dims]);
    let mut loss = 0.0;
    let share = 1.0 / (2 * rows).max(1) as f64;
    for row in 0..rows {
        let at = row * dims..(row + 1) * dims;
        let summary = &summary[at.clone()];
        for (kind, (values, sign)) in [(&of_real, 1.0), (&of_corrupted, -1.0)].into_iter().enumerate() {
            let values = &values[at.clone()];
            let wrong = -sign * dot(values, summary);
            // ln(1 + exp(wrong)), and its derivative by the score.
            loss += share * (wrong.max(0.0) + (-wrong.abs()).exp().ln_1p());
            let slope = (-sign * share / (1.0 + (-wrong).exp())) as f32;
            for (dim, place) in at.clone().enumerate() {
                gradients[kind][place] = slope * summary[dim];
                gradients[2][place] += slope * values[dim];
            }
        }
    }
    with_gradients([real, corrupted, summaries], loss, gradients)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, golden_matrices, wave},
    };

    #[test]
    fn is_the_cross_entropy_of_the_right_answer() {
        let [real, corrupted] =
            [[2.0_f32, 0.0, -1.0, 1.0], [0.5, 3.0, 0.0, 1.0]].map(|v| tensor::tensor(v.to_vec(), (2, 2)));
        let summaries = tensor::tensor(vec![1.0, 1.0, 2.0, 0.5], (2, 2));
        // Scores 2 and -1.5 of real rows, 3.5 and 0.5 of corrupted ones.
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let wanted =
            -(sigmoid(2.0).ln() + sigmoid(-1.5).ln() + (1.0 - sigmoid(3.5)).ln() + (1.0 - sigmoid(0.5)).ln())
                / 4.0;
        let loss = infomax(real.leaky_traced(), corrupted.leaky_traced(), summaries.leaky_traced()).array();
        assert!((f64::from(loss) - wanted).abs() < 1e-6, "{loss} {wanted}");
        // Of what says nothing it is ln 2.
        let nothing = || tensor::tensor(vec![0.0; 8], (4, 2)).leaky_traced();
        assert!((infomax(nothing(), nothing(), nothing()).array() - 2.0_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn scores_may_be_of_any_size() {
        let of = |value: f32| tensor::tensor(vec![value; 4], (2, 2)).leaky_traced();
        let loss = infomax(of(-200.0), of(200.0), of(1.0)).array();
        assert!((loss - 400.0).abs() < 1e-3, "{loss}");
        assert_eq!(infomax(of(200.0), of(-200.0), of(1.0)).array(), 0.0);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let ([a, b], c, none) = (golden_matrices(), wave((6, 4)), Params::default());
        let traced = |x: &Matrix| x.leaky_trace();
        check(&none, a.clone(), |_, x| infomax(x, traced(&b), traced(&c)));
        check(&none, b.clone(), |_, x| infomax(traced(&a), x, traced(&c)));
        check(&none, c.clone(), |_, x| infomax(traced(&a), traced(&b), x));
    }
}
