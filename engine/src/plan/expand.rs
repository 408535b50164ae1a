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
    key::{Definition, Seeds},
    needed,
    ports::{self, Draws},
    required,
    variant::Variants,
    wire,
};
use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Resolved, Workflow, suggest},
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
    let Grouped { groups, drafts, of_variant, of_streams } =
        group(workflow, selection, &variants, folder, catalog, &mut problems);
    let canonical = canonicalise(&groups, &drafts, catalog, &mut problems).await;
    required::by_params(&groups, &drafts, &canonical, catalog, &mut problems);
    let wanted = drafts_of(of_variant.iter().flatten(), &groups, drafts.len());
    // Files may come into being between what is run now and what comes later: weights that PyTorch trains on what was exported.
    let later: Vec<bool> = wanted.iter().map(|wanted| !wanted && !selection.until.is_empty()).collect();
    let mut files = Files::new(folder, store);
    let steps = steps(&groups, &drafts, (&canonical, &later), catalog, &mut files, &mut problems)?;
    distinct(problems).or(()).map_err(PlanError::Invalid)?;
    let seeds = selection.seeds.clone().unwrap_or_else(|| workflow.sweep.seeds.clone());
    let mut merging = Merging::default();
    let made = merging.merge(&drafts, &steps, &seeds, (&wanted, None))?;
    let mut instances = Vec::new();
    for (variant, own) in variants.list.iter().zip(&of_variant) {
        instances.push(of_draw(&variant.name, own, &groups, &drafts, &made, &seeds));
    }
    // Instances are listed seed by seed, as they are computed.
    let mut instances = seed_by_seed(instances, seeds.len());
    let mut streams = Vec::new();
    // Of the baseline only: without it, as with `--only`, nothing is varied alone.
    let baseline = variants.list.iter().position(|variant| variant.name == variants.baseline);
    if baseline.is_some() {
        check_streams(workflow, &steps)?;
    }
    let wanted = drafts_of(&of_streams, &groups, drafts.len());
    for stream in workflow.sweep.streams.iter().filter(|_| baseline.is_some()) {
        let name: Arc<str> = format!("{} alone", stream.value).into();
        let stream: Arc<str> = stream.value.as_str().into();
        let made = merging.merge(&drafts, &steps, &seeds, (&wanted, Some(&stream)))?;
        let own = of_draw(&name, &of_streams, &groups, &drafts, &made, &seeds);
        instances.extend(seed_by_seed(vec![own], seeds.len()));
        streams.push((name, stream));
    }
    let names = variants.list.iter().map(|variant| variant.name.clone());
    // Of a part of the stages, what they measure.
    let metrics = workflow.sweep.metrics.iter().map(|metric| metric.value.clone());
    let metrics = metrics.filter(|metric| {
        selection.until.is_empty() || instances.iter().any(|instance| *instance.stage == *metric.stage)
    });
    let metrics = metrics.collect();
    Ok(Plan {
        instances,
        graph: merging.graph,
        variants: names.chain(streams.iter().map(|(name, _)| name.clone())).collect(),
        baseline: variants.baseline,
        seeds,
        streams,
        metrics,
    })
}

/// Tells streams that nothing draws from.
fn check_streams(workflow: &Workflow, steps: &Steps) -> Result<(), PlanError> {
    let mut problems = Diagnostics::default();
    let of_step = |(_, draws): &(Arc<Step>, Draws)| match draws {
        Draws::Streams(streams) => streams.to_vec(),
        Draws::Nothing => Vec::new(),
    };
    let known: BTreeSet<Arc<str>> = steps.iter().flatten().flat_map(of_step).collect();
    for stream in workflow.sweep.streams.iter().filter(|stream| !known.contains(stream.value.as_str())) {
        let message = format!("no stage draws random numbers from `{}`", stream.value);
        let help = suggest(&stream.value, known.iter().map(|stream| &**stream));
        problems.push(Diagnostic::new(&stream.at, message, "varied alone").help(help));
    }
    problems.or(()).map_err(PlanError::Invalid)
}

/// Stages of all variants.
struct Grouped {
    groups: Vec<Group>,
    drafts: Vec<Draft>,
    /// Those that each variant runs.
    of_variant: Vec<Vec<GroupId>>,
    /// Those that the baseline runs again where one stream alone is varied.
    of_streams: Vec<GroupId>,
}

