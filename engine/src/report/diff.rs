//! Two workflows or runs side by side: what was changed (stages, params, code, data), and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table as Drawing, presets::UTF8_HORIZONTAL_ONLY};
use indexmap::IndexMap;
use restage_cache::Digest;
use serde::Serialize;
use serde_json::Value;

use super::{Series, statistics::mean};
use crate::plan::differences;

/// Which stage: variant, place, seed.
pub(crate) type Id = (String, String, Option<u64>);

/// One of the two that are compared.
#[derive(Default)]
pub(crate) struct Side {
    /// What it is called.
    pub(crate) title: String,
    /// Its stages.
    pub(crate) entries: BTreeMap<Id, Entry>,
}

/// A stage of one side.
pub(crate) struct Entry {
    /// The stage's name, without its place.
    pub(crate) stage: String,
    /// Its type.
    pub(crate) uses: String,
    /// The plugin's code.
    pub(crate) identity: Digest,
    /// Its params; data files by their content.
    pub(crate) params: Value,
    /// Its artifacts, where they are known.
    pub(crate) outputs: BTreeMap<String, Digest>,
    /// Its numbers.
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// What differs.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    a: String,
    b: String,
    /// Variants and stages that one side has alone.
    only: Vec<Row>,
    /// Stage types and params; the same change of many variants and seeds is one row.
    params: Vec<Row>,
    /// Data files.
    data: Vec<Row>,
    /// Code of plugins, by the stages that use them.
    code: Vec<Row>,
    /// Metrics, as mean over seeds and places.
    metrics: Vec<MetricRow>,
    /// Artifacts that both sides know.
    artifacts: Artifacts,
}

#[derive(Debug, PartialEq, Eq, Hash, Serialize)]
struct Row {
    what: String,
    a: Option<String>,
    b: Option<String>,
    /// In how many stages, counting variants, places and seeds.
    times: usize,
}

#[derive(Debug, Serialize)]
struct MetricRow {
    variant: String,
    metric: String,
    a: Option<Series>,
    b: Option<Series>,
}

#[derive(Debug, Default, Serialize)]
struct Artifacts {
    same: usize,
    different: usize,
    /// Stages whose definition and code are the same, and whose artifacts are not, though their inputs need not be.
    stages: BTreeSet<String>,
}

impl Comparison {
    /// Compares two sides. `sources` tells what differs between two states of a plugin's code.
    pub(crate) fn new(a: &Side, b: &Side, sources: impl Fn(&Digest, &Digest) -> Vec<String>) -> Self {
        let mut rows = Rows::default();
        let mut artifacts = Artifacts::default();
        for (id, left) in &a.entries {
            let Some(right) = b.entries.get(id) else { continue };
            compare(left, right, &sources, &mut rows);
            for (port, digest) in &left.outputs {
                match right.outputs.get(port) {
                    Some(other) if other == digest => artifacts.same += 1,
                    Some(_) => {
                        artifacts.different += 1;
                        artifacts.stages.insert(left.stage.clone());
                    }
                    None => {}
                }
            }
        }
        Self {
            a: a.title.clone(),
            b: b.title.clone(),
            only: only(a, b),
            params: rows.params.rows(),
            data: rows.data.rows(),
            code: rows.code.rows(),
            metrics: metrics(a, b),
            artifacts,
        }
    }

    /// Whether nothing was changed, and nothing else came of it.
    pub(crate) fn is_same(&self) -> bool {
        let nothing = [&self.only, &self.params, &self.data, &self.code].iter().all(|rows| rows.is_empty());
        nothing && self.artifacts.different == 0
    }

