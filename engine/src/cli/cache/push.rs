//! `restage cache push`: results that a remote lacks.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use restage_cache::Transfer;

use super::{Chosen, chosen, many, remote, travelled, verify::bar};
use crate::{
    cli::{Failure, open_store, print_json},
    report::size,
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage cache push workflows/her2st.yaml                       # all of its last run\n  \
                        restage cache push workflows/her2st.yaml --remote s3://bucket/restage\n  \
                        restage cache push 3fa9c17b0d\n\n\
                        Only what the remote lacks travels. Cut short, the same command goes on. `restage.toml` says which remote, \
                        and with `write_back = true` each run gives what it computed by itself."
)]
pub(super) struct Arguments {
    /// Runs (a run's folder, or a workflow for its last run) and artifacts (the beginnings of their digests)
    #[arg(required = true, value_name = "RUN|DIGEST")]
    what: Vec<PathBuf>,
    /// The remote, instead of the one in `restage.toml`: file:///folder or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (store, remote) = (open_store()?, remote(arguments.remote.as_deref())?);
    let Chosen { actions, artifacts } = chosen(&arguments.what, &store)?;
    let bar = bar();
    let pushed = store.push(&remote, &actions, &artifacts, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let pushed = pushed?;
    if arguments.json {
        print_json(&pushed);
    } else {
        tell(&pushed, remote.url());
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(pushed: &Transfer, url: &str) {
    let Transfer { records, artifacts, files, bytes, present, different, missing } = pushed;
    if *artifacts == 0 && *records == 0 && missing.is_empty() {
        say!("{url} has it all: {}", many(*present, "artifact"));
    } else {
        say!("{}, {} to {url}", travelled(*records, *artifacts), size(*bytes));
        say!("    {} travelled; {} were there", many(*files, "file"), many(*present, "artifact"));
    }
    tell_different(different, "there");
    if !missing.is_empty() {
        eprintln!("warning: {} not in this cache any more, and not pushed", many(missing.len(), "result"));
    }
}

/// What is kept beside another result.
pub(super) fn tell_different(different: &BTreeSet<restage_cache::ActionKey>, place: &str) {
    if !different.is_empty() {
        eprintln!(
            "warning: {} another result {place}, which stays; the other one is kept beside it: the stage is not \
             deterministic",
            if different.len() == 1 {
                "one action has".to_owned()
            } else {
                format!("{} actions have", different.len())
            }
        );
    }
}
