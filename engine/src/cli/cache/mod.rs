//! `restage cache`: looking after the store. One file a subcommand.

mod audit;
mod doctor;
mod du;
mod export;
mod gc;
mod path;
mod pin;
mod pull;
mod push;
mod verify;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use restage_cache::{ActionKey, Digest, Remote, Store};

use super::{Failure, many};
use crate::{
    run::{
        event::Event,
        journal,
        past::{self, Outputs},
    },
    site::Site,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Tell what the cache takes: by part, stage type and workflow, and its largest artifacts
    Du(du::Arguments),
    /// Remove what no recent run, no pin and no recent use keeps
    Gc(gc::Arguments),
    /// Read everything again and tell what is damaged
    Verify(verify::Arguments),
    /// Run cached actions again and tell whether they give what is recorded
    Audit(audit::Arguments),
    /// Keep artifacts under a name, whatever `gc` is asked to do
    Pin(pin::PinArguments),
    /// Remove a pin: what it kept may go
    Unpin(pin::UnpinArguments),
    /// List the pins
    Pins(pin::ListArguments),
    /// Print the folder of an artifact, for programs that read it
    Path(path::Arguments),
    /// Give results to a remote: what it lacks
    Push(push::Arguments),
    /// Take results from a remote: what this cache lacks
    Pull(pull::Arguments),
    /// Write results into one file
    Export(export::ExportArguments),
    /// Take results from a file that `export` wrote
    Import(export::ImportArguments),
    /// Find what is wrong with the cache's folder: permissions, file system, clock, space
    Doctor(doctor::Arguments),
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Du(arguments) => arguments.json,
            Command::Gc(arguments) => arguments.json,
            Command::Verify(arguments) => arguments.json,
            Command::Audit(arguments) => arguments.json,
            Command::Pins(arguments) => arguments.json,
            Command::Doctor(arguments) => arguments.json,
            Command::Push(arguments) => arguments.json,
            Command::Pull(arguments) => arguments.json,
            Command::Export(arguments) => arguments.json,
            Command::Import(arguments) => arguments.json,
            Command::Pin(_) | Command::Unpin(_) | Command::Path(_) => false,
        }
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::Du(arguments) => du::run(arguments),
        Command::Gc(arguments) => gc::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Audit(arguments) => audit::run(arguments).await,
        Command::Pin(arguments) => pin::pin(arguments),
        Command::Unpin(arguments) => pin::unpin(arguments),
        Command::Pins(arguments) => pin::list(arguments),
        Command::Path(arguments) => path::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Push(arguments) => push::run(arguments),
        Command::Pull(arguments) => pull::run(arguments).await,
        Command::Export(arguments) => export::export(arguments),
        Command::Import(arguments) => export::import(arguments),
    }
}

/// What was asked for is not there, or cannot be told from something else.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("`{0}` is not the beginning of a digest: expected 6 to 64 lower-case hex digits")]
    NotADigest(String),
    #[error("no artifact's digest begins with `{0}`")]
    Unknown(String),
    #[error("several artifacts' digests begin with `{prefix}`: {}", shown(digests))]
    Ambiguous { prefix: String, digests: Vec<Digest> },
    #[error("the run has no artifact of `{stage}` of seed {seed}")]
    NoSeed { stage: String, seed: u64 },
    #[error("{what} is no longer in the cache, or not whole")]
    Gone { what: String },
    #[error("`{0}` is a workflow: which stage's artifacts?")]
    WhichStage(String),
    #[error("nothing to pin is named")]
    NothingToPin,
    #[error("there is no pin `{0}`")]
    NoPin(String),
    #[error("no remote is named")]
    NoRemote,
    #[error("`{}` is neither a file nor a whole digest", .0.display())]
    NothingThere(PathBuf),
}

impl Wrong {
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::NotADigest(_) | Self::Unknown(_) => {
                Some("`restage cache du --by artifact` lists the artifacts".into())
            }
            Self::Ambiguous { .. } => Some("give more digits".into()),
            Self::NoSeed { .. } => Some("`restage show WORKFLOW STAGE` lists the seeds; some stages take none".into()),
            Self::Gone { .. } => Some("run the workflow again".into()),
            Self::WhichStage(workflow) => Some(format!("restage cache path {workflow} STAGE")),
            Self::NothingToPin => Some("give digests, or a run: `--run WORKFLOW` for its last one".into()),
            Self::NoPin(_) => Some("`restage cache pins` lists them".into()),
            Self::NoRemote => {
                Some("give `--remote URL`, set RESTAGE_REMOTE, or write `[cache] remote = \"URL\"` into restage.toml".into())
            }
            Self::NothingThere(_) => Some("give a workflow, or 64 hex digits".into()),
        }
    }

    /// As everywhere: 2 for a mistake in the command.
    pub(super) fn exit(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Gone { .. }) { 1 } else { 2 })
    }
}

fn shown(digests: &[Digest]) -> String {
    let mut shown: Vec<String> = digests.iter().take(5).map(|digest| format!("{digest:.12}")).collect();
    if digests.len() > shown.len() {
        shown.push("…".into());
    }
    shown.join(", ")
}

/// Fewer digits than this are a typing mistake rather than a name.
const FEWEST_DIGITS: usize = 6;

/// The one artifact whose digest begins so.
fn artifact(prefix: &str, store: &Store) -> Result<Digest, Failure> {
    let is_hex = prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex || !(FEWEST_DIGITS..=64).contains(&prefix.len()) {
        return Err(Wrong::NotADigest(prefix.to_owned()).into());
    }
    let digests = store.artifacts_like(prefix)?;
    match digests.as_slice() {
        [] => Err(Wrong::Unknown(prefix.to_owned()).into()),
        [digest] => Ok(*digest),
        _ => Err(Wrong::Ambiguous { prefix: prefix.to_owned(), digests }.into()),
    }
}

/// What is to travel.
#[derive(Default)]
struct Chosen {
    actions: BTreeSet<ActionKey>,
    artifacts: BTreeSet<Digest>,
}

/// All results of runs, and artifacts by the beginnings of their digests.
fn chosen(what: &[PathBuf], store: &Store) -> Result<Chosen, Failure> {
    let mut chosen = Chosen::default();
    for what in what {
        if what.exists() {
            chosen.actions.extend(past::actions(&events(what, store)?));
        } else {
            chosen.artifacts.insert(artifact(&what.to_string_lossy(), store)?);
        }
    }
    Ok(chosen)
}

/// The remote that is named, or the site's.
fn remote(url: Option<&str>) -> Result<Remote, Failure> {
    Site::find()?.remote(url)?.ok_or(Wrong::NoRemote.into())
}

/// How many results travelled.
fn travelled(records: u64, artifacts: u64) -> String {
    format!("{} and {}", many(records, "record"), many(artifacts, "artifact"))
}

/// What a run gave: that of a run's folder, or the last one of a workflow.
fn outputs(run: &Path, store: &Store) -> Result<Outputs, Failure> {
    Ok(past::outputs(events(run, store)?))
}

fn events(run: &Path, store: &Store) -> Result<Vec<Event>, Failure> {
    let events = if run.is_dir() {
        journal::events(run)?
    } else {
        journal::last_run(&std::path::absolute(run)?, store)?.ok_or(Failure::NeverRan)?
    };
    if events.is_empty() {
        return Err(Failure::NoRun(run.to_owned()));
    }
    Ok(events)
}
