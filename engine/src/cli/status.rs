//! `restage status`: a workflow's runs, the newest first.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{Failure, open_store, print_json};
use crate::run::{
    event::{Event, How},
    journal,
};

#[derive(clap::Args)]
#[command(
    after_help = "Example: restage status workflows/quickstart.yaml\n\nTwo of them side by side: restage diff RUN RUN"
)]
pub(super) struct Arguments {
    /// The workflow file
    workflow: PathBuf,
    /// How many runs
    #[arg(long, default_value_t = 10)]
    last: usize,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// A run, counted.
#[derive(Default)]
struct Counts {
    time: u64,
    actions: usize,
    ran: usize,
    reused: usize,
    failed: usize,
    /// `None` while it runs, or if it was killed.
    milliseconds: Option<u64>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let runs = journal::runs(&std::path::absolute(&arguments.workflow)?, &store)?;
    if runs.is_empty() {
        return Err(Failure::NeverRan);
    }
    let mut list = Vec::new();
    for folder in runs.into_iter().take(arguments.last) {
        let counts = count(&journal::events(&folder)?);
        let Counts { time, actions, ran, reused, failed, milliseconds } = counts;
        if !arguments.json {
            let took =
                milliseconds.map_or("did not end".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
            let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
            let when = super::shown_time(time);
            say!(
                "{when}  {actions} actions: {ran} ran, {reused} reused{failed}  ({took})\n    {}",
                folder.display()
            );
        }
        list.push(json!({
            "run": folder, "time": time, "actions": actions, "ran": ran, "reused": reused, "failed": failed,
            "milliseconds": milliseconds,
        }));
    }
    if arguments.json {
        print_json(&list);
    }
    Ok(ExitCode::SUCCESS)
}

fn count(events: &[Event]) -> Counts {
    let mut counts = Counts::default();
    for event in events {
        match event {
            Event::Started(started) => {
                (counts.time, counts.actions) = (started.time, started.actions.len());
            }
            Event::Done { how: How::Ran { .. }, .. } => counts.ran += 1,
            Event::Done { how: How::Cached | How::Fetched, .. } => counts.reused += 1,
            Event::Failed { .. } => counts.failed += 1,
            Event::Finished { milliseconds } => counts.milliseconds = Some(*milliseconds),
            _ => {}
        }
    }
    counts
}
