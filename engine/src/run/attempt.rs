//! One action on its way: fetched, or computed here, or by someone who does so already and is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use restage_cache::{ActionKey, BEAT, Claim, Claiming, Digest, Holder, Lookup, Record, Recorded};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{event::Event, lease::Leases, tries::Tries};
use crate::{
    cache::Cache,
    executor::{
        Computed, ExecuteError, Executor, Job, Origin, Outputs,
        slurm::{Slurm, Ticket, Told},
    },
    plugin::Failure,
};

/// How soon who waits for another run looks whether the result is there, and how seldom at last: a look is four requests to
/// the file server, for each action that each run waits for.
const LOOK: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(2);

/// How often a result is looked for that is told to be there.
const LOOKS: u32 = 240;

/// What became of an action.
pub(super) enum Became {
    /// It ran, so long.
    Ran { outputs: Outputs, milliseconds: u64 },
    /// Another run computed it meanwhile.
    Joined(Outputs),
    /// The remote had it.
    Fetched(Outputs),
}

/// A claim that is kept alive while it is held.
pub(super) struct Held {
    _claim: Arc<Claim>,
    beats: JoinHandle<()>,
}

impl Held {
    fn new(claim: Claim) -> Self {
        let claim = Arc::new(claim);
        let beating = claim.clone();
        let beats = tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                beating.beat();
            }
        });
        Self { _claim: claim, beats }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

/// What became of trying to claim an action.
enum Claimed {
    /// It is this run's to compute, with checkpoints in this folder.
    Ours(Held, PathBuf),
    /// It is done.
    Done(Outputs),
    /// Another run computes it.
    Others(Holder),
}

/// Waits for something that waits for a disk or a network itself.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ExecuteError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ExecuteError::Lost(error.to_string()))
}

/// What the tries of one action need.
pub(super) struct Attempts {
    pub(super) id: usize,
    pub(super) origin: Origin,
    pub(super) cache: Cache,
    pub(super) executor: Arc<Executor>,
    /// Where actions are computed if not here.
    pub(super) away: Option<Arc<Slurm>>,
    pub(super) leases: Arc<Leases>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) cancel: watch::Receiver<bool>,
}

impl Attempts {
    /// Takes an action's result from the remote if it may have it, else computes it here.
    pub(super) async fn fetch_or_run(
        self,
        mut job: Job,
        inputs: &BTreeMap<String, Vec<Digest>>,
        may_be_theirs: bool,
    ) -> Result<Became, ExecuteError> {
        if let Some(shared) = self.cache.shared.clone()
            && may_be_theirs
            && !job.anew
        {
            let (store, key) = (self.cache.store.clone(), job.key);
            if let Ok(Some(record)) = blocking(move || shared.fetch(&store, &key)).await {
                return Ok(Became::Fetched(record.outputs));
            }
        }
        self.bring_inputs(&mut job.inputs, inputs).await?;
        match self.away.clone() {
            Some(slurm) => self.send_away(&slurm, job, inputs).await,
            None => self.join_or_run(job, inputs).await,
        }
    }

    /// Has an action computed and recorded in an allocation, and passes on what is heard of it.
    async fn send_away(
        &self,
        slurm: &Slurm,
        job: Job,
        inputs: &BTreeMap<String, Vec<Digest>>,
    ) -> Result<Became, ExecuteError> {
        let key = job.key;
        let origin = self.origin.clone();
        let ticket = Ticket { job, inputs: inputs.clone(), origin, nonce: String::new(), round: 0 };
        let (sender, mut told) = mpsc::channel(256);
        let (id, events) = (self.id, self.events.clone());
        let passing_on = tokio::spawn(async move {
            while let Some(told) = told.recv().await {
                let event = match told {
                    Told::Line(line) => serde_json::from_str(&line).ok().map(|event: Event| event.of(id)),
                    Told::Again { message, memory } => {
                        Some(Event::Retrying { action: id, message, left: 0, memory })
                    }
                };
                if let Some(event) = event {
                    let _ = events.send(event).await;
                }
            }
        });
        let milliseconds = slurm.compute(ticket, sender).await?;
        let _ = passing_on.await;
        let outputs = self.recorded(key).await?;
        Ok(match milliseconds {
            Some(milliseconds) => Became::Ran { outputs, milliseconds },
            None => Became::Joined(outputs),
        })
    }

