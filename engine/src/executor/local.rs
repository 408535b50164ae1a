//! Runs jobs in host processes on this machine. Hosts are kept for the next job of the same plugin.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use restage_cache::Store;
use restage_stage::task::{Event, Task};
use tokio::sync::{mpsc, watch};

use super::{Computed, ExecuteError, Job, Outputs};
use crate::plugin::{Failure, Host};

/// How long a stage may take to stop when asked, e.g. to write a checkpoint.
const GRACE: Duration = Duration::from_secs(10);

/// The local executor.
pub(crate) struct Local {
    store: Store,
    idle: Mutex<HashMap<PathBuf, Vec<Host>>>,
}

impl Local {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, idle: Mutex::default() }
    }

    /// Runs a job to its end and publishes what it wrote. Once `cancel` holds true the stage is asked to stop.
    pub(crate) async fn execute(
        &self,
        job: Job,
        events: &mpsc::Sender<Event>,
        cancel: watch::Receiver<bool>,
    ) -> Result<Outputs, ExecuteError> {
        check_gpus(&job)?;
        let (key, scratch) = (job.key, self.store.scratch(&job.key)?);
        let computed = self.compute(job, scratch, events, cancel).await?;
        let outputs = publish(self.store.clone(), computed).await?;
        self.store.discard_scratch(&key)?;
        Ok(outputs)
    }

    /// Runs a job to its end with checkpoints in `scratch`, and publishes nothing.
    pub(crate) async fn compute(
        &self,
        job: Job,
        scratch: PathBuf,
        events: &mpsc::Sender<Event>,
        cancel: watch::Receiver<bool>,
    ) -> Result<Computed, ExecuteError> {
        check_gpus(&job)?;
        let staging = self.store.staging()?;
        let folders: BTreeMap<String, PathBuf> = job
            .step
            .outputs
            .iter()
            .map(|(port, _)| (port.to_string(), staging.path().join(&**port)))
            .collect();
        let task = Task {
            stage: job.step.uses.split_once('/').map_or("", |(_, stage)| stage).to_owned(),
            params: (*job.step.params).clone(),
            inputs: job.inputs,
            outputs: folders.clone(),
            seed: job.seed,
            threads: job.threads,
            scratch,
        };
        let library = &job.step.code.library;
        let mut host = self.host(library).await?;
        let result = supervise(&mut host, task, events, cancel, job.step.execution.timeout).await;
        if result.as_ref().map_or_else(Failure::host_survives, |()| true) {
            self.keep(library.clone(), host);
        }
        result?;
        match folders.iter().find(|(_, folder)| !folder.exists()) {
            Some((port, _)) => Err(ExecuteError::NoOutput { port: port.clone() }),
            None => Ok(Computed { _staging: staging, folders }),
        }
    }

    async fn host(&self, library: &Path) -> Result<Host, ExecuteError> {
        let idle =
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(library).and_then(Vec::pop);
        match idle {
            Some(host) => Ok(host),
            None => Ok(Host::start(library).await?.0),
        }
    }

    fn keep(&self, library: PathBuf, host: Host) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).entry(library).or_default().push(host);
    }
}

async fn supervise(
    host: &mut Host,
    task: Task,
    events: &mpsc::Sender<Event>,
    mut cancel: watch::Receiver<bool>,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let late = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        result = host.run(task, events) => return result,
        _ = cancel.wait_for(|cancelled| *cancelled) => Failure::Cancelled,
        () = late => Failure::TimedOut { after: timeout.unwrap_or_default() },
    };
    host.cancel().await?;
    // A host that does not stop in time is killed when it is dropped.
    match tokio::time::timeout(GRACE, host.finish()).await {
        // It got done after all.
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure::Cancelled)) | Err(_) => Err(why),
        Ok(Err(failure)) => Err(failure),
    }
}

/// GPUs of this machine, by their device files.
fn gpus_seen() -> usize {
    (0..64).filter(|index| Path::new(&format!("/dev/nvidia{index}")).exists()).count()
}

fn check_gpus(job: &Job) -> Result<(), ExecuteError> {
    let gpus = job.step.execution.gpus;
    if gpus.required && gpus.count > gpus_seen() {
        return Err(ExecuteError::NoGpu { wanted: gpus.count, seen: gpus_seen() });
    }
    Ok(())
}

/// Hashing and linking are work for other threads than the scheduler's.
async fn publish(store: Store, computed: Computed) -> Result<Outputs, ExecuteError> {
    let published = tokio::task::spawn_blocking(move || {
        let publish = |(port, folder): (&String, &PathBuf)| Ok((port.clone(), store.publish(folder)?.digest));
        computed.folders.iter().map(publish).collect()
    });
    published.await.map_err(|error| ExecuteError::Lost(error.to_string()))?
}
