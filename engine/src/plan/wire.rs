//! Checks a variant's wires against the stage types: types known, ports there, kinds equal, nothing missing, no cycle.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use petgraph::{algo::tarjan_scc, graph::DiGraph};
use restage_stage::catalogue::{InputPort, OutputPort, PortType, StageType};

use super::{ports, required};
use crate::{
    plugin::Catalog,
    workflow::{
        Body, Diagnostic, Diagnostics, Input, Located, MetricRef, OutputRef, Stage, nearest, suggest,
    },
};

/// How a variant's stages are connected.
pub(super) struct Wiring {
    /// Stages in an order in which inputs come before their readers, but for circles, which are told.
    pub(super) order: Vec<Arc<str>>,
    /// The only output of each stage that has one.
    single_outputs: HashMap<Arc<str>, Arc<str>>,
}

impl Wiring {
    /// The port that a reference means.
    pub(super) fn output_port(&self, output: &OutputRef) -> Option<Arc<str>> {
        output.port.clone().or_else(|| self.single_outputs.get(&output.stage).cloned())
    }
}

/// Checks all wires.
pub(super) fn resolve(
    body: &Body,
    metrics: &[Located<MetricRef>],
    catalog: &Catalog,
    problems: &mut Diagnostics,
) -> Wiring {
    let mut kinds: Kinds<'_> = HashMap::new();
    for (name, stage) in &body.stages {
        ports::check(name, stage, catalog, problems);
        match ports::of(stage, catalog) {
            Some(kind) => drop(kinds.insert(name, kind)),
            // A stage without its type was told when the file was read.
            None if stage.uses.value.is_empty() || problems.full() => {}
            None => problems.push(unknown_type(&stage.uses, catalog)),
        }
    }
    for (name, stage) in &body.stages {
        if let Some(kind) = kinds.get(&**name) {
            check_inputs(name, stage, kind, body, &kinds, problems);
            check_test_labels(name, stage, kind, &kinds, problems);
        }
    }
    check_metrics(metrics, &kinds, problems);
    let order = order(body, problems);
    let single = |(name, kind): (&&str, &Cow<'_, StageType>)| match kind.outputs.as_slice() {
        [only] => Some(((*name).into(), only.name.as_str().into())),
        _ => None,
    };
    let single_outputs = kinds.iter().filter_map(single).collect();
    Wiring { order, single_outputs }
}

/// The types of a variant's stages, with the ports that each stage has.
type Kinds<'a> = HashMap<&'a str, Cow<'a, StageType>>;

/// A type whose ports are open would take test labels like anything else. What reads them may only judge.
fn check_test_labels(
    name: &str,
    stage: &Stage,
    kind: &StageType,
    kinds: &Kinds<'_>,
    problems: &mut Diagnostics,
) {
    let Some(other) = kind.outputs.iter().find(|output| kind.open && output.kind != PortType::Metrics) else {
        return;
    };
    for output in stage.inputs.values().flat_map(|input| &input.from) {
        let ports = kinds.get(&*output.value.stage).map_or(&[][..], |kind| &kind.outputs);
        let is_read = |port: &&OutputPort| output.value.port.as_ref().is_none_or(|name| **name == *port.name);
        if ports.iter().filter(is_read).any(|port| port.kind == PortType::TestLabels) {
            let message = format!("`{name}` reads test labels, and writes `{}` ({})", other.name, other.kind);
            problems.push(
                Diagnostic::new(&output.at, message, "test labels")
                    .and(&stage.uses.at, "what this writes, others may train on")
                    .help("what reads test labels may write metrics only: anything else would leak them"),
            );
        }
    }
}

