//! Two workflows or runs side by side: what was changed (stages, params, code, data), and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table as Drawing, presets::UTF8_HORIZONTAL_ONLY};
use indexmap::IndexMap;
use restage_cache::Digest;
use serde::Serialize;
use serde_json::Value;

use super::{
    Series,
    outcome::{Numbers, Scores},
    statistics::{Paired, correct, mean, paired, sd},
    table::{NO_GROUPS, p_text, tested_by_group, underpowered},
};
use crate::{plan::differences, workflow::Test};

/// Which stage: variant, place, seed.
pub(crate) type Id = (String, String, Option<u64>);

/// One of the two that are compared.
#[derive(Default)]
pub(crate) struct Side {
    /// What it is called.
    pub(crate) title: String,
    /// Its stages.
    pub(crate) entries: BTreeMap<Id, Entry>,
    /// The metrics that its sweep compares, `stage.name`.
    pub(crate) compares: BTreeSet<String>,
    /// How it tests.
    pub(crate) test: Test,
    /// What a reader must know of it.
    pub(crate) note: Option<String>,
}

impl Side {
    /// The stage of that place, variant and seed. One that has no seed here is like each that has one there.
    fn like(&self, id: &Id) -> Option<(&Id, &Entry)> {
        let (variant, place, seed) = id;
        let of_any = || {
            let (least, most) = (Some(0), Some(u64::MAX));
            let [least, most] = [least, most].map(|seed| (variant.clone(), place.clone(), seed));
            self.entries.range(least..=most).next()
        };
        let without = || self.entries.get_key_value(&(variant.clone(), place.clone(), None));
        self.entries.get_key_value(id).or_else(|| if seed.is_some() { without() } else { of_any() })
    }
}

/// A stage of one side.
pub(crate) struct Entry {
    /// The stage's name, without its place.
    pub(crate) stage: String,
    /// What it is mapped over there; empty if it is not mapped.
    pub(crate) place: String,
    /// Its type.
    pub(crate) uses: String,
    /// The plugin's code.
    pub(crate) identity: Digest,
    /// Its params; data files by their content.
    pub(crate) params: Value,
    /// Per input port what it reads, `stage.output`, by all names that it has there.
    pub(crate) reads: BTreeMap<String, BTreeSet<String>>,
    /// Its artifacts, where they are known.
    pub(crate) outputs: BTreeMap<String, Digest>,
    /// Its numbers.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Its metrics artifacts, where they can be read: groups are in them.
    pub(crate) scores: Vec<Scores>,
}

/// What differs.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    a: String,
    b: String,
    /// Stages of which all that both sides have are the same: type, params, data, code.
    same: Vec<String>,
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
    /// What a reader must know, in whole sentences.
    notes: Vec<String>,
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
    /// Whether a sweep compares it, or none compares any.
    compared: bool,
    a: Option<Series>,
    b: Option<Series>,
    /// B - A, over the seeds that both have; one without seeds meets each of the other.
    difference: Option<Difference>,
    /// B against A, group by group, seeds averaged first.
    by_group: Option<Paired>,
    /// The groups that both have.
    groups: Vec<String>,
}

/// Paired differences over seeds.
#[derive(Debug, Serialize)]
struct Difference {
    mean: f64,
    /// Of the sample (n - 1); `None` for one seed.
    sd: Option<f64>,
    /// How many pairs.
    pairs: usize,
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
        let (mut both, mut changed) = (BTreeSet::new(), BTreeSet::new());
        let mut artifacts = Artifacts::default();
        for (id, left) in &a.entries {
            let Some((other, right)) = b.like(id) else { continue };
            both.insert(left.stage.as_str());
            if compare(left, right, &sources, &mut rows) {
                changed.insert(left.stage.as_str());
            }
            if other != id {
                rows.params.add(format!("{} draws", left.stage), draws(id), draws(other));
                continue;
            }
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
        let metrics = metrics(a, b);
        Self {
            a: a.title.clone(),
            b: b.title.clone(),
            same: both.difference(&changed).map(|stage| (*stage).to_owned()).collect(),
            only: only(a, b),
            params: rows.params.rows(),
            data: rows.data.rows(),
            code: rows.code.rows(),
            notes: notes(a, b, &metrics),
            metrics,
            artifacts,
        }
    }

