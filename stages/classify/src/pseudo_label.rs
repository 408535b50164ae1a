//! `classify/pseudo-label`: what a classifier is sure of, as labels to train the next one on.

use std::collections::{BTreeMap, HashMap, HashSet};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Labels, Metrics, Predictions, Role, Split, Table, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    training::{refuse_test_spots, told},
};

/// Adds confident predictions to the training labels.
pub enum PseudoLabel {}

/// What `classify/pseudo-label` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// The probability from which on a prediction is taken for a label. Default 0.95.
    #[schemars(range(min = 0, max = 1))]
    pub confidence: f64,
    /// Of each region at most so many, the most confident ones: without a limit frequent regions grow the most. Default
    /// null: all.
    #[schemars(range(min = 1))]
    pub at_most: Option<usize>,
}

impl Default for Params {
    fn default() -> Self {
        Self { confidence: 0.95, at_most: None }
    }
}

impl Stage for PseudoLabel {
    const NAME: &'static str = "pseudo-label";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Takes predictions of unlabelled spots for labels where they are confident, and adds them to the training labels. \
             Only spots of the split's training side are taken: never one that is tested on, nor one in the gap between.",
        )
        .input::<Predictions>("predictions", "of a classifier that these training labels trained")
        .input::<TrainLabels>("train", "the expert's training labels; all stay")
        .input::<Split>("split", "which spots train")
        .input::<Table>("table", "section and patient of each spot")
        .output::<TrainLabels>("train", "the expert's labels, then those that were added")
        .output::<Metrics>("summary", "labels before, added, and how many could have been; per region")
    }

    fn validate(params: &Params) -> Result<()> {
        check::one_or_more(&[("at_most", params.at_most.unwrap_or(1))])?;
        if !(0.0..=1.0).contains(&params.confidence) {
            return Err(Error::invalid(format!(
                "`confidence` is {}: it must be a probability, from 0 to 1",
                params.confidence
            )));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let TrainLabels(train) = ctx.read("train")?;
        let predictions: Predictions = ctx.read("predictions")?;
        let split: Split = ctx.read("split")?;
        let table: Table = ctx.read("table")?;
        ctx.named_only("table");
        let (labels, summary) = add(train, &predictions, &split, &table, &params)?;
        ctx.write("train", &TrainLabels(labels))?;
        ctx.write("summary", &summary)
    }
}

