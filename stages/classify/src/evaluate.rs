//! `classify/evaluate`: predictions against held-out labels.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Graph, Metrics, Predictions, TestLabels, TrainLabels},
    marks::{Mark, MarkKind},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    calibration::{self, Outcome},
    conformal::Threshold,
    scores::Confusion,
};

/// Scores predictions on held-out labels.
pub enum Evaluate {}

/// What `classify/evaluate` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// With `validation`: for what share of spots the conformal set of regions may miss the true one. Default 0.1.
    pub alpha: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { alpha: 0.1 }
    }
}

impl Stage for Evaluate {
    const NAME: &'static str = "evaluate";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Scores predictions on held-out labels, over all test spots together and per patient. With lists, as of a \
             cross-validation, each set of test labels is scored with the predictions at the same place.",
        )
        .many::<Predictions>("predictions", "predictions of one or several classifiers")
        .many::<TestLabels>("test", "as many sets of held-out labels")
        .optional_many::<TrainLabels>(
            "validation",
            "as many sets of labels that neither trained nor test, e.g. `split.validation`: for conformal sets",
        )
        .optional_many::<Graph>("graph", "who is a neighbour: for the accuracy beside a border of regions and away from it")
        .output::<Metrics>("metrics", "accuracy, macro_f1, kappa, rand_index, ece, … and the confusion matrix")
    }

    fn validate(params: &Params) -> Result<()> {
        if params.alpha > 0.0 && params.alpha < 1.0 {
            return Ok(());
        }
        Err(Error::invalid(format!("alpha: {} should be above 0 and below 1", params.alpha)))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let predictions: Vec<Predictions> = ctx.read_all("predictions")?;
        let test: Vec<TestLabels> = ctx.read_all("test")?;
        let validation: Vec<TrainLabels> = ctx.read_all("validation")?;
        let thresholds = thresholds(&predictions, &validation, params.alpha)?;
        let verdicts = judge(&predictions, &test, &thresholds)?;
        let mut metrics = score(&verdicts);
        if !thresholds.is_empty() {
            tell_conformal(&mut metrics.details, &verdicts, &thresholds, params.alpha);
        }
        let graphs: Vec<Graph> = ctx.read_all("graph")?;
        if !graphs.is_empty() {
            ctx.check_cancelled()?;
            tell_borders(&mut metrics, &verdicts, &graphs);
        }
        let marks: Vec<Mark> = ctx.marks()?.iter().collect();
        tell_setting(&mut metrics.details, &marks, &test);
        ctx.write("metrics", &metrics)
    }
}

/// Says what kind of claim the scores support, and what speaks against a stronger one.
fn tell_setting(details: &mut Value, marks: &[Mark], test: &[TestLabels]) {
    let spots = || test.iter().flat_map(|TestLabels(labels)| labels.spots.iter().map(String::as_str));
    let told: Vec<&Mark> = marks.iter().filter(|mark| mark.concerns(spots())).collect();
    let is = |kind: MarkKind| told.iter().any(|mark| mark.kind == kind);
    let setting = match (is(MarkKind::Optimistic), is(MarkKind::Transductive)) {
        (true, _) => "optimistic",
        (false, true) => "transductive",
        (false, false) => "inductive",
    };
    details["setting"] = json!(setting);
    details["setting_because"] = told.iter().map(|mark| mark.what.as_str()).collect();
    details["permuted_labels"] = json!(is(MarkKind::Permuted));
    details["conventions"]["setting"] = json!(
        "inductive: nothing was fitted on what is tested on; transductive: something was, without its labels, or a script may have \
         been that does not say; optimistic: the split lets test spots resemble training spots more than new tissue would"
    );
}

/// A test spot with what it is and what it was taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Verdict<'a> {
    spot: &'a str,
    patient: &'a str,
    truth: &'a str,
    predicted: &'a str,
    /// Whether the classifier knows the region that it is of: whether that is among its training labels.
    is_known: bool,
    outcome: Outcome,
    /// Whether the true region is in its conformal set, and how many are; none without `validation`.
    set: Option<(bool, usize)>,
}

/// Of each predictions what a region needs to be in a conformal set; nothing without labels to find it on.
fn thresholds(predictions: &[Predictions], validation: &[TrainLabels], alpha: f64) -> Result<Vec<Threshold>> {
    if !validation.is_empty() && validation.len() != predictions.len() {
        return Err(Error::invalid(format!(
            "`predictions` lists {} artifacts and `validation` {}: list as many, in the same order",
            predictions.len(),
            validation.len(),
        )));
    }
    let pairs = predictions.iter().zip(validation);
    pairs.map(|(predictions, TrainLabels(labels))| Threshold::fit(predictions, labels, alpha)).collect()
}