    /// Whether nothing was changed, and nothing else came of it.
    pub(crate) fn is_same(&self) -> bool {
        let nothing = [&self.only, &self.params, &self.data, &self.code].iter().all(|rows| rows.is_empty());
        nothing && self.artifacts.different == 0
    }

    /// For the terminal; `all` metrics, or those that a sweep compares.
    pub(crate) fn draw(&self, all: bool) -> String {
        let mut parts = vec![format!("A  {}\nB  {}", self.a, self.b)];
        if !self.same.is_empty() && !self.is_same() {
            parts.push(format!(
                "the same stages, with the same params, data and code: {}",
                self.same.join(", ")
            ));
        }
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
        let (shown, hidden): (Vec<_>, Vec<_>) = different.into_iter().partition(|row| all || row.compared);
        if !shown.is_empty() {
            parts.push(drawn(&shown));
        }
        let mut counts = Vec::new();
        if !same.is_empty() {
            counts.push(format!("{} the same", same.len()));
        }
        if !hidden.is_empty() {
            counts.push(format!("{} that no sweep compares are different: `--all` shows them", hidden.len()));
        }
        if !counts.is_empty() {
            parts.push(format!("metrics: {}", counts.join(", ")));
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
        if !self.notes.is_empty() {
            parts.push(self.notes.join("\n"));
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

/// Whether anything differs.
fn compare(
    a: &Entry,
    b: &Entry,
    sources: &impl Fn(&Digest, &Digest) -> Vec<String>,
    rows: &mut Rows,
) -> bool {
    if a.uses != b.uses {
        rows.params.add(format!("{} uses", a.stage), Some(a.uses.clone()), Some(b.uses.clone()));
        return true;
    }
    let changes = differences(&a.stage, &a.params, &b.params);
    let rewired = rewired(a, b);
    let differs = !changes.is_empty() || !rewired.is_empty() || a.identity != b.identity;
    for (port, from, to) in rewired {
        rows.params.add(format!("{}.in.{port}", a.stage), from, to);
    }
    for change in changes {
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
    differs
}

/// Ports that read something else. What is one action may have several names, of which one is enough.
fn rewired<'a>(a: &'a Entry, b: &'a Entry) -> Vec<(&'a str, Option<String>, Option<String>)> {
    let ports: BTreeSet<&String> = a.reads.keys().chain(b.reads.keys()).collect();
    let names = |entry: &Entry, port: &String| {
        let names: Vec<&str> = entry.reads.get(port)?.iter().map(String::as_str).collect();
        Some(names.join(" or "))
    };
    let is_other = |port: &&String| match (a.reads.get(*port), b.reads.get(*port)) {
        (Some(from), Some(to)) => from.is_disjoint(to),
        _ => true,
    };
    // Journals of before that was written down say nothing.
    if a.reads.is_empty() != b.reads.is_empty() {
        return Vec::new();
    }
    ports.into_iter().filter(is_other).map(|port| (port.as_str(), names(a, port), names(b, port))).collect()
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
        variants.contains(&id.0) && other.like(id).is_none()
    };
    for (id, entry) in a.entries.iter().filter(|(id, _)| alone(id, b, &of_b)) {
        counted.add(seeded(entry, id), Some(entry.uses.clone()), None);
    }
    for (id, entry) in b.entries.iter().filter(|(id, _)| alone(id, a, &of_a)) {
        counted.add(seeded(entry, id), None, Some(entry.uses.clone()));
    }
    counted.rows()
}

/// Whether a stage draws random numbers, or reads what was drawn.
fn draws((_, _, seed): &Id) -> Option<String> {
    Some(if seed.is_some() { "by seed" } else { "without seeds" }.to_owned())
}

fn seeded(entry: &Entry, (_, _, seed): &Id) -> String {
    seed.map_or_else(|| entry.stage.clone(), |seed| format!("{} seed {seed}", entry.stage))
}

/// A metric of a variant on one side.
#[derive(Default)]
struct Values {
    /// Per seed, mean over what the stage is mapped over.
    seeds: BTreeMap<Option<u64>, f64>,
    /// Per group, mean over seeds.
    groups: Numbers,
}

fn values(side: &Side) -> BTreeMap<(String, String), Values> {
    let mut seeds: BTreeMap<(String, String), BTreeMap<Option<u64>, Vec<f64>>> = BTreeMap::new();
    let mut groups: BTreeMap<(String, String), BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for ((variant, _, seed), entry) in &side.entries {
        for (name, value) in &entry.metrics {
            let id = (variant.clone(), format!("{}.{name}", entry.stage));
            let of_groups = groups.entry(id.clone()).or_default();
            for (group, value) in entry.scores.iter().flat_map(|scores| scores.of_groups(name, &entry.place))
            {
                of_groups.entry(group.to_owned()).or_default().push(value);
            }
            seeds.entry(id).or_default().entry(*seed).or_default().push(*value);
        }
    }
    let values = |(id, seeds): ((String, String), BTreeMap<Option<u64>, Vec<f64>>)| {
        let groups = groups.remove(&id).unwrap_or_default();
        let values = Values {
            seeds: seeds.into_iter().map(|(seed, values)| (seed, mean(&values))).collect(),
            groups: groups.into_iter().map(|(group, values)| (group, mean(&values))).collect(),
        };
        (id, values)
    };
    seeds.into_iter().map(values).collect()
}

/// Every metric of each variant; those that are equal on both sides too, since that is an answer. Those that differ are tested
/// together: the ones that a sweep compares, all where none compares any.
fn metrics(a: &Side, b: &Side) -> Vec<MetricRow> {
    let (of_a, of_b) = (values(a), values(b));
    let ids: BTreeSet<&(String, String)> = of_a.keys().chain(of_b.keys()).collect();
    let compared: BTreeSet<&String> = a.compares.union(&b.compares).collect();
    let row = |id: &(String, String)| {
        let (left, right) = (of_a.get(id), of_b.get(id));
        let series = |values: Option<&Values>| Series::new(values?.seeds.values().copied().collect());
        let both = left.zip(right);
        let groups = both.map(|(left, right)| shared(&left.groups, &right.groups)).unwrap_or_default();
        let (of_right, of_left): (Vec<f64>, Vec<f64>) =
            groups.iter().map(|(_, left, right)| (*right, *left)).unzip();
        MetricRow {
            variant: id.0.clone(),
            metric: id.1.clone(),
            compared: compared.is_empty() || compared.contains(&id.1),
            a: series(left),
            b: series(right),
            difference: both.and_then(|(left, right)| difference(&left.seeds, &right.seeds)),
            by_group: (!groups.is_empty()).then(|| paired(&of_right, &of_left, a.test)),
            groups: groups.into_iter().map(|(group, _, _)| group).collect(),
        }
    };
    let mut rows: Vec<MetricRow> = ids.into_iter().map(row).collect();
    let is_of_family = |row: &MetricRow| row.a != row.b && row.compared;
    let (family, others): (Vec<_>, Vec<_>) = rows.iter_mut().partition(|row| is_of_family(row));
    let mut family: Vec<&mut Paired> =
        family.into_iter().filter_map(|row: &mut MetricRow| row.by_group.as_mut()).collect();
    correct(&mut family, a.test);
    others.into_iter().filter_map(|row| row.by_group.as_mut()).for_each(|paired| paired.p = None);
    rows
}

/// What both sides have: name, A, B.
fn shared(a: &Numbers, b: &Numbers) -> Vec<(String, f64, f64)> {
    a.iter().filter_map(|(name, left)| Some((name.clone(), *left, *b.get(name)?))).collect()
}

/// `None` if no seed is on both sides.
fn difference(a: &BTreeMap<Option<u64>, f64>, b: &BTreeMap<Option<u64>, f64>) -> Option<Difference> {
    let at = |values: &BTreeMap<Option<u64>, f64>, seed: &Option<u64>| {
        values.get(seed).or_else(|| values.get(&None)).copied()
    };
    let seeds: BTreeSet<&Option<u64>> = a.keys().chain(b.keys()).collect();
    let differences: Vec<f64> =
        seeds.into_iter().filter_map(|seed| Some(at(b, seed)? - at(a, seed)?)).collect();
    (!differences.is_empty()).then(|| Difference {
        mean: mean(&differences),
        sd: sd(&differences),
        pairs: differences.len(),
    })
}

/// Metrics that differ, as the ablation table shows a variant beside the baseline.
fn drawn(rows: &[&MetricRow]) -> String {
    let tested = rows.iter().any(|row| row.by_group.as_ref().is_some_and(|paired| paired.interval.is_some()));
    let head = ["metrics", "A", "B", "B - A", "by group [95 % CI]", "p (Holm)"];
    let cells = |row: &&MetricRow| {
        let cell = |series: &Option<Series>| series.as_ref().map_or("-".to_owned(), ToString::to_string);
        let difference = row.difference.as_ref().map(|difference| {
            let spread = difference.sd.map(|sd| format!(" ± {sd:.3}")).unwrap_or_default();
            format!("{:+.3}{spread}", difference.mean)
        });
        let by_group = row.by_group.as_ref().map(|paired| {
            let interval = paired.interval.map(|[low, high]| format!(" [{low:+.3}, {high:+.3}]"));
            format!("{:+.3}{}", paired.mean, interval.unwrap_or_default())
        });
        let p = row.by_group.as_ref().and_then(|paired| paired.p_adjusted).map(p_text);
        vec![
            format!("{} {}", row.variant, row.metric),
            cell(&row.a),
            cell(&row.b),
            difference.unwrap_or_default(),
            by_group.unwrap_or_default(),
            p.unwrap_or_default(),
        ]
    };
    let rows = rows.iter().map(cells);
    let [first, second, third, fourth, ..] = head;
    if tested { table(head, rows) } else { table([first, second, third, fourth], rows.map(first_four)) }
}

fn first_four(mut cells: Vec<String>) -> Vec<String> {
    cells.truncate(4);
    cells
}

/// What a reader must know.
fn notes(a: &Side, b: &Side, rows: &[MetricRow]) -> Vec<String> {
    let mut notes: Vec<String> = [a, b].iter().filter_map(|side| side.note.clone()).collect();
    let different: Vec<&MetricRow> =
        rows.iter().filter(|row| row.a != row.b && row.difference.is_some()).collect();
    if different.is_empty() {
        return notes;
    }
    let seeds = |side: &Side| -> BTreeSet<u64> {
        let with_metrics = side.entries.iter().filter(|(_, entry)| !entry.metrics.is_empty());
        with_metrics.filter_map(|((_, _, seed), _)| *seed).collect()
    };
    let (of_a, of_b) = (seeds(a), seeds(b));
    if of_a != of_b && !of_a.is_empty() && !of_b.is_empty() {
        let both: Vec<String> = of_a.intersection(&of_b).map(ToString::to_string).collect();
        notes.push(format!("seeds that both have, over which B - A goes: {}", both.join(", ")));
    }
    let tested: Vec<(&MetricRow, &Paired)> = different
        .iter()
        .filter_map(|row| Some((*row, row.by_group.as_ref().filter(|paired| paired.p_adjusted.is_some())?)))
        .collect();
    if tested.is_empty() {
        let one = different.iter().find(|row| row.groups.len() == 1);
        notes.push(match one {
            Some(row) => {
                format!("no test: all is of one group ({}), and seeds are not independent", row.groups[0])
            }
            None => NO_GROUPS.to_owned(),
        });
        return notes;
    }
    let groups: BTreeSet<String> = tested.iter().flat_map(|(row, _)| row.groups.clone()).collect();
    notes.push(tested_by_group(&groups.into_iter().collect::<Vec<_>>(), a.test, tested.len()));
    if a.test != b.test {
        notes.push(format!("B tests by another one, the {}", b.test));
    }
    let smallest = tested.iter().filter_map(|(_, paired)| paired.smallest_attainable).fold(0.0, f64::max);
    if smallest > 0.0 {
        notes.push(underpowered(smallest));
    }
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(title: &str, code: &[u8], rate: f64, data: &str, scores: [f64; 2]) -> Side {
        let table = if data == "bbbb" { "pca" } else { "counts" };
        let mut side = Side { title: title.into(), ..Side::default() };
        for (seed, score) in [0, 1].into_iter().zip(scores) {
            let params = json!({ "rate": rate, "path": { "$digest": data } });
            let entry = Entry {
                stage: "train".into(),
                uses: "ssl/pretrain".into(),
                identity: Digest::of(code),
                params,
                reads: BTreeMap::from([("table".into(), BTreeSet::from([format!("{table}.table")]))]),
                outputs: BTreeMap::from([("model".into(), Digest::of(score.to_string().as_bytes()))]),
                metrics: BTreeMap::from([("f1".into(), score)]),
                place: String::new(),
                scores: Vec::new(),
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
        insta::assert_snapshot!(compared.draw(false));
    }

    #[test]
    fn a_side_is_the_same_as_itself() {
        let a = side("a", b"1", 0.1, "aaaa", [0.5, 0.7]);
        let compared = Comparison::new(&a, &a, |_, _| Vec::new());
        assert!(compared.is_same() && compared.draw(false).ends_with("no difference"));
        assert_eq!(compared.same, ["train"]);
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

    #[test]
    fn a_stage_that_needs_a_seed_on_one_side_alone_is_compared_all_the_same() {
        let a = side("a", b"1", 0.1, "aaaa", [0.5, 0.7]);
        let mut b = side("b", b"1", 0.2, "aaaa", [0.5, 0.7]);
        let entry = b.entries.pop_last().map(|(_, entry)| entry).unwrap();
        b.entries = [(("baseline".into(), "train".into(), None), entry)].into();
        for (a, b) in [(&a, &b), (&b, &a)] {
            let compared = Comparison::new(a, b, |_, _| Vec::new());
            assert!(compared.only.is_empty());
            let told: Vec<&str> = compared.params.iter().map(|row| row.what.as_str()).collect();
            assert_eq!(told, ["train.rate", "train draws"]);
            assert_eq!(compared.artifacts.different, 0, "they cannot be told apart");
        }
    }

    /// Eight patients over two seeds; `golden/stats.json` has them, as means over seeds.
    fn of_patients(mut side: Side, values: &[f64]) -> Side {
        let patients = |shift: f64| -> BTreeMap<String, Numbers> {
            let named = values.iter().zip('A'..);
            named
                .map(|(value, name)| (name.to_string(), Numbers::from([("f1".into(), value + shift)])))
                .collect()
        };
        for (entry, shift) in side.entries.values_mut().zip([0.01, -0.01]) {
            let scores = Scores { groups: patients(shift), ..Scores::default() };
            entry.scores.push(scores);
        }
        side.compares.insert("train.f1".into());
        side
    }

    const B: [f64; 8] = [0.61, 0.55, 0.58, 0.63, 0.57, 0.6, 0.59, 0.62];
    const A: [f64; 8] = [0.58, 0.54, 0.59, 0.6, 0.55, 0.57, 0.58, 0.58];

    fn of_eight(patients: usize) -> Comparison {
        let a = of_patients(side("a", b"1", 0.1, "aaaa", [0.5, 0.7]), &A[..patients]);
        let b = of_patients(side("b", b"1", 0.2, "aaaa", [0.5, 0.9]), &B[..patients]);
        Comparison::new(&a, &b, |_, _| Vec::new())
    }

    #[test]
    fn what_has_patients_is_tested_over_them() {
        let compared = of_eight(8);
        let row = &compared.metrics[0];
        let paired = row.by_group.as_ref().unwrap();
        // SciPy's, of `golden/stats.json`.
        assert!((paired.mean - 0.02).abs() < 1e-12 && (paired.p.unwrap() - 0.03125).abs() < 1e-12);
        let difference = row.difference.as_ref().unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-12 && difference.pairs == 2);
        insta::assert_snapshot!(compared.draw(false));
    }

    #[test]
    fn too_few_patients_are_said() {
        insta::assert_snapshot!([3, 1].map(|patients| of_eight(patients).notes.join("\n")).join("\n\n"));
    }

    #[test]
    fn only_seeds_that_both_have_are_paired() {
        let a = side("a", b"1", 0.1, "aaaa", [0.5, 0.7]);
        let mut b = side("b", b"1", 0.1, "aaaa", [0.6, 0.9]);
        let (_, entry) = b.entries.pop_last().unwrap();
        b.entries.insert(("baseline".into(), "train".into(), Some(7)), entry);
        let compared = Comparison::new(&a, &b, |_, _| Vec::new());
        let difference = compared.metrics[0].difference.as_ref().unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-12 && difference.pairs == 1 && difference.sd.is_none());
        assert!(compared.notes[0].ends_with("B - A goes: 0"), "{:?}", compared.notes);
    }
}
