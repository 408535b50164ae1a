//! The variants of a sweep: the workflow as written, and with each change or combination of changes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    plugin::Catalog,
    workflow::{
        Ablation, Axis, Body, Diagnostic, Diagnostics, Located, Node, OutputRef, Place, Range, Stage, Value,
        Workflow, set_argument, suggest,
    },
};

use super::{Selection, ports};

/// The variant that others are compared with, where the workflow chooses none: the workflow as written.
pub(crate) const BASELINE: &str = "baseline";

/// The workflow as written, where another variant is the baseline.
const AS_WRITTEN: &str = "as written";

/// More variants than this are a slip of the pen, not an experiment.
const MAX_VARIANTS: usize = 100_000;

/// A workflow with its changes made.
pub(super) struct Variant {
    pub(super) name: Arc<str>,
    /// Whether nothing of it is changed.
    pub(super) is_as_written: bool,
    pub(super) body: Body,
}

/// What a sweep asks for.
pub(super) struct Variants {
    /// The workflow as written, with the command line's changes; selected or not.
    pub(super) as_written: Body,
    /// Those that are asked for, the workflow as written first.
    pub(super) list: Vec<Variant>,
    /// Name of the one that others are compared with.
    pub(super) baseline: Arc<str>,
    /// Stages of which a variant, asked for or not, reads one where the workflow as written reads another.
    pub(super) alternatives: HashSet<Arc<str>>,
}

/// Changes that are made together.
type Changes = Vec<(Located<String>, Node)>;

/// All variants that are asked for.
pub(super) fn variants(
    workflow: &Workflow,
    selection: &Selection,
    catalog: &Catalog,
    problems: &mut Diagnostics,
) -> Variants {
    let mut as_written = workflow.body.clone();
    for text in &selection.set {
        match set_argument(text, problems) {
            Ok((path, value)) => as_written.set(&path, &value, problems),
            Err(problem) => problems.push(problem),
        }
    }
    as_written.settle();

    let chosen = workflow.sweep.baseline.as_ref().filter(|name| name.value != BASELINE);
    let own_name = if chosen.is_some() { AS_WRITTEN } else { BASELINE };
    let mut made = Made { names: HashMap::new(), list: Vec::new() };
    made.add(own_name.to_owned(), None, as_written.clone(), problems);
    for ablation in &workflow.sweep.ablate {
        for (name, changes) in series(ablation) {
            let mut body = changed(&as_written, &changes, problems);
            for stage in &ablation.drop {
                drop_stage(&mut body, stage, catalog, problems);
            }
            made.add(name, Some(&ablation.name.at), body, problems);
        }
    }
    for (changes, at) in combinations(workflow, &as_written, problems) {
        let body = changed(&as_written, &changes, problems);
        made.add(title(&changes), Some(&at), body, problems);
    }
    let baseline = match chosen {
        Some(name) if !made.names.contains_key(&name.value) => {
            let known = made.list.iter().map(|variant| &*variant.name);
            problems.push(
                Diagnostic::new(
                    &name.at,
                    format!("there is no variant `{}`", name.value),
                    "chosen as the baseline",
                )
                .help(suggest(&name.value, known)),
            );
            own_name
        }
        Some(name) => &name.value,
        None => own_name,
    };
    let baseline: Arc<str> = baseline.into();
    check_family(workflow, &made, problems);
    let alternatives = alternatives(&as_written, &made.list);
    let list = select(made.list, workflow, selection, &baseline, problems);
    Variants { as_written, list, baseline, alternatives }
}

/// What inputs read in one way of two only.
fn alternatives(as_written: &Body, variants: &[Variant]) -> HashSet<Arc<str>> {
    let mut found = HashSet::new();
    for variant in variants.iter().filter(|variant| variant.body.rewired) {
        for (name, stage) in &variant.body.stages {
            let Some(written) = as_written.stages.get(name).filter(|written| !Arc::ptr_eq(written, stage))
            else {
                continue;
            };
            let reads = |stage: &Stage, port: &str| -> HashSet<Arc<str>> {
                let from = stage.inputs.get(port).into_iter().flat_map(|input| &input.from);
                from.map(|output| output.value.stage.clone()).collect()
            };
            for port in stage.inputs.keys() {
                let (now, before) = (reads(stage, port), reads(written, port));
                found.extend(now.symmetric_difference(&before).cloned());
            }
        }
    }
    found
}

