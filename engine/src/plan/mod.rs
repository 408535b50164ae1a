//! The plan: a DAG of the actions of all variants and seeds, equal actions merged, each with its decision and reason.
//!
//! A sweep of 40 variants that changes one late stage shares all early ones: two instances of a stage are the same
//! action when stage type, code, params, seed and inputs agree. That merging is all the machinery sweeps need.

mod canonical;
mod decide;
mod expand;
mod files;
mod group;
pub(crate) mod key;
mod needed;
#[cfg(test)]
mod oracle;
mod ports;
mod reason;
mod required;
mod variant;
mod wanted;
mod wire;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use petgraph::graph::{DiGraph, NodeIndex};
use restage_cache::{ActionKey, Digest};
use restage_stage::catalogue::PortType;

pub(crate) use decide::{Decision, input_digests, remember};
pub(crate) use files::{Named, Written};
pub(crate) use key::Seeds;
pub(crate) use reason::{History, Past, PastAction, Reason, differences};
pub(crate) use variant::BASELINE;
pub(crate) use wanted::{Known, Wanted};

use crate::{
    cache::Cache,
    plugin::{Catalog, CatalogError, Code},
    workflow::{Diagnostics, Execution, MetricRef, Workflow},
};

/// What a workflow asks for, ready to run.
pub(crate) struct Plan {
    /// Actions, with an edge from each to those that read its outputs.
    pub(crate) graph: DiGraph<Action, ()>,
    /// Names of the variants; the workflow as written first.
    pub(crate) variants: Vec<Arc<str>>,
    /// Name of the variant that others are compared with.
    pub(crate) baseline: Arc<str>,
    /// Seeds of the sweep.
    pub(crate) seeds: Vec<u64>,
    /// Variants that are the baseline with the seed of one stream alone varied: name, stream.
    pub(crate) streams: Vec<(Arc<str>, Arc<str>)>,
    /// Metrics that the table compares.
    pub(crate) metrics: Vec<MetricRef>,
    /// Which action each stage of each variant and seed is.
    pub(crate) instances: Vec<Instance>,
}

/// Values of the dimensions that a stage is mapped over.
pub(crate) type Point = Arc<BTreeMap<String, String>>;

/// A stage at one point of its dimensions with its params resolved: what the actions of all seeds share.
#[derive(Debug)]
pub(crate) struct Step {
    /// `plugin/name`.
    pub(crate) uses: String,
    /// The stage's name in the workflow (of the first variant that asked for it).
    pub(crate) stage: Arc<str>,
    /// Values of the dimensions it is mapped over.
    pub(crate) at: Point,
    /// Canonical params; paths absolute.
    pub(crate) params: Arc<serde_json::Value>,
    /// The params as they enter keys: paths replaced by digests of content.
    pub(crate) keyed_params: Arc<serde_json::Value>,
    /// Files that the params name.
    pub(crate) named: Named,
    /// Its output ports.
    pub(crate) outputs: Arc<[(Arc<str>, PortType)]>,
    /// How it is run.
    pub(crate) execution: Execution,
    /// The plugin's code.
    pub(crate) code: Arc<Code>,
    /// What keys are made of.
    definition: key::Definition,
}

impl Step {
    /// Name for people: stage, and the values that it is mapped over.
    pub(crate) fn name(&self) -> String {
        name(&self.stage, &self.at)
    }
}

/// Outputs that an input port reads: which action, which port.
pub(crate) type Sources = Vec<(NodeIndex, Arc<str>)>;

/// One stage of one variant and seed with everything resolved: what is looked up, run, cached.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    /// The stage.
    pub(crate) step: Arc<Step>,
    /// Its seeds.
    pub(crate) seeds: Seeds,
    /// Per input port, sorted, the outputs that it reads.
    pub(crate) inputs: Vec<(Arc<str>, Sources)>,
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
        self.step.name()
    }

    /// The key by which its result is looked up, given its inputs' content.
    pub(crate) fn action_key(&self, inputs: &BTreeMap<String, Vec<Digest>>) -> Result<ActionKey, PlanError> {
        self.step.definition.action_key(&self.seeds, inputs).map_err(|message| self.key_error(message))
    }

    fn key_error(&self, message: String) -> PlanError {
        PlanError::Key { stage: self.step.stage.to_string(), message }
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
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// The variant.
    pub(crate) variant: Arc<str>,
    /// The sweep's seed; `None` where the result does not depend on it.
    pub(crate) seed: Option<u64>,
    /// The stage.
    pub(crate) stage: Arc<str>,
    /// Values of the dimensions it is mapped over.
    pub(crate) at: Point,
    /// The action.
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
    /// Stages that alone are wanted, with what leads to them; all if empty.
    pub(crate) until: Vec<String>,
    /// Stages to run again although their results are there: `stage` or `stage@variant`.
    pub(crate) force: Vec<String>,
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
        cache: &Cache,
        history: &History,
    ) -> Result<Self, PlanError> {
        let mut problems = workflow.problems.clone();
        let variants = variant::variants(workflow, selection, catalog, &mut problems);
        let mut plan = expand::expand(workflow, selection, variants, catalog, &cache.store, problems).await?;
        let forced = plan.forced(&selection.force)?;
        decide::decide(&mut plan, cache, history, &forced)?;
        Ok(plan)
    }

    /// Names of the actions for people: stage, place, seed, and the variant if it is not the baseline. Where several
    /// share an action, the first one names it.
    pub(crate) fn labels(&self) -> Vec<String> {
        let mut labels = vec![String::new(); self.graph.node_count()];
        for instance in self.instances.iter().rev() {
            if let Some(label) = labels.get_mut(instance.action.index()) {
                *label = instance.label(&self.baseline);
            }
        }
        labels
    }

    /// Actions of stages that are named; see [`Wanted`].
    ///
    /// # Errors
    /// If nothing is called so.
    pub(crate) fn named(&self, text: &str) -> Result<Vec<&Instance>, PlanError> {
        let wanted = Wanted::new(text);
        let ports =
            |instance: &Instance| self.graph[instance.action].step.outputs.iter().map(|(port, _)| &**port);
        let is = |instance: &&Instance| {
            wanted.is(&instance.stage, &instance.at, ports(instance))
                && wanted.is_of(&instance.variant, &self.baseline)
        };
        let found: Vec<&Instance> = self.instances.iter().filter(is).collect();
        if found.is_empty() {
            let known: Vec<Known> = self
                .instances
                .iter()
                .map(|instance| Known {
                    stage: &instance.stage,
                    at: &instance.at,
                    variant: &instance.variant,
                    ports: ports(instance).collect(),
                })
                .collect();
            return Err(PlanError::Invalid(Diagnostics(vec![wanted.unknown(&known)])));
        }
        Ok(found)
    }

    fn forced(&self, wanted: &[String]) -> Result<std::collections::HashSet<NodeIndex>, PlanError> {
        let mut forced = std::collections::HashSet::new();
        for wanted in wanted {
            forced.extend(self.named(wanted)?.iter().map(|instance| instance.action));
        }
        Ok(forced)
    }
}

impl Instance {
    /// Name for people: stage, place, seed, and the variant if it is not the baseline.
    pub(crate) fn label(&self, baseline: &str) -> String {
        let seed = self.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
        let variant = if *self.variant == *baseline { String::new() } else { format!(" ({})", self.variant) };
        name(&self.stage, &self.at) + &seed + &variant
    }
}