/// The groups of each variant: of the workflow as written all, of others what they need; of either what leads to the stages that
/// are asked for, if any are.
fn group(
    workflow: &Workflow,
    selection: &Selection,
    variants: &Variants,
    folder: &Path,
    catalog: &Catalog,
    problems: &mut Diagnostics,
) -> Grouped {
    let metrics = &workflow.sweep.metrics;
    let as_written = &variants.as_written;
    let wiring = wire::resolve(as_written, metrics, catalog, problems);
    let resolved = Resolved::new(&as_written.scopes, problems);
    let asked = needed::asked(&selection.until, variants, problems);
    let all = asked.is_none();
    let ends = asked.unwrap_or_else(|| needed::ends(workflow, as_written, &variants.alternatives));
    let mut groups = Groups::new(folder, catalog);
    let (mut of_variant, mut of_streams) = (Vec::with_capacity(variants.list.len()), Vec::new());
    for variant in &variants.list {
        let body = &variant.body;
        let rewired = body.rewired.then(|| wire::resolve(body, metrics, catalog, problems));
        let other_values = !Arc::ptr_eq(&body.scopes, &as_written.scopes);
        let other_values = other_values.then(|| Resolved::new(&body.scopes, problems));
        let wiring = rewired.as_ref().unwrap_or(&wiring);
        let own = groups.of(body, wiring, other_values.as_ref().unwrap_or(&resolved), problems);
        let needed = || {
            let needed = needed::needed(body, &wiring.order, &ends);
            own.iter().copied().filter(|group| needed.contains(&*groups.groups[*group].name)).collect()
        };
        if variant.name == variants.baseline {
            of_streams = needed();
        }
        of_variant.push(if variant.is_as_written && all { own } else { needed() });
    }
    Grouped { groups: groups.groups, drafts: groups.drafts, of_variant, of_streams }
}

