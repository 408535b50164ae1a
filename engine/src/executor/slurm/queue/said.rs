//! What the files of a queue say.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use restage_cache::Digest;
use serde::{Deserialize, Serialize};

use super::super::settings::Shape;
use crate::executor::{Job, Origin};

/// An action that is to be computed by whatever pilot takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) job: Job,
    pub(crate) inputs: BTreeMap<String, Vec<Digest>>,
    pub(crate) origin: Origin,
    /// Of the run that wants it, so that an answer to an earlier one is none.
    pub(crate) nonce: String,
    /// How often it came back.
    pub(crate) round: u32,
}

/// How an attempt ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) pilot: String,
    pub(crate) host: String,
    /// Milliseconds since 1970.
    pub(crate) ended: u64,
    pub(crate) outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The result is recorded: it took so long, or somebody else computed it.
    Done { milliseconds: Option<u64> },
    /// It failed.
    Failed { message: String, out_of_memory: bool },
    /// The pilot had to stop.
    Stopped {
        /// It is in the queue again; else no allocation has more time than this one had.
        again: bool,
        /// It left more than it found.
        further: bool,
    },
}

/// A pilot: what runs in an allocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pilot {
    /// The job's number, with its place in an array.
    pub(crate) id: String,
    /// Of the submission that it came of.
    pub(crate) nonce: String,
    pub(crate) host: String,
    pub(crate) process: u32,
    /// GPUs that Slurm gave it.
    pub(crate) gpus: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) since: u64,
    pub(crate) ended: Option<u64>,
}

/// Some allocations that were asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Submission {
    pub(crate) nonce: String,
    pub(crate) shape: String,
    pub(crate) count: usize,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// The job's number, once it is known.
    pub(crate) job: Option<u64>,
}

/// What a pilot of a shape has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) store: PathBuf,
    pub(crate) shape: Shape,
    /// How long a stage may take to stop.
    pub(crate) grace: Duration,
    /// How long it waits for something to do.
    pub(crate) idle: Duration,
}

/// A run that waits for results.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Driver {
    pub(super) host: String,
    pub(super) process: u32,
}
