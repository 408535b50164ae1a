//! Which `c`: by cross-validation among the training spots.

use rayon::prelude::*;
use restage_stage::{Context, Result, artifact::Metrics};
use serde_json::json;

use super::{Params, scaling};
use crate::{
    features::Features,
    folds::{By, Folds},
    lbfgs::Stop,
    logistic::Problem,
    scores::Confusion,
    training::Training,
};

/// Folds at most: scikit-learn's default.
const FOLDS: usize = 5;
/// Scores that are not farther apart are equal.
const EQUAL: f64 = 1e-12;

/// What was chosen, and from what.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) c: f64,
    candidates: Vec<f64>,
    /// Macro F1 of each candidate, the mean over folds.
    scores: Vec<f64>,
    by: By,
    folds: usize,
}

impl Choice {
    /// Tries candidates, the smallest first; none if nothing can be held back.
    ///
    /// Everything is fitted anew on a fold's own training spots: the scaling and class weights too.
    pub(super) fn of(
        features: &Features,
        training: &Training,
        candidates: &[f64],
        params: &Params,
        stop: Stop,
        ctx: &Context,
    ) -> Result<Option<Self>> {
        let Some(folds) = Folds::of(training, FOLDS) else { return Ok(None) };
        let of_folds = (0..folds.count)
            .into_par_iter()
            .map(|fold| of_fold(features, training, candidates, params, stop, folds.sides(fold), ctx))
            .collect::<Result<Vec<_>>>()?;
        let of_folds: Vec<Vec<f64>> = of_folds.into_iter().flatten().collect();
        if of_folds.is_empty() {
            return Ok(None);
        }
        let mean =
            |place: usize| of_folds.iter().map(|scores| scores[place]).sum::<f64>() / of_folds.len() as f64;
        let scores: Vec<f64> = (0..candidates.len()).map(mean).collect();
        let best = simplest_best(&scores);
        tracing::info!(
            "c is {} of {candidates:?}: macro F1 {:.3} on {} folds of training spots, held back by {:?}",
            candidates[best],
            scores[best],
            of_folds.len(),
            folds.by,
        );
        Ok(Some(Self {
            c: candidates[best],
            candidates: candidates.to_vec(),
            scores,
            by: folds.by,
            folds: of_folds.len(),
        }))
    }

    /// Adds it to what is told of the training.
    pub(super) fn tell(self, training: &mut Metrics) {
        let best = simplest_best(&self.scores);
        training.values.insert("inner_macro_f1".into(), self.scores[best]);
        training.details["choice"] = json!({
            "c": self.candidates,
            "macro_f1": self.scores,
            "folds": self.folds,
            "held_back_by": self.by,
            "rule": "largest mean macro F1 over folds of training spots; of equal ones the smallest c",
        });
        training.curves.insert("inner_macro_f1".into(), self.scores);
    }
}

/// The first of the best.
fn simplest_best(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, next| if scores[next] > scores[best] + EQUAL { next } else { best })
}

/// The macro F1 of each candidate on spots held back; none if those left are all of one region.
fn of_fold(
    features: &Features,
    training: &Training,
    candidates: &[f64],
    params: &Params,
    stop: Stop,
    (left, held): (Vec<usize>, Vec<usize>),
    ctx: &Context,
) -> Result<Option<Vec<f64>>> {
    let spots = |places: &[usize]| places.iter().map(|&place| training.spots[place]).collect::<Vec<_>>();
    let targets = |places: &[usize]| places.iter().map(|&place| training.targets[place]).collect::<Vec<_>>();
    let (spots, held_spots, targets, truth) = (spots(&left), spots(&held), targets(&left), targets(&held));
    // Regions that only the spots held back have cannot be learnt: without their own class they are simply missed.
    let mut present: Vec<usize> = targets.clone();
    present.sort_unstable();
    present.dedup();
    if present.len() < 2 {
        return Ok(None);
    }
    let targets: Vec<usize> = targets.iter().map(|class| present.partition_point(|p| p < class)).collect();
    let scaling = scaling(features, &spots, params.standardize);
    let rows = features.matrix(&spots, &scaling);
    let held_rows = features.matrix(&held_spots, &scaling);
    let class_weights = params.class_weight.of(&targets, present.len());
    let name = |class: usize| training.classes[class].as_str();
    let mut scores = Vec::with_capacity(candidates.len());
    let mut last = None;
    for &c in candidates {
        let problem = Problem {
            dims: features.dims(),
            rows: &rows,
            targets: &targets,
            class_weights: &class_weights,
            c,
        };
        let heard = |_, _| ctx.check_cancelled();
        let (model, _) = match last.take() {
            None => problem.fit(stop, heard)?,
            Some(last) => problem.fit_from(last, stop, heard)?,
        };
        let mut probabilities = vec![0.0; present.len()];
        let mut pairs = Vec::with_capacity(held.len());
        for (row, &truth) in held_rows.chunks_exact(features.dims()).zip(&truth) {
            model.probabilities(row, &mut probabilities);
            let first_largest = (1..present.len())
                .fold(0, |best, next| if probabilities[next] > probabilities[best] { next } else { best });
            pairs.push((name(truth), name(present[first_largest])));
        }
        scores.push(Confusion::count(pairs).scores()["macro_f1"]);
        last = Some(model);
    }
    Ok(Some(scores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_ones_the_simplest_wins() {
        assert_eq!(simplest_best(&[0.5, 0.7, 0.7, 0.6]), 1);
        assert_eq!(simplest_best(&[0.7, 0.7 + 1e-15, 0.2]), 0);
    }
}
