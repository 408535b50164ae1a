//! Variants to actions: stages mapped and gathered, params canonicalised, equal actions merged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use petgraph::graph::{DiGraph, NodeIndex};
use restage_cache::Digest;
use restage_stage::{
    catalogue::{StageType, UNKEYED_MARK},
    task::PATH_MARK,
};

use super::{
    Action, Decision, Instance, Plan, PlanError, Reason, Selection,
    key::Definition,
    variant::Variant,
    wire::{Resolved, resolve},
};
use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Node, Stage, Value, Workflow, interpolate, suggest},
};

/// Dimensions that a stage is mapped over, with their values.
type Dims = IndexMap<String, Vec<Node>>;

/// One stage of one variant at one point of its dimensions, before seeds.
struct Draft {
    variant: usize,
    stage: String,
    at: BTreeMap<String, String>,
    uses: String,
    cpus: usize,
    /// As written, references replaced.
    written: serde_json::Value,
    inputs: BTreeMap<String, Vec<(usize, String)>>,
}

pub(super) async fn expand(
    workflow: &Workflow,
    selection: &Selection,
    variants: Vec<Variant>,
    catalog: &mut Catalog,
    mut problems: Diagnostics,
) -> Result<Plan, PlanError> {
    let mut drafts = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        if let Some(resolved) = resolve(&variant.workflow, catalog, &mut problems) {
            draft(index, &variant.workflow, &resolved, catalog, &mut drafts, &mut problems);
        }
    }
    let canonical = canonicalise(&drafts, &variants, catalog, &mut problems).await;
    let folder = workflow.path.parent().unwrap_or(Path::new("."));
    let mut files = Files { folder, digests: HashMap::new() };
    let mut params = HashMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let Some(value) = canonical.get(&check_key(draft)) else { continue };
        let mut resolved = files.resolve_all(value, |param, message| {
            let stage = &variants[draft.variant].workflow.stages[&draft.stage];
            let at = stage.with.get(param).map_or(&stage.uses.at, |(_, node)| &node.at);
            problems.push(
                Diagnostic::new(at, message, "named here").help("paths are relative to the workflow file"),
            );
        });
        drop_unkeyed(&mut resolved.keyed, &draft.uses, catalog);
        params.insert(index, resolved);
    }
    let problems = distinct(problems);
    problems.or(()).map_err(PlanError::Invalid)?;
    merge(workflow, selection, &variants, &drafts, &params, catalog)
}

/// Variants share most stages: a mistake in one is told once.
fn distinct(problems: Diagnostics) -> Diagnostics {
    let mut seen = BTreeSet::new();
    let fresh = |problem: &Diagnostic| seen.insert((problem.message.clone(), problem.line_column()));
    Diagnostics(problems.0.into_iter().filter(fresh).collect())
}

/// Adds the drafts of one variant.
fn draft(
    variant: usize,
    workflow: &Workflow,
    resolved: &Resolved,
    catalog: &Catalog,
    drafts: &mut Vec<Draft>,
    problems: &mut Diagnostics,
) {
    let mut dims: HashMap<&str, Dims> = HashMap::new();
    // Drafts of a stage by the point of its dimensions.
    let mut points: HashMap<(&str, BTreeMap<String, String>), usize> = HashMap::new();
    for name in &resolved.order {
        let stage = &workflow.stages[name];
        let ports = catalog.find(&stage.uses.value).map_or(&[][..], |offer| &offer.stage.inputs);
        let own = stage_dims(workflow, name, stage, &dims, problems);
        for point in product(&own) {
            let at: BTreeMap<String, String> =
                point.iter().map(|(dim, node)| (dim.clone(), shown(node))).collect();
            let scopes = [("params", &workflow.params), ("foreach", &point)];
            let written = stage
                .with
                .iter()
                .map(|(param, (_, node))| (param.clone(), interpolate(node, &scopes, problems).to_json()))
                .collect();
            let mut inputs: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
            for (port, input) in &stage.inputs {
                let list = inputs.entry(port.clone()).or_default();
                for output in &input.from {
                    let Some(port) = resolved.output_port(&output.value) else { continue };
                    let upstream = output.value.stage.as_str();
                    let Some(upstream_dims) = dims.get(upstream) else { continue };
                    for at in upstream_points(upstream_dims, stage, &at) {
                        if let Some(draft) = points.get(&(upstream, at)) {
                            list.push((*draft, port.clone()));
                        }
                    }
                }
                let takes_one = ports.iter().any(|known| known.name == *port && !known.many);
                if takes_one && input.from.len() == 1 && list.len() > 1 {
                    let message =
                        format!("input `{port}` takes one artifact, not {} gathered ones", list.len());
                    problems.push(
                        Diagnostic::new(&input.at, message, "reads a mapped stage")
                            .help("collect them first, with a stage type that takes a list"),
                    );
                }
            }
            points.insert((name, at.clone()), drafts.len());
            let (uses, cpus) = (stage.uses.value.clone(), stage.resources.cpus);
            drafts.push(Draft { variant, stage: name.clone(), at, uses, cpus, written, inputs });
        }
        dims.insert(name, own);
    }
}