/// Pairs each test label with the prediction of its spot.
fn judge<'a>(
    predictions: &'a [Predictions],
    test: &'a [TestLabels],
    thresholds: &[Threshold],
) -> Result<Vec<Verdict<'a>>> {
    if predictions.len() != test.len() {
        return Err(Error::invalid(format!(
            "`predictions` lists {} artifacts and `test` {}: each set of test labels is scored with the predictions \
             at the same place, so list as many",
            predictions.len(),
            test.len(),
        )));
    }
    let mut verdicts = Vec::new();
    let mut missing: Option<(&str, usize)> = None;
    let mut seen = HashSet::new();
    for (place, (predictions, TestLabels(labels))) in predictions.iter().zip(test).enumerate() {
        let positions = predictions.positions();
        let classes: HashMap<&str, usize> = predictions.classes.iter().map(String::as_str).zip(0..).collect();
        for ((spot, patient), region) in labels.spots.iter().zip(&labels.patients).zip(&labels.regions) {
            let Some(truth) = region.as_deref() else { continue };
            let Some(&position) = positions.get(spot.as_str()) else {
                missing.get_or_insert((spot, 0)).1 += 1;
                continue;
            };
            seen.insert(spot.as_str());
            let (row, predicted) = (predictions.row(position), predictions.predicted_class(position));
            let class = classes.get(truth).copied();
            verdicts.push(Verdict {
                spot,
                patient,
                truth,
                predicted: &predictions.classes[predicted],
                is_known: class.is_some(),
                outcome: Outcome::new(row, predicted, class),
                set: thresholds.get(place).map(|threshold| threshold.set(row, class)),
            });
        }
    }
    if let Some((first, count)) = missing {
        return Err(Error::invalid(format!(
            "{count} of {} test spots have no prediction (first: `{first}`): predict all spots of the table, or split \
             a table that holds only spots with features",
            verdicts.len() + count,
        )));
    }
    if verdicts.is_empty() {
        return Err(Error::invalid("`test` has no spot with a region: there is nothing to score"));
    }
    if seen.len() < verdicts.len() {
        tracing::warn!("{} test spots are scored more than once", verdicts.len() - seen.len());
    }
    Ok(verdicts)
}

/// Scores over all spots, per patient, and their mean over patients.
fn score(verdicts: &[Verdict]) -> Metrics {
    let patients: BTreeSet<&str> = verdicts.iter().map(|verdict| verdict.patient).collect();
    let of_patient = |patient: &str| -> Vec<Verdict> {
        verdicts.iter().filter(|verdict| verdict.patient == patient).copied().collect()
    };
    let groups: BTreeMap<String, BTreeMap<String, f64>> =
        patients.into_iter().map(|patient| (patient.to_owned(), scores(&of_patient(patient)))).collect();
    let mut values = scores(verdicts);
    for name in ["macro_f1", "accuracy"] {
        let mean = groups.values().map(|scores| scores[name]).sum::<f64>() / groups.len() as f64;
        values.insert(format!("{name}_patient_mean"), mean);
    }
    let mut details = details(&confusion(verdicts));
    details["reliability"] = calibration::reliability(&outcomes(verdicts));
    Metrics { values, groups, curves: BTreeMap::new(), details }
}

fn confusion<'a>(verdicts: &[Verdict<'a>]) -> Confusion<'a> {
    Confusion::count(verdicts.iter().map(|verdict| (verdict.truth, verdict.predicted)))
}

fn outcomes(verdicts: &[Verdict]) -> Vec<Outcome> {
    verdicts.iter().map(|verdict| verdict.outcome).collect()
}

/// All scores of some spots by name.
fn scores(verdicts: &[Verdict]) -> BTreeMap<String, f64> {
    let confusion = confusion(verdicts);
    let mut scores = confusion.scores();
    let known: BTreeSet<&str> =
        verdicts.iter().filter(|verdict| verdict.is_known).map(|verdict| verdict.truth).collect();
    scores.extend(confusion.macro_f1_of(&known).map(|f1| ("macro_f1_shared".to_owned(), f1)));
    scores.extend(calibration::scores(&outcomes(verdicts)));
    let sets: Vec<(bool, usize)> = verdicts.iter().filter_map(|verdict| verdict.set).collect();
    if !sets.is_empty() {
        let count = sets.len() as f64;
        let covered = sets.iter().filter(|(covered, _)| *covered).count();
        let sizes: usize = sets.iter().map(|(_, size)| size).sum();
        scores.insert("conformal_coverage".into(), covered as f64 / count);
        scores.insert("conformal_set_size".into(), sizes as f64 / count);
    }
    scores
}

