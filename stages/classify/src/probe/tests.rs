//! What should be true of a probe.

use serde_json::Value;

use super::*;
use crate::testing::{Bench, embedding, train_labels};

/// Spots on a line, ten of `adipose`, a gap, ten of `tumour`.
fn line() -> (Embedding, TrainLabels) {
    let spots: Vec<String> = (0..20).map(|i| format!("A1_{i}")).collect();
    let values: Vec<f32> = (0..20).map(|i| (i + i / 10 * 10) as f32 * 3.0 + 100.0).collect();
    let train =
        train_labels((0..16).map(|i| (format!("A1_{i}"), "A", if i < 10 { "adipose" } else { "tumour" })));
    (Embedding { spots, dims: 1, values }, train)
}

#[test]
fn predicts_every_spot_that_has_features() {
    let (features, train) = line();
    let done =
        Bench::new().input("features", &features).input("train", &train).run::<Probe>(json!({})).unwrap();
    let predictions: Predictions = done.output("predictions");
    assert_eq!(predictions.spots, features.spots);
    assert_eq!(predictions.classes, ["adipose", "tumour"]);
    for spot in 0..20 {
        assert_eq!(predictions.predicted(spot), if spot < 10 { "adipose" } else { "tumour" });
        assert!((predictions.row(spot).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
    let training: Metrics = done.output("training");
    assert_eq!((training.values["train_accuracy"], training.values["converged"]), (1.0, 1.0));
    assert!(training.values["gradient"] <= 1e-6);
    assert_eq!(training.curves["objective"].len() as f64, training.values["iterations"] + 1.0);
    assert_eq!(training.curves["objective"].last(), Some(&training.values["objective"]));
}

#[test]
fn blocks_help_each_other_and_meet_on_common_spots() {
    let (line, train) = line();
    let noise = embedding((5..20).map(|i| (format!("A1_{i}"), vec![(i * 7 % 5) as f32, 1.0, 2.0])));
    let done = Bench::new()
        .input("features", &line)
        .input("features", &noise)
        .input("train", &train)
        .run::<Probe>(json!({ "c": 10.0 }))
        .unwrap();
    let predictions: Predictions = done.output("predictions");
    assert_eq!(predictions.spots, line.spots[5..]);
    let training: Metrics = done.output("training");
    assert_eq!((training.values["train_spots"], training.values["dims"]), (11.0, 4.0));
    assert_eq!(training.values["train_accuracy"], 1.0);
}

#[test]
fn balanced_weights_lift_a_rare_region() {
    let features = embedding((0..100).map(|i| (format!("A1_{i}"), vec![(i % 10) as f32])));
    let train = train_labels(
        (0..100).map(|i| (format!("A1_{i}"), "A", if i % 10 == 9 { "immune" } else { "tumour" })),
    );
    let rare = |params: Value| {
        let done =
            Bench::new().input("features", &features).input("train", &train).run::<Probe>(params).unwrap();
        done.output::<Predictions>("predictions").row(8)[0]
    };
    assert!(rare(json!({ "c": 0.01 })) > rare(json!({ "c": 0.01, "class_weight": "none" })));
}

#[test]
fn what_cannot_be_fitted_is_said() {
    let (features, train) = line();
    let refused = |train: &TrainLabels| {
        let bench = Bench::new().input("features", &features).input("train", train);
        bench.run::<Probe>(json!({})).err().unwrap().to_string()
    };
    let one = train_labels((0..9).map(|i| (format!("A1_{i}"), "A", "adipose")));
    assert_eq!(refused(&one), "all training spots are of region `adipose`: a classifier needs two");
    let others = train_labels((0..9).map(|i| (format!("B1_{i}"), "B", "adipose")));
    assert!(refused(&others).contains("no training spot has features"));
    for params in [json!({ "c": 0.0 }), json!({ "tolerance": -1.0 }), json!({ "max_iter": 0 })] {
        let bench = Bench::new().input("features", &features).input("train", &train);
        assert!(bench.run::<Probe>(params.clone()).is_err(), "{params}");
    }
}