    /// For the terminal.
    pub(crate) fn draw(&self) -> String {
        let mut parts = vec![format!("A  {}\nB  {}", self.a, self.b)];
        for (title, rows) in
            [("stages", &self.only), ("params", &self.params), ("data", &self.data), ("code", &self.code)]
        {
            if !rows.is_empty() {
                let rows = rows.iter().map(|row| {
                    let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
                    let times = if row.times > 1 { format!("x {}", row.times) } else { String::new() };
                    vec![row.what.clone(), cell(&row.a), cell(&row.b), times]
                });
                parts.push(table([title, "A", "B", ""], rows));
            }
        }
        let (different, same): (Vec<_>, Vec<_>) = self.metrics.iter().partition(|row| row.a != row.b);
        if !different.is_empty() {
            let rows = different.into_iter().map(|row| {
                let cell =
                    |series: &Option<Series>| series.as_ref().map_or("-".to_owned(), ToString::to_string);
                let difference =
                    row.a.as_ref().zip(row.b.as_ref()).map(|(a, b)| format!("{:+.3}", b.mean - a.mean));
                vec![
                    format!("{} {}", row.variant, row.metric),
                    cell(&row.a),
                    cell(&row.b),
                    difference.unwrap_or_default(),
                ]
            });
            parts.push(table(["metrics", "A", "B", "B - A"], rows));
        }
        if !same.is_empty() {
            parts.push(format!("metrics: {} the same", same.len()));
        }
        let Artifacts { same, different, stages } = &self.artifacts;
        if same + different > 0 {
            let stages: Vec<&str> = stages.iter().map(String::as_str).collect();
            let of = if stages.is_empty() { String::new() } else { format!(" ({})", stages.join(", ")) };
            parts.push(format!("artifacts: {same} the same, {different} different{of}"));
        }
        if self.is_same() {
            parts.push("no difference".to_owned());
        }
        parts.join("\n\n")
    }
}

fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut drawing = Drawing::new();
    drawing.load_style(UTF8_HORIZONTAL_ONLY);
    drawing.set_header(head);
    drawing.add_rows(rows);
    drawing.trim_fmt()
}

/// Differences with how often each was met, in the order in which they were.
#[derive(Default)]
struct Counted(IndexMap<(String, Option<String>, Option<String>), usize>);

impl Counted {
    fn add(&mut self, what: String, a: Option<String>, b: Option<String>) {
        *self.0.entry((what, a, b)).or_default() += 1;
    }

    fn rows(self) -> Vec<Row> {
        self.0.into_iter().map(|((what, a, b), times)| Row { what, a, b, times }).collect()
    }
}

#[derive(Default)]
struct Rows {
    params: Counted,
    data: Counted,
    code: Counted,
}

fn compare(a: &Entry, b: &Entry, sources: &impl Fn(&Digest, &Digest) -> Vec<String>, rows: &mut Rows) {
    if a.uses != b.uses {
        rows.params.add(format!("{} uses", a.stage), Some(a.uses.clone()), Some(b.uses.clone()));
        return;
    }
    for change in differences(&a.stage, &a.params, &b.params) {
        let digest =
            |value: &Value| Some(value.get("$digest")?.as_str()?.chars().take(12).collect::<String>());
        let value = |value: &Value| (!value.is_null()).then(|| value.to_string());
        match (digest(&change.from), digest(&change.to)) {
            (None, None) => rows.params.add(change.param, value(&change.from), value(&change.to)),
            (from, to) => rows.data.add(change.param, from, to),
        }
    }
    if a.identity != b.identity {
        let plugin = a.uses.split('/').next().unwrap_or_default();
        let changed = sources(&a.identity, &b.identity);
        let what =
            if changed.is_empty() { plugin.to_owned() } else { format!("{plugin}: {}", changed.join(", ")) };
        let short = |digest: &Digest| Some(format!("{digest:.12}"));
        rows.code.add(what, short(&a.identity), short(&b.identity));
    }
}

/// Variants, and stages of variants that both have, which one side has alone.
fn only(a: &Side, b: &Side) -> Vec<Row> {
    let variants = |side: &Side| -> BTreeSet<String> {
        side.entries.keys().map(|(variant, _, _)| variant.clone()).collect()
    };
    let (of_a, of_b) = (variants(a), variants(b));
    let mut counted = Counted::default();
    for variant in of_a.symmetric_difference(&of_b) {
        let there = |side: &BTreeSet<String>| side.contains(variant).then(|| "there".to_owned());
        counted.add(format!("variant {variant}"), there(&of_a), there(&of_b));
    }
    let alone = |id: &Id, other: &Side, variants: &BTreeSet<String>| {
        variants.contains(&id.0) && !other.entries.contains_key(id)
    };
    for (id, entry) in a.entries.iter().filter(|(id, _)| alone(id, b, &of_b)) {
        counted.add(seeded(entry, id), Some(entry.uses.clone()), None);
    }
    for (id, entry) in b.entries.iter().filter(|(id, _)| alone(id, a, &of_a)) {
        counted.add(seeded(entry, id), None, Some(entry.uses.clone()));
    }
    counted.rows()
}

