//! What should be true of a probe.

use serde_json::Value;

use super::*;
use crate::testing::{Bench, embedding, overlapping, train_labels};

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
    assert!(refused(&others).starts_with("no training spot is in `features`"));
    let wrong = [
        json!({ "c": 0.0 }),
        json!({ "c": [] }),
        json!({ "c": [1, -1] }),
        json!({ "tolerance": -1.0 }),
        json!({ "max_iter": 0 }),
    ];
    for params in wrong {
        let bench = Bench::new().input("features", &features).input("train", &train);
        assert!(bench.run::<Probe>(params.clone()).is_err(), "{params}");
    }
}

/// scikit-learn 1.9.1, of `i = np.arange(120); y = i*i % 11 % 3; g = i % 7 % 4` and float32 features as above:
/// ```python
/// for C in [1e-4, 1e-3, 1e-2, .1, 1, 10]:
///     s = []
///     for a, b in GroupKFold(4).split(X, y, g):   # below: StratifiedKFold(5).split(X, y)
///         m = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", tol=1e-10, max_iter=10000))
///         s.append(f1_score(y[b], m.fit(X[a], y[a]).predict(X[b]), labels=np.unique(y[b]), average="macro"))
///     print(np.mean(s))
/// ```
#[test]
fn c_is_chosen_on_training_spots_as_by_scikit_learn() {
    let by_patient = [
        0.391_855_753_465_660_6,
        0.391_855_753_465_660_6,
        0.424_782_842_429_901_2,
        0.497_967_949_806_185_1,
        0.504_004_207_970_464_9,
        0.504_004_207_970_464_9,
    ];
    let by_spot = [
        0.384_404_204_491_161_03,
        0.395_515_315_602_272_16,
        0.395_048_149_917_715_14,
        0.450_340_770_340_770_3,
        0.473_427_104_296_669_45,
        0.473_427_104_296_669_45,
    ];
    for (patients, expected, by) in
        [(&["A", "B", "C", "D"][..], by_patient, "patient"), (&["A"], by_spot, "spot")]
    {
        let (features, train) = overlapping(patients, 120);
        let bench = Bench::new().input("features", &features).input("train", &train);
        let done = bench.run::<Probe>(json!({ "c": "auto", "tolerance": 1e-8 })).unwrap();
        let training: Metrics = done.output("training");
        for (found, expected) in training.curves["inner_macro_f1"].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{by}: {found} is not {expected}");
        }
        assert_eq!(training.values["c"], 1.0, "10 is no better, so the simpler one");
        assert_eq!(training.values["inner_macro_f1"], training.curves["inner_macro_f1"][4]);
        assert_eq!(training.details["choice"]["held_back_by"], by);
    }
}

#[test]
fn a_choice_does_not_see_the_other_spots() {
    let (features, train) = overlapping(&["A", "B"], 120);
    let choose = |features: &Embedding| {
        let bench = Bench::new().input("features", features).input("train", &train);
        let training: Metrics =
            bench.run::<Probe>(json!({ "c": [0.1, 0.01, 1] })).unwrap().output("training");
        training.curves["inner_macro_f1"].clone()
    };
    let mut more = features.clone();
    more.spots.push("T_0".into());
    more.values.extend([1e4; 4]);
    assert_eq!(choose(&features), choose(&more));
}

#[test]
fn where_nothing_can_be_held_back_c_is_1() {
    let features = embedding((0..4).map(|i| (format!("S_{i}"), vec![i as f32])));
    let train = train_labels([("S_0", "A", "fat"), ("S_3", "A", "tumour")]);
    let bench = Bench::new().input("features", &features).input("train", &train);
    let training: Metrics = bench.run::<Probe>(json!({ "c": "auto" })).unwrap().output("training");
    assert_eq!(training.values["c"], 1.0);
    assert!(!training.curves.contains_key("inner_macro_f1"));
}
