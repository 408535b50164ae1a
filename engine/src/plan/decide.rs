//! What happens with each action: decided by looking up what is known, before anything runs.
//!
//! The promise: `cached` is not run, `run` is run, and `may run` is run unless its inputs come out as they were.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
};

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};
use rayon::prelude::*;
use restage_cache::{ActionKey, Digest, Lookup, MissReason, Outputs, Store};
use restage_stage::catalogue::PortType;

use crate::cache::Cache;

use super::{
    Action, Instance, Plan, PlanError,
    reason::{History, PastAction, Reason, changes, input_changes},
};

/// What happens with an action.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Its result is in the store, or in the remote where nobody reads it.
    Cached,
    /// Its result is in the remote, and is brought here.
    Fetch,
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
            Self::Fetch => "fetch",
            Self::Run(_) => "run",
            Self::MayRun(_) => "may run",
        }
    }

    /// Why, if it is not cached.
    pub(crate) fn reasons(&self) -> &[Reason] {
        match self {
            Self::Cached | Self::Fetch => &[],
            Self::Run(reasons) | Self::MayRun(reasons) => reasons,
        }
    }

    /// Whether its result is known before anything runs.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self, Self::Cached | Self::Fetch)
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
    cache: &Cache,
    history: &History,
    forced: &HashSet<NodeIndex>,
) -> Result<(), PlanError> {
    // What others may have run, nobody here has marked.
    let ran_before = if cache.shared.is_some() { None } else { Some(definitions(&cache.store)?) };
    let Plan { graph, instances, baseline, .. } = plan;
    let mut first = vec![None; graph.node_count()];
    for instance in instances.iter().rev() {
        first[instance.action.index()] = Some(instance);
    }
    let levels = levels(graph);
    let mut deciding = Deciding {
        cache,
        forced,
        ran_before,
        history,
        baseline,
        first,
        gone: BTreeMap::new(),
        theirs: BTreeMap::new(),
    };
    loop {
        for level in &levels {
            deciding.decide_level(graph, level)?;
        }
        if !deciding.find_needed(graph) {
            return Ok(());
        }
    }
}

/// The actions by how many others they come after: those of one level depend on earlier levels only.
fn levels(graph: &DiGraph<Action, ()>) -> Vec<Vec<NodeIndex>> {
    let mut depths = vec![0; graph.node_count()];
    let mut levels: Vec<Vec<NodeIndex>> = Vec::new();
    // Nodes are added after the nodes that they read.
    for node in graph.node_indices() {
        let above =
            graph.neighbors_directed(node, Direction::Incoming).map(|source| depths[source.index()] + 1);
        let depth = above.max().unwrap_or(0);
        depths[node.index()] = depth;
        if levels.len() <= depth {
            levels.resize_with(depth + 1, Vec::new);
        }
        levels[depth].push(node);
    }
    levels
}

type Inputs = BTreeMap<String, Vec<Digest>>;
type Decided = (Decision, Option<ActionKey>, BTreeMap<String, Digest>);

/// What is known of an action before its key is looked up.
enum Prospect {
    Decided(Decided),
    LookUp(ActionKey, Inputs),
}

struct Deciding<'a> {
    cache: &'a Cache,
    forced: &'a HashSet<NodeIndex>,
    /// Definitions that ever ran, where that is known.
    ran_before: Option<HashSet<Digest>>,
    history: &'a History,
    baseline: &'a str,
    /// Per action its first instance: the one that names it.
    first: Vec<Option<&'a Instance>>,
    /// Results that are not in the store, and whether somebody needs them. One that nobody reads any more is taken by what
    /// is recorded of it, until somebody turns out to read it.
    gone: BTreeMap<NodeIndex, bool>,
    /// What the remote said.
    theirs: BTreeMap<ActionKey, Option<BTreeMap<String, Digest>>>,
}

