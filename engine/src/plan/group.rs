//! Stages of all variants at the points of their dimensions. Variants share what they do not change: a stage whose own
//! text, referred values and inputs are those of another variant *is* that variant's, found by one look-up. So a sweep
//! costs what its variants change, not what they are.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use indexmap::IndexMap;

use super::{Point, files::Foreign, ports, wire::Wiring};
use crate::{
    plugin::Catalog,
    workflow::{
        Body, Diagnostic, Diagnostics, Node, Place, ROOM, Resolved, Stage, Value, interpolate, referred,
        suggest,
    },
};

/// More stages at points of their dimensions than this are a slip of the pen.
const MAX_DRAFTS: usize = 1_000_000;

/// Position of a [`Group`].
pub(super) type GroupId = usize;
/// Position of a [`Draft`].
pub(super) type DraftId = usize;

/// A stage of one or more variants, at all points of its dimensions.
pub(super) struct Group {
    pub(super) name: Arc<str>,
    pub(super) stage: Arc<Stage>,
    dims: Dims,
    /// Its drafts, the last dimension fastest.
    pub(super) drafts: std::ops::Range<DraftId>,
}

/// A stage at one point of its dimensions, before seeds.
pub(super) struct Draft {
    pub(super) group: GroupId,
    pub(super) at: Point,
    /// Params as written, references replaced.
    pub(super) written: serde_json::Value,
    /// Those among them whose value cannot be had, which is told.
    pub(super) unknown: Vec<String>,
    /// Those among them whose value was written elsewhere, and where.
    pub(super) origins: Vec<(String, Place)>,
    /// Texts among them that were written in files of other folders.
    pub(super) foreign: Foreign,
    /// Per input port, sorted, the drafts and ports that it reads.
    pub(super) inputs: Inputs,
}

/// Per input port, sorted, the drafts and ports that it reads.
pub(super) type Inputs = Vec<(Arc<str>, Vec<(DraftId, Arc<str>)>)>;

/// Values of a dimension.
struct Dim {
    values: Vec<Node>,
    /// As they are shown, and compared.
    shown: Vec<String>,
}

/// Dimensions that a stage is mapped over.
type Dims = IndexMap<String, Arc<Dim>>;

/// What decides whether two variants' stages are one group.
#[derive(PartialEq, Eq, Hash)]
struct Signature {
    /// The stage's text, by its address: variants share what they do not change.
    stage: usize,
    /// The values that it refers to, as a digest: they may be long.
    values: blake3::Hash,
    /// The groups that it reads.
    inputs: Vec<GroupId>,
}

/// All groups and drafts of a plan.
pub(super) struct Groups<'a> {
    /// Folder of the workflow file.
    folder: &'a Path,
    catalog: &'a Catalog,
    pub(super) groups: Vec<Group>,
    pub(super) drafts: Vec<Draft>,
    known: HashMap<Signature, GroupId>,
    /// Per stage, by its address, the names of the params that it refers to.
    referred: HashMap<usize, Arc<[String]>>,
    /// The one point of stages that are not mapped.
    nowhere: Point,
    /// What references may still bring in.
    room: usize,
}

impl<'a> Groups<'a> {
    pub(super) fn new(folder: &'a Path, catalog: &'a Catalog) -> Self {
        Self {
            folder,
            catalog,
            groups: Vec::new(),
            drafts: Vec::new(),
            known: HashMap::new(),
            referred: HashMap::new(),
            nowhere: Point::default(),
            room: ROOM,
        }
    }

    /// The groups of a variant's stages, inputs before their readers.
    pub(super) fn of(
        &mut self,
        body: &Body,
        wiring: &Wiring,
        resolved: &Resolved,
        problems: &mut Diagnostics,
    ) -> Vec<GroupId> {
        let mut own: HashMap<&str, GroupId> = HashMap::with_capacity(wiring.order.len());
        let mut list = Vec::with_capacity(wiring.order.len());
        for name in &wiring.order {
            let Some(stage) = body.stages.get(name) else { continue };
            let outputs = stage.inputs.values().flat_map(|input| &input.from);
            let signature = Signature {
                stage: Arc::as_ptr(stage) as usize,
                values: self.referred_values(stage, resolved),
                inputs: outputs.filter_map(|output| own.get(&*output.value.stage)).copied().collect(),
            };
            let group = match self.known.get(&signature) {
                Some(group) => *group,
                None => {
                    let group = self.add(name, stage, &own, wiring, resolved, problems);
                    self.known.insert(signature, group);
                    group
                }
            };
            own.insert(name, group);
            list.push(group);
        }
        list
    }

