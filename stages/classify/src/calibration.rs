//! How much predicted probabilities can be trusted: calibration error, log loss, Brier score.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Bins of the calibration error.
const BINS: usize = 10;

/// Below it, a probability counts as it: that of a class that was ruled out, or that the classifier does not know.
pub(crate) const LEAST: f64 = f32::EPSILON as f64;

/// What a spot's probabilities say of its true class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The largest probability.
    confidence: f64,
    /// Whether it is the true class's.
    is_right: bool,
    /// The true class's probability.
    of_truth: f64,
    /// Squared distance to certainty of the true class, over all classes.
    squared: f64,
}

impl Outcome {
    /// Of probabilities, of which the `predicted`th is the largest; no truth: a class that has none.
    pub(crate) fn new<T: Copy + Into<f64>>(row: &[T], predicted: usize, truth: Option<usize>) -> Self {
        let probability = |class: usize| row[class].into();
        let squares: f64 = (0..row.len())
            .map(|class| (probability(class) - f64::from(u8::from(truth == Some(class)))).powi(2))
            .sum();
        Self {
            confidence: probability(predicted),
            is_right: truth == Some(predicted),
            of_truth: truth.map_or(0.0, probability),
            squared: squares + f64::from(u8::from(truth.is_none())),
        }
    }
}

/// Expected calibration error, log loss and Brier score by name.
pub(crate) fn scores(outcomes: &[Outcome]) -> BTreeMap<String, f64> {
    let count = outcomes.len().max(1) as f64;
    let bins = bins(outcomes);
    let gaps: f64 = bins.iter().map(|bin| (bin.right as f64 - bin.confidence).abs()).sum();
    let nll: f64 = outcomes.iter().map(|outcome| -outcome.of_truth.clamp(LEAST, 1.0).ln()).sum();
    let brier: f64 = outcomes.iter().map(|outcome| outcome.squared).sum();
    [("ece", gaps / count), ("nll", nll / count), ("brier", brier / count)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// What a reliability diagram draws: per bin that has spots its ends, how many there are, how sure and how often right.
pub(crate) fn reliability(outcomes: &[Outcome]) -> Value {
    let bins = bins(outcomes).into_iter().enumerate().filter(|(_, bin)| bin.count > 0);
    let drawn = bins.map(|(at, bin)| {
        let count = bin.count as f64;
        json!({
            "from": at as f64 / BINS as f64, "to": (at + 1) as f64 / BINS as f64, "count": bin.count,
            "confidence": bin.confidence / count, "accuracy": bin.right as f64 / count,
        })
    });
    drawn.collect()
}

#[derive(Clone, Default)]
struct Bin {
    count: usize,
    right: usize,
    /// Sum.
    confidence: f64,
}

fn bins(outcomes: &[Outcome]) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); BINS];
    for outcome in outcomes {
        // As single precision, in which probabilities come: 0.8 is in the bin that ends with it.
        let is_above = |end: usize| outcome.confidence as f32 > end as f32 / BINS as f32;
        let bin = &mut bins[(1..BINS).filter(|end| is_above(*end)).count()];
        bin.count += 1;
        bin.right += usize::from(outcome.is_right);
        bin.confidence += outcome.confidence;
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_golden_values() {
        let Some(golden) = crate::testing::golden("stats.json") else { return };
        let golden = &golden["calib"];
        let rows: Vec<Vec<f64>> = serde_json::from_value(golden["P"].clone()).unwrap();
        let truth: Vec<usize> = serde_json::from_value(golden["y"].clone()).unwrap();
        let largest = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let outcomes: Vec<Outcome> =
            rows.iter().zip(truth).map(|(row, truth)| Outcome::new(row, largest(row), Some(truth))).collect();
        let found = scores(&outcomes);
        for (ours, theirs) in [("ece", "ece10"), ("nll", "nll"), ("brier", "brier")] {
            let expected = golden[theirs].as_f64().unwrap();
            assert!((found[ours] - expected).abs() < 1e-12, "{ours}: {} is not {expected}", found[ours]);
        }
    }

    #[test]
    fn bins_are_open_below_and_closed_above() {
        let outcome = |confidence: f32| Outcome::new(&[confidence, 1.0 - confidence], 0, Some(0));
        for (confidence, from) in [(0.8, 0.7), (0.800_001, 0.8), (0.7, 0.6), (1.0, 0.9), (0.6, 0.5)] {
            let drawn = reliability(&[outcome(confidence)]);
            assert_eq!(drawn[0]["from"], from, "{confidence}");
        }
        assert_eq!(reliability(&[Outcome::new(&[0.0_f32], 0, None)])[0]["from"], 0.0);
    }

    #[test]
    fn a_class_that_the_classifier_does_not_know_costs_as_much_as_one_it_rules_out() {
        let ruled_out = Outcome::new(&[1.0_f32, 0.0], 0, Some(1));
        let unknown = Outcome::new(&[1.0_f32], 0, None);
        assert_eq!(ruled_out, unknown);
        let found = scores(&[unknown]);
        assert_eq!((found["ece"], found["brier"]), (1.0, 2.0));
        assert!((found["nll"] - 23.0 * std::f64::consts::LN_2).abs() < 1e-9);
    }
}
