//! Where an action runs. `local`: in a host process on this machine. `slurm`: in an allocation, in a host process of a pilot.

pub(crate) mod awake;
mod local;
mod memory;
#[cfg(test)]
pub(crate) mod model;
mod origin;
pub(crate) mod slurm;

use std::{collections::BTreeMap, path::PathBuf};

pub(crate) use local::{GRACE, Local};
pub(crate) use origin::{Origin, host, user};
pub(crate) use restage_cache::Outputs;
use restage_cache::{ActionKey, Digest, Staging, Store};
use restage_stage::{catalogue::PortType, task::Event};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::{
    machine::Gpu,
    plan::{Named, Seeds, Step},
    plugin::{Failure, Sandbox, StartError},
    workflow::Execution,
};

/// Where actions run.
pub(crate) enum Executor {
    /// In host processes on this machine.
    Local(Local),
    /// In a model of a machine, where every stage is a plain function.
    #[cfg(test)]
    Model(model::Model),
}

impl Executor {
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
        match self {
            Self::Local(local) => local.compute(job, share, scratch, events, cancel).await,
            #[cfg(test)]
            Self::Model(model) => Ok(model.compute(job)),
        }
    }
}

/// What a job may use of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) threads: usize,
    /// Bytes of main memory.
    pub(crate) memory: u64,
    /// GPUs; nobody else's, or shared with those that said how much of their memory they take.
    pub(crate) gpus: Vec<Gpu>,
}

/// What a job wrote, in a staging that goes when this is dropped.
pub(crate) struct Computed {
    _staging: Staging,
    /// Per output port its folder.
    pub(crate) folders: BTreeMap<String, PathBuf>,
    /// How it ran.
    pub(crate) how: Circumstances,
}

/// How a job ran: recorded, never keyed.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    pub(crate) threads: usize,
    pub(crate) gpus: Vec<Gpu>,
    /// What kept the stage from touching what is not its own.
    pub(crate) sandbox: Sandbox,
    /// Bytes of main memory that it was seen to take at most; `None` if it was too short to look.
    pub(crate) memory: Option<u64>,
    pub(crate) milliseconds: u64,
}

impl Computed {
    /// Hashes the outputs and links them into the store: work that waits for the disk.
    pub(crate) fn publish(&self, store: &Store) -> restage_cache::Result<Outputs> {
        let publish = |(port, folder): (&String, &PathBuf)| Ok((port.clone(), store.publish(folder)?.digest));
        self.folders.iter().map(publish).collect()
    }
}

/// An action with everything that its execution needs, on whatever machine that has the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The stage, for people.
    pub(crate) name: String,
    /// `plugin/name`.
    pub(crate) uses: String,
    /// The plugin's library, in the store.
    pub(crate) library: PathBuf,
    /// What the plugin's code is.
    pub(crate) identity: Digest,
    /// Canonical params; paths absolute.
    pub(crate) params: serde_json::Value,
    /// Files that the params name.
    pub(crate) named: Named,
    /// Its output ports.
    pub(crate) outputs: Vec<(String, PortType)>,
    /// How it is run.
    pub(crate) execution: Execution,
    pub(crate) key: ActionKey,
    /// Folders of what it reads, as they are found here.
    #[serde(skip)]
    pub(crate) inputs: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seeds: Seeds,
    /// Whether it is to be computed although its result may be there.
    pub(crate) anew: bool,
}

impl Job {
    /// A step with seeds and inputs.
    pub(crate) fn new(
        step: &Step,
        key: ActionKey,
        inputs: BTreeMap<String, Vec<PathBuf>>,
        seeds: Seeds,
    ) -> Self {
        Self {
            name: step.name(),
            uses: step.uses.clone(),
            library: step.code.library.clone(),
            identity: step.code.identity,
            params: (*step.params).clone(),
            named: step.named.clone(),
            outputs: step.outputs.iter().map(|(port, kind)| (port.to_string(), *kind)).collect(),
            execution: step.execution.clone(),
            key,
            inputs,
            seeds,
            anew: false,
        }
    }
}

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecuteError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Stage(#[from] Failure),
    #[error("the stage ended without writing its output `{port}`")]
    NoOutput { port: String },
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    #[error("{} changed while the stage ran: the result is of neither state; run the command again", path.display())]
    InputChanged { path: PathBuf },
    #[error("its input `{port}` went from the store meanwhile; run the command again")]
    InputGone { port: String },
    #[error("it requires {wanted} GPU(s), and has {had} here")]
    NoGpu { wanted: usize, had: usize },
    #[error("{message}")]
    Elsewhere { message: String },
    #[error("a thread of the engine was lost: {0}")]
    Lost(String),
}

impl ExecuteError {
    /// Whether another try may end otherwise.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self, Self::Stage(Failure::Cancelled) | Self::NoGpu { .. })
    }
}
