//! A job is tried, and tried again when it fails: as often as its stage says, with more memory where that was it.

use std::path::PathBuf;

use restage_cache::Store;
use restage_stage::task;
use tokio::sync::{mpsc, watch};

use super::{
    event::Event,
    lease::{Lease, Leases},
    now,
};
use crate::{
    executor::{Computed, ExecuteError, Executor, Job, Share},
    plugin::Failure,
};

/// What the tries of one action need.
pub(super) struct Tries<'a> {
    pub(super) id: usize,
    pub(super) store: &'a Store,
    pub(super) executor: &'a Executor,
    pub(super) leases: &'a Leases,
    pub(super) events: &'a mpsc::Sender<Event>,
    pub(super) cancel: &'a watch::Receiver<bool>,
}

impl Tries<'_> {
    /// Runs a job until it works, or has failed once more often than it may be tried again. Its tries share `scratch`, and
    /// the first one has `lease`. What the last one held is held still.
    pub(super) async fn until_it_works(
        &self,
        job: &Job,
        scratch: PathBuf,
        mut lease: Lease,
    ) -> Result<(Computed, Lease), ExecuteError> {
        let mut left = job.execution.retries;
        let mut memory = self.leases.memory_for(job);
        loop {
            if *self.cancel.borrow() {
                return Err(ExecuteError::Stage(Failure::Cancelled));
            }
            self.tell(Event::Running { action: self.id, time: now() }).await;
            let result = self.once(job, &lease.share, scratch.clone()).await;
            let error = match result {
                Ok(computed) => return check_files(self.store, job).await.map(|()| (computed, lease)),
                Err(error) => error,
            };
            drop(lease);
            let more = self.more_memory(job, &error, memory);
            if more.is_some() {
                memory = more;
            } else if left > 0 && error.may_pass() {
                left -= 1;
            } else {
                return Err(error);
            }
            let message = crate::causes(&error).join(": ");
            self.tell(Event::Retrying { action: self.id, message, left, memory: more }).await;
            lease = self.leases.lease(job, memory).await;
        }
    }

    fn more_memory(&self, job: &Job, error: &ExecuteError, had: Option<u64>) -> Option<u64> {
        let ExecuteError::Stage(failure) = error else { return None };
        failure.is_of_memory().then_some(())?;
        self.leases.more_memory(had?, job.execution.more_memory?)
    }

    async fn once(&self, job: &Job, share: &Share, scratch: PathBuf) -> Result<Computed, ExecuteError> {
        let (sender, receiver) = mpsc::channel(64);
        let forward = tokio::spawn(forward(self.id, receiver, self.events.clone()));
        let result = self.executor.compute(job, share, scratch, &sender, self.cancel.clone()).await;
        drop(sender);
        let _ = forward.await;
        result
    }

    /// A closed receiver means that nobody listens.
    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }
}

/// A data file that changed while the stage ran may have been read in either state: the result is of neither.
async fn check_files(store: &Store, job: &Job) -> Result<(), ExecuteError> {
    if job.named.files.is_empty() {
        return Ok(());
    }
    let (store, files) = (store.clone(), job.named.files.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let changed =
            |path: &std::path::Path, digest| store.digest_outside(path).is_ok_and(|now| now == digest);
        match files.iter().find(|(path, digest)| !changed(path, *digest)) {
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
            task::Event::Metric { name, step, value } => {
                Event::Metric { action, name, step, value, time: now() }
            }
        };
        if run.send(event).await.is_err() {
            return;
        }
    }
}
