//! `sweep:`: what a workflow varies and compares, as data. Which variants that makes is the plan's to say.

use serde::{Deserialize, Serialize};

use super::{Body, Diagnostic, Diagnostics, Located, Node, Place, Value, check, read::check_stage};

/// What a workflow varies and compares.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// Metrics that the table compares; the first one decides.
    pub(crate) metrics: Vec<Located<MetricRef>>,
    /// Seeds; `[0]` if none are given.
    pub(crate) seeds: Vec<u64>,
    /// The variant that others are compared with; by default the workflow as written.
    pub(crate) baseline: Option<Located<String>>,
    /// Changes against the workflow as written, by name.
    pub(crate) ablate: Vec<Ablation>,
    /// Paths whose values are combined, all with all.
    pub(crate) grid: Vec<Axis>,
    /// Paths whose values are paired, first with first.
    pub(crate) zip: Vec<Axis>,
    /// Paths whose values are drawn.
    pub(crate) random: Option<Random>,
    /// Combinations of values to leave out.
    pub(crate) exclude: Vec<Exclusion>,
    /// Variants to take; all if empty.
    pub(crate) only: Vec<Located<String>>,
    /// How a variant is tested against the baseline.
    pub(crate) test: Test,
    /// Variants and ablations whose tests are corrected together; all if empty.
    pub(crate) family: Vec<Located<String>>,
    /// Streams of random numbers of the baseline that are each varied alone.
    pub(crate) streams: Vec<Located<String>>,
}

/// How paired differences between a variant and the baseline are tested, group by group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Test {
    /// Exact sign-flip test of the mean.
    #[default]
    SignFlip,
    /// Wilcoxon's signed-rank test.
    Wilcoxon,
    /// The corrected t-test of Nadeau and Bengio, for folds that share training data.
    NadeauBengio,
}

impl Test {
    /// Its names in a workflow, in the order of the variants.
    pub(super) const NAMES: [&str; 3] = ["sign_flip", "wilcoxon", "nadeau_bengio"];

    fn named(name: &str) -> Option<Self> {
        let place = Self::NAMES.iter().position(|known| *known == name)?;
        [Self::SignFlip, Self::Wilcoxon, Self::NadeauBengio].get(place).copied()
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SignFlip => "sign-flip test",
            Self::Wilcoxon => "Wilcoxon signed-rank test",
            Self::NadeauBengio => "Nadeau-Bengio t-test",
        })
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            metrics: Vec::new(),
            seeds: vec![0],
            baseline: None,
            ablate: Vec::new(),
            grid: Vec::new(),
            zip: Vec::new(),
            random: None,
            exclude: Vec::new(),
            only: Vec::new(),
            test: Test::default(),
            family: Vec::new(),
            streams: Vec::new(),
        }
    }
}

/// A metric of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetricRef {
    /// Stage whose `metrics` output holds it.
    pub(crate) stage: String,
    /// Its name.
    pub(crate) name: String,
}

impl std::fmt::Display for MetricRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.stage, self.name)
    }
}

/// One change, or a series of them, against the workflow as written.
#[derive(Clone, Debug)]
pub(crate) struct Ablation {
    /// Its name.
    pub(crate) name: Located<String>,
    /// Paths set to a value, all together.
    pub(crate) set: Vec<(Located<String>, Node)>,
    /// A path with the values that it takes one after the other: a variant each.
    pub(crate) vary: Option<Axis>,
    /// Stages left out; their consumers get their input.
    pub(crate) drop: Vec<Located<String>>,
}

/// A path with the values that it takes.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) path: Located<String>,
    pub(crate) values: Vec<Node>,
}

/// Variants with values drawn at random.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    pub(crate) samples: usize,
    pub(crate) seed: u64,
    pub(crate) over: Vec<(Located<String>, Range)>,
}

/// Where a value is drawn from.
#[derive(Clone, Debug)]
pub(crate) enum Range {
    /// One of these.
    Choice(Vec<Node>),
    /// Evenly between two numbers.
    Uniform(f64, f64),
    /// Evenly in the logarithm between two numbers above zero.
    LogUniform(f64, f64),
    /// A whole number, both ends included.
    Whole(i64, i64),
}