/// Tells what `family` names that is neither a variant nor an ablation.
fn check_family(workflow: &Workflow, made: &Made, problems: &mut Diagnostics) {
    let sweep = &workflow.sweep;
    for Located { value, at } in &sweep.family {
        let ablations = || sweep.ablate.iter().map(|ablation| ablation.name.value.as_str());
        if !made.names.contains_key(value) && !ablations().any(|name| name == value) {
            let known = made.list.iter().map(|variant| &*variant.name).chain(ablations());
            problems.push(
                Diagnostic::new(at, format!("there is no variant `{value}`"), "in the family of comparisons")
                    .help(suggest(value, known)),
            );
        }
    }
}

/// Variants so far, and where each name was given.
struct Made {
    names: HashMap<String, Option<Place>>,
    list: Vec<Variant>,
}

impl Made {
    fn add(&mut self, name: String, at: Option<&Place>, body: Body, problems: &mut Diagnostics) {
        match (self.names.get(&name), at) {
            // That an ablation cannot be called so was told when the file was read.
            (Some(None), Some(_)) if name == BASELINE => {}
            (Some(first), Some(at)) => {
                let message = format!("two variants are called `{name}`");
                let problem = Diagnostic::new(at, message, "the second one");
                let problem = match first {
                    Some(first) => problem.and(first, "the first one"),
                    None => problem,
                };
                problems.push(problem.help("give the values once, or the ablation another name"));
            }
            _ => {
                let is_as_written = at.is_none();
                self.list.push(Variant { name: name.as_str().into(), is_as_written, body });
                self.names.insert(name, at.cloned());
            }
        }
    }
}

fn changed(as_written: &Body, changes: &Changes, problems: &mut Diagnostics) -> Body {
    let mut body = as_written.clone();
    for (path, value) in changes {
        body.set(path, value, problems);
    }
    body
}

/// The variants that `--only` asks for, or else the sweep's `only:`; an ablation's name asks for each value that it varies.
fn select(
    variants: Vec<Variant>,
    workflow: &Workflow,
    selection: &Selection,
    baseline: &str,
    problems: &mut Diagnostics,
) -> Vec<Variant> {
    let asked = selection.only.iter().map(|name| Located { value: name.clone(), at: Place::argument(name) });
    let asked: Vec<Located<String>> = asked.collect();
    let only = if asked.is_empty() { &workflow.sweep.only } else { &asked };
    if only.is_empty() {
        return variants;
    }
    let of_ablations: HashSet<String> =
        only.iter().flat_map(|only| of_ablation(workflow, &only.value)).collect();
    for Located { value, at } in only {
        let is_known = variants.iter().any(|variant| *variant.name == **value)
            || of_ablation(workflow, value).next().is_some();
        if value != BASELINE && !is_known {
            let ablations = workflow.sweep.ablate.iter().filter(|ablation| ablation.vary.is_some());
            let ablations = ablations.map(|ablation| ablation.name.value.as_str());
            let known = variants.iter().map(|variant| &*variant.name).chain(ablations);
            problems.push(
                Diagnostic::new(at, format!("there is no variant `{value}`"), "asked for here")
                    .help(suggest(value, known)),
            );
        }
    }
    let wanted = |variant: &Variant| {
        let name = &*variant.name;
        of_ablations.contains(name)
            || only.iter().any(|only| only.value == name || (only.value == BASELINE && name == baseline))
    };
    variants.into_iter().filter(wanted).collect()
}

/// The variants of the ablation that is called so.
fn of_ablation<'a>(workflow: &'a Workflow, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let ablations = workflow.sweep.ablate.iter().filter(move |ablation| ablation.name.value == name);
    ablations.flat_map(series).map(|(variant, _)| variant)
}

/// The variants of one ablation: itself, or one per value that it varies.
fn series(ablation: &Ablation) -> Vec<(String, Changes)> {
    let name = &ablation.name;
    let Some(Axis { path, values }) = &ablation.vary else {
        return vec![(name.value.clone(), ablation.set.clone())];
    };
    values
        .iter()
        .map(|value| {
            let mut changes = ablation.set.clone();
            changes.push((path.clone(), value.clone()));
            (format!("{} = {}", name.value, shown(value)), changes)
        })
        .collect()
}

