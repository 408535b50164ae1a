//! Training labels that meet the spots at hand, and predictions for all of these.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;
use restage_stage::{
    Error, Result,
    artifact::{Labels, Metrics, Predictions, Role, Split},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The training spots among those at hand.
#[derive(Debug, PartialEq)]
pub(crate) struct Training {
    /// The regions among them, sorted.
    pub(crate) classes: Vec<String>,
    /// Places among the spots at hand, in the order of the labels.
    pub(crate) spots: Vec<usize>,
    /// Class per spot.
    pub(crate) targets: Vec<usize>,
    /// Patient per spot.
    pub(crate) patients: Vec<String>,
    /// Section per spot.
    pub(crate) sections: Vec<String>,
}

impl Training {
    /// Finds the labels' spots among those of an input.
    ///
    /// # Errors
    /// If fewer than two regions are left.
    pub(crate) fn of<'a>(spots: impl Iterator<Item = &'a str>, labels: &Labels, input: &str) -> Result<Self> {
        let positions: HashMap<&str, usize> = spots.zip(0..).collect();
        let mut training = Self {
            classes: Vec::new(),
            spots: Vec::new(),
            targets: Vec::new(),
            patients: Vec::new(),
            sections: Vec::new(),
        };
        let (mut regions, mut without) = (Vec::new(), 0);
        for (row, (spot, region)) in labels.spots.iter().zip(&labels.regions).enumerate() {
            match (positions.get(spot.as_str()), region) {
                (None, _) => without += 1,
                (Some(_), None) => {}
                (Some(&position), Some(region)) => {
                    training.spots.push(position);
                    training.patients.push(labels.patients[row].clone());
                    training.sections.push(labels.sections[row].clone());
                    regions.push(region.as_str());
                }
            }
        }
        if without > 0 {
            tracing::warn!(
                "{without} of {} training spots are not in `{input}` and are left out",
                labels.spots.len()
            );
        }
        let classes: BTreeSet<&str> = regions.iter().copied().collect();
        if classes.len() < 2 {
            return Err(Error::invalid(match classes.first() {
                None => {
                    format!(
                        "no training spot is in `{input}`: are `{input}` and `train` of the same sections?"
                    )
                }
                Some(only) => format!("all training spots are of region `{only}`: a classifier needs two"),
            }));
        }
        let codes: HashMap<&str, usize> = classes.iter().copied().zip(0..).collect();
        training.targets = regions.iter().map(|region| codes[region]).collect();
        training.classes = classes.into_iter().map(str::to_owned).collect();
        Ok(training)
    }

    /// How many spots there are.
    pub(crate) fn len(&self) -> usize {
        self.spots.len()
    }

    /// The share of the training spots that are predicted right.
    pub(crate) fn accuracy(&self, predictions: &Predictions) -> f64 {
        let right = self.spots.iter().zip(&self.targets);
        let right = right.filter(|&(&spot, &target)| predictions.predicted_class(spot) == target).count();
        right as f64 / self.len() as f64
    }
}

/// How much a spot of each region counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// Every spot counts 1.
    None,
    /// Every region counts the same: a spot counts spots / (regions x spots of its region).
    Balanced,
}

impl ClassWeight {
    /// The weight of each class. One without a spot weighs nothing.
    pub(crate) fn of(self, targets: &[usize], classes: usize) -> Vec<f64> {
        let mut counts = vec![0_u32; classes];
        targets.iter().for_each(|&class| counts[class] += 1);
        let present = counts.iter().filter(|&&count| count > 0).count();
        let weight = |count: u32| match self {
            _ if count == 0 => 0.0,
            Self::None => 1.0,
            Self::Balanced => targets.len() as f64 / (present as f64 * f64::from(count)),
        };
        counts.into_iter().map(weight).collect()
    }
}

/// What a stage tells of how it went: values by name, and what explains them.
pub(crate) fn told<const N: usize>(values: [(&str, f64); N], details: Value) -> Metrics {
    let values = values.map(|(name, value)| (name.to_owned(), value)).into();
    Metrics { values, details, ..Metrics::default() }
}

/// Predictions of which `fill` writes the probabilities of each spot, by its place.
pub(crate) fn predictions<'a>(
    spots: impl Iterator<Item = &'a str>,
    classes: &[String],
    fill: impl Fn(usize, &mut [f64]) + Sync,
) -> Predictions {
    let spots: Vec<String> = spots.map(str::to_owned).collect();
    let mut probabilities = vec![0.0_f32; spots.len() * classes.len()];
    probabilities.par_chunks_mut(classes.len().max(1)).enumerate().for_each_init(
        || vec![0.0; classes.len()],
        |row, (spot, to)| {
            row.fill(0.0);
            fill(spot, row);
            to.iter_mut().zip(row).for_each(|(to, p)| *to = *p as f32);
        },
    );
    Predictions { spots, classes: classes.to_vec(), probabilities }
}

/// Refuses labels to train on of spots that a split tests on.
///
/// # Errors
/// If there is one.
pub(crate) fn refuse_test_spots(labels: &Labels, split: &Split) -> Result<()> {
    let roles = split.roles();
    let tested = labels.spots.iter().find(|spot| roles.get(spot.as_str()) == Some(&Role::Test));
    tested.map_or(Ok(()), |spot| {
        Err(Error::invalid(format!(
            "spot `{spot}` of `train` is one that `split` tests on: connect `train` and `split` of one split"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::train_labels;

    #[test]
    fn labels_meet_spots_by_id() {
        let labels = train_labels([("b", "B", "fat"), ("x", "B", "fat"), ("a", "A", "tumour")]).0;
        let training = Training::of(["a", "b", "c"].into_iter(), &labels, "features").unwrap();
        assert_eq!((training.spots, training.targets), (vec![1, 0], vec![0, 1]));
        assert_eq!(
            (training.classes, training.patients),
            (vec!["fat".into(), "tumour".into()], vec!["B".into(), "A".into()])
        );
    }

    #[test]
    fn a_region_without_spots_has_no_weight() {
        assert_eq!(ClassWeight::Balanced.of(&[0, 0, 0, 2], 3), [4.0 / 6.0, 0.0, 2.0]);
        assert_eq!(ClassWeight::None.of(&[0, 0, 0, 2], 3), [1.0, 0.0, 1.0]);
    }

    #[test]
    fn what_is_tested_on_does_not_train() {
        let split = Split { spots: vec!["a".into(), "b".into()], roles: vec![Role::Train, Role::Test] };
        assert!(refuse_test_spots(&train_labels([("a", "A", "fat")]).0, &split).is_ok());
        let error = refuse_test_spots(&train_labels([("b", "A", "fat")]).0, &split).unwrap_err().to_string();
        assert!(error.starts_with("spot `b` of `train` is one that `split` tests on"), "{error}");
    }
}
