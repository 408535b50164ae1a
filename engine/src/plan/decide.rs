//! What happens with each action: decided by looking up what is known, before anything runs.
//!
//! The promise: `cached` is not run, `run` is run, and `may run` is run unless its inputs come out as they were.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
};

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};
use restage_cache::{ActionKey, Digest, Lookup, MissReason, Store};
use restage_stage::catalogue::PortType;

use super::{
    Action, Instance, Plan, PlanError,
    reason::{History, PastAction, Reason, changes, input_changes},
};

/// What happens with an action.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Its result is in the store.
    Cached,
    /// It will run, for these reasons.
    Run(Vec<Reason>),
    /// It runs unless its inputs come out as they were.
    MayRun(Vec<Reason>),
}

impl Decision {
    /// One word for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Run(_) => "run",
            Self::MayRun(_) => "may run",
        }
    }

    /// Why, if it is not cached.
    pub(crate) fn reasons(&self) -> &[Reason] {
        match self {
            Self::Cached => &[],
            Self::Run(reasons) | Self::MayRun(reasons) => reasons,
        }
    }

    /// Whether it was asked for, whatever is in the store.
    pub(crate) fn is_forced(&self) -> bool {
        self.reasons().contains(&Reason::Forced)
    }
}

/// Bucket of the store with a mark for each definition, inputs apart, that ever ran.
const DEFINITIONS: &str = "definitions";

pub(super) fn decide(
    plan: &mut Plan,
    store: &Store,
    history: &History,
    forced: &HashSet<NodeIndex>,
) -> Result<(), PlanError> {
    let ran_before = definitions(store)?;
    let order = plan.order();
    let baseline = plan.baseline.clone();
    let past_of =
        |instance: Option<&Instance>| instance.and_then(|instance| history.nearest(instance, &baseline));
    let past: Vec<Option<&PastAction>> = plan.first_instances().into_iter().map(past_of).collect();
    // Results that are gone from the store, and whether somebody needs them. One that nobody reads any more is taken by
    // what is recorded of it, until somebody turns out to read it.
    let mut gone: BTreeMap<NodeIndex, bool> = BTreeMap::new();
    loop {
        for (node, past) in order.clone().zip(&past) {
            let forced = forced.contains(&node);
            let decided = decide_one(&plan.graph, node, *past, store, &ran_before, forced, &mut gone)?;
            let action = &mut plan.graph[node];
            (action.decision, action.key, action.artifacts) = decided;
        }
        if !find_needed(&plan.graph, &mut gone) {
            return Ok(());
        }
    }
}

/// Marks what is gone and needed: because it is a result in itself, or because what reads it is not cached, or is gone and
/// needed too. False if that was known already.
fn find_needed(graph: &DiGraph<Action, ()>, gone: &mut BTreeMap<NodeIndex, bool>) -> bool {
    let unknown: Vec<NodeIndex> =
        gone.iter().rev().filter(|(_, needed)| !**needed).map(|(node, _)| *node).collect();
    let mut found = false;
    // Readers come after what they read, so from the last one on.
    for node in unknown {
        let mut readers = graph.neighbors_directed(node, Direction::Outgoing).peekable();
        // Tables show the metrics of stages in between.
        let is_result = readers.peek().is_none()
            || graph[node].step.outputs.iter().any(|(_, kind)| *kind == PortType::Metrics);
        let is_needed = is_result
            || readers
                .any(|reader| graph[reader].decision != Decision::Cached || gone.get(&reader) == Some(&true));
        if is_needed {
            gone.insert(node, true);
            found = true;
        }
    }
    found
}

type Decided = (Decision, Option<ActionKey>, BTreeMap<String, Digest>);