/// Which drafts are of these groups.
fn drafts_of<'a>(own: impl IntoIterator<Item = &'a GroupId>, groups: &[Group], count: usize) -> Vec<bool> {
    let mut wanted = vec![false; count];
    let ranges = own.into_iter().filter_map(|group| Some(groups.get(*group)?.drafts.clone()));
    ranges.flatten().for_each(|draft| wanted[draft] = true);
    wanted
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
type Steps = Vec<Option<(Arc<Step>, Draws)>>;

/// What each draft runs, and what its stage draws by; `None` where its params are wrong, which is told. Of those that come `later`,
/// files need not be there.
fn steps(
    groups: &[Group],
    drafts: &[Draft],
    (canonical, later): (&[Option<Arc<serde_json::Value>>], &[bool]),
    catalog: &Catalog,
    files: &mut Files<'_>,
    problems: &mut Diagnostics,
) -> Result<Steps, PlanError> {
    // Drafts that share canonical params share what is made of them; paths may differ from file to file.
    let mut shared: HashMap<(usize, &str), Params> = HashMap::new();
    let mut types: HashMap<&str, TypeOf<'_>> = HashMap::new();
    let mut steps = Vec::with_capacity(drafts.len());
    for ((draft, canonical), later) in drafts.iter().zip(canonical).zip(later) {
        let group = &groups[draft.group];
        let uses = group.stage.uses.value.as_str();
        let Some((canonical, offer)) = canonical.as_ref().zip(catalog.find(uses)) else {
            steps.push(None);
            continue;
        };
        let kind = types.entry(uses).or_insert_with(|| TypeOf::new(offer.stage));
        let mut resolve = || {
            let mut params = files.resolve(canonical, &draft.foreign, |param, message| {
                if *later {
                    return;
                }
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
        steps.push(Some((Arc::new(step), ports::draws(offer.stage, canonical))));
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

/// The actions so far.
#[derive(Default)]
struct Merging {
    graph: DiGraph<Action, ()>,
    by_key: HashMap<Digest, NodeIndex>,
}

/// Per seed, per draft, which action it is.
type AllMade = Vec<Vec<Option<Made>>>;

/// What a draft became with one seed.
#[derive(Clone, Copy)]
struct Made {
    node: NodeIndex,
    key: Digest,
    /// Whether it depends on the seed, or on that of the stream that is varied alone.
    forks: bool,
}

impl Merging {
    /// Adds seeds to the drafts that are wanted, and makes one action of all that are the same. Drafts come after those that they read.
    /// If a stream is varied alone, all others have the first seed.
    fn merge(
        &mut self,
        drafts: &[Draft],
        steps: &Steps,
        seeds: &[u64],
        (wanted, alone): (&[bool], Option<&Arc<str>>),
    ) -> Result<AllMade, PlanError> {
        let mut all: AllMade = Vec::with_capacity(seeds.len());
        for seed in seeds {
            let mut made: Vec<Option<Made>> = Vec::with_capacity(drafts.len());
            for (index, (draft, step)) in drafts.iter().zip(steps).enumerate() {
                let before = all.first().and_then(|first| *first.get(index)?);
                if let Some(before) = before.filter(|before| !before.forks) {
                    made.push(Some(before));
                    continue;
                }
                let Some((step, draws)) = step.as_ref().filter(|_| wanted[index]) else {
                    made.push(None);
                    continue;
                };
                let (seeds, forks) = drawn(draws, *seed, seeds.first().copied(), alone);
                made.push(Some(add(draft, step, seeds, forks, &made, &mut self.graph, &mut self.by_key)?));
            }
            all.push(made);
        }
        Ok(all)
    }
}

/// The seeds of a stage, and whether they depend on `seed`: that of all streams, or of one alone while others have the first.
fn drawn(draws: &Draws, seed: u64, first: Option<u64>, alone: Option<&Arc<str>>) -> (Seeds, bool) {
    let Draws::Streams(streams) = draws else { return (Seeds::default(), false) };
    let Some(alone) = alone else { return (Seeds { all: Some(seed), other: None }, true) };
    let drawn = streams.contains(alone);
    let other = (drawn && Some(seed) != first).then(|| (alone.clone(), seed));
    (Seeds { all: first, other }, drawn)
}

/// The action of a draft: a new one, or the one with the same definition.
fn add(
    draft: &Draft,
    step: &Arc<Step>,
    seeds: Seeds,
    forks: bool,
    made: &[Option<Made>],
    graph: &mut DiGraph<Action, ()>,
    by_key: &mut HashMap<Digest, NodeIndex>,
) -> Result<Made, PlanError> {
    let find = |input: &DraftId| made.get(*input).copied().flatten();
    let upstream = || draft.inputs.iter().flat_map(|(_, read)| read).filter_map(|(input, _)| find(input));
    let forks = forks || upstream().any(|input| input.forks);
    let named: Vec<(&str, Vec<(Digest, &str)>)> = draft
        .inputs
        .iter()
        .map(|(port, read)| {
            (&**port, read.iter().filter_map(|(input, from)| Some((find(input)?.key, &**from))).collect())
        })
        .collect();
    let key = step
        .definition
        .definition_key(&seeds, &named)
        .map_err(|message| PlanError::Key { stage: step.stage.to_string(), message })?;
    if let Some(node) = by_key.get(&key) {
        return Ok(Made { node: *node, key, forks });
    }
    let sources = |read: &Vec<(DraftId, Arc<str>)>| {
        read.iter().filter_map(|(input, from)| Some((find(input)?.node, from.clone()))).collect()
    };
    let node = graph.add_node(Action {
        step: step.clone(),
        seeds,
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

/// Per seed, which action each stage of a variant is: what does not depend on the seed is listed once, with the first.
fn of_draw(
    variant: &Arc<str>,
    own: &[GroupId],
    groups: &[Group],
    drafts: &[Draft],
    all: &AllMade,
    seeds: &[u64],
) -> Vec<Vec<Instance>> {
    let of_seed = |(turn, (seed, made)): (usize, (&u64, &Vec<Option<Made>>))| {
        let of_group = |group: &Group| {
            let instance = |draft: usize| {
                let (made, at) = made.get(draft).copied().flatten().zip(drafts.get(draft))?;
                (made.forks || turn == 0).then(|| Instance {
                    variant: variant.clone(),
                    seed: made.forks.then_some(*seed),
                    stage: group.name.clone(),
                    at: at.at.clone(),
                    action: made.node,
                })
            };
            group.drafts.clone().filter_map(instance).collect::<Vec<_>>()
        };
        own.iter().filter_map(|group| groups.get(*group)).flat_map(of_group).collect()
    };
    seeds.iter().zip(all).enumerate().map(of_seed).collect()
}

/// Instances of all variants with the first seed, then with the second.
fn seed_by_seed(variants: Vec<Vec<Vec<Instance>>>, seeds: usize) -> Vec<Instance> {
    let mut by_seed: Vec<Vec<Instance>> = vec![Vec::new(); seeds];
    for (turn, instances) in variants.into_iter().flat_map(|variant| variant.into_iter().enumerate()) {
        by_seed[turn].extend(instances);
    }
    by_seed.into_iter().flatten().collect()
}
