//! Where an action runs. `local`: in a host process on this machine.

mod local;
#[cfg(test)]
pub(crate) mod model;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

pub(crate) use local::Local;
use restage_cache::{ActionKey, Digest, Staging};
use restage_stage::task::Event;
use tokio::sync::{mpsc, watch};

use crate::{
    plan::Step,
    plugin::{Failure, StartError},
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
    /// Runs a job to its end and publishes what it wrote. Once `cancel` holds true the stage is asked to stop.
    pub(crate) async fn execute(
        &self,
        job: Job,
        events: &mpsc::Sender<Event>,
        cancel: watch::Receiver<bool>,
    ) -> Result<Outputs, ExecuteError> {
        match self {
            Self::Local(local) => local.execute(job, events, cancel).await,
            #[cfg(test)]
            Self::Model(model) => model.execute(&job),
        }
    }

    /// Runs a job to its end with checkpoints in `scratch`, and publishes nothing.
    pub(crate) async fn compute(
        &self,
        job: Job,
        scratch: PathBuf,
        events: &mpsc::Sender<Event>,
        cancel: watch::Receiver<bool>,
    ) -> Result<Computed, ExecuteError> {
        match self {
            Self::Local(local) => local.compute(job, scratch, events, cancel).await,
            #[cfg(test)]
            Self::Model(model) => Ok(model.compute(&job)),
        }
    }
}

/// What a job wrote, in a staging that goes when this is dropped.
pub(crate) struct Computed {
    _staging: Staging,
    /// Per output port its folder.
    pub(crate) folders: BTreeMap<String, PathBuf>,
}

/// An action with everything that its execution needs.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) step: Arc<Step>,
    pub(crate) key: ActionKey,
    pub(crate) inputs: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    /// Whether it is to be computed although its result may be there.
    pub(crate) anew: bool,
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
    #[error("it requires {wanted} GPU(s), and restage sees {seen} here")]
    NoGpu { wanted: usize, seen: usize },
    #[error("cannot publish the result: {0}")]
    Lost(String),
}

impl ExecuteError {
    /// Whether another try may end otherwise.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self, Self::Stage(Failure::Cancelled) | Self::NoGpu { .. })
    }
}

/// Digests of a job's outputs.
pub(crate) type Outputs = BTreeMap<String, Digest>;
