//! `restage logs`: what the stages of a workflow said when they last ran, in the last run or one before it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{Failure, many, open_store, print_json};
use crate::{
    plan::{BASELINE, Known, Wanted},
    run::{
        event::{Event, InstanceHead, Started},
        journal,
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage logs workflows/quickstart.yaml\n  \
                        restage logs workflows/quickstart.yaml patches\n  \
                        restage logs workflows/quickstart.yaml 'patches@image only'")]
pub(super) struct Arguments {
    /// The workflow file
    workflow: PathBuf,
    /// Print the logs of this stage; `STAGE[VALUE]` for one point of a mapped stage, with `@VARIANT` for one variant. Without it,
    /// list whose there are
    stage: Option<String>,
    /// All variants, not the baseline only
    #[arg(long)]
    all: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What an action said when it last ran.
struct Log {
    /// Name for people.
    label: String,
    instance: InstanceHead,
    /// When that run began, in milliseconds since 1970.
    time: u64,
    path: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let runs = journal::runs(&std::path::absolute(&arguments.workflow)?, &store)?;
    let mut logs: Vec<Log> = Vec::new();
    let mut found = BTreeSet::new();
    let mut is_first = true;
    for folder in runs {
        // A run that was killed before it began has told nothing.
        let events = journal::events(&folder)?;
        let Some(started) = events.iter().find_map(|event| match event {
            Event::Started(started) => Some(started),
            _ => None,
        }) else {
            continue;
        };
        let of_run = asked(started, arguments, is_first)?;
        is_first = false;
        for instance in of_run {
            let path = journal::log_of(&folder, instance.action);
            let InstanceHead { variant, seed, stage, at, .. } = instance;
            let mut is_new = || found.insert((variant.clone(), *seed, stage.clone(), at.clone()));
            if path.is_file() && is_new() {
                let label = instance.label(baseline(started));
                logs.push(Log { label, instance: instance.clone(), time: started.time, path });
            }
        }
    }
    if is_first {
        return Err(Failure::NeverRan);
    }
    show(&logs, arguments)
}

fn baseline(started: &Started) -> &str {
    started.baseline.as_deref().unwrap_or(BASELINE)
}

/// The instances of a run that are asked for; of the last run, there must be one.
fn asked<'a>(
    started: &'a Started,
    arguments: &Arguments,
    is_last: bool,
) -> Result<Vec<&'a InstanceHead>, Failure> {
    let baseline = baseline(started);
    let variant = (!arguments.all).then_some(baseline);
    let wanted = arguments.stage.as_deref().map(|stage| Wanted::new(stage).or_of(variant));
    let is = |instance: &&InstanceHead| match wanted {
        Some(wanted) => {
            wanted.is(&instance.stage, &instance.at, std::iter::empty())
                && wanted.is_of(&instance.variant, baseline)
        }
        None => variant.is_none_or(|variant| instance.variant == variant),
    };
    let found: Vec<&InstanceHead> = started.instances.iter().filter(is).collect();
    if let Some(wanted) = wanted
        && found.is_empty()
        && is_last
    {
        let known = started.instances.iter().map(|InstanceHead { stage, at, variant, .. }| Known {
            stage,
            at,
            variant,
            ports: Vec::new(),
        });
        return Err(Failure::unknown(wanted.unknown(&known.collect::<Vec<_>>())));
    }
    Ok(found)
}

fn show(logs: &[Log], arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.json {
        let list = logs.iter().map(|Log { instance, time, path, .. }| {
            json!({
                "stage": instance.stage, "at": instance.at, "variant": instance.variant, "seed": instance.seed,
                "time": time, "path": path,
            })
        });
        print_json(&list.collect::<Vec<_>>());
        return Ok(ExitCode::SUCCESS);
    }
    if logs.is_empty() {
        say!("nothing was said: {}", where_else(arguments));
    }
    for Log { label, time, path, .. } in logs {
        let when = super::shown_time(*time);
        if arguments.stage.is_some() {
            say!("{label}, in the run of {when}");
            say!("{}", read(path)?.trim_end());
        } else {
            let text = read(path)?;
            let warnings = text.lines().filter(|line| line.trim_start().starts_with("WARN")).count();
            let warned =
                if warnings > 0 { format!(", {}", many(warnings, "warning")) } else { String::new() };
            let lines = many(text.lines().count(), "line");
            say!("{label}: {lines}{warned}, in the run of {when}\n    {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn where_else(arguments: &Arguments) -> &'static str {
    match (&arguments.stage, arguments.all) {
        (Some(_), _) => {
            "its result came from another workflow or from somebody else, or it went without a word"
        }
        (None, false) => "`--all` looks at all variants",
        (None, true) => "these runs went without a word",
    }
}

/// Whatever bytes a program wrote.
fn read(path: &Path) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}
