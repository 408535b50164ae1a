//! Variants to actions: stages shared between variants, params made canonical, seeds added, equal actions merged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use petgraph::graph::{DiGraph, NodeIndex};
use restage_cache::{Digest, Store};
use restage_stage::catalogue::{PortType, StageType, UNKEYED_MARK};

use super::{
    Action, Decision, Instance, Plan, PlanError, Selection, Step,
    canonical::canonicalise,
    files::{Files, Params},
    group::{Draft, DraftId, Group, GroupId, Groups},
    key::Definition,
    ports,
    variant::Variants,
    wire,
};
use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Resolved, Workflow},
};

pub(super) async fn expand(
    workflow: &Workflow,
    selection: &Selection,
    variants: Variants,
    catalog: &mut Catalog,
    store: &Store,
    mut problems: Diagnostics,
) -> Result<Plan, PlanError> {
    let folder = workflow.path.parent().unwrap_or(Path::new("."));
    let (groups, drafts, of_variant) = group(workflow, &variants, folder, catalog, &mut problems);
    let canonical = canonicalise(&groups, &drafts, catalog, &mut problems).await;
    let steps = steps(&groups, &drafts, &canonical, catalog, &mut Files::new(folder, store), &mut problems)?;
    distinct(problems).or(()).map_err(PlanError::Invalid)?;
    let seeds = selection.seeds.clone().unwrap_or_else(|| workflow.sweep.seeds.clone());
    let merged = merge(&drafts, &steps, &seeds)?;
    Ok(Plan {
        instances: instances(&variants, &of_variant, &groups, &drafts, &merged, &seeds),
        graph: merged.graph,
        variants: variants.list.iter().map(|variant| variant.name.clone()).collect(),
        baseline: variants.baseline,
        seeds,
        metrics: workflow.sweep.metrics.iter().map(|metric| metric.value.clone()).collect(),
    })
}

/// The groups of each variant.
fn group(
    workflow: &Workflow,
    variants: &Variants,
    folder: &Path,
    catalog: &Catalog,
    problems: &mut Diagnostics,
) -> (Vec<Group>, Vec<Draft>, Vec<Vec<GroupId>>) {
    let metrics = &workflow.sweep.metrics;
    let as_written = &variants.as_written;
    let wiring = wire::resolve(as_written, metrics, catalog, problems);
    let resolved = Resolved::new(&as_written.scopes, problems);
    let mut groups = Groups::new(folder, catalog);
    let of_variant = variants.list.iter().map(|variant| {
        let rewired = variant.body.rewired.then(|| wire::resolve(&variant.body, metrics, catalog, problems));
        let other_values = !Arc::ptr_eq(&variant.body.scopes, &as_written.scopes);
        let other_values = other_values.then(|| Resolved::new(&variant.body.scopes, problems));
        let wiring = rewired.as_ref().unwrap_or(&wiring);
        groups.of(&variant.body, wiring, other_values.as_ref().unwrap_or(&resolved), problems)
    });
    let of_variant = of_variant.collect();
    (groups.groups, groups.drafts, of_variant)
}

/// Variants share most stages: a mistake in one is told once.
fn distinct(problems: Diagnostics) -> Diagnostics {
    let mut seen = BTreeSet::new();
    let fresh = |problem: &Diagnostic| {
        seen.insert((problem.message.clone(), problem.file().to_owned(), problem.offset()))
    };
    Diagnostics(problems.0.into_iter().filter(fresh).collect())
}

/// Steps that can run, by draft.
type Steps = Vec<Option<(Arc<Step>, bool)>>;

