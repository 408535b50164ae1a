//! `restage cache du`: what the store takes, and for whom.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    cli::{Failure, open_store, print_json},
    report::{Holding, size},
    run::{journal, past},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage cache du\n  restage cache du --by artifact\n  \
                        restage cache du --workflow workflows/quickstart.yaml --by stage\n\n\
                        `own` is what nothing else in the table has: what would be free without it. What several have is in \
                        each one's size.")]
pub(super) struct Arguments {
    /// Only what the runs of these workflows reach
    #[arg(long, num_args = 1.., value_name = "WORKFLOW")]
    workflow: Vec<PathBuf>,
    /// Only this table, and all of it
    #[arg(long)]
    by: Option<By>,
    /// Print JSON for programs; sizes are in bytes
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum By {
    Artifact,
    Stage,
    Workflow,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let mut only = Vec::new();
    for workflow in &arguments.workflow {
        let workflow = std::path::absolute(workflow)?;
        if journal::runs(&workflow, &store)?.is_empty() {
            return Err(Failure::NeverRan);
        }
        only.push(journal::runs_folder(&workflow, &store)?);
    }
    let holding = Holding::new(&store, &past::all(&store)?, &only)?;
    if arguments.json {
        print_json(&holding);
        return Ok(ExitCode::SUCCESS);
    }
    match arguments.by {
        Some(By::Artifact) => say!("{}", holding.draw_artifacts(true)),
        Some(By::Stage) => say!("{}", holding.draw_stages()),
        Some(By::Workflow) => say!("{}", holding.draw_workflows()),
        None => {
            if only.is_empty() {
                say!("{}: {}\n{}", store.root().display(), size(holding.bytes), holding.draw_areas());
            }
            say!("{}\n{}", holding.draw_stages(), holding.draw_workflows());
            say!("{}", holding.draw_artifacts(false));
        }
    }
    Ok(ExitCode::SUCCESS)
}
