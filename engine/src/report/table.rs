//! The ablation table: per variant the metrics over seeds, the difference to the baseline, what ran for it.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, Table as Drawing, presets::UTF8_HORIZONTAL_ONLY};
use petgraph::graph::NodeIndex;
use restage_cache::Store;
use serde::Serialize;

use crate::{
    plan::{Instance, Plan},
    run::{End, Summary, event::How, metrics},
    workflow::MetricRef,
};

/// The ablation table.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    /// Names of the metrics, `stage.name`; differences are of the first.
    pub(crate) metrics: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// One variant.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) variant: String,
    /// Per metric; `None` if it is not there.
    pub(crate) values: Vec<Option<Series>>,
    /// Mean over seeds of the first metric's difference to the baseline, seed by seed.
    pub(crate) difference: Option<f64>,
    /// Stages of it that ran in this run, and did not for a variant above.
    pub(crate) ran: usize,
    /// Stages of it that did not have to run.
    pub(crate) reused: usize,
}

/// A metric over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Series {
    /// Per seed; one value if it does not depend on the seed.
    pub(crate) values: Vec<f64>,
    pub(crate) mean: f64,
    /// Standard deviation of the sample (n - 1); `None` for one value.
    pub(crate) sd: Option<f64>,
}

impl Series {
    pub(crate) fn new(values: Vec<f64>) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { values, mean, sd })
    }

    /// Mean of the differences seed by seed; a value without seeds meets each.
    fn difference(&self, baseline: &Self) -> f64 {
        let (a, b) = (&self.values, &baseline.values);
        let at =
            |values: &[f64], index: usize| values.get(index).or(values.first()).copied().unwrap_or(f64::NAN);
        let n = a.len().max(b.len());
        (0..n).map(|index| at(a, index) - at(b, index)).sum::<f64>() / n as f64
    }
}

impl Table {
    pub(crate) fn new(plan: &Plan, summary: &Summary, store: &Store) -> Self {
        let mut counted = BTreeSet::new();
        let rows: Vec<Row> =
            plan.variants.iter().map(|variant| row(variant, plan, summary, store, &mut counted)).collect();
        let baseline = rows
            .iter()
            .find(|row| *row.variant == *plan.baseline)
            .and_then(|row| row.values.first().cloned());
        let mut table = Self {
            metrics: plan.metrics.iter().map(|metric| format!("{}.{}", metric.stage, metric.name)).collect(),
            rows,
        };
        if let Some(Some(baseline)) = baseline {
            for row in table.rows.iter_mut().filter(|row| *row.variant != *plan.baseline) {
                let first = row.values.first().and_then(Option::as_ref);
                row.difference = first.map(|series| series.difference(&baseline));
            }
        }
        table
    }

    /// For the terminal.
    pub(crate) fn draw(&self) -> String {
        let mut drawing = Drawing::new();
        drawing.load_style(UTF8_HORIZONTAL_ONLY);
        let heads = std::iter::once("variant".to_owned())
            .chain(self.metrics.iter().cloned())
            .chain((!self.metrics.is_empty()).then(|| "vs baseline".to_owned()))
            .chain(["run".to_owned(), "reused".to_owned()]);
        drawing.set_header(heads);
        for row in &self.rows {
            let values =
                row.values.iter().map(|series| series.as_ref().map_or("-".to_owned(), ToString::to_string));
            let difference = (!self.metrics.is_empty())
                .then(|| row.difference.map_or(String::new(), |difference| format!("{difference:+.3}")));
            drawing.add_row(
                std::iter::once(row.variant.clone())
                    .chain(values)
                    .chain(difference)
                    .chain([row.ran.to_string(), row.reused.to_string()]),
            );
        }
        for column in drawing.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        drawing.trim_fmt()
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sd {
            Some(sd) => write!(f, "{:.3} ± {sd:.3}", self.mean),
            None => write!(f, "{:.3}", self.mean),
        }
    }
}

fn row(
    variant: &str,
    plan: &Plan,
    summary: &Summary,
    store: &Store,
    counted: &mut BTreeSet<NodeIndex>,
) -> Row {
    let own = || plan.instances.iter().filter(|instance| *instance.variant == *variant);
    let values = plan.metrics.iter().map(|metric| series(metric, own(), plan, store)).collect();
    let actions: BTreeSet<NodeIndex> = own().map(|instance| instance.action).collect();
    let ran = |node: &&NodeIndex| matches!(summary.ends.get(node), Some(End::Done(How::Ran { .. })));
    let fresh = actions.iter().filter(ran).filter(|node| counted.insert(**node)).count();
    let done = actions.iter().filter(|node| matches!(summary.ends.get(node), Some(End::Done(_)))).count();
    Row { variant: variant.to_owned(), values, difference: None, ran: fresh, reused: done - fresh }
}

/// A metric of a variant over seeds; a stage that is mapped counts with the mean over what it is mapped over.
fn series<'a>(
    metric: &MetricRef,
    instances: impl Iterator<Item = &'a Instance>,
    plan: &Plan,
    store: &Store,
) -> Option<Series> {
    let mut by_seed: std::collections::BTreeMap<Option<u64>, Vec<f64>> = std::collections::BTreeMap::new();
    for instance in instances.filter(|instance| *instance.stage == *metric.stage) {
        let action = &plan.graph[instance.action];
        let value = metrics(action, store).remove(&metric.name)?;
        by_seed.entry(instance.seed).or_default().push(value);
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    Series::new(by_seed.into_values().map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_sd_and_paired_difference() {
        let a = Series::new(vec![0.5, 0.7, 0.6]).unwrap();
        assert!((a.mean - 0.6).abs() < 1e-12 && (a.sd.unwrap() - 0.1).abs() < 1e-12);
        let one = Series::new(vec![0.4]).unwrap();
        assert_eq!(one.sd, None);
        assert!((one.difference(&a) - -0.2).abs() < 1e-12, "a value without seeds meets each");
        assert!(Series::new(vec![]).is_none());
    }

    #[test]
    fn the_table_reads_like_one() {
        let series = |values: &[f64]| Series::new(values.to_vec());
        let row = |variant: &str, values, difference, ran, reused| Row {
            variant: variant.into(),
            values,
            difference,
            ran,
            reused,
        };
        let table = Table {
            metrics: vec!["evaluate.macro_f1".into(), "evaluate.accuracy".into()],
            rows: vec![
                row("baseline", vec![series(&[0.8, 0.9]), series(&[0.91, 0.93])], None, 12, 0),
                row("image only", vec![series(&[0.5]), None], Some(-0.35), 2, 9),
            ],
        };
        insta::assert_snapshot!(table.draw());
    }
}