fn seeded(entry: &Entry, (_, _, seed): &Id) -> String {
    seed.map_or_else(|| entry.stage.clone(), |seed| format!("{} seed {seed}", entry.stage))
}

/// Every metric of each variant; those that are equal on both sides too, since that is an answer.
fn metrics(a: &Side, b: &Side) -> Vec<MetricRow> {
    let collect = |side: &Side| {
        let mut values: BTreeMap<(String, String), BTreeMap<Option<u64>, Vec<f64>>> = BTreeMap::new();
        for ((variant, _, seed), entry) in &side.entries {
            for (name, value) in &entry.metrics {
                let id = (variant.clone(), format!("{}.{name}", entry.stage));
                values.entry(id).or_default().entry(*seed).or_default().push(*value);
            }
        }
        values
    };
    // A mapped stage counts with the mean over its places.
    let series = |by_seed: BTreeMap<Option<u64>, Vec<f64>>| {
        Series::new(by_seed.into_values().map(|values| mean(&values)).collect())
    };
    let (mut of_a, mut of_b) = (collect(a), collect(b));
    let ids: BTreeSet<(String, String)> = of_a.keys().chain(of_b.keys()).cloned().collect();
    ids.into_iter()
        .map(|id| MetricRow {
            a: of_a.remove(&id).and_then(series),
            b: of_b.remove(&id).and_then(series),
            variant: id.0,
            metric: id.1,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(title: &str, code: &[u8], rate: f64, data: &str, scores: [f64; 2]) -> Side {
        let mut side = Side { title: title.into(), ..Side::default() };
        for (seed, score) in [0, 1].into_iter().zip(scores) {
            let params = json!({ "rate": rate, "path": { "$digest": data } });
            let entry = Entry {
                stage: "train".into(),
                uses: "ssl/pretrain".into(),
                identity: Digest::of(code),
                params,
                outputs: BTreeMap::from([("model".into(), Digest::of(score.to_string().as_bytes()))]),
                metrics: BTreeMap::from([("f1".into(), score)]),
            };
            side.entries.insert(("baseline".into(), "train".into(), Some(seed)), entry);
        }
        side
    }

    #[test]
    fn params_code_data_and_metrics_stand_side_by_side() {
        let (a, b) = (side("a", b"1", 0.1, "aaaa", [0.5, 0.7]), side("b", b"2", 0.2, "bbbb", [0.5, 0.9]));
        let compared = Comparison::new(&a, &b, |_, _| vec!["ssl/src/pretrain.rs".into()]);
        assert!(!compared.is_same());
        insta::assert_snapshot!(compared.draw());
    }

    #[test]
    fn a_side_is_the_same_as_itself() {
        let a = side("a", b"1", 0.1, "aaaa", [0.5, 0.7]);
        let compared = Comparison::new(&a, &a, |_, _| Vec::new());
        assert!(compared.is_same() && compared.draw().ends_with("no difference"));
    }

    #[test]
    fn what_one_side_has_alone_is_told() {
        let a = side("a", b"1", 0.1, "aaaa", [0.5, 0.7]);
        let mut b = side("b", b"1", 0.1, "aaaa", [0.5, 0.7]);
        let entry = b.entries.pop_last().map(|(_, entry)| entry).unwrap();
        b.entries.insert(("image only".into(), "train".into(), None), entry);
        let compared = Comparison::new(&a, &b, |_, _| Vec::new());
        let told: Vec<&str> = compared.only.iter().map(|row| row.what.as_str()).collect();
        assert_eq!(told, ["variant image only", "train seed 1"]);
    }
}
