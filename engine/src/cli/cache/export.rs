//! `restage cache export` and `import`: results as one file.

use std::{path::PathBuf, process::ExitCode};

use super::{Chosen, chosen, many, push::tell_different};
use crate::{
    cli::{Failure, open_store, print_json},
    report::{Origins, size},
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage cache export workflows/her2st.yaml -o results.tar    # all of its last run\n  \
                        restage cache export 3fa9c17b0d -o embedding.tar\n\n\
                        The file is a plain tar. Unpacked it is a remote: file:///its/folder. Who only wants to read an artifact \
                        copies the folder that `restage cache path` prints."
)]
pub(super) struct ExportArguments {
    /// Runs (a run's folder, or a workflow for its last run) and artifacts (the beginnings of their digests)
    #[arg(required = true, value_name = "RUN|DIGEST")]
    what: Vec<PathBuf>,
    /// The file to write, which must not be there
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Example: restage cache import results.tar\n\n\
                        Everything in the file is checked and nothing of it is run. What is there already stays.")]
pub(super) struct ImportArguments {
    /// The file that `restage cache export` wrote
    file: PathBuf,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn export(arguments: &ExportArguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let Chosen { actions, artifacts } = chosen(&arguments.what, &store)?;
    let bundled = store.export(&actions, &artifacts, &arguments.output)?;
    if arguments.json {
        print_json(&bundled);
        return Ok(ExitCode::SUCCESS);
    }
    let (artifacts, records) =
        (many(bundled.artifacts.len(), "artifact"), many(bundled.records.len(), "record"));
    say!("{}: {artifacts} and {records}, {}", arguments.output.display(), size(bundled.bytes));
    if !bundled.missing.is_empty() {
        eprintln!(
            "warning: {} not in this cache any more, and left out",
            many(bundled.missing.len(), "result")
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(arguments: &ImportArguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let bundled = store.import(&arguments.file)?;
    if arguments.json {
        print_json(&bundled);
        return Ok(ExitCode::SUCCESS);
    }
    let (artifacts, records) =
        (many(bundled.artifacts.len(), "artifact"), many(bundled.records.len(), "record"));
    say!("{artifacts} and {records}, {}", size(bundled.bytes));
    let origins = Origins::of(&store)?;
    bundled.artifacts.iter().for_each(|digest| say!("    {}", origins.told(digest)));
    tell_different(&bundled.different, "here");
    Ok(ExitCode::SUCCESS)
}
