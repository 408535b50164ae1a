//! Learning curves of a run's stages: from its journal, or, for what did not run, from the artifacts.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use restage_cache::Store;
use restage_stage::catalogue::PortType;

use super::{
    super::outcome::{ActionOutcome, Outcome},
    artifact,
    figures::{self, Band, Line},
    plot::Figure,
    text::{listed, metric, sentence, slug},
    workflow::compared,
};

/// More points than a screen has pixels for are thinned out.
const MOST_POINTS: usize = 200;

/// A figure, and whether it is of what was minimised.
pub(super) struct Curve {
    pub(super) stage: String,
    pub(super) is_loss: bool,
    pub(super) figure: Figure,
}

/// Step to value.
type Points = BTreeMap<u64, f64>;

/// All curves, stage by stage, losses first.
pub(super) fn curves(outcome: &Outcome, store: &Store) -> Vec<Curve> {
    let of_actions: Vec<BTreeMap<String, Points>> =
        outcome.actions.iter().map(|action| of_action(action, store)).collect();
    let mut stages: IndexMap<&str, BTreeSet<&str>> = IndexMap::new();
    for instance in &outcome.instances {
        let Some(curves) = of_actions.get(instance.action) else { continue };
        let names = curves.iter().filter(|(_, points)| points.len() > 1).map(|(name, _)| name.as_str());
        let all: BTreeSet<&str> = names.collect();
        if !all.is_empty() {
            stages.entry(&instance.stage).or_default().extend(all);
        }
    }
    let mut figures = Vec::new();
    for (stage, names) in stages {
        let of_stage = names.into_iter().map(|name| {
            let lines = lines(outcome, stage, name, &of_actions);
            let title = format!(
                "{} of {stage}, step by step: means over {}, and their range",
                sentence(&metric(name)),
                listed(&over(outcome, stage))
            );
            let figure = figures::curves(
                &format!("curve-{}-{}", slug(stage), slug(name)),
                &title,
                ("step", &metric(name)),
                &lines,
            );
            Curve { stage: stage.to_owned(), is_loss: name.split('_').any(|word| word == "loss"), figure }
        });
        let mut of_stage: Vec<Curve> = of_stage.collect();
        of_stage.sort_by_key(|curve| !curve.is_loss);
        figures.extend(of_stage);
    }
    figures
}

/// What a line is a mean over: seeds, and what its stage is mapped over.
fn over(outcome: &Outcome, stage: &str) -> Vec<String> {
    let instances = outcome.instances.iter().filter(|instance| instance.stage == stage);
    let mapped: BTreeSet<&String> = instances.flat_map(|instance| instance.at.keys()).collect();
    std::iter::once("seeds".to_owned()).chain(mapped.into_iter().map(|name| format!("`{name}`"))).collect()
}

fn of_action(action: &ActionOutcome, store: &Store) -> BTreeMap<String, Points> {
    let told = action.curves.iter();
    let told: BTreeMap<String, Points> = told
        .map(|(name, points)| {
            let points = points.iter().filter_map(|(step, value)| Some((*step, (*value)?)));
            (name.clone(), points.filter(|(_, value)| value.is_finite()).collect())
        })
        .collect();
    if told.values().any(|points: &Points| points.len() > 1) {
        return told;
    }
    let kept = kept_curves(action, store).into_iter();
    kept.map(|(name, values)| (name, (0..).zip(values).filter(|(_, value)| value.is_finite()).collect()))
        .collect()
}

/// The curves that an action's metrics keep, whoever computed them.
pub(crate) fn kept_curves(action: &ActionOutcome, store: &Store) -> BTreeMap<String, Vec<f64>> {
    let folders = action.outputs(PortType::Metrics).filter_map(|(_, digest)| store.artifact(&digest).ok()?);
    folders.flat_map(|root| artifact::curves(&root)).collect()
}

/// A line a variant; variants that share all their actions share one.
fn lines(outcome: &Outcome, stage: &str, name: &str, of_actions: &[BTreeMap<String, Points>]) -> Vec<Line> {
    let mut shared: IndexMap<BTreeSet<usize>, Vec<&str>> = IndexMap::new();
    for variant in compared(outcome) {
        let own = outcome.of_variant(variant).filter(|instance| instance.stage == stage);
        let actions: BTreeSet<usize> = own
            .map(|instance| instance.action)
            .filter(|action| of_actions.get(*action).is_some_and(|curves| curves.contains_key(name)))
            .collect();
        if !actions.is_empty() {
            shared.entry(actions).or_default().push(variant);
        }
    }
    let everyone = compared(outcome).count();
    let line = |(actions, variants): (BTreeSet<usize>, Vec<&str>)| {
        let is_baseline = variants.contains(&outcome.baseline.as_str());
        let place = compared(outcome).position(|variant| Some(&variant.as_str()) == variants.first());
        let name_of = match variants[..] {
            [only] => only.to_owned(),
            _ if variants.len() == everyone => "all variants".to_owned(),
            [first, ..] => {
                let first = if is_baseline { outcome.baseline.as_str() } else { first };
                format!("{first} and {} more", variants.len() - 1)
            }
            [] => String::new(),
        };
        let all: Vec<&Points> =
            actions.iter().filter_map(|action| of_actions.get(*action)?.get(name)).collect();
        Line { name: name_of, is_baseline, place: place.unwrap_or(0), points: bands(&all) }
    };
    shared.into_iter().map(line).collect()
}

/// Mean and range of several curves, step by step; one that has ended stays where it was, or the mean would jump.
fn bands(curves: &[&Points]) -> Vec<Band> {
    let steps: BTreeSet<u64> = curves.iter().flat_map(|points| points.keys().copied()).collect();
    let stride = steps.len().div_ceil(MOST_POINTS).max(1);
    let last = steps.len().saturating_sub(1);
    let kept = steps.iter().enumerate().filter(|(place, _)| place % stride == 0 || *place == last);
    kept.map(|(_, step)| {
        let values: Vec<f64> =
            curves.iter().filter_map(|points| Some(*points.range(..=step).next_back()?.1)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Band { step: *step as f64, mean, low, high }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_mean_of_its_seeds_and_their_range() {
        let (a, b) = (Points::from([(0, 1.0), (1, 3.0)]), Points::from([(0, 5.0)]));
        let bands = bands(&[&a, &b]);
        assert_eq!(bands[0], Band { step: 0.0, mean: 3.0, low: 1.0, high: 5.0 });
        assert_eq!(bands[1], Band { step: 1.0, mean: 4.0, low: 3.0, high: 5.0 }, "the second has ended");
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_end() {
        let long: Points = (0..10_001).map(|step| (step, step as f64)).collect();
        let bands = bands(&[&long]);
        assert!(bands.len() <= MOST_POINTS + 1, "{}", bands.len());
        assert_eq!((bands[0].step, bands.last().unwrap().step), (0.0, 10_000.0));
    }
}
