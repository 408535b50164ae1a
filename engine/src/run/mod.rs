//! Walks a plan: looks up, leases threads, hands to the executor, records; tells everything as [`event::Event`]s.

pub(crate) mod again;
mod attempt;
pub(crate) mod board;
pub(crate) mod event;
mod give;
pub(crate) mod journal;
mod lease;
pub(crate) mod past;
pub(crate) mod pilot;
mod tries;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use attempt::{Attempts, Became};
use event::{ActionHead, Comparison, Event, How, InstanceHead, Reads, Started};
use give::Giving;
use lease::Leases;
use petgraph::{Direction, graph::NodeIndex};
use restage_cache::{ActionKey, Digest, Lookup, Store};
use restage_stage::catalogue::PortType;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

pub(crate) use crate::now;
use crate::{
    cache::Cache,
    executor::{self, ExecuteError, Executor, Job, Origin, Outputs, slurm::Slurm},
    machine::Machine,
    plan::{Action, Decision, PastAction, Plan, PlanError, input_digests},
    workflow::Workflow,
};

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its result is there.
    Done(How),
    /// It failed, with this message.
    Failed(String),
    /// An action that it reads failed.
    Skipped,
}

/// How a run ended.
pub(crate) struct Summary {
    /// Per action of the plan. An action that was not reached is not here.
    pub(crate) ends: BTreeMap<NodeIndex, End>,
    /// Whether it was interrupted.
    pub(crate) interrupted: bool,
    /// How long it took.
    pub(crate) milliseconds: u64,
    /// How many results the remote took that it had not.
    pub(crate) given: u64,
    /// Something failed because what it reads went away, or could not be fetched after all: another plan may do.
    pub(crate) input_gone: bool,
}

impl Summary {
    /// Whether every action has its result.
    pub(crate) fn succeeded(&self, plan: &Plan) -> bool {
        self.ends.len() == plan.graph.node_count()
            && self.ends.values().all(|end| matches!(end, End::Done(_)))
    }

    /// How many actions ran.
    pub(crate) fn ran(&self) -> usize {
        self.ends.values().filter(|end| matches!(end, End::Done(How::Ran { .. }))).count()
    }

    /// How many were kept: they might have run, and their inputs came out as they were.
    pub(crate) fn kept(&self, plan: &Plan) -> usize {
        let kept = |(node, end): &(&NodeIndex, &End)| {
            matches!(end, End::Done(How::Cached))
                && matches!(plan.graph[**node].decision, Decision::MayRun(_))
        };
        self.ends.iter().filter(kept).count()
    }

    /// How many were reused, from the store or the remote.
    pub(crate) fn reused(&self) -> usize {
        self.ends.values().filter(|end| matches!(end, End::Done(How::Cached | How::Fetched))).count()
    }

    /// How many were brought from the remote.
    pub(crate) fn fetched(&self) -> usize {
        self.ends.values().filter(|end| matches!(end, End::Done(How::Fetched))).count()
    }
}

/// What keeps a run from going on at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    /// A key cannot be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What a run begins with.
pub(crate) fn started(workflow: &Workflow, plan: &Plan) -> Started {
    let head = |action: &Action| ActionHead {
        name: action.name(),
        uses: action.step.uses.clone(),
        inputs: reads(action),
        outputs: action.step.outputs.iter().map(|(port, kind)| (port.to_string(), *kind)).collect(),
    };
    let instances = plan.instances.iter().map(|instance| InstanceHead {
        variant: instance.variant.to_string(),
        seed: instance.seed,
        stage: instance.stage.to_string(),
        at: (*instance.at).clone(),
        action: instance.action.index(),
    });
    Started {
        workflow: workflow.path.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        time: now(),
        by: Some(by()),
        actions: plan.graph.node_weights().map(head).collect(),
        instances: instances.collect(),
        variants: plan.variants.iter().map(ToString::to_string).collect(),
        baseline: Some(plan.baseline.to_string()),
        comparison: Comparison {
            metrics: plan.metrics.clone(),
            seeds: plan.seeds.clone(),
            streams: plan
                .streams
                .iter()
                .map(|(name, stream)| (name.to_string(), stream.to_string()))
                .collect(),
            test: workflow.sweep.test,
            family: workflow.sweep.family.iter().map(|name| name.value.clone()).collect(),
        },
    }
}

/// What an action reads.
pub(crate) fn reads(action: &Action) -> Reads {
    let source = |(node, port): &(NodeIndex, Arc<str>)| (node.index(), port.to_string());
    let inputs = action.inputs.iter();
    inputs.map(|(port, sources)| (port.to_string(), sources.iter().map(source).collect())).collect()
}

/// Who runs this, and where.
pub(crate) fn by() -> String {
    format!("{}@{}", executor::user().as_deref().unwrap_or("someone"), executor::host())
}

