//! What crosses the boundary for one run of a stage: the task going in, the events coming out.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The mark of a path of the outside world in canonical params: `{"$path": …}`.
pub const PATH_MARK: &str = "$path";
/// The mark of a script in canonical params: `{"$code": …}`.
pub const CODE_MARK: &str = "$code";
/// The mark of a program in canonical params: `{"$tool": …}`.
pub const TOOL_MARK: &str = "$tool";

/// One run of one stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The stage type's name, without the plugin's.
    pub stage: String,
    /// Canonical params, as `check` wrote them, with input paths made absolute.
    pub params: serde_json::Value,
    /// Artifact folders per input port, in the order of the workflow.
    pub inputs: BTreeMap<String, Vec<PathBuf>>,
    /// Where each output goes: a folder in staging that the stage makes.
    pub outputs: BTreeMap<String, PathBuf>,
    /// Seed of every random number of the run; 0 for stages that take none.
    pub seed: u64,
    /// Streams of random numbers that have a seed of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streams: BTreeMap<String, u64>,
    /// How many threads the run may use. Must not change its bytes.
    pub threads: usize,
    /// How many GPUs the run may use: those that CUDA shows it, which are its own for the time. Must not change its bytes
    /// more than the stage type's tolerance says.
    #[serde(default)]
    pub gpus: usize,
    /// A folder that belongs to this action and outlives a killed run: the place for checkpoints.
    pub scratch: PathBuf,
}

/// What a running stage tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A tracing event.
    Log {
        /// `ERROR` … `TRACE`.
        level: String,
        /// Module path of the event.
        target: String,
        /// Message and fields, formatted.
        message: String,
    },
    /// How far the run is.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted, in the plural.
        unit: String,
    },
    /// One point of a curve.
    Metric {
        /// Name of the curve.
        name: String,
        /// Position on it, e.g. the epoch.
        step: u64,
        /// The value; not finite is sent as null.
        value: Option<f64>,
    },
}
