//! `restage export`: a run in formats that other tools read.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::Value;

use super::{Failure, chosen_run, open_store};
use crate::{
    export::{self, Crate},
    report::Outcome,
    run::journal,
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage export workflows/quickstart.yaml --tensorboard curves   # then: tensorboard --logdir curves\n  \
                        restage export workflows/quickstart.yaml --ro-crate quickstart.zip --license CC-BY-4.0\n  \
                        restage export RUN --metrics metrics.json                       # a folder as `restage status` lists it"
)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct Arguments {
    /// The workflow file, of which the last run is taken, or the folder of a run
    run: PathBuf,
    /// Write curves as event files for TensorBoard, in a folder for each variant, seed and stage
    #[arg(long, value_name = "DIR", group = "what")]
    tensorboard: Option<PathBuf>,
    /// Write where everything came from as a Workflow Run RO-Crate, into a folder or a `.zip` file
    #[arg(long, value_name = "DIR|FILE.zip", group = "what")]
    ro_crate: Option<PathBuf>,
    /// Write all metrics as JSON; `-` prints them
    #[arg(long, value_name = "FILE", group = "what")]
    metrics: Option<PathBuf>,
    /// With the curves that stages told, in the metrics
    #[arg(long, requires = "metrics")]
    curves: bool,
    /// Under what licence the crate may be used, as a URL or a name
    #[arg(long, requires = "ro_crate", default_value = "not stated: ask the people named in this crate")]
    license: String,
}

/// Why nothing, or not all, could be exported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("the run has not begun to run anything: its journal in {} tells nothing", .0.display())]
    Nothing(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{} is there already and is no RO-Crate", .0.display())]
    Occupied(PathBuf),
    #[error("{} would be larger than 4 GiB, which a ZIP archive cannot be", .0.display())]
    Large(PathBuf),
}

impl ExportError {
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Occupied(_) => Some("name a folder that is empty or not there yet".into()),
            Self::Large(_) => Some("name a folder, without `.zip`".into()),
            _ => None,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let run = chosen_run(&arguments.run, &store)?;
    let mut outcome = Outcome::of(journal::events(&run)?).ok_or_else(|| ExportError::Nothing(run.clone()))?;
    export::find_curves(&mut outcome, &run, &store)?;
    if let Some(folder) = &arguments.tensorboard {
        let files = export::event_files(&outcome);
        for (place, bytes) in &files {
            // The same name each time: what was exported before is replaced.
            write(&folder.join(place).join("events.out.tfevents.restage"), bytes)?;
        }
        match files.len() {
            0 => say!("no stage told a curve: nothing for TensorBoard"),
            files => say!("curves of {files} actions: tensorboard --logdir {}", folder.display()),
        }
    }
    let metrics = |with_curves| export::metrics(&outcome, &store, with_curves);
    if let Some(path) = &arguments.metrics {
        let text = pretty(&metrics(arguments.curves));
        if path == Path::new("-") {
            say!("{}", text.trim_end());
        } else {
            write(path, text.as_bytes())?;
            say!("metrics: {}", path.display());
        }
    }
    if let Some(path) = &arguments.ro_crate {
        let mut records = Vec::new();
        for action in &outcome.actions {
            let key = action.done().map(|done| done.key);
            let record = key.map(|key| store.recorded(&key)).transpose()?.flatten();
            records.push(record.map_or(Value::Null, |record| record.provenance));
        }
        let kept = journal::kept(&run, &outcome.workflow)?;
        let metrics = pretty(&metrics(false)).into_bytes();
        let license = arguments.license.as_str();
        write_crate(path, &Crate { outcome: &outcome, records, kept, metrics, license })?;
        say!("RO-Crate: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a crate as a folder or, where the name says so, an archive.
fn write_crate(path: &Path, made: &Crate<'_>) -> Result<(), Failure> {
    let files = made.files();
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip")) {
        let bytes = export::zip(&files).ok_or_else(|| ExportError::Large(path.to_owned()))?;
        return Ok(write(path, &bytes)?);
    }
    let is_empty = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && !path.join(export::DESCRIPTOR).is_file() {
        return Err(ExportError::Occupied(path.to_owned()).into());
    }
    for (name, bytes) in &files {
        write(&path.join(name), bytes)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    export::write(path, bytes).map_err(|source| ExportError::Write { path: path.to_owned(), source })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
