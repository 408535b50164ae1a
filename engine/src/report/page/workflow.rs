//! The stages of a run as a graph, with what became of them; where the time went.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
};

use indexmap::{IndexMap, IndexSet};

use super::{
    super::{
        graph::{Edge, Graph, Node, State as Shown},
        outcome::{Outcome, State},
    },
    figures::{self, Bar},
    plot::Figure,
    records::Records,
    text::{counted, duration, escape},
};
use crate::run::event::How;

/// What a stage of the workflow is, over variants and seeds.
#[derive(Default)]
pub(super) struct Stage<'a> {
    pub(super) uses: IndexSet<&'a str>,
    pub(super) actions: BTreeSet<usize>,
    variants: IndexSet<&'a str>,
}

/// An input that reads an output.
#[derive(Default)]
struct Wire<'a> {
    ports: BTreeSet<&'a str>,
    variants: IndexSet<&'a str>,
}

/// The stages, in the plan's order.
pub(super) fn stages(outcome: &Outcome) -> IndexMap<&str, Stage<'_>> {
    let mut stages: IndexMap<&str, Stage<'_>> = IndexMap::new();
    for instance in &outcome.instances {
        let stage = stages.entry(&instance.stage).or_default();
        stage.uses.extend(outcome.actions.get(instance.action).map(|action| action.head.uses.as_str()));
        stage.actions.insert(instance.action);
        stage.variants.insert(&instance.variant);
    }
    stages
}

/// The graph of stages.
pub(super) fn graph(outcome: &Outcome, records: &Records) -> Graph {
    let stages = stages(outcome);
    // Of two stages that are one action, each variant knows its own.
    let mut stage_of: HashMap<(&str, usize), usize> = HashMap::new();
    for instance in &outcome.instances {
        if let Some(stage) = stages.get_index_of(instance.stage.as_str()) {
            stage_of.entry((&instance.variant, instance.action)).or_insert(stage);
        }
    }
    let mut wires: IndexMap<(usize, usize), Wire<'_>> = IndexMap::new();
    for instance in &outcome.instances {
        let (Some(action), Some(to)) =
            (outcome.actions.get(instance.action), stages.get_index_of(instance.stage.as_str()))
        else {
            continue;
        };
        for (port, sources) in &action.head.inputs {
            for (source, _) in sources {
                if let Some(from) = stage_of.get(&(instance.variant.as_str(), *source)) {
                    let wire = wires.entry((*from, to)).or_default();
                    wire.ports.insert(port);
                    wire.variants.insert(&instance.variant);
                }
            }
        }
    }
    let known: IndexSet<&str> = compared(outcome).map(String::as_str).collect();
    let some = |variants: &IndexSet<&str>| -> Vec<String> {
        let named: Vec<String> = variants.intersection(&known).map(ToString::to_string).collect();
        if named.len() == known.len() { Vec::new() } else { named }
    };
    let nodes = stages.iter().map(|(name, stage)| {
        let time: u64 = stage.actions.iter().map(|action| records.milliseconds(outcome, *action)).sum();
        let count = stage.actions.len();
        let times = if count > 1 { format!("× {count} actions, ") } else { String::new() };
        Node {
            name: (*name).to_owned(),
            detail: stage.uses.iter().copied().collect::<Vec<_>>().join(" or "),
            note: format!("{times}{}", duration(time)),
            state: stage
                .actions
                .iter()
                .filter_map(|action| shown(outcome, *action))
                .max_by_key(|state| rank(*state)),
            only_in: some(&stage.variants),
        }
    });
    let edges = wires.iter().map(|((from, to), wire)| Edge {
        from: *from,
        to: *to,
        label: wire.ports.iter().copied().collect::<Vec<_>>().join(", "),
        only_in: some(&wire.variants),
    });
    Graph { title: String::new(), nodes: nodes.collect(), edges: edges.collect() }
}

fn shown(outcome: &Outcome, action: usize) -> Option<Shown> {
    Some(match &outcome.actions.get(action)?.state {
        State::Done(done) => match done.how {
            How::Ran { .. } => Shown::Ran,
            How::Cached | How::Fetched => Shown::Cached,
        },
        State::Running | State::Waiting => Shown::Running,
        State::Failed { .. } => Shown::Failed,
        State::Pending | State::Skipped { .. } => Shown::ToCome,
    })
}

/// Of a stage's actions the one that shows: what failed, then what is not done, then what ran.
fn rank(state: Shown) -> usize {
    [Shown::Cached, Shown::Ran, Shown::ToCome, Shown::Running, Shown::Failed]
        .iter()
        .position(|other| *other == state)
        .unwrap_or(0)
}