/// The dimensions of a stage: its own, and those of its inputs that it does not gather.
fn stage_dims(
    workflow: &Workflow,
    name: &str,
    stage: &Stage,
    dims: &HashMap<&str, Dims>,
    problems: &mut Diagnostics,
) -> Dims {
    let mut own = Dims::new();
    let mut inherited = Dims::new();
    let upstream = stage.inputs.values().flat_map(|input| &input.from);
    for (dim, values) in upstream.filter_map(|output| dims.get(output.value.stage.as_str())).flatten() {
        inherited.insert(dim.clone(), values.clone());
    }
    for gathered in &stage.gather {
        if inherited.shift_remove(&gathered.value).is_none() {
            let message = format!("no input of `{name}` is mapped over `{}`", gathered.value);
            problems.push(
                Diagnostic::new(&gathered.at, message, "gathered here")
                    .help(suggest(&gathered.value, inherited.keys().map(String::as_str))),
            );
        }
    }
    own.extend(inherited);
    for (dim, (at, values)) in &stage.foreach {
        if own.contains_key(dim) {
            let message = format!("`{name}` is mapped over `{dim}` already, through its inputs");
            problems.push(
                Diagnostic::new(at, message, "mapped again").help("remove it here, or name it otherwise"),
            );
        }
        let scopes = [("params", &workflow.params)];
        let values = values.iter().map(|value| interpolate(value, &scopes, problems)).collect();
        own.insert(dim.clone(), values);
    }
    own
}

/// All points of some dimensions; one point if there are none.
fn product(dims: &Dims) -> Vec<IndexMap<String, Node>> {
    dims.iter().fold(vec![IndexMap::new()], |points, (dim, values)| {
        points
            .iter()
            .flat_map(|point| {
                values.iter().map(move |value| {
                    let mut point = point.clone();
                    point.insert(dim.clone(), value.clone());
                    point
                })
            })
            .collect()
    })
}

/// The points of an upstream stage that a stage reads at one point of its own: the same values where it shares the
/// dimension, all values where it gathers.
fn upstream_points(
    upstream: &Dims,
    stage: &Stage,
    at: &BTreeMap<String, String>,
) -> Vec<BTreeMap<String, String>> {
    let gathered = |dim: &String| stage.gather.iter().any(|gathered| gathered.value == *dim);
    let read: Dims = upstream
        .iter()
        .map(|(dim, values)| {
            let same = |value: &&Node| gathered(dim) || at.get(dim).is_some_and(|own| *own == shown(value));
            (dim.clone(), values.iter().filter(same).cloned().collect())
        })
        .collect();
    product(&read)
        .into_iter()
        .map(|point| point.iter().map(|(dim, node)| (dim.clone(), shown(node))).collect())
        .collect()
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => text.clone(),
        _ => node.to_json().to_string(),
    }
}

fn check_key(draft: &Draft) -> (String, String) {
    (draft.uses.clone(), draft.written.to_string())
}

/// Canonical params of every distinct (stage type, params) that is right; the plugin is asked once for each.
async fn canonicalise(
    drafts: &[Draft],
    variants: &[Variant],
    catalog: &mut Catalog,
    problems: &mut Diagnostics,
) -> HashMap<(String, String), serde_json::Value> {
    let mut canonical = HashMap::new();
    let mut wrong = BTreeSet::new();
    for draft in drafts {
        let key = check_key(draft);
        if canonical.contains_key(&key) || wrong.contains(&key) {
            continue;
        }
        let stage = &variants[draft.variant].workflow.stages[&draft.stage];
        let Some(offer) = catalog.find(&draft.uses) else { continue };
        let mut written = draft.written.clone();
        let before = problems.0.len();
        remove_unknown(stage, offer.stage, &mut written, problems);
        // A plugin tells the first param that is wrong; without it, it tells the next.
        let result = loop {
            match catalog.check(&draft.uses, &written).await {
                Ok(value) => break Some(value),
                Err(messages) => {
                    let (problem, param) = param_problem(stage, &messages);
                    problems.push(problem);
                    let removed = param.and_then(|param| written.as_object_mut()?.shift_remove(&param));
                    if removed.is_none() {
                        break None;
                    }
                }
            }
        };
        match result.filter(|_| problems.0.len() == before) {
            Some(value) => drop(canonical.insert(key, value)),
            None => drop(wrong.insert(key)),
        }
    }
    canonical
}