fn decide_one(
    graph: &DiGraph<Action, ()>,
    node: NodeIndex,
    past: Option<&PastAction>,
    store: &Store,
    ran_before: &HashSet<Digest>,
    forced: bool,
    gone: &mut BTreeMap<NodeIndex, bool>,
) -> Result<Decided, PlanError> {
    let action = &graph[node];
    let sources = action.inputs.iter().flat_map(|(_, sources)| sources);
    let running =
        sources.map(|(source, _)| &graph[*source]).find(|source| source.decision != Decision::Cached);
    let changed = past.map(|past| changes(action, past));
    if let Some(source) = running {
        let upstream = Reason::Upstream { action: source.name() };
        let known = action.stage_key()?;
        let mut reasons = changed.unwrap_or_else(|| vec![Reason::New]);
        if forced {
            reasons.insert(0, Reason::Forced);
            return Ok((Decision::Run(reasons), None, BTreeMap::new()));
        }
        // If nothing of this definition ever ran, no input can make it a hit.
        let decision = if ran_before.contains(&known) {
            reasons.retain(|reason| *reason != Reason::New);
            reasons.push(upstream);
            Decision::MayRun(reasons)
        } else {
            if reasons.is_empty() {
                reasons.push(Reason::New);
            }
            Decision::Run(reasons)
        };
        return Ok((decision, None, BTreeMap::new()));
    }
    let inputs = digests(graph, action);
    let key = action.action_key(&inputs)?;
    if forced {
        return Ok((Decision::Run(vec![Reason::Forced]), Some(key), BTreeMap::new()));
    }
    let miss = match look_up(store, &key)? {
        Lookup::Hit(record) => return Ok((Decision::Cached, Some(key), record.outputs)),
        Lookup::Miss(miss) => miss,
    };
    if matches!(miss, MissReason::Gone { .. })
        && !*gone.entry(node).or_insert(false)
        && let Some(record) = store.recorded(&key)?
    {
        return Ok((Decision::Cached, Some(key), record.outputs));
    }
    let reasons = match miss {
        MissReason::Gone { port, .. } => vec![Reason::Gone { port }],
        MissReason::Damaged { port, file, .. } => vec![Reason::Damaged { port, file }],
        MissReason::Unreadable(message) => vec![Reason::Unreadable { message }],
        MissReason::Never => match (past, changed) {
            (Some(past), Some(mut reasons)) => {
                reasons.extend(input_changes(&inputs, past, |port| source_names(graph, action, port)));
                if reasons.is_empty() { vec![Reason::Forgotten] } else { reasons }
            }
            _ => vec![Reason::New],
        },
    };
    Ok((Decision::Run(reasons), Some(key), BTreeMap::new()))
}

/// Looks a result up. A damaged one is mended if that needs no stage to run.
fn look_up(store: &Store, key: &ActionKey) -> Result<Lookup, PlanError> {
    let mut tried = HashSet::new();
    loop {
        match store.lookup(key)? {
            // What cannot be mended, for whatever reason, is computed again.
            Lookup::Miss(MissReason::Damaged { digest, .. })
                if tried.insert(digest) && store.mend(&digest).unwrap_or(false) => {}
            answer => return Ok(answer),
        }
    }
}

/// Names of the actions that an input port reads.
fn source_names(graph: &DiGraph<Action, ()>, action: &Action, port: &str) -> Vec<String> {
    let sources = action.inputs.iter().filter(|(known, _)| **known == *port).flat_map(|(_, sources)| sources);
    sources.map(|(source, _)| graph[*source].name()).collect()
}

/// Definitions that ever ran: one listing of a folder, not a look at each file.
fn definitions(store: &Store) -> Result<HashSet<Digest>, PlanError> {
    let folder = store.folder(DEFINITIONS)?;
    // A mark that cannot be read costs a `run` where `may run` would have been told; nothing else.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Marks that an action's definition has run.
pub(crate) fn remember(action: &Action, store: &Store) -> Result<(), PlanError> {
    let path = store.folder(DEFINITIONS)?.join(action.stage_key()?.to_string());
    // A mark that is lost costs what is said above.
    let _ = File::create(path);
    Ok(())
}

/// Digests of an action's inputs, all known.
pub(crate) fn input_digests(plan: &Plan, action: &Action) -> BTreeMap<String, Vec<Digest>> {
    digests(&plan.graph, action)
}

fn digests(graph: &DiGraph<Action, ()>, action: &Action) -> BTreeMap<String, Vec<Digest>> {
    let digest =
        |(source, port): &(NodeIndex, std::sync::Arc<str>)| graph[*source].artifacts.get(&**port).copied();
    action
        .inputs
        .iter()
        .map(|(port, sources)| (port.to_string(), sources.iter().filter_map(digest).collect()))
        .collect()
}

impl Action {
    fn stage_key(&self) -> Result<Digest, PlanError> {
        self.step.definition.stage_key(self.seed).map_err(|message| self.key_error(message))
    }
}