/// What each draft runs, and whether its stage type takes a seed; `None` where its params are wrong, which is told.
fn steps(
    groups: &[Group],
    drafts: &[Draft],
    canonical: &[Option<Arc<serde_json::Value>>],
    catalog: &Catalog,
    files: &mut Files<'_>,
    problems: &mut Diagnostics,
) -> Result<Steps, PlanError> {
    // Drafts that share canonical params share what is made of them; paths may differ from file to file.
    let mut shared: HashMap<(usize, &str), Params> = HashMap::new();
    let mut types: HashMap<&str, TypeOf<'_>> = HashMap::new();
    let mut steps = Vec::with_capacity(drafts.len());
    for (draft, canonical) in drafts.iter().zip(canonical) {
        let group = &groups[draft.group];
        let uses = group.stage.uses.value.as_str();
        let Some((canonical, offer)) = canonical.as_ref().zip(catalog.find(uses)) else {
            steps.push(None);
            continue;
        };
        let kind = types.entry(uses).or_insert_with(|| TypeOf::new(offer.stage));
        let mut resolve = || {
            let mut params = files.resolve(canonical, &draft.foreign, |param, message| {
                let at = group.stage.with.get(param).map_or(&group.stage.uses.at, |(_, node)| &node.at);
                let help = "paths are relative to the file that they are written in";
                problems.push(Diagnostic::new(at, message, "named here").help(help));
            });
            kind.drop_unkeyed(&mut params);
            params
        };
        let params = if Files::names_any(canonical) {
            resolve()
        } else {
            shared.entry((Arc::as_ptr(canonical) as usize, uses)).or_insert_with(resolve).clone()
        };
        let definition = Definition::new(uses, &offer.plugin.code.identity, &params.keyed)
            .map_err(|message| PlanError::Key { stage: group.name.to_string(), message })?;
        let mut execution = group.stage.execution.clone();
        // What a program computes may depend on how many threads it has; what a stage of ours computes may not.
        if offer.stage.open {
            execution.cpus = execution.cpus.or(Some(1));
        }
        let step = Step {
            uses: uses.to_owned(),
            stage: group.name.clone(),
            at: draft.at.clone(),
            params: params.given,
            keyed_params: params.keyed,
            named: params.named,
            outputs: if offer.stage.open { outputs_of(offer.stage, canonical) } else { kind.outputs.clone() },
            execution,
            code: offer.plugin.code.clone(),
            definition,
        };
        steps.push(Some((Arc::new(step), ports::takes_seed(offer.stage, canonical))));
    }
    Ok(steps)
}

fn outputs_of(kind: &StageType, params: &serde_json::Value) -> Arc<[(Arc<str>, PortType)]> {
    ports::outputs(kind, params).into_iter().map(|(name, kind)| (name.into(), kind)).collect()
}

/// What all steps of a stage type share.
struct TypeOf<'a> {
    outputs: Arc<[(Arc<str>, PortType)]>,
    /// Params that change no result, e.g. how often checkpoints are written: part of no key.
    unkeyed: Vec<&'a String>,
}

impl<'a> TypeOf<'a> {
    fn new(stage: &'a StageType) -> Self {
        let properties = stage.params.get("properties").and_then(|properties| properties.as_object());
        let marked =
            |schema: &serde_json::Value| schema.get(UNKEYED_MARK) == Some(&serde_json::Value::Bool(true));
        Self {
            outputs: outputs_of(stage, &serde_json::Value::Null),
            unkeyed: properties
                .into_iter()
                .flatten()
                .filter_map(|(param, schema)| marked(schema).then_some(param))
                .collect(),
        }
    }

    fn drop_unkeyed(&self, params: &mut Params) {
        if !self.unkeyed.is_empty()
            && let Some(keyed) = Arc::make_mut(&mut params.keyed).as_object_mut()
        {
            keyed.retain(|param, _| !self.unkeyed.contains(&param));
        }
    }
}

/// The actions, and which one each draft is with each seed.
struct Merged {
    graph: DiGraph<Action, ()>,
    /// Per seed, per draft.
    made: Vec<Vec<Option<Made>>>,
}

/// What a draft became with one seed.
#[derive(Clone, Copy)]
struct Made {
    node: NodeIndex,
    key: Digest,
    /// Whether it depends on the seed.
    forks: bool,
}