fn add(
    mut labels: Labels,
    predictions: &Predictions,
    split: &Split,
    table: &Table,
    params: &Params,
) -> Result<(Labels, Metrics)> {
    refuse_test_spots(&labels, split)?;
    let labelled: HashSet<&str> = labels
        .spots
        .iter()
        .zip(&labels.regions)
        .filter_map(|(spot, region)| region.as_ref().map(|_| spot.as_str()))
        .collect();
    let before = labelled.len();
    let roles = split.roles();
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();

    let (mut candidates, mut confident) = (0, vec![Vec::new(); predictions.classes.len()]);
    for (place, spot) in predictions.spots.iter().enumerate() {
        let trains = roles.get(spot.as_str()) == Some(&Role::Train);
        if !trains || labelled.contains(spot.as_str()) || !rows.contains_key(spot.as_str()) {
            continue;
        }
        candidates += 1;
        let class = predictions.predicted_class(place);
        let probability = predictions.row(place)[class];
        if f64::from(probability) >= params.confidence {
            confident[class].push((place, probability));
        }
    }
    if candidates == 0 {
        return Err(Error::invalid(
            "no unlabelled spot of the split's training side has a prediction and is in the table: there is nothing to add",
        ));
    }
    let mut added = Vec::new();
    for of_class in &mut confident {
        // Of equal ones the first come first.
        of_class.sort_by(|a, b| b.1.total_cmp(&a.1));
        of_class.truncate(params.at_most.unwrap_or(usize::MAX));
        added.extend(of_class.iter().map(|&(place, _)| place));
    }
    added.sort_unstable();
    let per_region: BTreeMap<&str, usize> =
        predictions.classes.iter().map(String::as_str).zip(confident.iter().map(Vec::len)).collect();
    if added.is_empty() {
        tracing::warn!(
            "none of {candidates} unlabelled training spots reaches confidence {}: labels stay as they are",
            params.confidence
        );
    }
    let values = [("before", before), ("added", added.len()), ("candidates", candidates)];
    let summary =
        told(values.map(|(name, value)| (name, value as f64)), json!({ "added_per_region": per_region }));

    // A spot that the expert left open may be here without a region: it gets one where it stands.
    drop(labelled);
    let open: HashMap<String, usize> = labels.spots.iter().cloned().zip(0..).collect();
    for place in added {
        let spot = &predictions.spots[place];
        let region = Some(predictions.predicted(place).to_owned());
        if let Some(&at) = open.get(spot) {
            labels.regions[at] = region;
            continue;
        }
        let row = rows[spot.as_str()];
        let known = |name: Option<&str>, what: &str| {
            name.map(str::to_owned)
                .ok_or_else(|| Error::invalid(format!("spot `{spot}` has no {what} in the table")))
        };
        labels.sections.push(known(table.section(row), "section")?);
        labels.patients.push(known(table.patient(row), "patient")?);
        labels.spots.push(spot.clone());
        labels.regions.push(region);
    }
    Ok((labels, summary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, table, train_labels};

    /// Spots A_0 to A_4 train, A_5 is in the gap, B_6 and B_7 test; A_0 and A_1 have labels.
    fn bench(confidences: [f32; 8]) -> Bench {
        let table = table(&[("A", "P"); 6].into_iter().chain([("B", "Q"); 2]).collect::<Vec<_>>());
        let spots = &table.obs.index;
        let split = Split {
            spots: [&spots[..5], &spots[6..]].concat(),
            roles: [vec![Role::Train; 5], vec![Role::Test; 2]].concat(),
        };
        let predictions = Predictions {
            // By id, not by position.
            spots: spots.iter().rev().cloned().collect(),
            classes: vec!["fat".into(), "tumour".into()],
            probabilities: confidences.iter().rev().flat_map(|p| [*p, 1.0 - p]).collect(),
        };
        let train = train_labels([("A_0", "P", "fat"), ("A_1", "P", "tumour")]);
        Bench::new()
            .input("table", &table)
            .input("split", &split)
            .input("predictions", &predictions)
            .input("train", &train)
    }

    fn added(confidences: [f32; 8], params: serde_json::Value) -> Vec<(String, String)> {
        let TrainLabels(labels) = bench(confidences).run::<PseudoLabel>(params).unwrap().output("train");
        let regions = labels.regions.into_iter().map(Option::unwrap);
        labels.spots.into_iter().zip(regions).skip(2).collect()
    }

    #[test]
    fn confident_spots_that_train_are_added_and_no_others() {
        let found = added([0.1, 0.9, 0.97, 0.02, 0.9, 0.99, 0.99, 0.01], json!({}));
        assert_eq!(found, [("A_3".into(), "tumour".into()), ("A_2".into(), "fat".into())]);
    }

    #[test]
    fn of_each_region_the_most_confident_may_be_enough() {
        let confidences = [0.1, 0.9, 0.97, 0.96, 0.99, 0.99, 0.99, 0.01];
        assert_eq!(added(confidences, json!({ "at_most": 1 })), [("A_4".into(), "fat".into())]);
        let none = serde_json::from_value(json!({ "at_most": 0 })).unwrap();
        assert_eq!(
            PseudoLabel::validate(&none).unwrap_err().to_string(),
            "`at_most` is 0: it must be 1 or more"
        );
        assert_eq!(added(confidences, json!({ "confidence": 1.0 })), []);
    }

    #[test]
    fn labels_of_another_split_are_refused() {
        let test = train_labels([("B_6", "Q", "fat")]);
        let mut bench = bench([0.99; 8]);
        bench = bench.replace("train", &test);
        let error = bench.run::<PseudoLabel>(json!({})).err().unwrap().to_string();
        assert!(error.starts_with("spot `B_6` of `train` is one that `split` tests on"), "{error}");
    }
}
