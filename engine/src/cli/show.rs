//! `restage show`: the artifacts of a workflow's last run.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{Failure, open_store, print_json};
use crate::{
    plan::name,
    run::{
        journal,
        past::{self, Output, Outputs},
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage show workflows/quickstart.yaml\n  \
                        restage show workflows/quickstart.yaml regions --all\n  \
                        restage show --json --all workflows/quickstart.yaml")]
pub(super) struct Arguments {
    /// The workflow file
    workflow: PathBuf,
    /// Only this stage
    stage: Option<String>,
    /// All variants, not the baseline only
    #[arg(long)]
    all: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let path = std::path::absolute(&arguments.workflow)?;
    let events = journal::last_run(&path, &store)?.ok_or(Failure::NeverRan)?;
    let Outputs { baseline, outputs } = past::outputs(events);
    let wanted = |output: &&Output| {
        (arguments.all || output.instance.variant == baseline)
            && arguments.stage.as_ref().is_none_or(|stage| *stage == output.instance.stage)
    };
    let mut list = Vec::new();
    for Output { instance, port, digest } in outputs.iter().filter(wanted) {
        let path = store.artifact(digest)?;
        list.push(json!({
            "stage": instance.stage, "at": instance.at, "variant": instance.variant, "seed": instance.seed,
            "port": port, "digest": digest, "path": path,
        }));
        if !arguments.json {
            let seed = instance.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
            let variant = if arguments.all { format!(" ({})", instance.variant) } else { String::new() };
            let place = path.map_or("gone from the store".to_owned(), |path| path.display().to_string());
            say!("{}.{port}{seed}{variant}\n    {place}", name(&instance.stage, &instance.at));
        }
    }
    if arguments.json {
        print_json(&list);
    }
    Ok(ExitCode::SUCCESS)
}
