//! The plan: a DAG of the actions of all variants and seeds, equal actions merged, each with its decision and reason.
//!
//! A sweep of 40 variants that changes one late stage shares all early ones: two instances of a stage are the same
//! action when stage type, code, params, seed and inputs agree. That merging is all the machinery sweeps need.

mod decide;
mod expand;
pub(crate) mod key;
mod variant;
mod wire;

use std::{collections::BTreeMap, path::PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use restage_cache::{ActionKey, Digest, Store};
use restage_stage::catalogue::PortType;
use serde::Serialize;

pub(crate) use decide::{Decision, Reason};
pub(crate) use decide::{History, PastAction, input_digests, remember};
pub(crate) use variant::BASELINE;

use crate::{
    plugin::{Catalog, CatalogError},
    workflow::{Diagnostics, MetricRef, Workflow},
};

/// What a workflow asks for, ready to run.
pub(crate) struct Plan {
    /// Actions, with an edge from each to those that read its outputs.
    pub(crate) graph: DiGraph<Action, ()>,
    /// Names of the variants; the baseline first.
    pub(crate) variants: Vec<String>,
    /// Seeds of the sweep.
    pub(crate) seeds: Vec<u64>,
    /// Metrics that the table compares.
    pub(crate) metrics: Vec<MetricRef>,
    /// Which action each stage of each variant and seed is.
    pub(crate) instances: Vec<Instance>,
}

/// One stage of one variant with everything resolved.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    /// `plugin/name`.
    pub(crate) uses: String,
    /// The stage's name in the workflow (of the first variant that asked for it).
    pub(crate) stage: String,
    /// Values of the dimensions it is mapped over.
    pub(crate) at: BTreeMap<String, String>,
    /// Canonical params; paths absolute.
    pub(crate) params: serde_json::Value,
    /// The params as they enter keys: paths replaced by digests of content.
    pub(crate) keyed_params: serde_json::Value,
    /// Its seed, if the stage type takes one.
    pub(crate) seed: Option<u64>,
    /// Per input port the outputs that it reads.
    pub(crate) inputs: BTreeMap<String, Vec<(NodeIndex, String)>>,
    /// Its output ports.
    pub(crate) outputs: Vec<(String, PortType)>,
    /// Threads it asks for.
    pub(crate) cpus: usize,
    /// Library that its host loads.
    pub(crate) library: PathBuf,
    /// The plugin's code.
    pub(crate) identity: Digest,
    /// The library's file.
    pub(crate) binary: Digest,
    /// What happens with it.
    pub(crate) decision: Decision,
    /// Its key, once its inputs' digests are known.
    pub(crate) key: Option<ActionKey>,
    /// Digests of its outputs, once known.
    pub(crate) artifacts: BTreeMap<String, Digest>,
}

impl Action {
    /// Name for people: stage, and the values that it is mapped over.
    pub(crate) fn name(&self) -> String {
        name(&self.stage, &self.at)
    }
}

/// Name for people of a stage and the values that it is mapped over.
pub(crate) fn name(stage: &str, at: &BTreeMap<String, String>) -> String {
    if at.is_empty() {
        return stage.to_owned();
    }
    let values: Vec<&str> = at.values().map(String::as_str).collect();
    format!("{stage}[{}]", values.join(","))
}

/// One stage of one variant and seed, and the action that computes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Instance {
    /// The variant.
    pub(crate) variant: String,
    /// The sweep's seed; `None` where the result does not depend on it.
    pub(crate) seed: Option<u64>,
    /// The stage.
    pub(crate) stage: String,
    /// Values of the dimensions it is mapped over.
    pub(crate) at: BTreeMap<String, String>,
    /// The action.
    #[serde(skip)]
    pub(crate) action: NodeIndex,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// The workflow has mistakes.
    #[error("the workflow has {} mistake(s)", .0.0.len())]
    Invalid(Diagnostics),
    /// Its plugins cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    /// A key cannot be made.
    #[error("cannot derive the key of `{stage}`: {message}")]
    Key {
        /// The stage.
        stage: String,
        /// Why.
        message: String,
    },
}

/// Which part of a sweep is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Overrides of the workflow as written, `path=value`.
    pub(crate) set: Vec<String>,
    /// Variants; all if empty.
    pub(crate) only: Vec<String>,
    /// Seeds instead of the workflow's.
    pub(crate) seeds: Option<Vec<u64>>,
}

impl Plan {
    /// Expands, checks and merges; then decides for each action whether it is cached, will run, or may run.
    ///
    /// # Errors
    /// Everything that is wrong with the workflow in one go, or what keeps plugins or store from being used.
    pub(crate) async fn new(
        workflow: &Workflow,
        selection: &Selection,
        catalog: &mut Catalog,
        store: &Store,
        history: &History,
    ) -> Result<Self, PlanError> {
        let mut problems = workflow.problems.clone();
        let variants = variant::variants(workflow, selection, catalog, &mut problems);
        let mut plan = expand::expand(workflow, selection, variants, catalog, problems).await?;
        decide::decide(&mut plan, store, history)?;
        Ok(plan)
    }

    /// Names of the actions for people: stage, place, seed, and the variant if it is not the baseline. Where several
    /// share an action, the first one names it.
    pub(crate) fn labels(&self) -> Vec<String> {
        let mut labels = vec![String::new(); self.graph.node_count()];
        for instance in self.instances.iter().rev() {
            let seed = instance.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
            let variant =
                if instance.variant == BASELINE { String::new() } else { format!(" ({})", instance.variant) };
            labels[instance.action.index()] = name(&instance.stage, &instance.at) + &seed + &variant;
        }
        labels
    }

    /// Actions in an order in which inputs come before their readers.
    pub(crate) fn order(&self) -> Vec<NodeIndex> {
        // Nodes are added after the nodes that they read, so their own order is one; cycles are refused before.
        self.graph.node_indices().collect()
    }
}