/// A combination of values to leave out.
#[derive(Clone, Debug)]
pub(crate) struct Exclusion {
    pub(crate) at: Place,
    pub(crate) values: Vec<(Located<String>, Node)>,
}

/// Reads a sweep whose shape is checked already.
pub(super) fn read(node: &Node, body: &Body, problems: &mut Diagnostics) -> Sweep {
    let axes = |key: &str| -> Vec<Axis> {
        node.get(key).map(Node::entries).unwrap_or_default().iter().map(axis).collect()
    };
    let mut grid = axes("grid");
    grid.iter_mut().for_each(|axis| axis.each_once(problems));
    let metrics = node.get("metric").map(|node| metrics(node, body, problems)).unwrap_or_default();
    let seeds = node.get("seeds").map_or_else(|| vec![0], |node| seeds(node, problems));
    let baseline = node.get("baseline").and_then(|node| node.texts().into_iter().next());
    let ablate = node.get("ablate").map(Node::entries).unwrap_or_default();
    let ablate = ablate.iter().map(|(name, node)| ablation(name, node, problems)).collect();
    let zip = axes("zip");
    check_zip(&zip, problems);
    let random = node.get("random").and_then(|node| random(node, problems));
    let exclude = node.get("exclude").map(Node::items).unwrap_or_default().iter();
    let exclude =
        exclude.map(|node| Exclusion { at: node.at.clone(), values: node.entries().to_vec() }).collect();
    let only = node.get("only").map(Node::texts).unwrap_or_default();
    let family = node.get("family").map(Node::texts).unwrap_or_default();
    let streams = node.get("streams").map(Node::texts).unwrap_or_default();
    let test = node.get("test").and_then(Node::text).and_then(Test::named).unwrap_or_default();
    Sweep { metrics, seeds, baseline, ablate, grid, zip, random, exclude, only, test, family, streams }
}

impl Axis {
    /// Tells values that are there twice, and drops them: each makes a variant.
    fn each_once(&mut self, problems: &mut Diagnostics) {
        let mut seen = std::collections::HashMap::new();
        let path = &self.path.value;
        self.values.retain(|value| {
            let written =
                value.text().map_or_else(|| value.to_json().to_string(), |text| format!("`{text}`"));
            match seen.get(&written) {
                None => {
                    seen.insert(written, value.at.clone());
                    true
                }
                Some(first) => {
                    let message = format!("`{path}` has the value {written} twice");
                    problems.push(
                        Diagnostic::new(&value.at, message, "again here")
                            .and(first, "first here")
                            .help("each value makes one variant; remove one of them"),
                    );
                    false
                }
            }
        });
    }
}

fn axis((path, values): &(Located<String>, Node)) -> Axis {
    Axis { path: path.clone(), values: values.items().to_vec() }
}

fn metrics(node: &Node, body: &Body, problems: &mut Diagnostics) -> Vec<Located<MetricRef>> {
    let mut metrics = Vec::new();
    for Located { value, at } in node.texts() {
        // One without a dot was told by the grammar.
        let Some((stage, name)) = value.rsplit_once('.') else { continue };
        check_stage(stage, &at, &body.stages, &body.unread, "its metric", problems);
        let metric = MetricRef { stage: stage.to_owned(), name: name.to_owned() };
        metrics.push(Located { value: metric, at });
    }
    metrics
}

fn seeds(node: &Node, problems: &mut Diagnostics) -> Vec<u64> {
    let mut seeds = Vec::new();
    for item in node.items() {
        let Some(seed) = item.int().and_then(|seed| u64::try_from(seed).ok()) else { continue };
        if seeds.contains(&seed) {
            problems.push(
                Diagnostic::new(&item.at, format!("seed {seed} is given twice"), "again here")
                    .help("a run repeated with the same seed gives the same result: it would count as two"),
            );
        }
        seeds.push(seed);
    }
    if seeds.is_empty() { vec![0] } else { seeds }
}

