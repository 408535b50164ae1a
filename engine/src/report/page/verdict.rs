//! What a run says in plain sentences: who wins, by how much, and whether that is more than chance.

use super::{
    super::{
        outcome::{Outcome, State},
        table::{Row, Series, Table, p_text, points_both_ways},
    },
    text::{counted, less_is_better, listed, metric, signed},
};

/// From here on a difference is called significant.
const LEVEL: f64 = 0.05;

/// What a comparison with the baseline is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    Better,
    Worse,
    /// Tested, and no more than chance may be.
    Unclear,
    /// So few groups could show nothing.
    Underpowered,
    /// Nothing to test.
    Untested,
}

/// What a row's comparison is worth.
pub(super) fn worth(row: &Row, table: &Table) -> Worth {
    let Some(paired) = &row.comparison else { return Worth::Untested };
    let Some(p) = paired.p_adjusted else { return Worth::Untested };
    if p <= LEVEL {
        let up = paired.mean > 0.0;
        return if up == less_is_better(first(table)) { Worth::Worse } else { Worth::Better };
    }
    if paired.smallest_attainable.is_some() { Worth::Underpowered } else { Worth::Unclear }
}

fn first(table: &Table) -> &str {
    table.metrics.first().map_or("", String::as_str)
}

/// The sentences.
pub(super) fn verdict(outcome: &Outcome, table: &Table) -> String {
    let mut sentences = Vec::new();
    let done = outcome.actions.iter().filter(|action| action.done().is_some()).count();
    if done < outcome.actions.len() {
        let all = outcome.actions.len();
        sentences.push(match outcome.milliseconds {
            None => format!(
                "The run has not ended: {done} of {} are done, and this is how it stands.",
                counted(all, "action")
            ),
            Some(_) if outcome.actions.iter().any(|action| matches!(action.state, State::Failed { .. })) => {
                format!(
                    "The run ended with {done} of {} done; what failed stands below.",
                    counted(all, "action")
                )
            }
            Some(_) => format!(
                "The run was interrupted with {done} of {} done: the same command goes on from there.",
                counted(all, "action")
            ),
        });
    }
    sentences.extend(comparison(table));
    sentences.join(" ")
}

fn comparison(table: &Table) -> Vec<String> {
    let name = first(table);
    if name.is_empty() {
        return vec!["The workflow names no metric under `sweep:`, so there is nothing to compare.".into()];
    }
    let said = metric(name);
    let less = less_is_better(name);
    let better = |a: f64, b: f64| if less { a < b } else { a > b };
    let scored: Vec<(&Row, &Series)> = table
        .rows
        .iter()
        .filter_map(|row| Some((row, row.values.first()?.as_ref()?)))
        .filter(|(_, series)| series.mean.is_finite())
        .collect();
    let Some(&(mut best, mut score)) = scored.first() else {
        return vec![format!("No variant has a {said} yet.")];
    };
    for (row, series) in &scored {
        if better(series.mean, score.mean) {
            (best, score) = (row, series);
        }
    }
    let value = |series: &Series| match series.values.len() {
        1 => format!("{:.3}", series.mean),
        seeds => format!("{series} over {}", counted(seeds, "seed")),
    };
    let baseline = scored.iter().find(|(row, _)| row.variant == table.baseline);
    if scored.len() == 1 {
        return vec![format!(
            "{} reaches a {said} of {}; there is nothing to compare it with.",
            quoted(&best.variant),
            value(score)
        )];
    }
    let Some((_, base)) = baseline else {
        return vec![format!(
            "{} has the best {said}, {}; the baseline has none.",
            quoted(&best.variant),
            value(score)
        )];
    };
    let mut sentences = Vec::new();
    if best.variant == table.baseline {
        let rival = scored.iter().filter(|(row, _)| row.variant != table.baseline);
        let rival = rival.reduce(|a, b| if better(b.1.mean, a.1.mean) { b } else { a });
        sentences.push(format!("No variant beats the baseline, whose {said} is {}.", value(base)));
        if let Some((row, series)) = rival {
            let away = signed(series.mean - base.mean);
            sentences.push(format!(
                "Nearest to it is {}, {away}{}.",
                quoted(&row.variant),
                certainty(row, table)
            ));
        }
    } else {
        let away = signed(score.mean - base.mean);
        sentences.push(format!(
            "{} has the best {said}, {}: {away} against the baseline’s {:.3}{}.",
            quoted(&best.variant),
            value(score),
            base.mean,
            certainty(best, table)
        ));
    }
    sentences.extend(counts(table));
    sentences
}