/// Tells and removes every param that the stage type does not have, with the nearest that it has.
fn remove_unknown(
    stage: &Stage,
    known: &StageType,
    written: &mut serde_json::Value,
    problems: &mut Diagnostics,
) {
    let Some(known) = known.params.get("properties").and_then(|known| known.as_object()) else { return };
    for (param, (at, _)) in &stage.with {
        if !known.contains_key(param) {
            let message = format!("`{}` has no param `{param}`", stage.uses.value);
            problems.push(
                Diagnostic::new(at, message, "unknown param")
                    .help(suggest(param, known.keys().map(String::as_str))),
            );
            written.as_object_mut().and_then(|written| written.shift_remove(param));
        }
    }
}

/// The plugin's words on wrong params, at the param that they begin with, and that param.
fn param_problem(stage: &Stage, messages: &[String]) -> (Diagnostic, Option<String>) {
    let message = messages.join(": ");
    let param =
        message.strip_prefix('`').and_then(|rest| rest.split(['.', '[', '`']).next()).map(str::to_owned);
    match param.as_ref().and_then(|param| stage.with.get(param)) {
        Some((_, node)) => (Diagnostic::new(&node.at, message, "this value"), param),
        None => {
            let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            let text = missing.map(|field| format!("`{}` needs the param `{field}`", stage.uses.value));
            let help = "`restage plugin list WORKFLOW` shows the params of every stage type";
            let at = &stage.uses.at;
            (Diagnostic::new(at, text.unwrap_or(message), "in the params of this stage").help(help), None)
        }
    }
}

/// Params that change no result, e.g. how often checkpoints are written, are not part of any key.
fn drop_unkeyed(keyed: &mut serde_json::Value, uses: &str, catalog: &Catalog) {
    let properties = catalog.find(uses).and_then(|offer| offer.stage.params.get("properties")?.as_object());
    if let (Some(properties), Some(keyed)) = (properties, keyed.as_object_mut()) {
        keyed.retain(|param, _| {
            let unkeyed = properties.get(param).and_then(|schema| schema.get(UNKEYED_MARK));
            unkeyed != Some(&serde_json::Value::Bool(true))
        });
    }
}

/// Files that params name: made absolute, and digested once each.
struct Files<'a> {
    folder: &'a Path,
    digests: HashMap<PathBuf, Digest>,
}

/// Params for the stage (absolute paths) and for keys (digests instead).
#[derive(Clone)]
struct Params {
    given: serde_json::Value,
    keyed: serde_json::Value,
}

impl Files<'_> {
    /// Resolves a stage's params; `wrong` is told each param that names a file which cannot be read.
    fn resolve_all(&mut self, params: &serde_json::Value, mut wrong: impl FnMut(&str, String)) -> Params {
        let mut given = serde_json::Map::new();
        let mut keyed = serde_json::Map::new();
        for (param, value) in params.as_object().into_iter().flatten() {
            match self.resolve(value) {
                Ok(resolved) => {
                    given.insert(param.clone(), resolved.given);
                    keyed.insert(param.clone(), resolved.keyed);
                }
                Err(message) => wrong(param, message),
            }
        }
        Params { given: given.into(), keyed: keyed.into() }
    }

    fn resolve(&mut self, value: &serde_json::Value) -> Result<Params, String> {
        use serde_json::Value;
        let both = |given: Value, keyed: Value| Ok(Params { given, keyed });
        match value {
            Value::Object(map) if map.len() == 1 && map.contains_key(PATH_MARK) => {
                let path = map.get(PATH_MARK).and_then(Value::as_str).unwrap_or_default();
                let absolute = self.folder.join(path);
                let digest = self.digest(&absolute)?;
                both(serde_json::json!({ PATH_MARK: absolute }), serde_json::json!({ "$digest": digest }))
            }
            Value::Object(map) => {
                let mut given = serde_json::Map::new();
                let mut keyed = serde_json::Map::new();
                for (key, value) in map {
                    let inner = self.resolve(value)?;
                    given.insert(key.clone(), inner.given);
                    keyed.insert(key.clone(), inner.keyed);
                }
                both(Value::Object(given), Value::Object(keyed))
            }
            Value::Array(items) => {
                let items: Vec<Params> =
                    items.iter().map(|item| self.resolve(item)).collect::<Result<_, _>>()?;
                let given = items.iter().map(|item| item.given.clone()).collect();
                both(given, items.into_iter().map(|item| item.keyed).collect())
            }
            plain => both(plain.clone(), plain.clone()),
        }
    }

    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        if let Some(digest) = self.digests.get(path) {
            return Ok(*digest);
        }
        if !path.exists() {
            return Err(format!("there is no file or folder {}", path.display()));
        }
        let digest = restage_cache::tree_digest(path).map_err(|error| error.to_string())?;
        self.digests.insert(path.to_owned(), digest);
        Ok(digest)
    }
}

