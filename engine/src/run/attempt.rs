//! One action on its way: fetched, or computed here, or by someone who does so already and is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use restage_cache::{BEAT, Claim, Claiming, Digest, Holder, Lookup};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{event::Event, lease::Leases, tries::Tries};
use crate::{
    cache::Cache,
    executor::{Circumstances, ExecuteError, Executor, Job, Outputs},
    plugin::Failure,
};

/// How often who waits for another run looks whether the result is there.
const LOOK: Duration = Duration::from_millis(250);

/// What became of an action.
pub(super) enum Became {
    /// It ran; the claim is held until its result is recorded.
    Ran(Outputs, Circumstances, Held),
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

/// Waits for something that waits for a disk or a network itself.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}

/// What the tries of one action need.
pub(super) struct Attempts {
    pub(super) id: usize,
    pub(super) cache: Cache,
    pub(super) executor: Arc<Executor>,
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
        let reads = inputs.values().flatten().copied().collect();
        self.join_or_run(job, reads).await
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

    /// Claims an action, which reads these artifacts, and computes it, or waits for the one who does.
    async fn join_or_run(self, job: Job, reads: BTreeSet<Digest>) -> Result<Became, ExecuteError> {
        let mut waiting_for: Option<Holder> = None;
        let held = loop {
            if *self.cancel.borrow() {
                return Err(ExecuteError::Stage(Failure::Cancelled));
            }
            let claiming = self.cache.store.claim(&job.key, &reads);
            // Also who has the claim looks: the one before may just have recorded the result.
            if !job.anew
                && let Lookup::Hit(record) = self.cache.store.lookup(&job.key)?
            {
                return Ok(Became::Joined(record.outputs));
            }
            match claiming {
                Claiming::Ours(claim) => break Held::new(claim),
                Claiming::Others(holder) => {
                    if waiting_for.as_ref() != Some(&holder) {
                        let event = Event::Waiting {
                            action: self.id,
                            holder: holder.to_string(),
                            since: holder.since,
                        };
                        let _ = self.events.send(event).await;
                        waiting_for = Some(holder);
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        let tries = Tries {
            id: self.id,
            store: &self.cache.store,
            executor: &self.executor,
            leases: &self.leases,
            events: &self.events,
            cancel: &self.cancel,
        };
        let computed = tries.until_it_works(&job, self.cache.store.scratch(&job.key)?).await?;
        // Others compute meanwhile: what it held of the machine is given back.
        let (outputs, how) = computed.publish(self.cache.store.clone()).await?;
        self.cache.store.discard_scratch(&job.key)?;
        Ok(Became::Ran(outputs, how, held))
    }
}