/// What `grid`, `zip` and `random` ask for and `exclude` leaves, each with the place that asks for it.
fn combinations(workflow: &Workflow, as_written: &Body, problems: &mut Diagnostics) -> Vec<(Changes, Place)> {
    let sweep = &workflow.sweep;
    let mut all: Vec<(Changes, Place)> = Vec::new();
    if let Some(first) = sweep.grid.first() {
        let size = sweep.grid.iter().try_fold(1_usize, |size, axis| size.checked_mul(axis.values.len()));
        if size.is_none_or(|size| size > MAX_VARIANTS) {
            let message = format!("the grid has more than {MAX_VARIANTS} combinations");
            problems.push(
                Diagnostic::new(&first.path.at, message, "of this and the following values")
                    .help("draw from it: `random: { samples: …, over: … }`"),
            );
        } else {
            all.extend(grid(&sweep.grid).into_iter().map(|changes| (changes, first.path.at.clone())));
        }
    }
    if let Some(first) = sweep.zip.first() {
        let pair = |index: usize| -> Changes {
            let value = |axis: &Axis| Some((axis.path.clone(), axis.values.get(index)?.clone()));
            sweep.zip.iter().filter_map(value).collect()
        };
        all.extend((0..first.values.len()).map(|index| (pair(index), first.path.at.clone())));
    }
    if let Some(random) = &sweep.random
        && let Some((first, _)) = random.over.first()
    {
        if random.samples > MAX_VARIANTS {
            let message = format!("more than {MAX_VARIANTS} samples");
            problems.push(Diagnostic::new(&first.at, message, "drawn over this").help("ask for fewer"));
        } else {
            let drawn = draw(random.samples, random.seed, &random.over);
            all.extend(drawn.into_iter().map(|changes| (changes, first.at.clone())));
        }
    }
    let mut used = vec![false; sweep.exclude.len()];
    all.retain(|(changes, _)| {
        let hit = sweep.exclude.iter().position(|exclusion| {
            exclusion.values.iter().all(|(path, value)| {
                let change = changes.iter().find(|(changed, _)| changed.value == path.value);
                let now = change.map(|(_, value)| value.to_json()).or_else(|| as_written.get(&path.value));
                now.is_some_and(|now| super::key::same(&now, &value.to_json()))
            })
        });
        if let Some(used) = hit.and_then(|index| used.get_mut(index)) {
            *used = true;
        }
        hit.is_none()
    });
    // What is drawn at random need not meet an exclusion; what is listed does, or the exclusion has a mistake in it.
    for (exclusion, used) in sweep.exclude.iter().zip(used) {
        if !used && sweep.random.is_none() {
            problems.push(
                Diagnostic::new(&exclusion.at, "this excludes no variant", "no combination has these values")
                    .help("`exclude` compares values of `grid`, `zip` and `random`; another exclusion may have taken them"),
            );
        }
    }
    all
}

/// All combinations of the axes' values, the last axis fastest.
fn grid(axes: &[Axis]) -> Vec<Changes> {
    axes.iter().fold(vec![Vec::new()], |points, axis| {
        let with = |point: &Changes| -> Vec<Changes> {
            let add = |value: &Node| {
                let mut point = point.clone();
                point.push((axis.path.clone(), value.clone()));
                point
            };
            axis.values.iter().map(add).collect()
        };
        points.iter().flat_map(with).collect()
    })
}

/// Different points drawn at random. A value depends on the seed, its path and the number of its draw only: asking for
/// more samples keeps the first ones, and so does another path.
fn draw(samples: usize, seed: u64, over: &[(Located<String>, Range)]) -> Vec<Changes> {
    let mut points: Vec<Changes> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    // Where there are fewer different points than samples, all are found long before this.
    for attempt in 0..samples.saturating_mul(64).max(1024) {
        if points.len() == samples {
            break;
        }
        let point: Changes = over
            .iter()
            .map(|(path, range)| (path.clone(), drawn(range, uniform(seed, &path.value, attempt), &path.at)))
            .collect();
        if seen.insert(title(&point)) {
            points.push(point);
        }
    }
    points
}

/// A number from 0 up to 1, the same on every machine.
fn uniform(seed: u64, path: &str, draw: usize) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("restage random sweep v1");
    hasher.update(&seed.to_le_bytes()).update(&(draw as u64).to_le_bytes()).update(path.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

fn drawn(range: &Range, at_random: f64, place: &Place) -> Node {
    let value = match range {
        Range::Choice(values) => {
            let index = (at_random * values.len() as f64) as usize;
            match values.get(index) {
                Some(node) => return node.clone(),
                None => Value::Null,
            }
        }
        Range::Whole(from, to) => Value::Int(from + (at_random * ((to - from) as f64 + 1.0)) as i64),
        Range::Uniform(low, high) => Value::Float(four_digits(low + at_random * (high - low), *low, *high)),
        Range::LogUniform(low, high) => {
            let value = (low.ln() + at_random * (high.ln() - low.ln())).exp();
            Value::Float(four_digits(value, *low, *high))
        }
    };
    Node { value, at: place.clone() }
}

/// Rounded to what people read, which also evens out the last bits in which machines' logarithms differ.
fn four_digits(value: f64, low: f64, high: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value).clamp(low, high)
}

