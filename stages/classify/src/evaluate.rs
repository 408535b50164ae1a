//! `classify/evaluate`: predictions against held-out labels.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Metrics, Predictions, TestLabels},
    marks::{Mark, MarkKind},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::scores::Confusion;

/// Scores predictions on held-out labels.
pub enum Evaluate {}

/// `classify/evaluate` has no params.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {}

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
        .output::<Metrics>("metrics", "accuracy, macro_f1, kappa, rand_index, … and the confusion matrix")
    }

    fn run(_: Params, ctx: &Context) -> Result<()> {
        let predictions: Vec<Predictions> = ctx.read_all("predictions")?;
        let test: Vec<TestLabels> = ctx.read_all("test")?;
        let mut metrics = score(&judge(&predictions, &test)?);
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
        "inductive: nothing was fitted on what is tested on; transductive: something was, without its labels; optimistic: \
         the split lets test spots resemble training spots more than new tissue would"
    );
}

/// A test spot with what it is and what it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict<'a> {
    patient: &'a str,
    truth: &'a str,
    predicted: &'a str,
}

/// Pairs each test label with the prediction of its spot.
fn judge<'a>(predictions: &'a [Predictions], test: &'a [TestLabels]) -> Result<Vec<Verdict<'a>>> {
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
    for (predictions, TestLabels(labels)) in predictions.iter().zip(test) {
        let positions = predictions.positions();
        for ((spot, patient), region) in labels.spots.iter().zip(&labels.patients).zip(&labels.regions) {
            let Some(truth) = region.as_deref() else { continue };
            let Some(&position) = positions.get(spot.as_str()) else {
                missing.get_or_insert((spot, 0)).1 += 1;
                continue;
            };
            seen.insert(spot.as_str());
            verdicts.push(Verdict { patient, truth, predicted: predictions.predicted(position) });
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
    let confusion = |patient: Option<&str>| {
        let of_patient =
            verdicts.iter().filter(move |verdict| patient.is_none_or(|name| verdict.patient == name));
        Confusion::count(of_patient.map(|verdict| (verdict.truth, verdict.predicted)))
    };
    let pooled = confusion(None);
    let patients: BTreeSet<&str> = verdicts.iter().map(|verdict| verdict.patient).collect();
    let groups: BTreeMap<String, BTreeMap<String, f64>> =
        patients.into_iter().map(|patient| (patient.to_owned(), confusion(Some(patient)).scores())).collect();
    let mut values = pooled.scores();
    for name in ["macro_f1", "accuracy"] {
        let mean = groups.values().map(|scores| scores[name]).sum::<f64>() / groups.len() as f64;
        values.insert(format!("{name}_patient_mean"), mean);
    }
    Metrics { values, groups, curves: BTreeMap::new(), details: details(&pooled) }
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
            "balanced_accuracy": "mean recall over the classes present in the truth",
            "precision": "0 for a class that is never predicted",
            "kappa": "Cohen's, unweighted; 0 where truth and prediction are of one and the same class",
            "mcc": "Gorodkin's for several classes; 0 where truth or prediction is of one class",
            "rand_index": "over pairs of test spots, regions taken as clusters; 1 where there is no pair",
            "ari": "Hubert and Arabie's; 1 where truth and prediction agree on every pair",
            "majority_share": "accuracy of always naming the most frequent test class",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, test_labels};

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
    fn lists_are_paired_by_place_and_pooled() {
        let folds =
            [predictions(&[("a", "fat"), ("b", "fat")]), predictions(&[("a", "tumour"), ("b", "tumour")])];
        let test = [test_labels([("a", "A", "fat")]), test_labels([("b", "B", "fat")])];
        let verdicts = judge(&folds, &test).unwrap();
        assert_eq!(verdicts.iter().map(|verdict| verdict.predicted).collect::<Vec<_>>(), ["fat", "tumour"]);
        let error = judge(&folds, &test[..1]).unwrap_err().to_string();
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
    fn a_test_spot_without_prediction_is_an_error() {
        let test = [test_labels([("a", "A", "fat"), ("b", "A", "fat"), ("c", "A", "fat")])];
        let error = judge(&[predictions(&[("a", "fat")])], &test).unwrap_err().to_string();
        assert!(error.starts_with("2 of 3 test spots have no prediction (first: `b`)"), "{error}");
        assert!(judge(&[predictions(&[("a", "fat")])], &[test_labels([])]).is_err());
    }
}
