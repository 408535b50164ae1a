//! Writing an archive.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use files::{Files, common};
use restage_cache::{ActionKey, Bundled, Digest, Hashed, Store, plain_header};
use restage_stage::catalogue::PortType;
use serde_json::Value;
use tar::Builder;

use super::{
    ActionHead, AllScores, CODE, DATA, DataHead, FORMAT, JOURNAL, MANIFEST, Manifest, Member, PLAN, PlanHead,
    PluginHead, REPORT, RESULTS, RunHead, SCORES, ShareError, WORKFLOW,
    hide::Hidden,
    names::{Seen, plain},
};
use crate::{
    plan::Plan,
    plugin::{Catalog, source_list},
    report::{Outcome, Scores, Table, page::Page},
    run::{
        self,
        event::{Event, InstanceHead},
        journal, past,
    },
    workflow::{MetricRef, Workflow},
};

/// Folders of data that are deeper go in circles.
const MAX_DEPTH: usize = 64;

/// What is packed.
pub(crate) struct What<'a> {
    pub(crate) workflow: &'a Workflow,
    pub(crate) plan: &'a Plan,
    pub(crate) catalog: &'a Catalog,
    pub(crate) store: &'a Store,
    /// Who packs it.
    pub(crate) by: Option<String>,
    pub(crate) run: Option<Run>,
    /// Whether data files go along; scripts do in any case.
    pub(crate) data: bool,
}

/// What of a run is packed.
pub(crate) struct Run {
    pub(crate) folder: PathBuf,
    /// Its journal and its metrics.
    pub(crate) records: bool,
    /// Its results.
    pub(crate) artifacts: bool,
    /// Its page.
    pub(crate) report: bool,
}

/// What came of it.
pub(crate) struct Packed {
    pub(crate) manifest: Manifest,
    pub(crate) results: Option<Bundled>,
    /// Of the archive.
    pub(crate) bytes: u64,
}

