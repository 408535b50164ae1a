//! What a reader may take wrongly: a metric that nobody gives, a mean over what a stage is mapped over, and a difference that
//! points one way over all spots and the other way by group.

use std::collections::BTreeSet;

use super::{super::outcome::Outcome, Row};
use crate::workflow::{MetricRef, suggest};

/// What is to be said of where the metrics come from.
pub(super) fn of_metrics(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    let metrics = &outcome.comparison.metrics;
    for (place, metric) in metrics.iter().enumerate() {
        let instances = outcome.instances.iter().filter(|instance| instance.stage == metric.stage);
        let mut given = BTreeSet::new();
        let mut mapped = BTreeSet::new();
        for instance in instances {
            mapped.extend(instance.at.keys().map(String::as_str));
            given.extend(
                outcome.done(instance).into_iter().flat_map(|done| done.metrics.keys().map(String::as_str)),
            );
        }
        notes.extend(unknown(metric, &given));
        let is_told = metrics[..place].iter().any(|before| before.stage == metric.stage);
        if !is_told && given.contains(metric.name.as_str()) {
            notes.extend(mean_over(&metric.stage, &mapped));
        }
    }
    notes
}

/// That nobody gives a metric, where others are given.
fn unknown(metric: &MetricRef, given: &BTreeSet<&str>) -> Option<String> {
    let is_unknown = !given.is_empty() && !given.contains(metric.name.as_str());
    is_unknown.then(|| {
        let help = suggest(&metric.name, given.iter().copied());
        format!("no metric `{}`: `{}` gives no `{}`; {help}", metric, metric.stage, metric.name)
    })
}

/// That a score is a mean of scores.
fn mean_over(stage: &str, mapped: &BTreeSet<&str>) -> Option<String> {
    let over: Vec<&str> = mapped.iter().copied().collect();
    (!over.is_empty()).then(|| {
        format!(
            "`{stage}` is mapped over {}: its scores are means over them; with `gather: {}` they would be of all spots together",
            over.join(", "),
            over.join(", ")
        )
    })
}

/// Variants that are ahead over all spots and behind by group, or the other way round.
pub(super) fn of_directions(rows: &[Row]) -> Option<String> {
    let turned = rows.iter().filter_map(|row| {
        let (pooled, by_group) = (row.difference?, row.comparison.as_ref()?.mean);
        points_both_ways(pooled, by_group)
            .then(|| format!("`{}` ({pooled:+.3}, by group {by_group:+.3})", row.variant))
    });
    let turned: Vec<String> = turned.collect();
    (!turned.is_empty()).then(|| {
        format!(
            "the difference points one way over all test spots, where large groups count more, and the other way by group: {}",
            super::shortened(&turned)
        )
    })
}

/// Whether two differences that are shown with three digits are of opposite sign.
pub(crate) fn points_both_ways(pooled: f64, by_group: f64) -> bool {
    const SHOWN: f64 = 0.0005;
    pooled.abs() >= SHOWN && by_group.abs() >= SHOWN && (pooled > 0.0) != (by_group > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str) -> MetricRef {
        MetricRef { stage: "evaluate".into(), name: name.into() }
    }

    #[test]
    fn a_metric_that_nobody_gives_is_named_with_the_one_that_was_meant() {
        let given = ["accuracy", "macro_f1"].into();
        insta::assert_snapshot!(
            unknown(&metric("macro_f"), &given).unwrap(),
            @"no metric `evaluate.macro_f`: `evaluate` gives no `macro_f`; did you mean `macro_f1`?"
        );
        assert_eq!(unknown(&metric("macro_f1"), &given), None);
        assert_eq!(unknown(&metric("macro_f"), &BTreeSet::new()), None, "nothing is done yet");
    }

    #[test]
    fn a_mean_over_what_a_stage_is_mapped_over_is_called_one() {
        insta::assert_snapshot!(
            mean_over("evaluate", &["held_out"].into()).unwrap(),
            @"`evaluate` is mapped over held_out: its scores are means over them; with `gather: held_out` they would be of all spots together"
        );
        assert_eq!(mean_over("evaluate", &BTreeSet::new()), None);
    }

    #[test]
    fn differences_that_point_both_ways_are_told() {
        assert!(points_both_ways(0.02, -0.01) && points_both_ways(-0.02, 0.01));
        assert!(!points_both_ways(0.02, 0.01) && !points_both_ways(0.02, -0.0001));
    }
}
