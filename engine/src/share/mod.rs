//! A workflow as one file, to give to somebody: what it is, what it was made of, and if wanted what it gave.
//!
//! ```text
//! share.json             what is in it: format, versions, plugins, data, and size and digest of every member
//! plan.json              stages of all variants and seeds with their params, as they were when it was packed
//! code/<identity>.json   what a plugin's identity is of, file by file: digests, no sources
//! workflow/…             the workflow, what it imports, and their `restage.lock`, as they lie to each other
//! data/…                 `--data`: files that params name
//! run/journal.jsonl      `--records`: what a run did, and run/scores.json: its metrics, group by group
//! run/report.html        `--report`
//! results.tar            `--artifacts`: a bundle as `restage cache import` takes it
//! ```
//!
//! A plain tar. What stands after `share.json` is exactly what that announces, in that order; anything else is refused before a
//! byte is written (`archive.rs`). No path of the machine that packed it is in it, nor a value of its environment (`hide.rs`), and
//! the same workflow packs to the same bytes; only with a run it says when.

mod archive;
mod hide;
mod names;
mod pack;
mod sketch;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, io, path::PathBuf};

use restage_cache::{Digest, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use archive::{Opened, Unpacked, is_share, led};
pub(crate) use names::clean;
pub(crate) use pack::{Packed, Run, What, pack};
pub(crate) use sketch::Sketch;

use crate::{
    report::Scores,
    run::event::{InstanceHead, Reads},
    workflow::{MetricRef, Test},
};

/// Version of the archive.
pub(crate) const FORMAT: u32 = 1;

/// The first member.
const MANIFEST: &str = "share.json";
const PLAN: &str = "plan.json";
const JOURNAL: &str = "run/journal.jsonl";
const SCORES: &str = "run/scores.json";
const REPORT: &str = "run/report.html";
const RESULTS: &str = "results.tar";
/// Folders of members.
const CODE: &str = "code/";
const WORKFLOW: &str = "workflow/";
const DATA: &str = "data/";

/// Where in an unpacked workflow lies what is none of its files.
pub(crate) const BESIDE: &str = "from-share";

/// Scores of a run that was given, beside its journal.
pub(crate) const SCORES_FILE: &str = "scores.json";

/// What is in an archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// restage's version.
    pub(crate) restage: String,
    /// Who packed it.
    pub(crate) by: Option<String>,
    /// When, in milliseconds since 1970; not told without a run, so that the same workflow is the same file.
    pub(crate) time: Option<u64>,
    /// The workflow's file, below `workflow/`.
    pub(crate) workflow: String,
    pub(crate) plugins: Vec<PluginHead>,
    pub(crate) data: Vec<DataHead>,
    pub(crate) variants: Vec<String>,
    pub(crate) baseline: String,
    pub(crate) seeds: Vec<u64>,
    pub(crate) run: Option<RunHead>,
    pub(crate) members: Vec<Member>,
}

/// A plugin: its sources by their identity, never the plugin itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PluginHead {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) identity: Digest,
    /// Whether the identity is of sources, and not of a library's file.
    pub(crate) from_sources: bool,
    /// As the workflow writes it.
    pub(crate) path: String,
    /// The folder of the file that writes it, below `workflow/`.
    pub(crate) folder: String,
    /// Its stage types that the workflow uses.
    pub(crate) types: Vec<String>,
}

/// A file or folder that params name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataHead {
    /// As the workflow writes it.
    pub(crate) path: String,
    /// Where it begins, if it is relative: a folder below `workflow/`.
    pub(crate) folder: String,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// Whether it is a script of a stage.
    pub(crate) code: bool,
    /// Whether it is in the archive.
    pub(crate) packed: bool,
}

/// A run that goes along.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunHead {
    /// When it began, in milliseconds since 1970.
    pub(crate) time: u64,
    pub(crate) by: Option<String>,
    pub(crate) actions: usize,
    pub(crate) done: usize,
    /// How many actions of the workflow as it is packed have their result in that run.
    pub(crate) of_this: usize,
}

/// A file of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// Stages of all variants and seeds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PlanHead {
    pub(crate) actions: Vec<ActionHead>,
    pub(crate) instances: Vec<InstanceHead>,
    /// What the sweep compares, and how.
    pub(crate) metrics: Vec<MetricRef>,
    pub(crate) test: Test,
}

/// A stage with its params.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ActionHead {
    pub(crate) uses: String,
    pub(crate) identity: Digest,
    /// Data files by their content.
    pub(crate) params: Value,
    /// What it reads.
    #[serde(default)]
    pub(crate) inputs: Reads,
}

/// Metrics artifacts by their digest.
pub(crate) type AllScores = BTreeMap<Digest, Scores>;

/// Why nothing was packed or opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    #[error("cannot {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is refused: {}{why}", file.display(), of(member))]
    Refused { file: PathBuf, member: String, why: String },
    #[error("{} is there already", .0.display())]
    Occupied(PathBuf),
    #[error("{} imports `{written}`, which {why}", file.display())]
    Import { file: PathBuf, written: String, why: &'static str },
    #[error("`{path}` cannot be packed: {why}")]
    Unpackable { path: String, why: String },
    #[error("the run in {} has done nothing", .0.display())]
    NothingRan(PathBuf),
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    #[error(transparent)]
    Journal(#[from] crate::run::journal::JournalError),
}

fn of(member: &str) -> String {
    if member.is_empty() { String::new() } else { format!("its member `{}`: ", member.escape_debug()) }
}

impl ShareError {
    /// What to do.
    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::Occupied(_) => "name a file or folder that is not there yet".into(),
            Self::Refused { .. } => {
                "nothing of it was written or run; ask who gave it to you for another copy".into()
            }
            Self::Import { .. } => {
                "give imports as paths relative to the file that imports them, near the workflow".into()
            }
            Self::Unpackable { .. } => "rename or move it; data files travel only with `--data`".into(),
            Self::NothingRan(_) => "`restage status WORKFLOW` lists the folders of its runs".into(),
            Self::Io { .. } | Self::Store(_) | Self::Journal(_) => return None,
        })
    }

    fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// The scores of a run that was given, or what a store has of them.
pub(crate) fn scores_of<'a>(
    run: &std::path::Path,
    store: Option<&'a Store>,
) -> impl Fn(&Digest) -> Option<Scores> + use<'a> {
    let given: Option<AllScores> =
        std::fs::read(run.join(SCORES_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    move |digest| {
        given.as_ref().and_then(|given| given.get(digest).cloned()).or_else(|| Scores::read(digest, store?))
    }
}