/// Where a member comes from.
enum From {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// Writes the archive `to`, which must not be there.
pub(crate) fn pack(what: &What<'_>, to: &Path) -> Result<Packed, ShareError> {
    if to.symlink_metadata().is_ok() {
        return Err(ShareError::Occupied(to.to_owned()));
    }
    let hidden = Hidden::of(what.workflow);
    let mut files = Files::of(&what.workflow.path)?;
    let mut data = data(what, &files, &hidden)?;
    // Scripts are small, and what the workflow is made of: they go along in any case, as data does where it is asked for.
    let goes = |data: &Data| what.data || data.head.code;
    let places = data.iter().filter(|data| goes(data)).filter_map(|data| data.place.as_deref());
    let root = places.fold(files.root.clone(), |root, path| common(&root, path));
    let is_one_place = root.components().count() >= 2;
    if is_one_place {
        files.root = root;
    } else if what.data {
        let why = "they lie in no folder with the workflow".to_owned();
        return Err(ShareError::Unpackable { path: "the data files".into(), why });
    }
    for data in &mut data {
        data.head.folder = files.place(&data.folder);
        data.head.packed = goes(data) && is_one_place && data.place.is_some();
    }
    data.sort_by(|a, b| (&a.head.folder, &a.head.path).cmp(&(&b.head.folder, &b.head.path)));

    let mut members: Vec<(String, From)> =
        vec![(PLAN.into(), json(&plan(what.plan, what.workflow, &hidden)))];
    let plugins = plugins(what, &files, &hidden);
    for plugin in &plugins {
        if let Some(list) = source_list(&what.store.root().join("plugins"), &plugin.identity) {
            let name = format!("{CODE}{}.json", plugin.identity);
            if !members.iter().any(|(known, _)| *known == name) {
                members.push((name, json(&list)));
            }
        }
    }
    for (path, text) in &files.files {
        members.push((format!("{WORKFLOW}{}", files.below(path)?), From::Bytes(text.clone())));
    }
    let mut all: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (data, place) in data.iter().filter_map(|data| Some((data, data.place.as_ref()?))) {
        for path in walk(&data.at)?.into_iter().filter(|_| data.head.packed) {
            let below = path.strip_prefix(&data.at).unwrap_or(Path::new(""));
            let place = if below.as_os_str().is_empty() { place.clone() } else { place.join(below) };
            all.insert(files.below(&place)?, path);
        }
    }
    // A workflow may be data, too.
    all.retain(|name, _| !members.iter().any(|(known, _)| known.strip_prefix(WORKFLOW) == Some(name)));
    members.extend(all.into_iter().map(|(name, path)| (format!("{DATA}{name}"), From::File(path))));
    // Beside the archive: it may be large, and goes when this ends.
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new()
        .prefix(".restage-share")
        .tempdir_in(folder)
        .map_err(ShareError::io("write into", folder))?;
    let workflow = files.below(&files.workflow)?;
    let (run, results) = match &what.run {
        Some(run) => {
            let (head, results) = run_members(what, run, &hidden, &workflow, aside.path(), &mut members)?;
            (Some(head), results)
        }
        None => (None, None),
    };
    let mut seen = Seen::default();
    for (name, _) in &members {
        seen.add(name).map_err(|why| ShareError::Unpackable { path: name.clone(), why })?;
    }
    let manifest = Manifest {
        format: FORMAT,
        restage: env!("CARGO_PKG_VERSION").into(),
        by: what.by.clone(),
        time: run.is_some().then(crate::run::now),
        workflow,
        plugins,
        data: data.into_iter().map(|data| data.head).collect(),
        variants: what.plan.variants.iter().map(ToString::to_string).collect(),
        baseline: what.plan.baseline.to_string(),
        seeds: what.plan.seeds.clone(),
        run,
        members: members.iter().map(|(name, from)| member(name, from)).collect::<Result<_, _>>()?,
    };
    let archive = aside.path().join("archive");
    write(&archive, &manifest, &members)?;
    let bytes = std::fs::metadata(&archive).map_err(ShareError::io("read", &archive))?.len();
    // In one piece, and never over another file.
    std::fs::hard_link(&archive, to).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Err(ShareError::Occupied(to.to_owned())),
        _ => std::fs::rename(&archive, to).map_err(ShareError::io("write", to)),
    })?;
    Ok(Packed { manifest, results, bytes })
}

fn json(value: &impl serde::Serialize) -> From {
    From::Bytes(serde_json::to_vec(value).unwrap_or_default())
}

/// Data, and where it is.
struct Data {
    at: PathBuf,
    /// The same from the workflow's folder, no links followed; `None` if it is not named from there.
    place: Option<PathBuf>,
    /// The folder of the file that names it.
    folder: PathBuf,
    head: DataHead,
}

/// Everything that params name.
fn data(what: &What<'_>, files: &Files, hidden: &Hidden) -> Result<Vec<Data>, ShareError> {
    let mut all: BTreeMap<PathBuf, (Digest, bool)> = BTreeMap::new();
    for action in what.plan.graph.node_weights() {
        let named = &action.step.named;
        // What lies in a repository is what its commit says, and nothing that anybody has to put anywhere.
        for (path, digest) in named.files.iter().filter(|(path, _)| !path.starts_with(what.store.root())) {
            let code = named.code.iter().any(|(code, _)| code == path);
            all.insert(path.clone(), (*digest, code));
        }
    }
    let data = |(at, (digest, code)): (PathBuf, (Digest, bool))| {
        let found = walk(&at)?;
        let size = |path: &PathBuf| Ok(std::fs::metadata(path).map_err(ShareError::io("read", path))?.len());
        let bytes = found.iter().map(size).sum::<Result<u64, ShareError>>()?;
        let (path, folder) = files.written(&at, hidden);
        let is_near = Path::new(&path).is_relative() && !path.starts_with(['…', '$']);
        let place = is_near.then(|| plain(&folder.join(&path)));
        let (files, packed) = (found.len() as u64, false);
        let head = DataHead { path, folder: String::new(), digest, bytes, files, code, packed };
        Ok(Data { at, place, folder, head })
    };
    all.into_iter().map(data).collect()
}

