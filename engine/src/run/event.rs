//! What happens in a run, as one stream: the journal, the display and the logs are readers of it.

use std::{collections::BTreeMap, path::PathBuf};

use restage_cache::{ActionKey, Digest};
use restage_stage::catalogue::PortType;
use serde::{Deserialize, Serialize};

use crate::{
    plan::{PastAction, name},
    workflow::{MetricRef, Test},
};

/// Position of an action in its plan.
pub(crate) type ActionId = usize;

/// Per input port what it reads: which action, which output.
pub(crate) type Reads = BTreeMap<String, Vec<(ActionId, String)>>;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// A run began.
    Started(Box<Started>),
    /// Another run computes the action; it is waited for. `since` in milliseconds since 1970.
    Waiting { action: ActionId, holder: String, since: u64 },
    /// An action was handed to a host. `time` in milliseconds since 1970; 0 in journals of before it was told.
    Running {
        action: ActionId,
        #[serde(default)]
        time: u64,
    },
    /// The action's stage logged something.
    Log { action: ActionId, level: String, target: String, message: String },
    /// How far the action is.
    Progress { action: ActionId, done: u64, total: u64, unit: String },
    /// A point of a curve. `time` as above.
    Metric {
        action: ActionId,
        name: String,
        step: u64,
        value: Option<f64>,
        #[serde(default)]
        time: u64,
    },
    /// The action's result is there.
    Done {
        action: ActionId,
        how: How,
        key: ActionKey,
        outputs: BTreeMap<String, Digest>,
        past: Box<PastAction>,
        /// The numbers of its metrics output, if it has one.
        #[serde(default)]
        metrics: BTreeMap<String, f64>,
    },
    /// The action failed, and is tried again; so many more times at most, or with so many bytes of memory.
    Retrying {
        action: ActionId,
        message: String,
        left: u32,
        #[serde(default)]
        memory: Option<u64>,
    },
    /// The action failed.
    Failed { action: ActionId, message: String, milliseconds: u64 },
    /// The action could not run because one that it reads failed.
    Skipped { action: ActionId, because: ActionId },
    /// Something that concerns more than one action, for people.
    Notice { message: String },
    /// The run ended.
    Finished { milliseconds: u64 },
}

impl Event {
    /// The same of another action, where it is of one.
    pub(crate) fn of(mut self, id: ActionId) -> Self {
        match &mut self {
            Self::Waiting { action, .. }
            | Self::Running { action, .. }
            | Self::Log { action, .. }
            | Self::Progress { action, .. }
            | Self::Metric { action, .. }
            | Self::Done { action, .. }
            | Self::Retrying { action, .. }
            | Self::Failed { action, .. }
            | Self::Skipped { action, .. } => *action = id,
            Self::Started(_) | Self::Notice { .. } | Self::Finished { .. } => {}
        }
        self
    }
}

/// A run's plan, and who runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    /// The workflow's file.
    pub(crate) workflow: PathBuf,
    /// restage's version.
    pub(crate) version: String,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    /// Who runs it, and where: `user@host`.
    #[serde(default)]
    pub(crate) by: Option<String>,
    /// The plan's actions, in its order.
    pub(crate) actions: Vec<ActionHead>,
    /// Which action each stage of each variant and seed is.
    pub(crate) instances: Vec<InstanceHead>,
    /// Names of the variants.
    pub(crate) variants: Vec<String>,
    /// The one that others are compared with; `baseline` if it is not said.
    #[serde(default)]
    pub(crate) baseline: Option<String>,
    /// What the sweep compares, and how.
    #[serde(default)]
    pub(crate) comparison: Comparison,
}

/// Where a result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub(crate) enum How {
    /// It was in the store.
    Cached,
    /// It was brought from the remote.
    Fetched,
    /// It ran.
    Ran {
        /// How long.
        milliseconds: u64,
    },
}

/// An action, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ActionHead {
    pub(crate) name: String,
    pub(crate) uses: String,
    /// What it reads.
    #[serde(default)]
    pub(crate) inputs: Reads,
    /// Its output ports.
    #[serde(default)]
    pub(crate) outputs: BTreeMap<String, PortType>,
}

/// What a sweep compares, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Comparison {
    /// Metrics, the first one decides.
    pub(crate) metrics: Vec<MetricRef>,
    /// Seeds of the sweep.
    pub(crate) seeds: Vec<u64>,
    /// Variants that are the baseline with one stream's seed alone varied: name, stream.
    pub(crate) streams: Vec<(String, String)>,
    /// How a variant is tested against the baseline.
    pub(crate) test: Test,
    /// Variants whose tests are corrected together; all if empty.
    pub(crate) family: Vec<String>,
}

/// One stage of one variant and seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InstanceHead {
    pub(crate) variant: String,
    pub(crate) seed: Option<u64>,
    pub(crate) stage: String,
    pub(crate) at: BTreeMap<String, String>,
    pub(crate) action: ActionId,
}

impl InstanceHead {
    /// Name for people: stage, place, seed, and the variant if it is not the baseline.
    pub(crate) fn label(&self, baseline: &str) -> String {
        let seed = self.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
        let variant = if self.variant == baseline { String::new() } else { format!(" ({})", self.variant) };
        name(&self.stage, &self.at) + &seed + &variant
    }
}