fn unknown_type(uses: &Located<String>, catalog: &Catalog) -> Diagnostic {
    let known: Vec<String> = catalog.names().collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let plugin = uses.value.split_once('/').map(|(plugin, _)| plugin);
    let plugins: Vec<&str> = catalog.plugins().map(|(name, _)| name).collect();
    let unnamed = plugin.filter(|plugin| !plugins.contains(plugin));
    let near = nearest(&uses.value, &known);
    let missing = unnamed.filter(|_| near.is_none() || uses.at.source.is_guest());
    let (label, help) = match missing {
        _ if known.is_empty() && !uses.at.source.is_guest() => {
            ("no plugin offers it", "the workflow names no plugins: add `plugins: [{ path: … }]`".to_owned())
        }
        Some(plugin) if uses.at.source.is_guest() => {
            let help = format!(
                "plugins of an imported repository are not built unasked: add a folder of `{plugin}` to your own `plugins:`, or, if you \
                 trust that code, write `plugins: allow` beside the import's `git:`{}",
                near.map(|near| format!("; or was `{near}` meant?")).unwrap_or_default()
            );
            ("of a plugin that is left out", help)
        }
        Some(plugin) => {
            let help = format!(
                "add the folder of `{plugin}` to `plugins:`; so far there is: {}",
                plugins.join(", ")
            );
            ("of a plugin that is not named", help)
        }
        None => ("no plugin offers it", suggest(&uses.value, known)),
    };
    Diagnostic::new(&uses.at, format!("unknown stage type `{}`", uses.value), label).help(help)
}

fn check_inputs(
    name: &str,
    stage: &Stage,
    kind: &StageType,
    body: &Body,
    kinds: &Kinds<'_>,
    problems: &mut Diagnostics,
) {
    let ports = &kind.inputs;
    for (port_name, input) in &stage.inputs {
        let Some(port) = ports.iter().find(|port| port.name == *port_name) else {
            let message = format!("`{}` has no input `{port_name}`", stage.uses.value);
            let known = ports.iter().map(|port| port.name.as_str());
            problems
                .push(Diagnostic::new(&input.at, message, "unknown input").help(suggest(port_name, known)));
            continue;
        };
        if let (false, [_, second, ..]) = (port.many, input.from.as_slice()) {
            let message = format!("input `{port_name}` of `{}` takes one artifact", stage.uses.value);
            let first = input.from.first().map_or(&input.at, |first| &first.at);
            problems.push(
                Diagnostic::new(&second.at, message, "the second one")
                    .and(first, "the first one")
                    .help("give it one of them, or collect them first with a stage type that takes a list"),
            );
        }
        for output in &input.from {
            check_wire(port, input, output, body, kinds, problems);
        }
    }
    let is_port = |name: &str| ports.iter().any(|port| port.name == name);
    for port in ports.iter().filter(|port| !port.optional && !stage.inputs.contains_key(&port.name)) {
        // One that is misspelled is told already.
        let misspelled = |name: &String| !is_port(name) && nearest(name, &[&port.name]).is_some();
        if stage.misshapen || stage.inputs.keys().any(misspelled) {
            continue;
        }
        problems.push(required::lacks(name, stage, port, ""));
    }
    required::of_choices(name, stage, kind, problems);
}