    /// A result that another machine has recorded; a network file system may show it a moment later.
    async fn recorded(&self, key: ActionKey) -> Result<Outputs, ExecuteError> {
        for _ in 0..LOOKS {
            let store = self.cache.store.clone();
            if let Lookup::Hit(outputs) = blocking(move || store.outputs(&key)).await?? {
                return Ok(outputs);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(ExecuteError::Lost(format!("the result {key} is told to be recorded, and cannot be found")))
    }

    /// Brings inputs that are not here from the remote. Computing on those that are left would record a wrong result
    /// under the right key.
    async fn bring_inputs(
        &self,
        folders: &mut BTreeMap<String, Vec<PathBuf>>,
        inputs: &BTreeMap<String, Vec<Digest>>,
    ) -> Result<(), ExecuteError> {
        let is_lacking = |(port, digests): &(&String, &Vec<Digest>)| {
            folders.get(*port).map_or(0, Vec::len) < digests.len()
        };
        let lacking: Vec<_> = inputs.iter().filter(is_lacking).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        if let Some(shared) = self.cache.shared.clone() {
            let wanted = lacking.iter().flat_map(|(_, digests)| digests.iter().copied()).collect();
            let store = self.cache.store.clone();
            let _ = blocking(move || shared.fetch_artifacts(&store, &wanted)).await;
        }
        for (port, digests) in lacking {
            let mut found = Vec::new();
            for digest in digests {
                let gone = || ExecuteError::InputGone { port: port.clone() };
                found.push(self.cache.store.artifact(digest)?.ok_or_else(gone)?);
            }
            folders.insert(port.clone(), found);
        }
        Ok(())
    }

    /// Claims an action and computes it, or waits for the one who does. It is claimed when its
    /// turn has come, not before: what waits here for threads, another run may compute.
    async fn join_or_run(
        self,
        job: Job,
        inputs: &BTreeMap<String, Vec<Digest>>,
    ) -> Result<Became, ExecuteError> {
        let reads: BTreeSet<Digest> = inputs.values().flatten().copied().collect();
        let memory = self.leases.memory_for(&job);
        let mut lease = Some(self.leases.lease(&job, memory).await);
        let mut waiting_for: Option<Holder> = None;
        let mut pause = LOOK;
        let reads = Arc::new(reads);
        let (held, scratch) = loop {
            match self.claim(&job, &reads).await? {
                Claimed::Ours(held, scratch) => break (held, scratch),
                Claimed::Done(outputs) => return Ok(Became::Joined(outputs)),
                Claimed::Others(holder) => {
                    // Who waits for another run holds nothing of this machine.
                    lease = None;
                    if waiting_for.as_ref() != Some(&holder) {
                        self.tell_waiting(&holder).await;
                        waiting_for = Some(holder);
                    }
                    tokio::time::sleep(pause).await;
                    pause = pause.mul_f64(1.25).min(SELDOM);
                }
            }
        };
        let lease = match lease {
            Some(lease) => lease,
            None => self.leases.lease(&job, memory).await,
        };
        let tries = Tries {
            id: self.id,
            store: &self.cache.store,
            executor: &self.executor,
            leases: &self.leases,
            events: &self.events,
            cancel: &self.cancel,
        };
        let (computed, lease) = tries.until_it_works(&job, scratch, lease).await?;
        let place = self.leases.finish().await;
        // Others compute while this is written down.
        drop(lease);
        let became = self.record(job, computed, held).await;
        drop(place);
        became
    }

    /// Tries to get the claim. Whoever has it looks whether the one before has just recorded the result.
    async fn claim(&self, job: &Job, reads: &Arc<BTreeSet<Digest>>) -> Result<Claimed, ExecuteError> {
        if *self.cancel.borrow() {
            return Err(ExecuteError::Stage(Failure::Cancelled));
        }
        let (store, key, anew, reads) = (self.cache.store.clone(), job.key, job.anew, reads.clone());
        blocking(move || {
            let claiming = store.claim(&key, &reads);
            if !anew && let Lookup::Hit(outputs) = store.outputs(&key)? {
                return Ok(Claimed::Done(outputs));
            }
            Ok(match claiming {
                Claiming::Ours(claim) => Claimed::Ours(Held::new(claim), store.scratch(&key)?),
                Claiming::Others(holder) => Claimed::Others(holder),
            })
        })
        .await?
    }

    async fn tell_waiting(&self, holder: &Holder) {
        let event = Event::Waiting { action: self.id, holder: holder.to_string(), since: holder.since };
        let _ = self.events.send(event).await;
    }

    /// Publishes what was computed and records it under its key.
    async fn record(&self, job: Job, computed: Computed, held: Held) -> Result<Became, ExecuteError> {
        let (store, origin) = (self.cache.store.clone(), self.origin.clone());
        blocking(move || {
            let milliseconds = computed.how.milliseconds;
            let provenance = origin.of_result(Some(&computed.how));
            let record = Record { outputs: computed.publish(&store)?, provenance };
            let outputs = match store.record(&job.key, &record)? {
                Recorded::First | Recorded::Same => record.outputs,
                Recorded::Different(first) => {
                    tracing::warn!(
                        action = %job.name,
                        "ran twice with different results: the stage is not deterministic; the first one stands"
                    );
                    first.outputs
                }
            };
            store.discard_scratch(&job.key)?;
            origin.remember(&store);
            // Who waits for it finds it recorded.
            drop(held);
            Ok(Became::Ran { outputs, milliseconds })
        })
        .await?
    }
}