/// Adds seeds, and makes one action of all drafts that are the same. Drafts come after those that they read.
fn merge(drafts: &[Draft], steps: &Steps, seeds: &[u64]) -> Result<Merged, PlanError> {
    let mut graph: DiGraph<Action, ()> = DiGraph::new();
    let mut by_key: HashMap<Digest, NodeIndex> = HashMap::new();
    let mut all: Vec<Vec<Option<Made>>> = Vec::with_capacity(seeds.len());
    for seed in seeds {
        let mut made: Vec<Option<Made>> = Vec::with_capacity(drafts.len());
        for (index, (draft, step)) in drafts.iter().zip(steps).enumerate() {
            let before = all.first().and_then(|first| *first.get(index)?);
            if let Some(before) = before.filter(|before| !before.forks) {
                made.push(Some(before));
                continue;
            }
            let Some((step, seeded)) = step else {
                made.push(None);
                continue;
            };
            made.push(Some(add(draft, step, seeded.then_some(*seed), &made, &mut graph, &mut by_key)?));
        }
        all.push(made);
    }
    Ok(Merged { graph, made: all })
}

/// The action of a draft: a new one, or the one with the same definition.
fn add(
    draft: &Draft,
    step: &Arc<Step>,
    seed: Option<u64>,
    made: &[Option<Made>],
    graph: &mut DiGraph<Action, ()>,
    by_key: &mut HashMap<Digest, NodeIndex>,
) -> Result<Made, PlanError> {
    let find = |input: &DraftId| made.get(*input).copied().flatten();
    let upstream = || draft.inputs.iter().flat_map(|(_, read)| read).filter_map(|(input, _)| find(input));
    let forks = seed.is_some() || upstream().any(|input| input.forks);
    let named: Vec<(&str, Vec<(Digest, &str)>)> = draft
        .inputs
        .iter()
        .map(|(port, read)| {
            (&**port, read.iter().filter_map(|(input, from)| Some((find(input)?.key, &**from))).collect())
        })
        .collect();
    let key = step
        .definition
        .definition_key(seed, &named)
        .map_err(|message| PlanError::Key { stage: step.stage.to_string(), message })?;
    if let Some(node) = by_key.get(&key) {
        return Ok(Made { node: *node, key, forks });
    }
    let sources = |read: &Vec<(DraftId, Arc<str>)>| {
        read.iter().filter_map(|(input, from)| Some((find(input)?.node, from.clone()))).collect()
    };
    let node = graph.add_node(Action {
        step: step.clone(),
        seed,
        inputs: draft.inputs.iter().map(|(port, read)| (port.clone(), sources(read))).collect(),
        decision: Decision::Cached,
        key: None,
        artifacts: BTreeMap::new(),
    });
    let mut sources: Vec<NodeIndex> = upstream().map(|input| input.node).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        graph.add_edge(source, node, ());
    }
    by_key.insert(key, node);
    Ok(Made { node, key, forks })
}

/// Which action each stage of each variant and seed is: what does not depend on the seed is listed once.
fn instances(
    variants: &Variants,
    of_variant: &[Vec<GroupId>],
    groups: &[Group],
    drafts: &[Draft],
    merged: &Merged,
    seeds: &[u64],
) -> Vec<Instance> {
    let mut instances = Vec::new();
    for (turn, (seed, made)) in seeds.iter().zip(&merged.made).enumerate() {
        for (variant, own) in variants.list.iter().zip(of_variant) {
            for group in own.iter().filter_map(|group| groups.get(*group)) {
                for draft in group.drafts.clone() {
                    let Some((made, at)) = made.get(draft).copied().flatten().zip(drafts.get(draft)) else {
                        continue;
                    };
                    if made.forks || turn == 0 {
                        instances.push(Instance {
                            variant: variant.name.clone(),
                            seed: made.forks.then_some(*seed),
                            stage: group.name.clone(),
                            at: at.at.clone(),
                            action: made.node,
                        });
                    }
                }
            }
        }
    }
    instances
}