fn ablation(name: &Located<String>, node: &Node, problems: &mut Diagnostics) -> Ablation {
    if name.value == crate::plan::BASELINE {
        problems.push(
            Diagnostic::new(&name.at, "`baseline` is the workflow as written", "choose another name")
                .help("changes are compared to it; to compare with a variant, give its name to `baseline:`"),
        );
    }
    let set = node.get("set").map(Node::entries).unwrap_or_default().to_vec();
    let mut vary = node.get("vary").map(Node::entries).unwrap_or_default().iter().map(axis);
    let (first, second) = (vary.next(), vary.next());
    if let Some(second) = second {
        problems.push(
            Diagnostic::new(&second.path.at, "an ablation varies one path", "the second one")
                .help("give each path an ablation of its own, so that each row of the table has one cause; or use `grid:`"),
        );
    }
    let mut first = first;
    if let Some(axis) = &mut first {
        axis.each_once(problems);
    }
    let drop = node.get("drop").map(Node::texts).unwrap_or_default();
    // Another key, and a value of another shape, was told by the grammar.
    if node
        .entries()
        .iter()
        .all(|(_, value)| matches!(&value.value, Value::Map(entries) if entries.is_empty()))
        && set.is_empty()
        && first.is_none()
        && drop.is_empty()
    {
        problems.push(
            Diagnostic::new(
                &name.at,
                format!("`{}` changes nothing", name.value),
                "an ablation without a change",
            )
            .help("give it `set:`, `vary:` or `drop:`"),
        );
    }
    Ablation { name: name.clone(), set, vary: first, drop }
}

fn check_zip(zip: &[Axis], problems: &mut Diagnostics) {
    let Some((first, others)) = zip.split_first() else { return };
    for axis in others.iter().filter(|axis| axis.values.len() != first.values.len()) {
        let count = |axis: &Axis| format!("{} values", axis.values.len());
        problems.push(
            Diagnostic::new(&axis.path.at, "the lists of a `zip` are of different lengths", count(axis))
                .and(&first.path.at, count(first))
                .help("values are paired, first with first; for all combinations use `grid:`"),
        );
    }
}

fn random(node: &Node, problems: &mut Diagnostics) -> Option<Random> {
    let samples = node.get("samples").and_then(Node::int).and_then(|count| usize::try_from(count).ok())?;
    let seed = node.get("seed").and_then(Node::int).and_then(|seed| u64::try_from(seed).ok()).unwrap_or(0);
    let over = node.get("over")?.entries().iter();
    let over = over.filter_map(|(path, node)| Some((path.clone(), range(node, problems)?))).collect();
    Some(Random { samples, seed, over })
}

fn range(node: &Node, problems: &mut Diagnostics) -> Option<Range> {
    if let Value::List(values) = &node.value {
        return Some(Range::Choice(values.clone()));
    }
    let (kind, ends) = node.entries().first()?;
    let (low, high) = check::bounds(ends)?;
    match (kind.value.as_str(), ends.items()) {
        ("uniform", _) => Some(Range::Uniform(low, high)),
        ("log_uniform", _) if low > 0.0 => Some(Range::LogUniform(low, high)),
        ("log_uniform", _) => {
            problems.push(
                Diagnostic::new(
                    &ends.at,
                    "a logarithm needs numbers above zero",
                    "expected `[low, high]`, low above 0",
                )
                .help("e.g. `{ log_uniform: [1e-5, 1e-2] }`"),
            );
            None
        }
        ("whole", [from, to]) => match (from.int(), to.int()) {
            (Some(from), Some(to)) => Some(Range::Whole(from, to)),
            _ => {
                let message = "the ends of a range of whole numbers are not whole";
                problems.push(
                    Diagnostic::new(&ends.at, message, "expected e.g. `[1, 8]`").help("or use `uniform`"),
                );
                None
            }
        },
        _ => None,
    }
}