/// Says how conformal sets were made.
fn tell_conformal(details: &mut Value, verdicts: &[Verdict], thresholds: &[Threshold], alpha: f64) {
    let empty = verdicts.iter().filter(|verdict| matches!(verdict.set, Some((_, 0)))).count();
    details["conformal"] = json!({
        "alpha": alpha, "thresholds": thresholds, "empty_share": empty as f64 / verdicts.len() as f64,
    });
    details["conventions"]["conformal"] = json!(
        "a spot's set holds the regions of at least the threshold's probability, which is found on `validation` so that the true \
         region is in the set for 1 - alpha of spots like those; coverage and mean size are those of the test spots"
    );
}

/// Adds the accuracy of test spots that have a neighbour of another region, and of those that have none.
fn tell_borders(metrics: &mut Metrics, verdicts: &[Verdict], graphs: &[Graph]) {
    let truth: HashMap<&str, &str> = verdicts.iter().map(|verdict| (verdict.spot, verdict.truth)).collect();
    let mut at_border: HashMap<&str, bool> = HashMap::new();
    for graph in graphs {
        for (row, spot) in graph.spots.iter().enumerate() {
            let Some(own) = truth.get(spot.as_str()) else { continue };
            let others =
                graph.edges.entries(row).filter_map(|(other, _)| truth.get(graph.spots[other].as_str()));
            *at_border.entry(spot).or_default() |= others.into_iter().any(|other| other != own);
        }
    }
    for (name, is_border) in [("boundary", true), ("interior", false)] {
        let here = || verdicts.iter().filter(|verdict| at_border.get(verdict.spot) == Some(&is_border));
        let count = here().count();
        metrics.values.insert(format!("{name}_n"), count as f64);
        if count > 0 {
            let right = here().filter(|verdict| verdict.truth == verdict.predicted).count();
            metrics.values.insert(format!("{name}_accuracy"), right as f64 / count as f64);
        }
    }
    metrics.details["conventions"]["boundary"] = json!(
        "test spots with a neighbour in `graph` that is tested on and of another region; interior: the others in `graph`"
    );
}