/// The files of a file or folder, sorted.
fn walk(path: &Path) -> Result<Vec<PathBuf>, ShareError> {
    fn below(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
        if !std::fs::metadata(path)?.is_dir() {
            files.push(path.to_owned());
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(io::Error::other("its folders are too deep"));
        }
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| below(entry, depth + 1, files))
    }
    let mut files = Vec::new();
    below(path, 0, &mut files).map_err(ShareError::io("read", path))?;
    Ok(files)
}

fn plugins(what: &What<'_>, files: &Files, hidden: &Hidden) -> Vec<PluginHead> {
    let used: BTreeSet<&str> =
        what.plan.graph.node_weights().map(|action| action.step.uses.as_str()).collect();
    let plugins = what.catalog.plugins().map(|(name, plugin)| {
        let is_it = |path: &&crate::workflow::Located<PathBuf>| {
            std::fs::canonicalize(&path.value).is_ok_and(|path| path == plugin.path)
        };
        let named = what.workflow.plugins.iter().find(is_it);
        let named = named.filter(|path| !path.value.starts_with(what.store.root()));
        let (path, folder) = named.map(|named| files.written(&named.value, hidden)).unwrap_or_default();
        let folder = files.place(&folder);
        PluginHead {
            name: name.to_owned(),
            version: plugin.catalogue.version.clone(),
            identity: plugin.code.identity,
            from_sources: plugin.code.from_sources,
            path,
            folder,
            types: used
                .iter()
                .filter(|uses| uses.split_once('/').is_some_and(|(plugin, _)| plugin == name))
                .map(|uses| (*uses).to_owned())
                .collect(),
        }
    });
    plugins.collect()
}

fn plan(plan: &Plan, workflow: &Workflow, hidden: &Hidden) -> PlanHead {
    let actions = plan.graph.node_weights().map(|action| {
        let step = &action.step;
        ActionHead {
            uses: step.uses.clone(),
            identity: step.code.identity,
            params: hidden.params(&step.stage, &step.keyed_params),
            inputs: run::reads(action),
        }
    });
    let instances = plan.instances.iter().map(|instance| InstanceHead {
        variant: instance.variant.to_string(),
        seed: instance.seed,
        stage: instance.stage.to_string(),
        at: instance.at.iter().map(|(name, value)| (name.clone(), hidden.text(value))).collect(),
        action: instance.action.index(),
    });
    let metrics: Vec<MetricRef> = plan.metrics.clone();
    PlanHead {
        actions: actions.collect(),
        instances: instances.collect(),
        metrics,
        test: workflow.sweep.test,
    }
}