/// Adds seeds, and makes one action of all instances that are the same.
fn merge(
    workflow: &Workflow,
    selection: &Selection,
    variants: &[Variant],
    drafts: &[Draft],
    params: &HashMap<usize, Params>,
    catalog: &Catalog,
) -> Result<Plan, PlanError> {
    let seeds = selection.seeds.clone().unwrap_or_else(|| workflow.sweep.seeds.clone());
    let mut graph: DiGraph<Action, ()> = DiGraph::new();
    let mut by_key: HashMap<Digest, NodeIndex> = HashMap::new();
    let mut instances = Vec::new();
    for (turn, seed) in seeds.iter().enumerate() {
        // The action of each draft, its definition key, and whether it depends on the seed.
        let mut made: Vec<(NodeIndex, Digest, bool)> = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.iter().enumerate() {
            let (Some(offer), Some(params)) = (catalog.find(&draft.uses), params.get(&index)) else {
                continue;
            };
            let upstream = || draft.inputs.values().flatten().filter_map(|(input, _)| made.get(*input));
            let forks = offer.stage.seeded || upstream().any(|(_, _, forks)| *forks);
            let named = |list: &Vec<(usize, String)>| -> Vec<(Digest, String)> {
                list.iter().filter_map(|(input, port)| Some((made.get(*input)?.1, port.clone()))).collect()
            };
            let inputs = draft.inputs.iter().map(|(port, list)| (port.clone(), named(list))).collect();
            let definition = Definition {
                uses: &draft.uses,
                identity: &offer.plugin.identity,
                keyed_params: &params.keyed,
                seed: offer.stage.seeded.then_some(*seed),
            };
            let key = definition
                .definition_key(&inputs)
                .map_err(|message| PlanError::Key { stage: draft.stage.clone(), message })?;
            let node = *by_key.entry(key).or_insert_with(|| {
                let outputs_of = |list: &Vec<(usize, String)>| -> Vec<(NodeIndex, String)> {
                    list.iter()
                        .filter_map(|(input, port)| Some((made.get(*input)?.0, port.clone())))
                        .collect()
                };
                let node = graph.add_node(Action {
                    uses: draft.uses.clone(),
                    stage: draft.stage.clone(),
                    at: draft.at.clone(),
                    params: params.given.clone(),
                    keyed_params: params.keyed.clone(),
                    seed: definition.seed,
                    inputs: draft
                        .inputs
                        .iter()
                        .map(|(port, list)| (port.clone(), outputs_of(list)))
                        .collect(),
                    outputs: offer.stage.outputs.iter().map(|port| (port.name.clone(), port.kind)).collect(),
                    cpus: draft.cpus,
                    library: offer.plugin.library.clone(),
                    identity: offer.plugin.identity,
                    binary: offer.plugin.binary,
                    decision: Decision::Run(Reason::New),
                    key: None,
                    artifacts: BTreeMap::new(),
                });
                let sources: BTreeSet<NodeIndex> = upstream().map(|(node, _, _)| *node).collect();
                for source in sources {
                    graph.add_edge(source, node, ());
                }
                node
            });
            made.push((node, key, forks));
            if forks || turn == 0 {
                instances.push(Instance {
                    variant: variants[draft.variant].name.clone(),
                    seed: forks.then_some(*seed),
                    stage: draft.stage.clone(),
                    at: draft.at.clone(),
                    action: node,
                });
            }
        }
    }
    let metrics = variants.first().map(|variant| &variant.workflow.sweep.metrics);
    Ok(Plan {
        graph,
        variants: variants.iter().map(|variant| variant.name.clone()).collect(),
        seeds,
        metrics: metrics.into_iter().flatten().map(|metric| metric.value.clone()).collect(),
        instances,
    })
}
