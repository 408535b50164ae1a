//! What a store holds, and for whom: by stage type, from the records of what ran; by workflow, from the journals of runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use restage_cache::{Area, AreaUsage, Digest, Record, Share, Store, Usage};
use serde::Serialize;

use super::{grid, size};
use crate::run::past::PastRun;

/// How many artifacts are shown where nobody asked for all.
const LARGEST: usize = 10;

/// Which action gave an artifact, for people: `regions (classify/probe)`.
pub(crate) struct Origins(BTreeMap<Digest, String>);

impl Origins {
    /// Of everything that has a record.
    pub(crate) fn of(store: &Store) -> restage_cache::Result<Self> {
        let records = store.records()?;
        let named = records.iter().flat_map(|(_, record)| {
            let name = format!("{} ({})", text(record, "stage"), text(record, "uses"));
            record.outputs.values().map(move |digest| (*digest, name.clone()))
        });
        Ok(Self(named.collect()))
    }

    /// The action that gave it, if that is known.
    pub(crate) fn get(&self, digest: &Digest) -> Option<&str> {
        self.0.get(digest).map(String::as_str)
    }

    /// The digest as it is shown, and where it is from.
    pub(crate) fn told(&self, digest: &Digest) -> String {
        match self.get(digest) {
            Some(origin) => format!("{digest:.12}  {origin}"),
            None => format!("{digest:.12}"),
        }
    }
}

fn text<'a>(record: &'a Record, name: &str) -> &'a str {
    record.provenance.get(name).and_then(serde_json::Value::as_str).unwrap_or("?")
}

/// Who holds what.
#[derive(Serialize)]
pub(crate) struct Holding {
    /// Of everything in the store, in bytes.
    pub(crate) bytes: u64,
    areas: BTreeMap<Area, AreaUsage>,
    stages: Vec<Holder>,
    workflows: Vec<Holder>,
    artifacts: Vec<Held>,
}

/// A stage type or a workflow.
#[derive(Serialize)]
struct Holder {
    /// `None` for what nobody holds.
    name: Option<String>,
    artifacts: usize,
    /// Of its artifacts, what several of them share counted once.
    bytes: u64,
    /// Of that, what no other holder has.
    own: u64,
    /// How many of its artifacts are not in the store any more.
    gone: u64,
}

/// An artifact.
#[derive(Serialize)]
struct Held {
    digest: Digest,
    bytes: u64,
    own: u64,
    origin: Option<String>,
}

impl Holding {
    /// Of the whole store; or, of what these workflows' runs reach. `only` are folders of workflows' runs.
    pub(crate) fn new(store: &Store, runs: &[Vec<PastRun>], only: &[PathBuf]) -> restage_cache::Result<Self> {
        let (usage, origins) = (store.usage()?, Origins::of(store)?);
        let is_wanted =
            |run: &PastRun| only.is_empty() || only.iter().any(|folder| run.folder.starts_with(folder));
        let wanted: BTreeSet<Digest> = runs
            .iter()
            .flatten()
            .filter(|run| is_wanted(run))
            .flat_map(|run| &run.artifacts)
            .copied()
            .collect();
        let is_meant = |digest: &Digest| only.is_empty() || wanted.contains(digest);

        let mut by_stage: Labels<String> = BTreeMap::new();
        for (_, record) in store.records()? {
            let reached = record.outputs.values().copied().filter(is_meant);
            by_stage.entry(Some(text(&record, "uses").to_owned())).or_default().extend(reached);
        }
        by_stage.retain(|_, artifacts| !artifacts.is_empty());
        let mut by_workflow: Labels<String> = BTreeMap::new();
        let mut chosen: BTreeSet<String> = BTreeSet::new();
        for runs in runs {
            let file = runs.iter().find_map(|run| run.workflow.as_ref());
            let Some(name) = file.map(|file| file.display().to_string()) else { continue };
            if runs.iter().any(is_wanted) {
                chosen.insert(name.clone());
            }
            let all = runs.iter().flat_map(|run| run.artifacts.iter().copied());
            by_workflow.entry(Some(name)).or_default().extend(all);
        }
        let mut workflows = holders(&usage, by_workflow, &is_meant);
        workflows.retain(|holder| {
            only.is_empty() || holder.name.as_ref().is_some_and(|name| chosen.contains(name))
        });
        let held = usage.artifacts.iter().filter(|artifact| is_meant(&artifact.digest));
        let held = held.map(|artifact| Held {
            digest: artifact.digest,
            bytes: artifact.bytes,
            own: artifact.own,
            origin: origins.get(&artifact.digest).map(ToOwned::to_owned),
        });
        Ok(Self {
            bytes: usage.bytes,
            stages: holders(&usage, by_stage, &is_meant),
            workflows,
            artifacts: held.collect(),
            areas: usage.areas,
        })
    }

    /// The parts of the store that have something.
    pub(crate) fn draw_areas(&self) -> String {
        let rows = self.areas.iter().filter(|(_, usage)| usage.files > 0).map(|(area, usage)| {
            [area.to_string(), usage.files.to_string(), size(usage.bytes), size(usage.alone)]
        });
        grid(["part", ">files", ">size", ">own"], rows)
    }

    pub(crate) fn draw_stages(&self) -> String {
        draw("stage type", "(no record)", &self.stages)
    }

    pub(crate) fn draw_workflows(&self) -> String {
        draw("workflow", "(no run)", &self.workflows)
    }

    /// Artifacts, the largest first: all of them, or the largest only.
    pub(crate) fn draw_artifacts(&self, all: bool) -> String {
        let most = if all { usize::MAX } else { LARGEST };
        let rows = self.artifacts.iter().take(most).map(|held| {
            let origin = held.origin.clone().unwrap_or_else(|| "(no record)".to_owned());
            [format!("{:.12}", held.digest), size(held.bytes), size(held.own), origin]
        });
        let drawn = grid(["artifact", ">size", ">own", "of"], rows);
        match self.artifacts.len().saturating_sub(most) {
            0 => drawn,
            more => format!("{drawn}\nand {more} smaller ones: `--by artifact` lists them all"),
        }
    }
}

type Labels<L> = BTreeMap<Option<L>, BTreeSet<Digest>>;

/// What each label holds, the largest first; artifacts without one are nobody's.
fn holders(usage: &Usage, mut labels: Labels<String>, is_meant: &dyn Fn(&Digest) -> bool) -> Vec<Holder> {
    let labelled: BTreeSet<Digest> = labels.values().flatten().copied().collect();
    let nobodys = usage.artifacts.iter().map(|artifact| artifact.digest);
    let nobodys: BTreeSet<Digest> =
        nobodys.filter(|digest| !labelled.contains(digest) && is_meant(digest)).collect();
    if !nobodys.is_empty() {
        labels.insert(None, nobodys);
    }
    let shares = usage.by_label(&labels);
    let holder = |(name, Share { bytes, only, missing }): (Option<String>, Share)| Holder {
        artifacts: labels.get(&name).map_or(0, BTreeSet::len),
        name,
        bytes,
        own: only,
        gone: missing,
    };
    let mut holders: Vec<Holder> = shares.into_iter().map(holder).collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
    holders
}

fn draw(head: &str, nobody: &str, holders: &[Holder]) -> String {
    let rows = holders.iter().map(|holder| {
        let name = holder.name.clone().unwrap_or_else(|| nobody.to_owned());
        let here = holder.artifacts as u64 - holder.gone;
        [name, here.to_string(), size(holder.bytes), size(holder.own), holder.gone.to_string()]
    });
    grid([head, ">artifacts", ">size", ">own", ">gone"], rows)
}