    /// The digest of the values that a stage refers to.
    fn referred_values(&mut self, stage: &Arc<Stage>, resolved: &Resolved) -> blake3::Hash {
        let names = self.referred.entry(Arc::as_ptr(stage) as usize).or_insert_with(|| {
            let mut names = Vec::new();
            let nodes = stage.with.values().chain(stage.foreach.values());
            nodes.for_each(|(_, node)| referred(node, "params", &mut names));
            names.into_iter().map(str::to_owned).collect()
        });
        let [(_, params), _] = resolved.names(&stage.scope);
        let mut hasher = blake3::Hasher::new();
        for node in names.iter().filter_map(|name| params.get(name)) {
            hasher.update(node.to_json().to_string().as_bytes()).update(b"\n");
        }
        hasher.finalize()
    }

    /// Makes a group: one draft for each point of the stage's dimensions.
    fn add(
        &mut self,
        name: &Arc<str>,
        stage: &Arc<Stage>,
        own: &HashMap<&str, GroupId>,
        wiring: &Wiring,
        resolved: &Resolved,
        problems: &mut Diagnostics,
    ) -> GroupId {
        let dims = self.dims(name, stage, own, resolved, problems);
        let first = self.drafts.len();
        let mut lengths: Vec<usize> = dims.values().map(|dim| dim.values.len()).collect();
        let points = lengths.iter().try_fold(1_usize, |points, len| points.checked_mul(*len));
        if points.is_none_or(|points| first + points > MAX_DRAFTS) {
            let points = points.map_or_else(|| "endlessly many".to_owned(), |points| points.to_string());
            let message = format!("`{name}` is mapped over {points} combinations of values");
            let over: Vec<String> =
                dims.iter().map(|(dim, values)| format!("`{dim}` with {}", values.values.len())).collect();
            problems.push(
                Diagnostic::new(&stage.at, message, format!("mapped over {}", over.join(", ")))
                    .help("map over fewer values, or `gather` a dimension before this stage"),
            );
            lengths = vec![0];
        }
        for coordinates in Coordinates::new(&lengths) {
            let point: IndexMap<String, Node> = dims
                .iter()
                .zip(&coordinates)
                .filter_map(|((dim, values), index)| Some((dim.clone(), values.values.get(*index)?.clone())))
                .collect();
            let at = if dims.is_empty() { self.nowhere.clone() } else { self.point(&dims, &coordinates) };
            let [params, env] = resolved.names(&stage.scope);
            let names = [params, env, ("foreach", &point)];
            let mut written = serde_json::Map::new();
            let mut foreign = Foreign::new();
            let (mut unknown, mut origins) = (Vec::new(), Vec::new());
            for (param, (_, raw)) in &stage.with {
                let node = interpolate(raw, &names, &mut self.room, problems);
                if node.is_unknown() {
                    unknown.push(param.clone());
                    continue;
                }
                if node.at.span != raw.at.span || !node.at.source.same(&raw.at.source) {
                    origins.push((param.clone(), node.at.clone()));
                }
                find_foreign(&node, &format!("/{param}"), self.folder, &mut foreign);
                written.insert(param.clone(), node.to_json());
            }
            let inputs = self.inputs(stage, &dims, &coordinates, own, wiring);
            self.check_single(stage, &inputs, problems);
            let group = self.groups.len();
            self.drafts.push(Draft { group, at, written: written.into(), unknown, origins, foreign, inputs });
        }
        let drafts = first..self.drafts.len();
        self.groups.push(Group { name: name.clone(), stage: stage.clone(), dims, drafts });
        self.groups.len() - 1
    }

