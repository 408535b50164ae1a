//! `restage report`: what a run gave, to take along.

use std::{path::PathBuf, process::ExitCode};

use super::{Failure, open_store};
use crate::{
    report::{Format, Outcome, Table},
    run::journal,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage report workflows/quickstart.yaml --format md\n  \
                        restage report workflows/quickstart.yaml --format tex -o table.tex")]
pub(super) struct Arguments {
    /// The workflow file: its last run. Or a run's folder, as `restage status` lists them
    run: PathBuf,
    /// How the table is written
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
    /// The file to write; default is the terminal
    #[arg(short, long)]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let path = std::path::absolute(&arguments.run)?;
    let events = match path.is_dir() {
        true => journal::events(&path)?,
        false => journal::last_run(&path, &store)?.unwrap_or_default(),
    };
    let outcome = Outcome::of(events).ok_or(Failure::NeverRan)?;
    let text = Table::new(&outcome, &store).write(arguments.format);
    match &arguments.output {
        None => say!("{}", text.trim_end()),
        Some(file) => {
            std::fs::write(file, text)?;
            say!("{}", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
