//! One action on its way: waiting for whoever computes it already, for threads and memory; tried, and tried again when
//! it fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use restage_cache::{BEAT, Claim, Claiming, Digest, Holder, Lookup, Store};
use restage_stage::task;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
};

use super::event::Event;
use crate::{
    cache::Cache,
    executor::{ExecuteError, Executor, Job, Outputs},
    plan::Step,
    plugin::Failure,
};

/// Threads and memory that running stages hold. Memory is counted in MiB.
pub(super) struct Leases {
    threads: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    all_threads: usize,
    all_memory: usize,
}

/// What a stage waits for before it runs.
pub(super) struct Need {
    pub(super) threads: usize,
    memory: usize,
}

impl Leases {
    pub(super) fn new(cpus: usize) -> Self {
        let memory = usize::try_from(memory_of_this_machine() >> 20).unwrap_or(usize::MAX);
        let all_memory = memory.min(Semaphore::MAX_PERMITS);
        Self {
            threads: Arc::new(Semaphore::new(cpus)),
            memory: Arc::new(Semaphore::new(all_memory)),
            all_threads: cpus,
            all_memory,
        }
    }

    /// A stage that asks for more than there is gets all there is, and runs alone.
    pub(super) fn need(&self, step: &Step) -> Need {
        let wanted =
            step.execution.memory.map_or(0, |bytes| usize::try_from(bytes >> 20).unwrap_or(usize::MAX));
        if wanted > self.all_memory {
            tracing::warn!(
                stage = %step.name(),
                "asks for {wanted} MiB of memory; this machine has {} MiB", self.all_memory
            );
        }
        Need { threads: step.execution.cpus.min(self.all_threads), memory: wanted.min(self.all_memory) }
    }

    /// Waits until what is needed is free. Whoever waits for threads holds memory only, and whoever runs holds both
    /// and lets both go, so nobody waits in a circle.
    pub(super) async fn lease(&self, need: &Need) -> [Option<OwnedSemaphorePermit>; 2] {
        let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        // The semaphores are never closed.
        let memory = self.memory.clone().acquire_many_owned(many(need.memory)).await.ok();
        let threads = self.threads.clone().acquire_many_owned(many(need.threads)).await.ok();
        [memory, threads]
    }
}

/// Bytes of main memory.
fn memory_of_this_machine() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)))
}

/// How often who waits for another run looks whether the result is there.
const LOOK: Duration = Duration::from_millis(250);

/// What became of an action.
pub(super) enum Became {
    /// It ran; the claim is held until its result is recorded.
    Ran(Outputs, Held),
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
        need: Need,
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
        self.join_or_run(job, need, reads).await
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
    async fn join_or_run(
        self,
        job: Job,
        need: Need,
        reads: BTreeSet<Digest>,
    ) -> Result<Became, ExecuteError> {
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
        Ok(Became::Ran(self.until_it_works(job, need).await?, held))
    }

    /// Runs a job until it works, or has failed once more often than it may be tried again.
    async fn until_it_works(&self, job: Job, need: Need) -> Result<Outputs, ExecuteError> {
        let lease = self.leases.lease(&need).await;
        let mut left = job.step.execution.retries;
        let result = loop {
            if *self.cancel.borrow() {
                break Err(ExecuteError::Stage(Failure::Cancelled));
            }
            let _ = self.events.send(Event::Running { action: self.id }).await;
            match self.once(job.clone()).await {
                Err(error) if left > 0 && error.may_pass() => {
                    left -= 1;
                    let message = crate::causes(&error).join(": ");
                    let _ = self.events.send(Event::Retrying { action: self.id, message, left }).await;
                }
                result => break result,
            }
        };
        drop(lease);
        result
    }

    async fn once(&self, job: Job) -> Result<Outputs, ExecuteError> {
        let step = job.step.clone();
        let (sender, receiver) = mpsc::channel(64);
        let forward = tokio::spawn(forward(self.id, receiver, self.events.clone()));
        let result = self.executor.execute(job, &sender, self.cancel.clone()).await;
        drop(sender);
        let _ = forward.await;
        let outputs = result?;
        check_files(&self.cache.store, &step).await?;
        Ok(outputs)
    }
}

/// A data file that changed while the stage ran may have been read in either state: the result is of neither.
pub(super) async fn check_files(store: &Store, step: &Arc<Step>) -> Result<(), ExecuteError> {
    if step.files.is_empty() {
        return Ok(());
    }
    let (store, step) = (store.clone(), step.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let changed =
            |path: &std::path::Path, digest| store.digest_outside(path).is_ok_and(|now| now == digest);
        match step.files.iter().find(|(path, digest)| !changed(path, *digest)) {
            Some((path, _)) => Err(ExecuteError::InputChanged { path: path.clone() }),
            None => Ok(()),
        }
    });
    checked.await.map_err(|error| ExecuteError::Lost(error.to_string()))?
}

/// Turns a stage's events into the run's.
async fn forward(action: usize, mut stage: mpsc::Receiver<task::Event>, run: mpsc::Sender<Event>) {
    while let Some(event) = stage.recv().await {
        let event = match event {
            task::Event::Log { level, target, message } => Event::Log { action, level, target, message },
            task::Event::Progress { done, total, unit } => Event::Progress { action, done, total, unit },
            task::Event::Metric { name, step, value } => Event::Metric { action, name, step, value },
        };
        if run.send(event).await.is_err() {
            return;
        }
    }
}