/// Where the time went.
pub(super) struct Times {
    /// Milliseconds of what ran.
    pub(super) ran: u64,
    /// Of what was in the store or the remote already.
    pub(super) reused: u64,
    /// Of what each variant and seed would have computed for itself.
    pub(super) merged: u64,
    pub(super) figure: Option<Figure>,
}

pub(super) fn times(outcome: &Outcome, records: &Records) -> Times {
    let time = |action: usize| records.milliseconds(outcome, action);
    let has_run = |action: usize| !matches!(&outcome.actions[action].state, State::Done(done) if !matches!(done.how, How::Ran { .. }));
    let sum = |actions: &BTreeSet<usize>, ran: bool| -> u64 {
        actions.iter().filter(|action| has_run(**action) == ran).map(|action| time(*action)).sum()
    };
    let stages = stages(outcome);
    let bar = |(name, stage): (&&str, &Stage<'_>)| Bar {
        name: (*name).to_owned(),
        ran: sum(&stage.actions, true),
        saved: sum(&stage.actions, false),
    };
    let mut rows: Vec<Bar> = stages.iter().map(bar).filter(|bar| bar.ran + bar.saved > 0).collect();
    rows.sort_by_key(|bar| std::cmp::Reverse(bar.ran + bar.saved));
    let all: BTreeSet<usize> = (0..outcome.actions.len()).collect();
    let alone: u64 = outcome.instances.iter().map(|instance| time(instance.action)).sum();
    let (ran, reused) = (sum(&all, true), sum(&all, false));
    let title = "Time that each stage took, over all variants and seeds: what ran, and what was reused";
    let figure = (!rows.is_empty()).then(|| figures::bars("time", title, &rows));
    Times { ran, reused, merged: alone.saturating_sub(ran + reused), figure }
}

/// Milliseconds of all stages of a variant, each as long as it took.
pub(super) fn of_variant(outcome: &Outcome, records: &Records, variant: &str) -> u64 {
    let actions: BTreeSet<usize> = outcome.of_variant(variant).map(|instance| instance.action).collect();
    actions.iter().map(|action| records.milliseconds(outcome, *action)).sum()
}

/// Variants that are compared; not those that only vary one stream of random numbers of the baseline.
pub(super) fn compared(outcome: &Outcome) -> impl Iterator<Item = &String> {
    let alone = |variant: &String| outcome.comparison.streams.iter().any(|(name, _)| name == variant);
    outcome.variants.iter().filter(move |variant| !alone(variant))
}

/// What the run did and did not have to do.
pub(super) fn times_html(times: &Times, figure: &str) -> String {
    let fact = |value: u64, what: &str| {
        format!("<div class=\"fact\"><b>{}</b><span>{what}</span></div>\n", escape(&duration(value)))
    };
    let mut html = String::from("<div class=\"facts\">\n");
    html += &fact(times.ran, "of stages that ran");
    html += &fact(times.reused, "saved by the cache: results that were there already");
    html += &fact(times.merged, "saved by merging: equal steps of variants and seeds are done once");
    html += "</div>\n";
    html += figure;
    html
}

/// What failed, and what could not run because of it.
pub(super) fn failures(outcome: &Outcome) -> Option<String> {
    let mut skipped: BTreeMap<usize, usize> = BTreeMap::new();
    for action in &outcome.actions {
        if let State::Skipped { because } = action.state {
            *skipped.entry(because).or_default() += 1;
        }
    }
    let mut html = String::new();
    let labels = outcome.labels();
    for (id, (action, label)) in outcome.actions.iter().zip(&labels).enumerate() {
        let State::Failed { message, milliseconds } = &action.state else { continue };
        let variants: IndexSet<&str> = outcome
            .instances
            .iter()
            .filter(|instance| instance.action == id)
            .map(|instance| instance.variant.as_str())
            .collect();
        let variants: Vec<String> = variants.into_iter().map(str::to_owned).collect();
        let _ = write!(
            html,
            "<article class=\"failure\">\n<h3>{} <span class=\"soft\">{}</span></h3>\n<pre>{}</pre>\n<p>After {}, in {}",
            escape(label),
            escape(&action.head.uses),
            escape_lines(message),
            duration(*milliseconds),
            escape(&super::text::listed(&variants)),
        );
        if action.retries > 0 {
            let _ = write!(html, "; tried {} in all", counted(action.retries as usize + 1, "time"));
        }
        if let Some(count) = skipped.get(&id) {
            let _ = write!(html, "; {} could not run because of it", counted(*count, "action"));
        }
        html += ".</p>\n</article>\n";
    }
    (!html.is_empty()).then_some(html)
}

/// Text that keeps its lines.
fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}