    fn point(&self, dims: &Dims, coordinates: &[usize]) -> Point {
        let values = dims.iter().zip(coordinates);
        let shown = values
            .filter_map(|((dim, values), index)| Some((dim.clone(), values.shown.get(*index)?.clone())));
        Arc::new(shown.collect::<BTreeMap<_, _>>())
    }

    /// The dimensions of a stage: those of its inputs that it does not gather, then its own.
    fn dims(
        &mut self,
        name: &str,
        stage: &Stage,
        own: &HashMap<&str, GroupId>,
        resolved: &Resolved,
        problems: &mut Diagnostics,
    ) -> Dims {
        let mut dims = Dims::new();
        let mut through: HashMap<&str, &Place> = HashMap::new();
        for output in stage.inputs.values().flat_map(|input| &input.from) {
            let Some(group) = own.get(&*output.value.stage).and_then(|group| self.groups.get(*group)) else {
                continue;
            };
            for (dim, values) in &group.dims {
                match dims.get(dim) {
                    Some(known) if known.shown != values.shown => {
                        let message =
                            format!("the inputs of `{name}` are mapped over `{dim}` with different values");
                        problems.push(
                            Diagnostic::new(
                                &output.at,
                                message,
                                format!("here: {}", values.shown.join(", ")),
                            )
                            .and(
                                through.get(&**dim).copied().unwrap_or(&stage.at),
                                format!("here: {}", known.shown.join(", ")),
                            )
                            .help("give one of the dimensions another name, or both the same values"),
                        );
                    }
                    Some(_) => {}
                    None => {
                        dims.insert(dim.clone(), values.clone());
                        through.insert(dim, &output.at);
                    }
                }
            }
        }
        let inherited: Vec<String> = dims.keys().cloned().collect();
        for gathered in &stage.gather {
            if dims.shift_remove(&gathered.value).is_none() && !inherited.contains(&gathered.value) {
                let message = format!("no input of `{name}` is mapped over `{}`", gathered.value);
                let help = match inherited.as_slice() {
                    [] => {
                        "no input is mapped at all: remove `gather:`, or give a stage above `foreach:`".into()
                    }
                    known => suggest(&gathered.value, known.iter().map(String::as_str)),
                };
                problems.push(Diagnostic::new(&gathered.at, message, "gathered here").help(help));
            }
        }
        for (dim, (at, node)) in &stage.foreach {
            if inherited.contains(dim) {
                let message = format!("`{name}` is mapped over `{dim}` already, through its inputs");
                problems.push(
                    Diagnostic::new(at, message, "mapped again").help("remove it here, or name it otherwise"),
                );
                continue;
            }
            let values = interpolate(node, &resolved.names(&stage.scope), &mut self.room, problems);
            let values = dim_values(dim, node, &values, problems);
            dims.insert(dim.clone(), Arc::new(values));
        }
        dims
    }

    /// What a stage reads at one point: of an upstream stage the same value where they share a dimension, all values
    /// where it gathers.
    fn inputs(
        &self,
        stage: &Stage,
        dims: &Dims,
        coordinates: &[usize],
        own: &HashMap<&str, GroupId>,
        wiring: &Wiring,
    ) -> Inputs {
        let mut inputs: Inputs = Vec::with_capacity(stage.inputs.len());
        for (port, input) in &stage.inputs {
            let mut read = Vec::with_capacity(input.from.len());
            for output in &input.from {
                let Some(from) = wiring.output_port(&output.value) else { continue };
                let group = own.get(&*output.value.stage).and_then(|group| self.groups.get(*group));
                let Some(group) = group else { continue };
                // Index among the upstream drafts, dimension by dimension.
                let mut places = vec![0];
                for (dim, values) in &group.dims {
                    let len = values.values.len();
                    let wanted = match dims.get_index_of(dim).and_then(|index| coordinates.get(index)) {
                        Some(same) => *same..*same + 1,
                        None => 0..len,
                    };
                    places = places
                        .iter()
                        .flat_map(|place| wanted.clone().map(move |at| place * len + at))
                        .collect();
                }
                read.extend(places.into_iter().map(|place| (group.drafts.start + place, from.clone())));
            }
            inputs.push((port.as_str().into(), read));
        }
        inputs.sort_by(|a, b| a.0.cmp(&b.0));
        inputs
    }

