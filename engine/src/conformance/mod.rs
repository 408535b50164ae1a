//! The conformance kit: whether a library, in whatever language, is a plugin that the engine can rely on. Everything is
//! asked of host processes, so that a crash is a finding and not an end.
//!
//! | file | asks |
//! | --- | --- |
//! | `describe.rs` | what the plugin says of itself |
//! | `params.rs` | how it answers params, right ones and wrong ones |
//! | `trial.rs` | what its stages do when they run |
//! | `bench.rs` | nothing: it holds the host, the folders and the time limits |

mod bench;
mod describe;
mod params;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use bench::Bench;
use restage_cache::Store;
use restage_stage::catalogue::Catalogue;
use serde::Serialize;

use crate::plugin::StartError;

/// What was found of a plugin.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Its name and version; none if it could not even be loaded.
    pub(crate) plugin: Option<(String, String)>,
    /// What holds for the plugin as a whole.
    pub(crate) checks: Vec<Check>,
    /// What holds for each stage type that was looked at.
    pub(crate) stages: Vec<StageReport>,
}

/// What was found of one stage type.
#[derive(Debug, Serialize)]
pub(crate) struct StageReport {
    /// `plugin/name`.
    pub(crate) stage: String,
    pub(crate) checks: Vec<Check>,
}

/// One check and what it found.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
}

/// What a check found.
#[derive(Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Failed(Broken),
    Skipped { why: String },
}

/// What is wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Broken {
    pub(crate) expected: String,
    pub(crate) found: String,
    pub(crate) help: String,
}

/// Why a check is not ok.
#[derive(Clone, Debug)]
enum NotOk {
    Failed(Broken),
    Skipped(String),
}

type Checked<T = ()> = Result<T, NotOk>;

fn failed(expected: impl Into<String>, found: impl Into<String>, help: impl Into<String>) -> NotOk {
    NotOk::Failed(Broken { expected: expected.into(), found: found.into(), help: help.into() })
}

fn skipped(why: impl Into<String>) -> NotOk {
    NotOk::Skipped(why.into())
}

impl Check {
    fn new(name: &'static str, checked: Checked) -> Self {
        let verdict = match checked {
            Ok(()) => Verdict::Ok,
            Err(NotOk::Failed(broken)) => Verdict::Failed(broken),
            Err(NotOk::Skipped(why)) => Verdict::Skipped { why },
        };
        Self { name, verdict }
    }
}

impl Report {
    /// All checks.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().chain(self.stages.iter().flat_map(|stage| &stage.checks))
    }
}

/// How a stage type is used, so that it can be run: its params and what it reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Example {
    pub(crate) params: serde_json::Value,
    pub(crate) inputs: BTreeMap<String, Vec<PathBuf>>,
}

/// What is to be checked, and with what.
pub(crate) struct Subject<'a> {
    /// The library, by its absolute path.
    pub(crate) library: &'a Path,
    /// The store in whose staging stages run.
    pub(crate) store: &'a Store,
    /// Stage types to look at, by their names without the plugin's; all if there are none.
    pub(crate) only: &'a BTreeSet<String>,
    /// By `plugin/name`.
    pub(crate) examples: &'a BTreeMap<String, Example>,
    /// How long one run of a stage may take.
    pub(crate) limit: Duration,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KitError {
    /// No host process could be started, which says nothing about the plugin.
    #[error(transparent)]
    Start(StartError),
    /// There is no place for the stages to run in.
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    /// A stage type was chosen that the plugin does not have.
    #[error("plugin `{plugin}` has no stage type `{name}`")]
    NoStage {
        /// The plugin's name.
        plugin: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

/// Checks a plugin. `told` hears what is looked at next.
pub(crate) async fn check(subject: &Subject<'_>, told: &dyn Fn(&str)) -> Result<Report, KitError> {
    told("the plugin");
    let mut bench = Bench::new(subject.library, subject.store, subject.limit)?;
    let catalogue = match bench.load().await {
        Ok(catalogue) => catalogue,
        Err(StartError::Refused { message, .. }) => {
            let loads = failed(
                "a library that loads and describes itself",
                message,
                "`stages/sdk/include/restage_stage.h` says what the entry point, the table and the catalogue are",
            );
            let checks = vec![Check::new("loads", Err(loads))];
            return Ok(Report { plugin: None, checks, stages: Vec::new() });
        }
        Err(error) => return Err(KitError::Start(error)),
    };
    for name in subject.only {
        if !catalogue.stages.iter().any(|stage| stage.name == *name) {
            let known = catalogue.stages.iter().map(|stage| stage.name.clone()).collect();
            return Err(KitError::NoStage { plugin: catalogue.plugin, name: name.clone(), known });
        }
    }
    let checks = vec![
        Check::new("loads", Ok(())),
        Check::new("names", describe::names(&catalogue)),
        Check::new("same-description", bench.describes_itself_alike(&catalogue).await),
        Check::new("unknown-stage", params::unknown_stage(&mut bench).await),
    ];
    let mut stages = Vec::new();
    for index in chosen(&catalogue, subject.only) {
        let stage = &catalogue.stages[index];
        let name = format!("{}/{}", catalogue.plugin, stage.name);
        told(&name);
        let mut checks = vec![
            Check::new("ports", describe::ports(stage)),
            Check::new("docs", describe::docs(stage)),
            Check::new("schema", describe::schema(stage)),
        ];
        let example = subject.examples.get(&name);
        let base = params::checks(&mut bench, stage, example, &mut checks).await;
        trial::checks(&mut bench, stage, base, example, &mut checks).await?;
        stages.push(StageReport { stage: name, checks });
    }
    Ok(Report { plugin: Some((catalogue.plugin, catalogue.version)), checks, stages })
}

/// Positions of the stage types to look at: one that is there twice is looked at once, as the engine finds the first.
fn chosen(catalogue: &Catalogue, only: &BTreeSet<String>) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let stages = catalogue.stages.iter().enumerate();
    stages
        .filter(|(_, stage)| (only.is_empty() || only.contains(&stage.name)) && seen.insert(&stage.name))
        .map(|(index, _)| index)
        .collect()
}