/// How sure that is, to follow a difference.
fn certainty(row: &Row, table: &Table) -> String {
    let Some(paired) = &row.comparison else {
        return match table.groups.len() {
            0 => {
                ", untested: the metric has no groups such as patients, and seeds are not independent".into()
            }
            _ => ", untested: it has no values of the baseline’s groups".into(),
        };
    };
    let groups = counted(paired.groups, "group");
    let is_turned = row.difference.is_some_and(|pooled| points_both_ways(pooled, paired.mean));
    let by_group = format!("{}by group {}", if is_turned { "but " } else { "" }, signed(paired.mean));
    let interval = match paired.interval {
        Some([low, high]) => format!("{by_group}, 95 % interval {} to {}", signed(low), signed(high)),
        None => by_group,
    };
    match (worth(row, table), paired.p_adjusted, paired.smallest_attainable) {
        (Worth::Underpowered, _, Some(smallest)) => format!(
            " ({interval}), which {groups} cannot show to be significant: the smallest attainable p is {}",
            p_text(smallest)
        ),
        (Worth::Better | Worth::Worse, Some(p), _) => {
            format!(" ({interval}, p {} over {groups}): significant", with_sign(p))
        }
        (_, Some(p), _) => format!(" ({interval}, p {} over {groups}): not significant", with_sign(p)),
        _ if paired.groups < 2 => ", untested: all is of one group".into(),
        _ => format!(" ({interval}), untested: it is not of the family of comparisons"),
    }
}

fn with_sign(p: f64) -> String {
    let text = p_text(p);
    if text.starts_with('<') { text } else { format!("= {text}") }
}

/// Which variants differ from the baseline for sure.
fn counts(table: &Table) -> Option<String> {
    let of = |wanted: Worth| -> Vec<String> {
        let rows = table.rows.iter().filter(|row| worth(row, table) == wanted);
        rows.map(|row| quoted(&row.variant)).collect()
    };
    let tested = table.rows.iter().filter(|row| !matches!(worth(row, table), Worth::Untested)).count();
    let (better, worse) = (of(Worth::Better), of(Worth::Worse));
    if tested < 2 {
        return None;
    }
    let variants = counted(tested, "tested variant");
    Some(match (better.len(), worse.len()) {
        (0, 0) if of(Worth::Underpowered).len() == tested => return None,
        (0, 0) => format!("None of {variants} differs significantly from it."),
        (0, _) => format!("Of {variants}, {} significantly worse: {}.", are(worse.len()), listed(&worse)),
        (_, 0) => format!("Of {variants}, {} significantly better: {}.", are(better.len()), listed(&better)),
        _ => format!(
            "Of {variants}, {} significantly better ({}) and {} worse ({}).",
            are(better.len()),
            listed(&better),
            are(worse.len()),
            listed(&worse)
        ),
    })
}

fn are(count: usize) -> String {
    if count == 1 { "1 is".into() } else { format!("{count} are") }
}

fn quoted(variant: &str) -> String {
    format!("“{variant}”")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::statistics::Paired, workflow::Test};

    fn row(variant: &str, values: &[f64], comparison: Option<Paired>) -> Row {
        Row {
            variant: variant.into(),
            values: vec![Series::new(values.to_vec())],
            comparison,
            ..Row::default()
        }
    }

    fn paired(mean: f64, p: f64, smallest: Option<f64>) -> Option<Paired> {
        Some(Paired {
            mean,
            interval: Some([mean - 0.02, mean + 0.02]),
            groups: 8,
            dz: None,
            cliffs_delta: 0.0,
            p: Some(p),
            p_adjusted: Some(p),
            smallest_attainable: smallest,
        })
    }

    fn told(metric: &str, rows: Vec<Row>) -> String {
        let groups = if rows.iter().any(|row| row.comparison.is_some()) {
            vec!["A".to_owned(); 8]
        } else {
            Vec::new()
        };
        let table = Table {
            metrics: vec![metric.to_owned()],
            claims: Vec::new(),
            baseline: "baseline".into(),
            groups,
            test: Test::SignFlip,
            rows,
            spread: None,
            notes: Vec::new(),
        };
        comparison(&table).join(" ")
    }

    #[test]
    fn sentences() {
        let base = || row("baseline", &[0.8, 0.82], None);
        let cases = [
            ("evaluate.macro_f1", vec![base()]),
            ("evaluate.macro_f1", vec![base(), row("pca", &[0.85], None)]),
            (
                "evaluate.macro_f1",
                vec![
                    base(),
                    row("pca", &[0.85], paired(0.04, 0.03, None)),
                    row("raw", &[0.5], paired(-0.3, 0.01, None)),
                ],
            ),
            (
                "evaluate.macro_f1",
                vec![
                    base(),
                    row("pca", &[0.79], paired(-0.02, 0.4, None)),
                    row("raw", &[0.5], paired(-0.3, 0.01, None)),
                ],
            ),
            ("evaluate.macro_f1", vec![base(), row("pca", &[0.85], paired(0.04, 0.25, Some(0.0625)))]),
            (
                "evaluate.nll",
                vec![
                    base(),
                    row("pca", &[0.5], paired(-0.3, 0.01, None)),
                    row("raw", &[1.5], paired(0.7, 0.0001, None)),
                ],
            ),
            ("evaluate.macro_f1", vec![row("x", &[f64::NAN], None)]),
        ];
        let lines: Vec<String> = cases.into_iter().map(|(metric, rows)| told(metric, rows)).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