    /// Tells inputs that take one artifact and would get several, because a stage gathers.
    fn check_single(&self, stage: &Stage, inputs: &Inputs, problems: &mut Diagnostics) {
        let Some(kind) = ports::of(stage, self.catalog) else { return };
        for (port, read) in inputs.iter().filter(|(_, read)| read.len() > 1) {
            let takes_one = kind.inputs.iter().any(|known| *known.name == **port && !known.many);
            // A list that was written is told where wires are checked.
            if let Some(input) = stage.inputs.get(&**port).filter(|input| takes_one && input.from.len() == 1)
            {
                let message = format!("input `{port}` takes one artifact, not {} gathered ones", read.len());
                problems.push(
                    Diagnostic::new(&input.at, message, "reads a mapped stage")
                        .help("collect them first, with a stage type that takes a list"),
                );
            }
        }
    }
}

/// The values of `foreach`: as written, and with references replaced.
fn dim_values(dim: &str, written: &Node, node: &Node, problems: &mut Diagnostics) -> Dim {
    let values = node.items().to_vec();
    // What is written here as no list was told when the file was read.
    let is_reference = written.text().is_some_and(|text| text.contains("${"));
    if values.is_empty() && is_reference && !node.is_unknown() {
        let message = format!("`{dim}` refers to {}, not to a list", node.kind());
        problems.push(
            Diagnostic::new(&written.at, message, "mapped over this")
                .and(&node.at, "expected a list with at least one value")
                .help("e.g. `[A1, B1]`"),
        );
    }
    let mut shown: Vec<String> = Vec::with_capacity(values.len());
    let mut seen = std::collections::HashSet::new();
    for value in &values {
        let text = value.text().map_or_else(|| value.to_json().to_string(), str::to_owned);
        if !seen.insert(text.clone()) {
            let message = format!("`{dim}` has the value `{text}` twice");
            problems.push(Diagnostic::new(&value.at, message, "again here").help("each value maps once"));
        }
        shown.push(text);
    }
    Dim { values, shown }
}

/// Notes texts that were written in files of other folders than the workflow's: relative paths begin there.
fn find_foreign(node: &Node, pointer: &str, folder: &Path, foreign: &mut Foreign) {
    match &node.value {
        Value::Text(_) => {
            if let Some(other) = node.at.source.folder().filter(|other| *other != folder) {
                foreign.push((pointer.to_owned(), PathBuf::from(other)));
            }
        }
        Value::List(items) => {
            let items = items.iter().enumerate();
            items
                .for_each(|(index, item)| find_foreign(item, &format!("{pointer}/{index}"), folder, foreign));
        }
        Value::Map(entries) => entries.iter().for_each(|(key, value)| {
            find_foreign(value, &format!("{pointer}/{}", key.value), folder, foreign)
        }),
        _ => {}
    }
}

/// All combinations of indices below some lengths, the last fastest; one empty combination if there are none.
struct Coordinates<'a> {
    lengths: &'a [usize],
    next: Option<Vec<usize>>,
}

impl<'a> Coordinates<'a> {
    fn new(lengths: &'a [usize]) -> Self {
        let next = lengths.iter().all(|len| *len > 0).then(|| vec![0; lengths.len()]);
        Self { lengths, next }
    }
}

impl Iterator for Coordinates<'_> {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let current = self.next.take()?;
        let mut following = current.clone();
        for (index, len) in following.iter_mut().zip(self.lengths).rev() {
            *index += 1;
            if *index < *len {
                self.next = Some(following);
                break;
            }
            *index = 0;
        }
        Some(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_run_through_all_combinations() {
        let all = |lengths: &[usize]| Coordinates::new(lengths).collect::<Vec<_>>();
        assert_eq!(all(&[2, 2]), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        assert_eq!(all(&[]), [[0; 0]]);
        assert!(all(&[2, 0]).is_empty());
    }
}
