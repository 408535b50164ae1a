//! `restage lock`: writes down what a workflow is made of, or tells in what it differs from that.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{Failure, Planned, Target, fetching, planned_of, print_json, tell_differences};
use crate::{
    cache::Cache,
    lock::{self, Contents, Lock},
    site::Site,
    workflow::{self, Diagnostics, git::Git},
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage lock workflows/quickstart.yaml\n  restage lock --check workflows/quickstart.yaml\n  \
                        restage run --locked workflows/quickstart.yaml\n\n\
                        It lies beside the workflow, as restage.lock, and has what all variants use: code of stage types, data that\n\
                        params name, imported files, commits of imported repositories. Plugins are built, stages do not run."
)]
pub(super) struct Arguments {
    /// The workflow file
    workflow: PathBuf,
    /// Set a value of the workflow, e.g. `--set params.data=/where/they/are`; may be given again
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Write nothing, and look up no branch or tag; tell what differs, and end with status 1 if something does
    #[arg(long)]
    check: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { workflow: path, set, check, json } = arguments;
    let target = Target { set, ..Target::all_of(&path) };
    // What others have computed is of no use here.
    let cache = Cache { store: Site::find()?.store()?, shared: None };
    let lock = Lock::beside(&path)?;
    let git = Git::new(&cache.store, lock.pins(&path), fetching);
    let workflow = workflow::load(&path, &if check { git } else { git.afresh() })?;
    let Planned { workflow, cache, plan } = planned_of(workflow, &target, cache).await?;
    let now = Contents::new(&path, &target.set, &workflow, &plan, &cache.store);
    let file = lock::beside(&path);
    if check {
        let differences = lock.differences(&now, true)?;
        return Ok(told(&file, differences, json));
    }
    // Of a workflow that was not locked, all is new.
    let before = if lock.has(&path) { lock.differences(&now, true)? } else { Vec::new() };
    let changed = lock.write(&now)?;
    if json {
        let changes: Vec<&str> = before.iter().map(|change| change.message.as_str()).collect();
        print_json(&json!({ "lock": file, "written": changed, "changes": changes }));
        return Ok(ExitCode::SUCCESS);
    }
    for change in &before {
        say!("{}", change.message);
    }
    let counts = now.counts().into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> =
        counts.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" })).collect();
    let word = if changed { "written" } else { "is current" };
    say!("{} {word}: {}", file.display(), counts.join(", "));
    Ok(ExitCode::SUCCESS)
}

fn told(file: &Path, differences: Vec<workflow::Diagnostic>, json: bool) -> ExitCode {
    if differences.is_empty() && !json {
        say!("{} is current", file.display());
    }
    if differences.is_empty() && json {
        print_json(&json!({ "diagnostics": [] }));
    }
    if differences.is_empty() {
        return ExitCode::SUCCESS;
    }
    let sorted = Diagnostics(differences).or(()).err().unwrap_or_default();
    tell_differences(&sorted, json);
    ExitCode::from(1)
}
