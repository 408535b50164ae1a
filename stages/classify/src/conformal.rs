//! Split conformal sets: of each spot the regions that it may be, so that the true one is missing for a share `alpha` at most,
//! as far as validation and test spots are alike (Vovk et al. 2005; the score of Sadinle, Lei and Wasserman 2019).

use std::collections::HashMap;

use restage_stage::{
    Error, Result,
    artifact::{Labels, Predictions},
};
use serde::Serialize;

/// The probability that a region needs to be in a set, from labels that neither trained nor test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Threshold {
    /// Regions of at least this probability are in the set; none: all are, as there are too few labels for so small an `alpha`.
    pub(crate) least: Option<f64>,
    /// Labels it was found on.
    pub(crate) labels: usize,
}

impl Threshold {
    /// The `⌈(n + 1)(1 - alpha)⌉`th largest of the true regions' probabilities.
    pub(crate) fn fit(predictions: &Predictions, validation: &Labels, alpha: f64) -> Result<Self> {
        let mut of_truth = Vec::new();
        for (position, truth) in positions(predictions, validation)? {
            of_truth.push(truth.map_or(0.0, |class| f64::from(predictions.row(position)[class])));
        }
        of_truth.sort_by(|a, b| b.total_cmp(a));
        // A hair less, so that 10 * (1 - 0.1) is 9.
        let rank = ((of_truth.len() + 1) as f64 * (1.0 - alpha) - 1e-9).ceil().max(1.0) as usize;
        Ok(Self { least: of_truth.get(rank - 1).copied(), labels: of_truth.len() })
    }

    /// Whether the true region is in a spot's set, and how many are.
    pub(crate) fn set(&self, row: &[f32], truth: Option<usize>) -> (bool, usize) {
        let is_in = |class: usize| self.least.is_none_or(|least| f64::from(row[class]) >= least);
        (truth.is_some_and(is_in), (0..row.len()).filter(|class| is_in(*class)).count())
    }
}

/// The position of each labelled spot in the predictions, and its region's class if it is one of theirs.
///
/// # Errors
/// If there is no label, or a spot has no prediction.
pub(crate) fn positions(predictions: &Predictions, labels: &Labels) -> Result<Vec<(usize, Option<usize>)>> {
    let places = predictions.positions();
    let classes: HashMap<&str, usize> = predictions.classes.iter().map(String::as_str).zip(0..).collect();
    let mut found = Vec::new();
    for (spot, region) in labels.spots.iter().zip(&labels.regions) {
        let Some(region) = region else { continue };
        let position = places.get(spot.as_str()).ok_or_else(|| {
            Error::invalid(format!(
                "spot `{spot}` of `validation` has no prediction: predict all spots of the table"
            ))
        })?;
        found.push((*position, classes.get(region.as_str()).copied()));
    }
    if found.is_empty() {
        return Err(Error::invalid(
            "`validation` has no label: give `classify/split` a `validation` or a `validation_share`",
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::train_labels;

    /// Spot i is of region `a` with probability (i + 1) / 10, of `b` otherwise.
    fn predictions(count: usize) -> Predictions {
        let first = |spot: usize| (spot + 1) as f32 / 10.0;
        Predictions {
            spots: (0..count).map(|spot| format!("s_{spot}")).collect(),
            classes: vec!["a".into(), "b".into()],
            probabilities: (0..count).flat_map(|spot| [first(spot), 1.0 - first(spot)]).collect(),
        }
    }

    fn labels(count: usize, region: &'static str) -> Labels {
        train_labels((0..count).map(|spot| (format!("s_{spot}"), "A", region))).0
    }

    #[test]
    fn the_threshold_is_the_quantile_with_the_correction_for_few() {
        // True regions have the probabilities 0.1, 0.2, …, 0.9.
        let of = |alpha| Threshold::fit(&predictions(9), &labels(9, "a"), alpha).unwrap();
        let least = |alpha: f64| of(alpha).least.map(|least| (least * 10.0).round());
        assert_eq!([0.5, 0.2, 0.1].map(least), [Some(5.0), Some(2.0), Some(1.0)]);
        assert_eq!(
            of(0.05),
            Threshold { least: None, labels: 9 },
            "9 labels tell nothing of one error in 20"
        );
        assert_eq!(of(0.05).set(&[0.0, 1.0], Some(0)), (true, 2));
        assert_eq!(of(0.5).set(&[0.4, 0.6], Some(0)), (false, 1));
        assert_eq!(of(0.5).set(&[0.5, 0.5], Some(1)), (true, 2));
    }

    #[test]
    fn without_labels_there_is_no_threshold() {
        let problem = |labels: &Labels| Threshold::fit(&predictions(3), labels, 0.1).unwrap_err().to_string();
        assert!(problem(&Labels::default()).contains("`validation_share`"));
        assert!(problem(&labels(4, "a")).starts_with("spot `s_3` of `validation` has no prediction"));
        let unknown = Threshold::fit(&predictions(3), &labels(3, "c"), 0.5).unwrap();
        assert_eq!(unknown.least, Some(0.0), "a region that is never predicted is always missed");
    }
}