/// Runs a plan. Actions whose inputs are there run side by side, on what they may use of `machine`, or away; an action that
/// fails keeps only those from running that read it.
///
/// # Errors
/// If the store cannot be used; a failing action is part of the [`Summary`].
pub(crate) async fn run(
    plan: &mut Plan,
    cache: &Cache,
    executor: Executor,
    away: Option<Slurm>,
    machine: Machine,
    events: mpsc::Sender<Event>,
    cancel: watch::Receiver<bool>,
) -> Result<Summary, RunError> {
    let started = Instant::now();
    let waiting = plan
        .graph
        .node_indices()
        .map(|node| plan.graph.neighbors_directed(node, Direction::Incoming).count())
        .collect();
    let mut run = Run {
        cache: cache.clone(),
        giving: Giving::begin(cache),
        executor: Arc::new(executor),
        away: away.map(Arc::new),
        leases: Arc::new(Leases::new(machine)),
        events,
        cancel,
        running: JoinSet::new(),
        in_flight: BTreeMap::new(),
        waiting,
        ends: BTreeMap::new(),
        input_gone: false,
    };
    let ready: Vec<NodeIndex> = plan.graph.externals(Direction::Incoming).collect();
    run.reach(plan, ready).await?;
    while let Some(joined) = run.running.join_next().await {
        let Ok(attempt) = joined else { continue };
        let ready = run.conclude(plan, attempt).await?;
        run.reach(plan, ready).await?;
    }
    // All that held it has come back.
    if let Some(slurm) = run.away.take().and_then(Arc::into_inner) {
        slurm.close().await;
    }
    let given = match run.giving {
        Some(giving) => giving.end().await,
        None => 0,
    };
    let milliseconds = elapsed(started);
    let _ = run.events.send(Event::Finished { milliseconds }).await;
    let interrupted = *run.cancel.borrow();
    Ok(Summary { ends: run.ends, interrupted, milliseconds, given, input_gone: run.input_gone })
}

fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

struct Run {
    cache: Cache,
    giving: Option<Giving>,
    executor: Arc<Executor>,
    away: Option<Arc<Slurm>>,
    leases: Arc<Leases>,
    events: mpsc::Sender<Event>,
    cancel: watch::Receiver<bool>,
    running: JoinSet<Attempt>,
    /// Per key that is being computed the actions of the plan that turned out to have the same one.
    in_flight: BTreeMap<ActionKey, Vec<NodeIndex>>,
    /// How many inputs of each action are not there yet.
    waiting: Vec<usize>,
    ends: BTreeMap<NodeIndex, End>,
    input_gone: bool,
}

/// A job that came back.
struct Attempt {
    node: NodeIndex,
    key: ActionKey,
    inputs: BTreeMap<String, Vec<Digest>>,
    milliseconds: u64,
    result: Result<Became, ExecuteError>,
}

impl Run {
    /// Deals with actions whose inputs are there, and with those that get theirs by it.
    async fn reach(&mut self, plan: &mut Plan, mut ready: Vec<NodeIndex>) -> Result<(), RunError> {
        while let Some(node) = ready.pop() {
            let inputs = input_digests(plan, &plan.graph[node]);
            let action = &plan.graph[node];
            let key = match action.key {
                Some(key) => key,
                None => action.action_key(&inputs)?,
            };
            let hit = if action.decision == Decision::Cached {
                Some(action.artifacts.clone())
            } else if action.decision.is_forced() {
                None
            } else if let Lookup::Hit(outputs) = self.cache.store.outputs(&key)? {
                Some(outputs)
            } else {
                None
            };
            match hit {
                Some(outputs) => ready.extend(self.done(plan, node, How::Cached, key, inputs, outputs).await),
                None => self.launch(plan, node, key, inputs)?,
            }
        }
        Ok(())
    }

    /// Hands an action to the executor as soon as there are threads for it.
    fn launch(
        &mut self,
        plan: &Plan,
        node: NodeIndex,
        key: ActionKey,
        inputs: BTreeMap<String, Vec<Digest>>,
    ) -> Result<(), RunError> {
        if *self.cancel.borrow() {
            return Ok(());
        }
        // Definitions that differ may meet in one key, e.g. after params that made no difference: one computes.
        if let Some(followers) = self.in_flight.get_mut(&key) {
            followers.push(node);
            return Ok(());
        }
        self.in_flight.insert(key, Vec::new());
        let action = &plan.graph[node];
        let mut folders: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (port, digests) in &inputs {
            let folders = folders.entry(port.clone()).or_default();
            for digest in digests {
                folders.extend(self.cache.store.artifact(digest)?);
            }
        }
        let job = Job {
            anew: action.decision.is_forced(),
            ..Job::new(&action.step, key, folders, action.seeds.clone())
        };
        // What was found nowhere when the plan was made is not asked for again.
        let may_be_theirs = action.decision == Decision::Fetch || action.key.is_none();
        let run = Attempts {
            id: node.index(),
            origin: Origin::of(action, &inputs),
            cache: self.cache.clone(),
            executor: self.executor.clone(),
            away: self.away.clone(),
            leases: self.leases.clone(),
            events: self.events.clone(),
            cancel: self.cancel.clone(),
        };
        self.running.spawn(async move {
            let started = Instant::now();
            let result = run.fetch_or_run(job, &inputs, may_be_theirs).await;
            Attempt { node, key, inputs, milliseconds: elapsed(started), result }
        });
        Ok(())
    }

