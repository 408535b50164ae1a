//! `restage diff`: two workflows, or two runs, side by side.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use restage_cache::Digest;

use super::{Failure, Planned, Target, open_store, planned, print_json};
use crate::{
    plan::{PastAction, Plan, name},
    plugin::changed_sources,
    report::{Comparison, Entry, Side},
    run::{
        self,
        event::{Event, InstanceHead, Started},
        journal,
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage diff mine.yaml theirs.yaml\n  \
                        restage diff workflows/quickstart.yaml          # its last two runs\n  \
                        restage diff RUN OTHER_RUN                      # folders as `restage status` lists them,\n  \
                                                                        also of other people's stores")]
pub(super) struct Arguments {
    /// A workflow file, or the folder of a run
    a: PathBuf,
    /// Another one; without it, the last two runs of the first are compared
    b: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What a path names.
enum What {
    Workflow(PathBuf),
    Run(PathBuf),
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let (a, b) = match arguments.b {
        Some(b) => (what(arguments.a), what(b)),
        None => last_two(&arguments.a)?,
    };
    let (a, b) = (side(a).await?, side(b).await?);
    let compared = Comparison::new(&a.side, &b.side, |then, now| {
        changed_sources((&a.plugins, then), (&b.plugins, now)).unwrap_or_default()
    });
    if arguments.json {
        print_json(&compared);
    } else {
        say!("{}", compared.draw());
    }
    Ok(ExitCode::SUCCESS)
}

fn what(path: PathBuf) -> What {
    if path.is_dir() { What::Run(path) } else { What::Workflow(path) }
}

fn last_two(workflow: &Path) -> Result<(What, What), Failure> {
    let runs = journal::runs(&std::path::absolute(workflow)?, &open_store()?)?;
    match runs.as_slice() {
        [now, before, ..] => Ok((What::Run(before.clone()), What::Run(now.clone()))),
        _ => Err(Failure::OneRun),
    }
}

/// A side, and the folder where its plugins' sources are listed.
struct Known {
    side: Side,
    plugins: PathBuf,
}

async fn side(what: What) -> Result<Known, Failure> {
    match what {
        What::Run(folder) => {
            // `<store>/runs/<workflow>/<run>`, in whoever's store.
            let store = folder.canonicalize()?;
            let plugins = store.ancestors().nth(3).unwrap_or(Path::new("/")).join("plugins");
            let events = journal::events(&folder)?;
            if events.is_empty() {
                return Err(Failure::NoRun(folder));
            }
            Ok(Known { side: of_run(&folder, events), plugins })
        }
        What::Workflow(path) => {
            let target = Target::all_of(&path);
            let Planned { plan, cache, .. } = planned(&target).await?;
            let plugins = cache.store.root().join("plugins");
            Ok(Known { side: of_plan(&path, &plan, &cache.store), plugins })
        }
    }
}

fn of_plan(path: &Path, plan: &Plan, store: &restage_cache::Store) -> Side {
    let entries = plan.instances.iter().map(|instance| {
        let action = &plan.graph[instance.action];
        let entry = Entry {
            stage: instance.stage.to_string(),
            uses: action.step.uses.clone(),
            identity: action.step.code.identity,
            params: (*action.step.keyed_params).clone(),
            outputs: action.artifacts.clone(),
            metrics: run::metrics(action, store),
        };
        ((instance.variant.to_string(), name(&instance.stage, &instance.at), instance.seed), entry)
    });
    Side { title: path.display().to_string(), entries: entries.collect() }
}

/// What became of an action.
type Done = (PastAction, BTreeMap<String, Digest>, BTreeMap<String, f64>);

fn of_run(folder: &Path, events: Vec<Event>) -> Side {
    let mut instances: Vec<InstanceHead> = Vec::new();
    let mut done: BTreeMap<usize, Done> = BTreeMap::new();
    let mut title = folder.display().to_string();
    for event in events {
        match event {
            Event::Started(started) => {
                let Started { instances: all, workflow, time, .. } = *started;
                let file = workflow.file_name().unwrap_or_default().to_string_lossy().into_owned();
                title = format!("{file}, run of {} ({})", super::shown_time(time), folder.display());
                instances = all;
            }
            Event::Done { action, past, outputs, metrics, .. } => {
                drop(done.insert(action, (*past, outputs, metrics)))
            }
            _ => {}
        }
    }
    let entries = instances.into_iter().filter_map(|instance| {
        let (past, outputs, metrics) = done.get(&instance.action)?;
        let entry = Entry {
            uses: past.uses.clone(),
            identity: past.identity,
            params: past.keyed_params.clone(),
            outputs: outputs.clone(),
            metrics: metrics.clone(),
            stage: instance.stage.clone(),
        };
        Some(((instance.variant, name(&instance.stage, &instance.at), instance.seed), entry))
    });
    Side { title, entries: entries.collect() }
}