/// The name of a variant that is a combination of values.
fn title(changes: &Changes) -> String {
    let parts: Vec<String> =
        changes.iter().map(|(path, value)| format!("{} = {}", path.value, shown(value))).collect();
    parts.join(", ")
}

fn shown(value: &Node) -> String {
    value.text().map_or_else(|| value.to_json().to_string(), str::to_owned)
}

/// Leaves a stage out: who read an output of it gets its input of the same port type.
fn drop_stage(body: &mut Body, dropped: &Located<String>, catalog: &Catalog, problems: &mut Diagnostics) {
    let Some(stage) = body.stages.shift_remove(&*dropped.value) else {
        problems.push(
            Diagnostic::new(&dropped.at, format!("there is no stage `{}`", dropped.value), "dropped here")
                .help(suggest(&dropped.value, body.names())),
        );
        return;
    };
    body.rewired = true;
    let Some(kind) = ports::of(&stage, catalog) else { return };
    let replacement = |output: &OutputRef| -> Result<Vec<Located<OutputRef>>, String> {
        let port = match &output.port {
            Some(port) => kind.outputs.iter().find(|known| *known.name == **port),
            None => kind.outputs.first(),
        };
        // An output that is not there is told where it is read.
        let Some(port) = port else { return Ok(Vec::new()) };
        let same_type = kind.inputs.iter().filter(|input| input.kind == port.kind || kind.open);
        // Where types are open, the name tells more.
        let (named, others): (Vec<_>, Vec<_>) =
            same_type.partition(|input| kind.open && input.name == port.name);
        let connected = named.into_iter().chain(others).find_map(|input| stage.inputs.get(&input.name));
        connected.map(|input| input.from.clone()).ok_or_else(|| {
            let takes: Vec<String> =
                kind.inputs.iter().map(|input| format!("`{}` ({})", input.name, input.kind)).collect();
            let takes = if takes.is_empty() { "nothing".to_owned() } else { takes.join(", ") };
            let output = format!("`{}` ({})", port.name, port.kind);
            format!("nothing that it reads can take the place of its output {output}: it reads {takes}")
        })
    };
    for reader in body.stages.values_mut() {
        let reads = |output: &Located<OutputRef>| *output.value.stage == *dropped.value;
        if !reader.inputs.values().flat_map(|input| &input.from).any(reads) {
            continue;
        }
        for input in Arc::make_mut(reader).inputs.values_mut() {
            let mut from = Vec::new();
            for output in std::mem::take(&mut input.from) {
                if !reads(&output) {
                    from.push(output);
                    continue;
                }
                match replacement(&output.value) {
                    Ok(outputs) => from.extend(outputs),
                    Err(why) => problems.push(
                        Diagnostic::new(
                            &dropped.at,
                            format!("`{}` cannot be dropped: {why}", dropped.value),
                            "dropped here",
                        )
                        .and(&output.at, "this reads it, and nothing can take its place")
                        .help("`set:` the reader's input to the output of another stage instead"),
                    ),
                }
            }
            input.from = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Located<String> {
        Located { value: text.to_owned(), at: Place::argument(text) }
    }

    fn over(ranges: Vec<(&str, Range)>) -> Vec<(Located<String>, Range)> {
        ranges.into_iter().map(|(name, range)| (path(name), range)).collect()
    }

    #[test]
    fn more_samples_and_more_paths_keep_what_was_drawn() {
        let rate = || ("a.rate", Range::LogUniform(1e-5, 1e-2));
        let few = draw(5, 3, &over(vec![rate()]));
        let more = draw(50, 3, &over(vec![rate(), ("a.n", Range::Whole(1, 1000))]));
        let rates =
            |points: &[Changes]| -> Vec<String> { points.iter().map(|point| shown(&point[0].1)).collect() };
        assert_eq!(rates(&few)[..], rates(&more)[..5]);
        assert_ne!(rates(&few), rates(&draw(5, 4, &over(vec![rate()]))), "another seed draws others");
        // These very values are what a team shares results of.
        assert_eq!(rates(&few)[..2], ["0.0003167", "0.004365"]);
    }

    #[test]
    fn draws_keep_to_their_range_and_do_not_repeat() {
        let points =
            draw(1000, 0, &over(vec![("a.n", Range::Whole(1, 3)), ("a.u", Range::Uniform(-1.0, 1.0))]));
        assert_eq!(points.len(), 1000);
        for point in &points {
            assert!(matches!(point[0].1.value, Value::Int(1..=3)));
            assert!(matches!(point[1].1.value, Value::Float(value) if (-1.0..=1.0).contains(&value)));
        }
        assert_eq!(draw(10, 0, &over(vec![("a.n", Range::Whole(1, 3))])).len(), 3, "there are only three");
    }
}
