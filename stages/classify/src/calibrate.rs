//! `classify/calibrate`: probabilities that are as often right as they say, by one temperature.

use std::collections::BTreeMap;

use restage_stage::{
    Context, Ports, Result, Stage,
    artifact::{Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    calibration::{LEAST, Outcome, scores},
    conformal::positions,
};

/// Scales probabilities by a temperature.
pub enum Calibrate {}

/// `classify/calibrate` has no params.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {}

impl Stage for Calibrate {
    const NAME: &'static str = "calibrate";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Makes probabilities as sure as they are right on labels that did not train: all logits are divided by one temperature \
             (Guo et al. 2017). Predicted regions stay.",
        )
        .input::<Predictions>("predictions", "predictions of a classifier, also of the spots of `validation`")
        .input::<TrainLabels>("validation", "labels that it was not trained on, e.g. `split.validation`")
        .output::<Predictions>("predictions", "the same spots and classes, other probabilities")
        .output::<Metrics>("training", "the temperature, and `ece`, `nll`, `brier` on `validation` before and after")
    }

    fn run(_: Params, ctx: &Context) -> Result<()> {
        let predictions: Predictions = ctx.read("predictions")?;
        let TrainLabels(validation) = ctx.read("validation")?;
        let labelled = positions(&predictions, &validation)?;
        let sharpness = fit(&predictions, &labelled);
        let scaled = scale(&predictions, sharpness);
        let judge = |predictions: &Predictions| {
            let outcome = |&(position, truth): &(usize, Option<usize>)| {
                Outcome::new(predictions.row(position), predictions.predicted_class(position), truth)
            };
            scores(&labelled.iter().map(outcome).collect::<Vec<_>>())
        };
        let (before, after) = (judge(&predictions), judge(&scaled));
        let mut values = BTreeMap::from([
            ("temperature".to_owned(), 1.0 / sharpness),
            ("n".to_owned(), labelled.len() as f64),
        ]);
        for (name, value) in before {
            values.insert(format!("{name}_before"), value);
        }
        values.extend(after);
        tracing::info!("temperature {:.3} on {} labels", 1.0 / sharpness, labelled.len());
        let details = json!({ "conventions": {
            "temperature": "above 1: the classifier was too sure; found by least log loss on `validation`",
            "ece": "on `validation`, on which the temperature is fitted: `classify/evaluate` tells it of test spots",
        }});
        ctx.write("training", &Metrics { values, details, ..Metrics::default() })?;
        ctx.write("predictions", &scaled)
    }
}

/// From one temperature of 1000 to one of a thousandth.
const BOUND: f64 = 6.907_755_278_982_137;

/// The inverse of the temperature of least log loss: a convex problem, solved by halving.
fn fit(predictions: &Predictions, labelled: &[(usize, Option<usize>)]) -> f64 {
    // A class that the classifier does not know pulls nowhere.
    let known = || labelled.iter().filter_map(|&(position, truth)| Some((position, truth?)));
    let slope = |sharpness: f64| -> f64 {
        known()
            .map(|(position, truth)| {
                let logits: Vec<f64> = predictions.row(position).iter().map(|p| logit(*p)).collect();
                let mean: f64 =
                    softmax(&logits, sharpness).iter().zip(&logits).map(|(share, logit)| share * logit).sum();
                mean - logits[truth]
            })
            .sum()
    };
    let (mut low, mut high) = (-BOUND, BOUND);
    while high - low > 1e-12 {
        let middle = f64::midpoint(low, high);
        if slope(middle.exp()) < 0.0 { low = middle } else { high = middle }
    }
    let found = f64::midpoint(low, high);
    if found.abs() > BOUND - 1e-6 {
        tracing::warn!(
            "no temperature fits: on `validation` every prediction is right, or none is better than chance; it has too few labels"
        );
    }
    found.exp()
}

fn logit(probability: f32) -> f64 {
    f64::from(probability).max(LEAST).ln()
}

fn softmax(logits: &[f64], sharpness: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (sharpness * (logit - most)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn scale(predictions: &Predictions, sharpness: f64) -> Predictions {
    let row = |position: usize| {
        let logits: Vec<f64> = predictions.row(position).iter().map(|p| logit(*p)).collect();
        softmax(&logits, sharpness)
    };
    Predictions {
        probabilities: (0..predictions.spots.len()).flat_map(row).map(|share| share as f32).collect(),
        spots: predictions.spots.clone(),
        classes: predictions.classes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, train_labels};

    /// 10 spots that are said to be `a` with the same probability, of which `right` are.
    fn calibrated(probability: f32, right: usize) -> (Predictions, Metrics) {
        let predictions = Predictions {
            spots: (0..10).map(|spot| format!("A_{spot}")).collect(),
            classes: vec!["a".into(), "b".into()],
            probabilities: [probability, 1.0 - probability].repeat(10),
        };
        let region = |spot: usize| if spot < right { "a" } else { "b" };
        let labels = train_labels((0..10).map(|spot| (format!("A_{spot}"), "A", region(spot))));
        let bench = Bench::new().input("predictions", &predictions).input("validation", &labels);
        let bench = bench.run::<Calibrate>(json!({})).unwrap();
        (bench.output("predictions"), bench.output("training"))
    }

    /// With one probability for all, the best is how often it is right: ln(p / (1 - p)) / T = ln(0.8 / 0.2).
    #[test]
    fn the_temperature_brings_probabilities_to_how_often_they_are_right() {
        let (predictions, metrics) = calibrated(0.95, 8);
        assert!(predictions.probabilities.iter().step_by(2).all(|share| (share - 0.8).abs() < 1e-6));
        let expected = (0.95_f64 / 0.05).ln() / 4.0_f64.ln();
        assert!((metrics.values["temperature"] - expected).abs() < 1e-5, "{:?}", metrics.values);
        assert!((metrics.values["ece_before"] - 0.15).abs() < 1e-6 && metrics.values["ece"] < 1e-6);
        assert!(metrics.values["nll"] < metrics.values["nll_before"]);
        let (_, metrics) = calibrated(0.6, 9);
        assert!(metrics.values["temperature"] < 1.0, "not sure enough");
    }

    #[test]
    fn what_is_always_right_becomes_certain_and_no_more() {
        let (predictions, _) = calibrated(0.9, 10);
        assert!(predictions.probabilities.iter().step_by(2).all(|share| *share > 0.999 && *share <= 1.0));
    }
}