/// What explains the numbers.
fn details(confusion: &Confusion) -> Value {
    let per_class: serde_json::Map<String, Value> = confusion
        .classes
        .iter()
        .zip(confusion.per_class())
        .map(|(&class, scores)| (class.to_owned(), json!(scores)))
        .collect();
    json!({
        "classes": confusion.classes,
        "confusion": confusion.counts,
        "per_class": per_class,
        "conventions": {
            "values": "over all test spots pooled; *_patient_mean: unweighted mean of the patients' scores",
            "groups": "per patient",
            "confusion": "rows: truth, columns: prediction",
            "macro_f1": "unweighted mean over the classes present in the truth",
            "macro_f1_shared": "macro_f1 over those classes only that the training labels have as well; spots of others still count as \
                                mistakes; absent where no class is shared",
            "balanced_accuracy": "mean recall over the classes present in the truth",
            "precision": "0 for a class that is never predicted",
            "kappa": "Cohen's, unweighted; 0 where truth and prediction are of one and the same class",
            "mcc": "Gorodkin's for several classes; 0 where truth or prediction is of one class",
            "rand_index": "over pairs of test spots, regions taken as clusters; 1 where there is no pair",
            "ari": "Hubert and Arabie's; 1 where truth and prediction agree on every pair",
            "majority_share": "accuracy of always naming the most frequent test class",
            "ece": "expected calibration error of the largest probability, 10 bins of equal width, (from, to]",
            "nll": "mean -ln of the true class's probability; below 1.2e-7, or of a class the classifier does not know, that",
            "brier": "squared distance of the probabilities to the truth, summed over classes, mean over spots: 0 to 2",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use restage_stage::artifact::Csr;

    use crate::testing::{Bench, test_labels, train_labels};

    /// Certain predictions.
    fn predictions(spots: &[(&str, &str)]) -> Predictions {
        let classes: BTreeSet<&str> = spots.iter().map(|spot| spot.1).collect();
        Predictions {
            spots: spots.iter().map(|spot| spot.0.to_owned()).collect(),
            probabilities: spots
                .iter()
                .flat_map(|spot| classes.iter().map(|&class| f32::from(u8::from(class == spot.1))))
                .collect(),
            classes: classes.into_iter().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn spots_are_paired_by_id_and_patients_scored_apart() {
        let predicted =
            predictions(&[("b2", "fat"), ("b1", "fat"), ("a3", "fat"), ("a2", "tumour"), ("a1", "tumour")]);
        let test = test_labels([
            ("a1", "A", "tumour"),
            ("a2", "A", "tumour"),
            ("b1", "B", "fat"),
            ("b2", "B", "tumour"),
        ]);
        let bench = Bench::new().input("predictions", &predicted).input("test", &test);
        let metrics: Metrics = bench.run::<Evaluate>(json!({})).unwrap().output("metrics");
        assert_eq!((metrics.values["accuracy"], metrics.values["n"]), (0.75, 4.0));
        assert_eq!(metrics.values["majority_share"], 0.75);
        assert_eq!((metrics.groups["A"]["accuracy"], metrics.groups["B"]["accuracy"]), (1.0, 0.5));
        assert_eq!((metrics.groups["A"]["macro_f1"], metrics.groups["B"]["macro_f1"]), (1.0, 1.0 / 3.0));
        assert_eq!(metrics.values["macro_f1_patient_mean"], 2.0 / 3.0);
        assert_eq!(metrics.values["accuracy_patient_mean"], 0.75);
        assert_eq!(metrics.details["classes"], json!(["fat", "tumour"]));
        assert_eq!(metrics.details["confusion"], json!([[1, 0], [1, 2]]));
        assert_eq!(metrics.details["per_class"]["fat"]["precision"], 0.5);
        assert_eq!(metrics.details["per_class"]["tumour"]["support"], 3);
        assert!(metrics.groups["A"].keys().all(|name| metrics.values.contains_key(name)));
    }

    #[test]
    fn regions_that_nobody_trained_on_can_be_left_out_of_the_mean() {
        // The classifier knows fat and tumour; the test patient has skin too.
        let predicted =
            predictions(&[("a", "fat"), ("b", "tumour"), ("c", "fat"), ("d", "tumour"), ("e", "fat")]);
        let test = test_labels([
            ("a", "A", "fat"),
            ("b", "A", "tumour"),
            ("c", "A", "skin"),
            ("d", "B", "skin"),
            ("e", "B", "skin"),
        ]);
        let bench = Bench::new().input("predictions", &predicted).input("test", &test);
        let metrics: Metrics = bench.run::<Evaluate>(json!({})).unwrap().output("metrics");
        // f1_score(truth, predicted, labels=["fat", "tumour"], average="macro"): fat 2 / (1 + 3), tumour 2 / (1 + 2).
        assert!((metrics.values["macro_f1_shared"] - (0.5 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert!((metrics.values["macro_f1"] - (0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!(!metrics.groups["B"].contains_key("macro_f1_shared"), "B has no region that was trained on");
    }

    #[test]
    fn lists_are_paired_by_place_and_pooled() {
        let folds =
            [predictions(&[("a", "fat"), ("b", "fat")]), predictions(&[("a", "tumour"), ("b", "tumour")])];
        let test = [test_labels([("a", "A", "fat")]), test_labels([("b", "B", "fat")])];
        let verdicts = judge(&folds, &test, &[]).unwrap();
        assert_eq!(verdicts.iter().map(|verdict| verdict.predicted).collect::<Vec<_>>(), ["fat", "tumour"]);
        let error = judge(&folds, &test[..1], &[]).unwrap_err().to_string();
        assert!(error.starts_with("`predictions` lists 2 artifacts and `test` 1"), "{error}");
    }

    #[test]
    fn the_setting_is_what_the_inputs_tell_of_sections_that_are_tested() {
        let test = test_labels([("A1_1", "A", "fat"), ("A1_2", "A", "tumour")]);
        let predicted = predictions(&[("A1_1", "fat"), ("A1_2", "tumour")]);
        let details = |marks: &[(&str, MarkKind, &str, &[&str])]| {
            let mut bench = Bench::new().input("predictions", &predicted).input("test", &test);
            for (port, kind, what, spots) in marks {
                bench = bench.marked(port, *kind, what, spots);
            }
            let bench = bench.run::<Evaluate>(json!({})).unwrap();
            bench.output::<Metrics>("metrics").details
        };
        let of = |details: &Value| (details["setting"].clone(), details["setting_because"].clone());
        let plain = details(&[]);
        assert_eq!(of(&plain), (json!("inductive"), json!([])));
        assert_eq!(plain["permuted_labels"], false);
        let elsewhere: (_, _, _, &[&str]) = ("predictions", MarkKind::Transductive, "pca", &["B1_1"]);
        assert_eq!(of(&details(&[elsewhere])), (json!("inductive"), json!([])));
        let here: (_, _, _, &[&str]) = ("predictions", MarkKind::Transductive, "pca", &["B1_1", "A1_7"]);
        assert_eq!(of(&details(&[here])), (json!("transductive"), json!(["pca"])));
        let random: (_, _, _, &[&str]) = ("test", MarkKind::Optimistic, "random", &[]);
        assert_eq!(of(&details(&[here, random])), (json!("optimistic"), json!(["random", "pca"])));
        let canary = details(&[("predictions", MarkKind::Permuted, "shuffled", &[])]);
        assert_eq!((&canary["setting"], &canary["permuted_labels"]), (&json!("inductive"), &json!(true)));
    }

    #[test]
    fn conformal_sets_are_found_on_validation_and_told_on_test() {
        let spots = ["v1", "v2", "v3", "v4", "t1", "t2", "t3"];
        // The probability of `fat`.
        let fat = [0.9, 0.8, 0.6, 0.3, 0.75, 0.1, 0.55_f32];
        let predicted = Predictions {
            spots: spots.map(str::to_owned).to_vec(),
            classes: vec!["fat".into(), "tumour".into()],
            probabilities: fat.iter().flat_map(|fat| [*fat, 1.0 - fat]).collect(),
        };
        let validation = train_labels(spots[..4].iter().map(|spot| (*spot, "A", "fat")));
        let test = test_labels([("t1", "B", "fat"), ("t2", "B", "fat"), ("t3", "C", "tumour")]);
        let bench = || Bench::new().input("predictions", &predicted).input("test", &test);
        // The second largest of 4 is the ⌈5 * 0.4⌉th: 0.8, so t1 has neither, t2 `tumour`, t3 neither.
        let run = |alpha: f64| -> Metrics {
            bench()
                .input("validation", &validation)
                .run::<Evaluate>(json!({ "alpha": alpha }))
                .unwrap()
                .output("metrics")
        };
        let metrics = run(0.6);
        assert_eq!(
            (metrics.values["conformal_coverage"], metrics.values["conformal_set_size"]),
            (0.0, 1.0 / 3.0)
        );
        assert!(
            (metrics.details["conformal"]["thresholds"][0]["least"].as_f64().unwrap() - 0.8).abs() < 1e-6
        );
        // The fourth: 0.3, so t1 has `fat`, t2 `tumour`, t3 both.
        let metrics = run(0.2);
        assert!((metrics.values["conformal_coverage"] - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.values["conformal_set_size"] - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics.groups["C"]["conformal_coverage"], 1.0);
        assert_eq!(metrics.details["conformal"]["thresholds"][0]["labels"], 4);
        let plain: Metrics = bench().run::<Evaluate>(json!({})).unwrap().output("metrics");
        assert!(!plain.values.contains_key("conformal_coverage") && plain.details.get("conformal").is_none());
        assert!(
            bench()
                .input("validation", &train_labels([("v1", "A", "fat"); 0]))
                .run::<Evaluate>(json!({}))
                .is_err()
        );
    }

    #[test]
    fn borders_are_where_a_neighbour_is_of_another_region() {
        let names = ["a", "b", "c", "d"];
        let predicted = predictions(&[("a", "fat"), ("b", "fat"), ("c", "fat"), ("d", "tumour")]);
        let test =
            test_labels([("a", "A", "fat"), ("b", "A", "fat"), ("c", "A", "tumour"), ("d", "A", "tumour")]);
        let line = Graph {
            spots: names.map(str::to_owned).to_vec(),
            edges: Csr::from_rows(
                4,
                [vec![(1, 1.0)], vec![(0, 1.0), (2, 1.0)], vec![(1, 1.0), (3, 1.0)], vec![(2, 1.0)]],
            ),
        };
        let bench = Bench::new().input("predictions", &predicted).input("test", &test).input("graph", &line);
        let metrics: Metrics = bench.run::<Evaluate>(json!({})).unwrap().output("metrics");
        let of = |name: &str| metrics.values[name];
        assert_eq!((of("boundary_n"), of("boundary_accuracy")), (2.0, 0.5));
        assert_eq!((of("interior_n"), of("interior_accuracy")), (2.0, 1.0));
    }

    #[test]
    fn a_test_spot_without_prediction_is_an_error() {
        let test = [test_labels([("a", "A", "fat"), ("b", "A", "fat"), ("c", "A", "fat")])];
        let error = judge(&[predictions(&[("a", "fat")])], &test, &[]).unwrap_err().to_string();
        assert!(error.starts_with("2 of 3 test spots have no prediction (first: `b`)"), "{error}");
        assert!(judge(&[predictions(&[("a", "fat")])], &[test_labels([])], &[]).is_err());
    }
}
