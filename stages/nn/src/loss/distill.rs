//! Distributions over prototypes that should be those of another view: DINO and SwAV.

use dfdx::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::with_gradients;
use crate::tensor::{self, Matrix, Recording, Scalar};

/// −Σ q log softmax(x / temperature) of each row of scores, items x prototypes, and its target distribution q, which has no
/// gradient; the mean over rows.
///
/// # Panics
/// If there are not as many targets.
pub fn soft_cross_entropy(scores: Matrix<Recording>, target: &[f32], temperature: f32) -> Scalar<Recording> {
    let (items, count) = *scores.shape();
    assert_eq!(target.len(), items * count, "as many targets as scores");
    let (loss, mut gradient) = of_distributions(&tensor::values(&scores), target, count, temperature);
    let scale = 1.0 / (items as f32 * temperature);
    gradient.iter_mut().for_each(|slope| *slope *= scale);
    with_gradients([scores], loss / items as f64, [gradient])
}

/// The sum over rows of the cross-entropies of target distributions, and the gradient by scores / temperature.
pub(super) fn of_distributions(
    scores: &[f32],
    target: &[f32],
    count: usize,
    temperature: f32,
) -> (f64, Vec<f32>) {
    let mut shares = softmax(scores, count, temperature);
    let row = |(row, target): (&mut [f32], &[f32])| {
        let mut loss = 0.0;
        // Of a distribution it is 1 but for rounding.
        let whole: f32 = target.iter().sum();
        for (share, target) in row.iter_mut().zip(target) {
            if *target > 0.0 {
                loss -= f64::from(*target) * f64::from(*share).max(f64::MIN_POSITIVE).ln();
            }
            *share = whole * *share - target;
        }
        loss
    };
    let losses: Vec<f64> = shares.par_chunks_mut(count).zip(target.par_chunks(count)).map(row).collect();
    (losses.iter().sum(), shares)
}

/// Per row the softmax of scores / temperature.
pub(super) fn softmax(scores: &[f32], count: usize, temperature: f32) -> Vec<f32> {
    let mut shares = scores.to_vec();
    shares.par_chunks_mut(count).for_each(|row| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|score| *score = ((*score - largest) / temperature).exp());
        let sum: f64 = row.iter().map(|share| f64::from(*share)).sum();
        row.iter_mut().for_each(|share| *share = (f64::from(*share) / sum) as f32);
    });
    shares
}

/// DINO's centre (Caron et al. 2021): the running mean of the teacher's scores, which keeps it from giving all items one
/// prototype.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Centre(Vec<f32>);

impl Centre {
    /// At 0, of so many prototypes.
    pub fn new(prototypes: usize) -> Self {
        Self(vec![0.0; prototypes])
    }

    /// The distributions that a student should have: softmax((scores − centre) / temperature) of each row.
    pub fn targets(&self, scores: &[f32], temperature: f32) -> Vec<f32> {
        let centred = scores.chunks_exact(self.0.len()).flat_map(|row| row.iter().zip(&self.0));
        let centred: Vec<f32> = centred.map(|(score, centre)| score - centre).collect();
        softmax(&centred, self.0.len(), temperature)
    }

    /// Moves it to the mean of all rows of scores: `momentum` of it stays.
    pub fn follow(&mut self, scores: &[f32], momentum: f32) {
        let rows = (scores.len() / self.0.len()).max(1) as f64;
        let mut means = vec![0.0; self.0.len()];
        for row in scores.chunks_exact(self.0.len()) {
            means.iter_mut().zip(row).for_each(|(mean, score)| *mean += f64::from(*score) / rows);
        }
        for (centre, mean) in self.0.iter_mut().zip(means) {
            *centre = momentum * *centre + (1.0 - momentum) * mean as f32;
        }
    }
}

/// SwAV's codes (Caron et al. 2020): exp(scores / ε), items x prototypes, scaled by turns so that prototypes have equal shares of
/// all items and each item's codes add up to 1.
pub fn sinkhorn(scores: &[f32], prototypes: usize, epsilon: f32, turns: usize) -> Vec<f32> {
    let items = scores.len() / prototypes;
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut codes: Vec<f64> =
        scores.iter().map(|score| f64::from((score - largest) / epsilon).exp()).collect();
    for _ in 0..turns {
        let mut sums = vec![0.0; prototypes];
        for row in codes.chunks_exact(prototypes) {
            sums.iter_mut().zip(row).for_each(|(sum, code)| *sum += code);
        }
        for row in codes.chunks_exact_mut(prototypes) {
            // A prototype so far off that exp is 0 for all items stays without any.
            let shares = row.iter_mut().zip(&sums).filter(|(_, sum)| **sum > 0.0);
            shares.for_each(|(code, sum)| *code *= items as f64 / (prototypes as f64 * sum));
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|code| *code /= sum.max(f64::MIN_POSITIVE));
        }
    }
    codes.into_iter().map(|code| code as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{assert_golden, check, golden, golden_views, wave},
    };

    /// Both directions, and the centre after both views.
    #[test]
    fn dino_has_the_golden_values() {
        let Some(golden) = golden() else { return };
        let (a, b) = golden_views();
        let mut centre = Centre::new(4);
        let direction = |student: &[f32], teacher: &[f32]| {
            let student = tensor::tensor(student.to_vec(), (6, 4)).leaky_traced();
            soft_cross_entropy(student, &centre.targets(teacher, 0.04), 0.1).array()
        };
        let loss = 0.5 * (direction(&a, &b) + direction(&b, &a));
        assert_golden(loss, &golden["dino_ts0.1_tt0.04_center0"]);
        centre.follow(&[a, b].concat(), 0.9);
        let golden = golden["dino_center_after_update_m0.9"].as_array().unwrap();
        centre.0.iter().zip(golden).for_each(|(centre, golden)| assert_golden(*centre, golden));
    }

    #[test]
    fn sinkhorn_has_the_golden_values() {
        let Some(golden) = golden() else { return };
        let codes = sinkhorn(&golden_views().0, 4, 0.05, 3);
        let golden = golden["swav_sinkhorn_eps0.05_it3"].as_array().unwrap();
        for (codes, golden) in codes.chunks_exact(4).zip(golden) {
            codes
                .iter()
                .zip(golden.as_array().unwrap())
                .for_each(|(code, golden)| assert_golden(*code, golden));
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let targets = softmax(&tensor::values(&wave((5, 7))), 7, 0.7);
        let scores = tensor::tensor(tensor::values(&wave((5, 9)))[..35].to_vec(), (5, 7));
        check(&Params::default(), scores, |_, scores| soft_cross_entropy(scores, &targets, 0.5));
    }
}
