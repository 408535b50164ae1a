//! Where an action runs. `local`: in a host process on this machine.

mod local;

use std::{collections::BTreeMap, path::PathBuf};

pub(crate) use local::Local;
use restage_cache::{ActionKey, Digest};

use crate::plugin::{Failure, StartError};

/// An action with everything that its execution needs.
pub(crate) struct Job {
    pub(crate) library: PathBuf,
    /// The stage type without its plugin.
    pub(crate) stage: String,
    pub(crate) key: ActionKey,
    pub(crate) params: serde_json::Value,
    pub(crate) inputs: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) outputs: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
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
    #[error("cannot publish the result: {0}")]
    Lost(String),
}

/// Digests of a job's outputs.
pub(crate) type Outputs = BTreeMap<String, Digest>;
