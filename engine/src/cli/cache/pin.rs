//! `restage cache pin`, `unpin` and `pins`: names that keep artifacts from every `gc`.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use restage_cache::{Digest, Store};
use serde_json::json;

use super::{Wrong, artifact, many, outputs};
use crate::{
    cli::{Failure, open_store, print_json, shown_time},
    report::Origins,
};

/// More of one pin's artifacts than this scroll out of sight.
const SHOWN: usize = 5;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage cache pin paper --run workflows/her2st.yaml       # all of its last run\n  \
                        restage cache pin encoder --run workflows/her2st.yaml --stage pretrain.model\n  \
                        restage cache pin figure2 3fa9c17b0d 88d01c\n\n\
                        A pin of that name is replaced. `restage status` lists the folders of earlier runs."
)]
pub(super) struct PinArguments {
    /// The name, up to 100 letters, digits, `-`, `_` and `.`
    name: String,
    /// Artifacts, by the beginnings of their digests
    digests: Vec<String>,
    /// The artifacts of a run: its folder, or a workflow for its last run
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Of the run only this stage, in all variants; with `.PORT` only that output; may be given again
    #[arg(long, value_name = "STAGE", requires = "run")]
    stage: Vec<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Example: restage cache unpin paper")]
pub(super) struct UnpinArguments {
    /// The name
    name: String,
}

#[derive(clap::Args)]
#[command(after_help = "Example: restage cache pins")]
pub(super) struct ListArguments {
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn pin(arguments: &PinArguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let mut artifacts: BTreeSet<Digest> = BTreeSet::new();
    for prefix in &arguments.digests {
        artifacts.insert(artifact(prefix, &store)?);
    }
    let mut gone = 0;
    if arguments.run.is_some() {
        for digest in of_run(arguments, &store)? {
            // A run does without intermediate results that nobody needed; a stage that was named is needed.
            if !arguments.stage.is_empty() || store.artifact(&digest)?.is_some() {
                artifacts.insert(digest);
            } else {
                gone += 1;
            }
        }
    }
    if artifacts.is_empty() {
        return Err(Wrong::NothingToPin.into());
    }
    let replaces = store.pins()?.iter().any(|pin| pin.name == arguments.name);
    let pin = store.pin(&arguments.name, &artifacts)?;
    let instead = if replaces { ", in place of what it kept before" } else { "" };
    say!("`{}` keeps {}{instead}", pin.name, many(pin.artifacts.len(), "artifact"));
    if gone > 0 {
        eprintln!("warning: {} of the run not in the cache any more", many(gone, "artifact"));
    }
    Ok(ExitCode::SUCCESS)
}

fn of_run(arguments: &PinArguments, store: &Store) -> Result<BTreeSet<Digest>, Failure> {
    let Some(run) = &arguments.run else { return Ok(BTreeSet::new()) };
    let outputs = outputs(run, store)?;
    if arguments.stage.is_empty() {
        return Ok(outputs.outputs.iter().map(|output| output.digest).collect());
    }
    let mut digests = BTreeSet::new();
    for stage in &arguments.stage {
        let found = outputs.named(stage, None).map_err(Failure::unknown)?;
        digests.extend(found.iter().map(|output| output.digest));
    }
    Ok(digests)
}

pub(super) fn unpin(arguments: &UnpinArguments) -> Result<ExitCode, Failure> {
    if !open_store()?.unpin(&arguments.name)? {
        return Err(Wrong::NoPin(arguments.name.clone()).into());
    }
    say!("`{}` keeps nothing any more", arguments.name);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(arguments: &ListArguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let (pins, origins) = (store.pins()?, Origins::of(&store)?);
    if arguments.json {
        let artifact = |digest| json!({ "digest": digest, "origin": origins.get(digest) });
        let pins = pins.iter().map(|pin| {
            let artifacts: Vec<_> = pin.artifacts.iter().map(artifact).collect();
            json!({ "name": pin.name, "created": pin.created, "artifacts": artifacts })
        });
        print_json(&pins.collect::<Vec<_>>());
        return Ok(ExitCode::SUCCESS);
    }
    if pins.is_empty() {
        say!("no pins");
    }
    for pin in &pins {
        say!("{}  {}, since {}", pin.name, many(pin.artifacts.len(), "artifact"), shown_time(pin.created));
        for digest in pin.artifacts.iter().take(SHOWN) {
            say!("    {}", origins.told(digest));
        }
        if pin.artifacts.len() > SHOWN {
            say!("    and {} more: `--json` lists them all", pin.artifacts.len() - SHOWN);
        }
    }
    Ok(ExitCode::SUCCESS)
}