    /// Records what came back; returns the actions whose inputs are there now.
    async fn conclude(&mut self, plan: &mut Plan, attempt: Attempt) -> Result<Vec<NodeIndex>, RunError> {
        let Attempt { node, key, inputs, milliseconds, result } = attempt;
        let followers = self.in_flight.remove(&key).unwrap_or_default();
        match result {
            Ok(Became::Fetched(outputs)) => {
                let mut ready = Vec::new();
                for follower in followers {
                    let (inputs, outputs) = (inputs.clone(), outputs.clone());
                    ready.extend(self.done(plan, follower, How::Cached, key, inputs, outputs).await);
                }
                ready.extend(self.done(plan, node, How::Fetched, key, inputs, outputs).await);
                Ok(ready)
            }
            Ok(Became::Joined(outputs)) => {
                let mut ready = Vec::new();
                for node in std::iter::once(node).chain(followers) {
                    let (inputs, outputs) = (inputs.clone(), outputs.clone());
                    ready.extend(self.done(plan, node, How::Cached, key, inputs, outputs).await);
                }
                Ok(ready)
            }
            Ok(Became::Ran { outputs, milliseconds }) => {
                if let Some(giving) = &self.giving {
                    giving.give(key);
                }
                let mut ready = Vec::new();
                for follower in followers {
                    let (inputs, outputs) = (inputs.clone(), outputs.clone());
                    ready.extend(self.done(plan, follower, How::Cached, key, inputs, outputs).await);
                }
                ready.extend(self.done(plan, node, How::Ran { milliseconds }, key, inputs, outputs).await);
                Ok(ready)
            }
            Err(error) => {
                if !matches!(error, ExecuteError::Stage(crate::plugin::Failure::Cancelled)) {
                    for node in std::iter::once(node).chain(followers) {
                        self.fail(plan, node, &error, milliseconds).await;
                    }
                }
                Ok(Vec::new())
            }
        }
    }

    async fn done(
        &mut self,
        plan: &mut Plan,
        node: NodeIndex,
        how: How,
        key: ActionKey,
        inputs: BTreeMap<String, Vec<Digest>>,
        outputs: Outputs,
    ) -> Vec<NodeIndex> {
        let action = &mut plan.graph[node];
        action.artifacts = outputs.clone();
        let past = Box::new(PastAction::of(action, inputs));
        let metrics = metrics(action, &self.cache.store);
        let _ =
            self.events.send(Event::Done { action: node.index(), how, key, outputs, past, metrics }).await;
        self.ends.insert(node, End::Done(how));
        let readers: Vec<NodeIndex> = plan.graph.neighbors_directed(node, Direction::Outgoing).collect();
        readers
            .into_iter()
            .filter(|reader| {
                let waiting = &mut self.waiting[reader.index()];
                *waiting = waiting.saturating_sub(1);
                *waiting == 0
            })
            .collect()
    }

    /// Tells a failure, and everything that cannot run because of it.
    async fn fail(&mut self, plan: &Plan, node: NodeIndex, error: &ExecuteError, milliseconds: u64) {
        self.input_gone |= matches!(error, ExecuteError::InputGone { .. });
        let message = crate::causes(error).join(": ");
        let failed = Event::Failed { action: node.index(), message: message.clone(), milliseconds };
        let _ = self.events.send(failed).await;
        self.ends.insert(node, End::Failed(message));
        let mut readers: Vec<NodeIndex> = plan.graph.neighbors_directed(node, Direction::Outgoing).collect();
        while let Some(reader) = readers.pop() {
            if self.ends.insert(reader, End::Skipped).is_none() {
                let skipped = Event::Skipped { action: reader.index(), because: node.index() };
                let _ = self.events.send(skipped).await;
                readers.extend(plan.graph.neighbors_directed(reader, Direction::Outgoing));
            }
        }
    }
}

/// The numbers of a metrics artifact, which keeps them in the attributes of its root group.
pub(crate) fn metrics(action: &Action, store: &Store) -> BTreeMap<String, f64> {
    let ports = action.step.outputs.iter().filter(|(_, kind)| *kind == PortType::Metrics);
    let folders = ports.filter_map(|(port, _)| store.artifact(action.artifacts.get(&**port)?).ok().flatten());
    let read = |folder: std::path::PathBuf| -> Option<BTreeMap<String, Option<f64>>> {
        let root: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("zarr.json")).ok()?).ok()?;
        serde_json::from_value(root.get("attributes")?.get("metrics")?.clone()).ok()
    };
    folders.filter_map(read).flatten().filter_map(|(name, value)| Some((name, value?))).collect()
}
