//! Runs jobs in host processes on this machine. Hosts are kept for the next job of the same plugin.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use restage_cache::{Staging, Store};
use restage_stage::task::{Event, Task};
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};

use super::{Circumstances, Computed, ExecuteError, Job, Share, awake, memory};
use crate::{
    machine::Gpu,
    plugin::{Access, Failure, Host, Sandbox},
};

/// How long a stage may take to stop when asked, e.g. to write a checkpoint.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// How long a host may take to end by itself after that, before it is killed.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// What the kernel sends to whom it takes the memory from.
const KILL: i32 = Signal::KILL.as_raw();

/// A host that holds more than this part of what the next stage may take is not used for it.
const MOST_LEFT: u64 = 4;

/// The local executor.
pub(crate) struct Local {
    store: Store,
    grace: Duration,
    idle: Mutex<HashMap<Kind, Vec<Host>>>,
}

/// Hosts that can stand for each other: of one library, and of the GPUs that they see.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    library: PathBuf,
    gpus: Vec<String>,
}

impl Local {
    /// Stages that are asked to stop have `grace` for it.
    pub(crate) fn new(store: Store, grace: Duration) -> Self {
        Self { store, grace, idle: Mutex::default() }
    }

    /// Runs a job to its end with checkpoints in `scratch`, and publishes nothing. Once `cancel` holds true the stage is
    /// asked to stop.
    pub(crate) async fn compute(
        &self,
        job: &Job,
        share: &Share,
        scratch: PathBuf,
        events: &mpsc::Sender<Event>,
        cancel: watch::Receiver<bool>,
    ) -> Result<Computed, ExecuteError> {
        let gpus = &job.execution.gpus;
        if gpus.required && share.gpus.len() < gpus.count {
            return Err(ExecuteError::NoGpu { wanted: gpus.count, had: share.gpus.len() });
        }
        let staging = self.store.staging()?;
        let task = task(job, share, scratch, &staging);
        let access = access(job, &task, &staging);
        let folders = task.outputs.clone();
        let kind = Kind { library: job.library.clone(), gpus: names(&share.gpus) };
        let mut host = self.host(&kind, share, job.execution.memory.is_some()).await?;
        let (started, mut most) = (Instant::now(), None);
        let killed_before = memory::killed();
        let supervised =
            Supervised { cancel, grace: self.grace, timeout: job.execution.timeout, memory: share.memory };
        let result = supervised.run(&mut host, task, access, events, &mut most).await;
        if result.as_ref().map_or_else(Failure::host_survives, |_| true) {
            self.keep(kind, host);
        }
        let sandbox = match result {
            Err(Failure::Died { signal: Some(KILL), .. })
                if killed_before.is_some_and(|before| memory::killed() > Some(before)) =>
            {
                Err(Failure::Starved { taken: most })
            }
            result => result,
        }?;
        if let Some((port, _)) = folders.iter().find(|(_, folder)| !folder.exists()) {
            return Err(ExecuteError::NoOutput { port: port.clone() });
        }
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let how = Circumstances {
            threads: share.threads,
            gpus: share.gpus.clone(),
            sandbox,
            memory: most,
            milliseconds,
        };
        Ok(Computed { _staging: staging, folders, how })
    }

    async fn host(&self, kind: &Kind, share: &Share, limited: bool) -> Result<Host, ExecuteError> {
        let idle =
            || self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(kind).and_then(Vec::pop);
        while let Some(host) = idle() {
            // What an earlier stage left in it would count as the next one's, where that has a limit of its own.
            let is_small = |pid| memory::taken(pid) <= share.memory / MOST_LEFT;
            if !limited || host.pid().is_some_and(is_small) {
                return Ok(host);
            }
        }
        Ok(Host::start(&kind.library, &kind.gpus).await?.0)
    }

    fn keep(&self, kind: Kind, host: Host) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().push(host);
    }
}

fn names(gpus: &[Gpu]) -> Vec<String> {
    gpus.iter().map(|gpu| gpu.uuid.clone()).collect()
}

fn task(job: &Job, share: &Share, scratch: PathBuf, staging: &Staging) -> Task {
    let output = |port: &str| (port.to_owned(), staging.path().join(port));
    Task {
        stage: job.uses.split_once('/').map_or("", |(_, stage)| stage).to_owned(),
        params: job.params.clone(),
        inputs: job.inputs.clone(),
        outputs: job.outputs.iter().map(|(port, _)| output(port)).collect(),
        seed: job.seeds.all.unwrap_or(0),
        streams: job.seeds.other.iter().map(|(stream, seed)| (stream.to_string(), *seed)).collect(),
        threads: share.threads,
        gpus: share.gpus.len(),
        scratch,
    }
}

fn access(job: &Job, task: &Task, staging: &Staging) -> Access {
    let inputs = task.inputs.values().flatten().cloned();
    let named = &job.named;
    let files = named.files.iter().map(|(path, _)| path.clone());
    Access {
        read: inputs.chain(files).collect(),
        list: named.code.iter().filter_map(|(path, _)| Some(path.parent()?.to_owned())).collect(),
        tools: named.tools.clone(),
        write: vec![staging.path().to_owned(), task.scratch.clone()],
    }
}

/// What a running stage is held to.
struct Supervised {
    cancel: watch::Receiver<bool>,
    grace: Duration,
    timeout: Option<Duration>,
    memory: u64,
}

impl Supervised {
    /// Runs a task to its end, or to that which is put to it. A host that does not stop is killed when it is dropped.
    async fn run(
        mut self,
        host: &mut Host,
        task: Task,
        access: Access,
        events: &mpsc::Sender<Event>,
        most: &mut Option<u64>,
    ) -> Result<Sandbox, Failure> {
        let late = async {
            match self.timeout {
                Some(timeout) => awake::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let pid = host.pid();
        let too_much = async {
            match pid {
                Some(pid) => memory::exceeded(pid, self.memory, most).await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            result = host.run(task, access, events) => return result,
            // It cannot be asked: until it hears, the machine may have no memory left.
            taken = too_much => return Err(Failure::OutOfMemory { taken, limit: self.memory }),
            _ = self.cancel.wait_for(|cancelled| *cancelled) => Failure::Cancelled,
            () = late => Failure::TimedOut { after: self.timeout.unwrap_or_default() },
        };
        host.cancel().await?;
        match tokio::time::timeout(self.grace, host.finish()).await {
            // It got done after all.
            Ok(Ok(sandbox)) => Ok(sandbox),
            Ok(Err(Failure::Cancelled)) => Err(why),
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                host.terminate();
                let _ = tokio::time::timeout(LAST_GRACE, host.finish()).await;
                Err(why)
            }
        }
    }
}