/// Adds what of a run goes along.
fn run_members(
    what: &What<'_>,
    run: &Run,
    hidden: &Hidden,
    workflow: &str,
    aside: &Path,
    members: &mut Vec<(String, From)>,
) -> Result<(RunHead, Option<Bundled>), ShareError> {
    let nothing = || ShareError::NothingRan(run.folder.clone());
    let events = journal::events(&run.folder)?;
    let keys: BTreeSet<ActionKey> = past::actions(&events);
    let events: Vec<Event> = events.into_iter().filter_map(|event| hidden.event(event, workflow)).collect();
    let mut journal = Vec::new();
    for event in &events {
        let mut event = serde_json::to_value(event).unwrap_or_default();
        hidden.texts(&mut event);
        let _ = writeln!(journal, "{event}");
    }
    // What others read is what is read here.
    let told = String::from_utf8_lossy(&journal);
    let events = told.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    let outcome = Outcome::of(events).ok_or_else(nothing)?;
    let of_this =
        what.plan.graph.node_weights().filter(|action| action.key.is_some_and(|key| keys.contains(&key)));
    let head = RunHead {
        time: outcome.time,
        by: outcome.by.clone(),
        actions: outcome.actions.len(),
        done: outcome.actions.iter().filter(|action| action.done().is_some()).count(),
        of_this: of_this.count(),
    };
    if run.records || run.artifacts {
        members.push((JOURNAL.into(), From::Bytes(journal)));
        let metrics = outcome.actions.iter().flat_map(|action| action.outputs(PortType::Metrics));
        let scores: AllScores =
            metrics.filter_map(|(_, digest)| Some((digest, Scores::read(&digest, what.store)?))).collect();
        members.push((SCORES.into(), json(&scores)));
    }
    if run.report {
        let table = Table::new(&outcome, what.store);
        let page = Page::read(&outcome, &table, what.store).for_others();
        members.push((REPORT.into(), From::Bytes(hidden.text(&page.html(None)).into_bytes())));
    }
    let mut results = None;
    if run.artifacts {
        let params: BTreeMap<ActionKey, &Value> = outcome
            .actions
            .iter()
            .filter_map(|action| action.done())
            .map(|done| (done.key, &done.past.keyed_params))
            .collect();
        let tell = |key: &ActionKey, mut provenance: Value| {
            // Those of the stage have the places of files in them.
            if let Some(entries) = provenance.as_object_mut() {
                match params.get(key) {
                    Some(params) => drop(entries.insert("params".into(), (*params).clone())),
                    None => drop(entries.remove("params")),
                }
            }
            hidden.texts(&mut provenance);
            provenance
        };
        let file = aside.join("results");
        results = Some(what.store.export_told(&keys, &BTreeSet::new(), &file, &tell)?);
        members.push((RESULTS.into(), From::File(file)));
    }
    Ok((head, results))
}

fn member(name: &str, from: &From) -> Result<Member, ShareError> {
    let (size, digest) = match from {
        From::Bytes(bytes) => (bytes.len() as u64, Digest::of(bytes)),
        From::File(path) => {
            let mut hasher = blake3::Hasher::new();
            let file = File::open(path).map_err(ShareError::io("read", path))?;
            hasher.update_reader(file).map_err(ShareError::io("read", path))?;
            (hasher.count(), hasher.finalize().into())
        }
    };
    Ok(Member { name: name.to_owned(), size, digest })
}

fn write(to: &Path, manifest: &Manifest, members: &[(String, From)]) -> Result<(), ShareError> {
    let told = |error| ShareError::io("write", to)(error);
    let file = File::create_new(to).map_err(told)?;
    let mut tar = Builder::new(io::BufWriter::new(file));
    let text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    append(&mut tar, MANIFEST, text.len() as u64, text.as_slice()).map_err(told)?;
    for (member, (_, from)) in manifest.members.iter().zip(members) {
        match from {
            From::Bytes(bytes) => append(&mut tar, &member.name, member.size, bytes.as_slice()),
            From::File(path) => {
                let file = File::open(path).map_err(ShareError::io("read", path))?;
                let mut hashed = Hashed::new(file.take(member.size));
                let appended = append(&mut tar, &member.name, member.size, &mut hashed);
                if appended.is_ok() && hashed.digest() != member.digest {
                    let why = "it changes while it is read".to_owned();
                    return Err(ShareError::Unpackable { path: member.name.clone(), why });
                }
                appended
            }
        }
        .map_err(told)?;
    }
    let file =
        tar.into_inner().and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
    file.and_then(|file| file.sync_all()).map_err(told)
}

fn append(tar: &mut Builder<impl Write>, name: &str, size: u64, bytes: impl Read) -> io::Result<()> {
    let mut header = plain_header(size);
    // Not `append_data`, which would write a member for a long name that nobody takes.
    header.set_path(name)?;
    header.set_cksum();
    tar.append(&header, bytes)
}
