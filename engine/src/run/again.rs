//! Cached actions that run again, to see whether they give what is recorded of them. Nothing is recorded, and no cached
//! result is touched: each runs in a staging of its own, from no checkpoint.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use petgraph::graph::NodeIndex;
use restage_cache::{ActionKey, Digest, Lookup, Record, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{event::Event, lease::Leases, tries::Tries};
use crate::{
    executor::{Computed, ExecuteError, Executor, Job, Origin},
    machine::Machine,
    plan::{Action, Decision, Plan, Reason, input_digests},
};

/// A cached action, and what it reads.
pub(crate) struct Cached {
    pub(crate) action: Action,
    pub(crate) key: ActionKey,
    pub(crate) record: Record,
    inputs: BTreeMap<String, Vec<Digest>>,
    folders: BTreeMap<String, Vec<PathBuf>>,
}

/// Why an action cannot be run again for what is recorded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    /// There is nothing to compare with.
    Result,
    /// What was recorded is of other code, and so of another action.
    Code,
    /// What it reads is gone.
    Inputs,
}

/// An action of a plan, if its result and what it reads are in the store.
pub(crate) fn find(
    plan: &Plan,
    node: NodeIndex,
    store: &Store,
) -> restage_cache::Result<Result<Cached, Lack>> {
    let action = &plan.graph[node];
    let (Decision::Cached, Some(key)) = (&action.decision, action.key) else {
        let is_code = |reason: &Reason| matches!(reason, Reason::Code { .. });
        let other_code = action.decision.reasons().iter().any(is_code);
        return Ok(Err(if other_code { Lack::Code } else { Lack::Result }));
    };
    let Lookup::Hit(record) = store.lookup(&key)? else {
        return Ok(Err(Lack::Result));
    };
    let inputs = input_digests(plan, action);
    let mut folders: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (port, digests) in &inputs {
        let folders = folders.entry(port.clone()).or_default();
        for digest in digests {
            let Some(folder) = store.artifact(digest)? else {
                return Ok(Err(Lack::Inputs));
            };
            folders.push(folder);
        }
    }
    Ok(Ok(Cached { action: action.clone(), key, record, inputs, folders }))
}

/// What became of an action that ran again.
pub(crate) struct Again<T> {
    /// What is made of what it wrote.
    pub(crate) result: Result<T, ExecuteError>,
    /// Who, where and of what, as it would be recorded.
    pub(crate) provenance: serde_json::Value,
}

/// Runs actions again, side by side, on what they may use of `machine`. `judge` sees what each wrote before it goes; `told` hears
/// how many are done.
pub(crate) async fn run<T: Send + 'static>(
    actions: &[Arc<Cached>],
    store: &Store,
    executor: Executor,
    machine: Machine,
    judge: impl Fn(&Cached, &Computed) -> T + Clone + Send + 'static,
    told: impl Fn(u64),
) -> BTreeMap<ActionKey, Again<T>> {
    let (sender, mut receiver) = mpsc::channel(64);
    // Who audits does not read what the stages say.
    let silent = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    // Nobody cancels: with the process go its hosts, and its stagings with the next one.
    let (_running_on, cancel) = watch::channel(false);
    let auditor =
        Arc::new(Auditor { store: store.clone(), executor, leases: Leases::new(machine), sender, cancel });
    let mut running = JoinSet::new();
    for cached in actions {
        let (auditor, cached, judge) = (auditor.clone(), cached.clone(), judge.clone());
        running.spawn(async move { (cached.key, auditor.again(&cached, judge).await) });
    }
    let mut ended = BTreeMap::new();
    while let Some(joined) = running.join_next().await {
        ended.extend(joined.ok());
        told(ended.len() as u64);
    }
    silent.abort();
    ended
}

/// What all that runs again shares.
struct Auditor {
    store: Store,
    executor: Executor,
    leases: Leases,
    sender: mpsc::Sender<Event>,
    cancel: watch::Receiver<bool>,
}

impl Auditor {
    async fn again<T: Send + 'static>(
        &self,
        cached: &Arc<Cached>,
        judge: impl Fn(&Cached, &Computed) -> T + Send + 'static,
    ) -> Again<T> {
        let computed = self.compute(cached).await;
        let how = computed.as_ref().ok().map(|computed| &computed.how);
        let provenance = Origin::of(&cached.action, &cached.inputs).of_result(how);
        let result = match computed {
            Ok(computed) => {
                let cached = cached.clone();
                let judged = tokio::task::spawn_blocking(move || judge(&cached, &computed));
                judged.await.map_err(|error| ExecuteError::Lost(error.to_string()))
            }
            Err(error) => Err(error),
        };
        Again { result, provenance }
    }

    /// Tried as often as in a run.
    async fn compute(&self, cached: &Cached) -> Result<Computed, ExecuteError> {
        let action = &cached.action;
        let job = Job {
            anew: true,
            ..Job::new(&action.step, cached.key, cached.folders.clone(), action.seeds.clone())
        };
        let tries = Tries {
            id: 0,
            store: &self.store,
            executor: &self.executor,
            leases: &self.leases,
            events: &self.sender,
            cancel: &self.cancel,
        };
        // A run has nothing to go on from either; its tries share what they leave.
        let scratch = self.store.staging()?;
        let lease = self.leases.lease(&job, self.leases.memory_for(&job)).await;
        Ok(tries.until_it_works(&job, scratch.path().to_owned(), lease).await?.0)
    }
}