fn check_wire(
    port: &InputPort,
    input: &Input,
    output: &Located<OutputRef>,
    body: &Body,
    kinds: &Kinds<'_>,
    problems: &mut Diagnostics,
) {
    // A stage that is not there or of unknown type was told already.
    let Some(source) = kinds.get(&*output.value.stage) else { return };
    let outputs = &source.outputs;
    let names = || outputs.iter().map(|output| output.name.as_str());
    let found: Option<&OutputPort> = match (&output.value.port, outputs.as_slice()) {
        (Some(name), _) => outputs.iter().find(|known| *known.name == **name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let from = body.stages.get(&output.value.stage).map_or(&output.at, |stage| &stage.uses.at);
    let Some(found) = found else {
        let (message, help) = match &output.value.port {
            Some(name) => {
                (format!("stage `{}` has no output `{name}`", output.value.stage), suggest(name, names()))
            }
            None => {
                let full = names().map(|name| format!("`{}.{name}`", output.value.stage)).collect::<Vec<_>>();
                let message = format!("stage `{}` has {} outputs", output.value.stage, full.len());
                (message, format!("say which one: {}", full.join(" or ")))
            }
        };
        let has = format!("its outputs: {}", names().collect::<Vec<_>>().join(", "));
        return problems.push(Diagnostic::new(&output.at, message, "read here").and(from, has).help(help));
    };
    let fits = found.kind == port.kind || [found.kind, port.kind].contains(&PortType::Any);
    if !fits {
        let message =
            format!("input `{}` takes {}, `{}` is {}", port.name, port.kind, output.value, found.kind);
        let fitting = outputs.iter().filter(|known| known.kind == port.kind);
        let fitting: Vec<String> =
            fitting.map(|known| format!("`{}.{}`", output.value.stage, known.name)).collect();
        let diagnostic = Diagnostic::new(&output.at, message, format!("this is {}", found.kind))
            .and(&input.at, format!("this takes {}", port.kind))
            .and(from, format!("`{}` comes from here", found.name));
        problems.push(match fitting.as_slice() {
            [] if found.kind == PortType::TestLabels => {
                diagnostic.help("test labels are for evaluation only: reading them elsewhere would leak")
            }
            [] => diagnostic.help(format!("read an output of type {} of another stage", port.kind)),
            some => diagnostic.help(format!("did you mean {}?", some.join(" or "))),
        });
    }
}

fn check_metrics(metrics: &[Located<MetricRef>], kinds: &Kinds<'_>, problems: &mut Diagnostics) {
    for metric in metrics {
        let Some(kind) = kinds.get(metric.value.stage.as_str()) else { continue };
        if !kind.outputs.iter().any(|output| output.kind == PortType::Metrics) {
            let message = format!("stage `{}` has no metrics", metric.value.stage);
            problems.push(
                Diagnostic::new(&metric.at, message, "its metric")
                    .help("name a stage with an output of type metrics, e.g. one of `classify/evaluate`"),
            );
        }
    }
}

/// The stages with inputs before their readers; circles are told.
fn order(body: &Body, problems: &mut Diagnostics) -> Vec<Arc<str>> {
    let mut graph: DiGraph<&Arc<str>, ()> = DiGraph::new();
    let nodes: HashMap<&str, _> = body.stages.keys().map(|name| (&**name, graph.add_node(name))).collect();
    for (name, stage) in &body.stages {
        for output in stage.inputs.values().flat_map(|input| &input.from) {
            if let (Some(from), Some(to)) = (nodes.get(&*output.value.stage), nodes.get(&**name)) {
                graph.add_edge(*from, *to, ());
            }
        }
    }
    let components = tarjan_scc(&graph);
    for component in components.iter().filter(|component| component.len() > 1) {
        let names: HashSet<&str> = component.iter().map(|node| &**graph[*node]).collect();
        if let Some(first) = body.names().find(|name| names.contains(name)) {
            tell_circle(&circle(body, first, &names), problems);
        }
    }
    // Tarjan's components come readers first.
    components.iter().rev().flatten().map(|node| graph[*node].clone()).collect()
}

/// A stage, and the output of another that it reads.
type Reads<'a> = (&'a str, &'a Located<OutputRef>);

/// The shortest way from a stage back to itself, given the stages of its circles.
fn circle<'a>(body: &'a Body, start: &'a str, members: &HashSet<&str>) -> Vec<Reads<'a>> {
    let mut came_by: HashMap<&str, Reads<'a>> = HashMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(name) = next.pop_front() {
        let inputs = body.stages.get(name).into_iter().flat_map(|stage| stage.inputs.values());
        for output in inputs.flat_map(|input| &input.from) {
            let read = &*output.value.stage;
            if members.contains(read) && !came_by.contains_key(read) {
                came_by.insert(read, (name, output));
                next.push_back(read);
            }
        }
    }
    let mut way = Vec::new();
    let mut at = start;
    while let Some((name, output)) = came_by.get(at).copied() {
        way.push((name, output));
        at = name;
        if at == start {
            break;
        }
    }
    way.reverse();
    way
}

fn tell_circle(way: &[Reads<'_>], problems: &mut Diagnostics) {
    let Some(((first, wire), others)) = way.split_first() else { return };
    let names: Vec<&str> = way.iter().map(|(name, _)| *name).chain([*first]).collect();
    let message = format!("stages read each other in a circle: {}", names.join(" <- "));
    let label = |name: &str, output: &OutputRef| format!("`{name}` reads `{}`", output.stage);
    let problem = Diagnostic::new(&wire.at, message, label(first, &wire.value))
        .help("a stage's inputs must exist before it runs: let one of them read something else");
    let add =
        |problem: Diagnostic, (name, output): &Reads<'_>| problem.and(&output.at, label(name, &output.value));
    problems.push(others.iter().take(MAX_LABELS).fold(problem, add));
}

/// More places than this are not drawn for one problem.
const MAX_LABELS: usize = 6;