impl Deciding<'_> {
    /// Looks up side by side what can be, on disk and then, in one go, in the remote.
    fn decide_level(
        &mut self,
        graph: &mut DiGraph<Action, ()>,
        level: &[NodeIndex],
    ) -> Result<(), PlanError> {
        let prospects: Vec<(Prospect, Option<Lookup<Outputs>>)> = level
            .par_iter()
            .map(|node| {
                let prospect = self.prospect(graph, *node)?;
                let found = match &prospect {
                    Prospect::LookUp(key, _) => Some(look_up(&self.cache.store, key)?),
                    Prospect::Decided(_) => None,
                };
                Ok((prospect, found))
            })
            .collect::<Result<_, PlanError>>()?;
        self.ask(&prospects);
        for (node, (prospect, found)) in level.iter().zip(prospects) {
            let decided = match (prospect, found) {
                (Prospect::LookUp(key, inputs), Some(found)) => {
                    self.conclude(graph, *node, key, &inputs, found)?
                }
                (Prospect::Decided(decided), _) => decided,
                (Prospect::LookUp(..), None) => continue,
            };
            let action = &mut graph[*node];
            (action.decision, action.key, action.artifacts) = decided;
        }
        Ok(())
    }

    /// Asks the remote for what is not here.
    fn ask(&mut self, prospects: &[(Prospect, Option<Lookup<Outputs>>)]) {
        let Some(shared) = &self.cache.shared else { return };
        let unknown = prospects.iter().filter_map(|(prospect, found)| match (prospect, found) {
            (Prospect::LookUp(key, _), Some(Lookup::Miss(_))) if !self.theirs.contains_key(key) => Some(*key),
            _ => None,
        });
        let unknown: BTreeSet<ActionKey> = unknown.collect();
        let mut records = shared.records(&unknown);
        let answers = unknown.into_iter().map(|key| (key, records.remove(&key).map(|record| record.outputs)));
        self.theirs.extend(answers);
    }

    fn prospect(&self, graph: &DiGraph<Action, ()>, node: NodeIndex) -> Result<Prospect, PlanError> {
        let action = &graph[node];
        let forced = self.forced.contains(&node);
        let mut sources = action.inputs.iter().flat_map(|(_, sources)| sources);
        let Some(source) = sources.find(|(source, _)| !graph[*source].decision.is_known()) else {
            let inputs = digests(graph, action);
            let key = action.action_key(&inputs)?;
            return Ok(if forced {
                Prospect::Decided((Decision::Run(vec![Reason::Forced]), Some(key), BTreeMap::new()))
            } else {
                Prospect::LookUp(key, inputs)
            });
        };
        let upstream = Reason::Upstream { action: graph[source.0].name() };
        let mut reasons = self.changed(action, node).unwrap_or_else(|| vec![Reason::New]);
        let decision = if forced {
            reasons.insert(0, Reason::Forced);
            Decision::Run(reasons)
        } else if self.may_have_run(action)? {
            reasons.retain(|reason| *reason != Reason::New);
            reasons.push(upstream);
            Decision::MayRun(reasons)
        } else {
            if reasons.is_empty() {
                reasons.push(Reason::New);
            }
            Decision::Run(reasons)
        };
        Ok(Prospect::Decided((decision, None, BTreeMap::new())))
    }

    /// If nothing of this definition ever ran, no input can make it a hit.
    fn may_have_run(&self, action: &Action) -> Result<bool, PlanError> {
        let known = action.stage_key()?;
        Ok(self.ran_before.as_ref().is_none_or(|ran_before| ran_before.contains(&known)))
    }

    fn changed(&self, action: &Action, node: NodeIndex) -> Option<Vec<Reason>> {
        self.past_of(node).map(|past| changes(action, past))
    }

    fn past_of(&self, node: NodeIndex) -> Option<&PastAction> {
        self.history.nearest(self.first[node.index()]?, self.baseline)
    }

    fn conclude(
        &mut self,
        graph: &DiGraph<Action, ()>,
        node: NodeIndex,
        key: ActionKey,
        inputs: &Inputs,
        found: Lookup<Outputs>,
    ) -> Result<Decided, PlanError> {
        let miss = match found {
            Lookup::Hit(outputs) => return Ok((Decision::Cached, Some(key), outputs)),
            Lookup::Miss(miss) => miss,
        };
        if let Some(Some(outputs)) = self.theirs.get(&key) {
            let is_needed = *self.gone.entry(node).or_insert(false);
            let decision = if is_needed { Decision::Fetch } else { Decision::Cached };
            return Ok((decision, Some(key), outputs.clone()));
        }
        if matches!(miss, MissReason::Gone { .. })
            && !*self.gone.entry(node).or_insert(false)
            && let Some(record) = self.cache.store.recorded(&key)?
        {
            return Ok((Decision::Cached, Some(key), record.outputs));
        }
        let action = &graph[node];
        let reasons = match miss {
            MissReason::Gone { port, .. } => vec![Reason::Gone { port }],
            MissReason::Damaged { port, file, .. } => vec![Reason::Damaged { port, file }],
            MissReason::Unreadable(message) => vec![Reason::Unreadable { message }],
            MissReason::Never => match self.past_of(node) {
                Some(past) => {
                    let mut reasons = changes(action, past);
                    reasons.extend(input_changes(inputs, past, |port| source_names(graph, action, port)));
                    if reasons.is_empty() { vec![Reason::Forgotten] } else { reasons }
                }
                None => vec![Reason::New],
            },
        };
        Ok((Decision::Run(reasons), Some(key), BTreeMap::new()))
    }

    /// Marks what is gone and needed: because it is a result in itself, or because what reads it has to run. False if that
    /// was known already.
    fn find_needed(&mut self, graph: &DiGraph<Action, ()>) -> bool {
        let unknown: Vec<NodeIndex> =
            self.gone.iter().rev().filter(|(_, needed)| !**needed).map(|(node, _)| *node).collect();
        let mut found = false;
        // Readers come after what they read, so from the last one on.
        for node in unknown {
            let mut readers = graph.neighbors_directed(node, Direction::Outgoing).peekable();
            // Tables show the metrics of stages in between.
            let is_result = readers.peek().is_none()
                || graph[node].step.outputs.iter().any(|(_, kind)| *kind == PortType::Metrics);
            if is_result || readers.any(|reader| self.has_to_run(graph, reader)) {
                self.gone.insert(node, true);
                found = true;
            }
        }
        found
    }

    /// Also what is gone from the store, needed, and in no remote.
    fn has_to_run(&self, graph: &DiGraph<Action, ()>, node: NodeIndex) -> bool {
        let action = &graph[node];
        let is_theirs = action.key.is_some_and(|key| matches!(self.theirs.get(&key), Some(Some(_))));
        !action.decision.is_known() || (self.gone.get(&node) == Some(&true) && !is_theirs)
    }
}

/// Looks a result up. A damaged one is mended if that needs no stage to run.
fn look_up(store: &Store, key: &ActionKey) -> Result<Lookup<Outputs>, PlanError> {
    let mut tried = HashSet::new();
    loop {
        match store.outputs(key)? {
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
pub(crate) fn remember(stage_key: &Digest, store: &Store) {
    // A mark that is lost costs what is said above.
    if let Ok(folder) = store.folder(DEFINITIONS) {
        let _ = File::create(folder.join(stage_key.to_string()));
    }
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
    /// What the stage is, whatever it reads.
    pub(crate) fn stage_key(&self) -> Result<Digest, PlanError> {
        self.step.definition.stage_key(&self.seeds).map_err(|message| self.key_error(message))
    }
}
