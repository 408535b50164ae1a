//! `restage diff`: two workflows, two runs, or what two people shared, side by side.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    process::ExitCode,
};

use restage_cache::{Digest, Store};
use restage_stage::catalogue::PortType;

use super::{Failure, Planned, Target, open_store, planned_with, print_json};
use crate::{
    plan::{Plan, name},
    plugin::{SourceList, changed_sources, source_list},
    report::{Comparison, Entry, Outcome, Scores, Side},
    run::{
        self,
        event::{ActionId, InstanceHead, Reads},
        journal,
    },
    share::{self, Opened},
    site::Site,
    workflow::{MetricRef, Test},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage diff mine.yaml theirs.yaml\n  \
                        restage diff workflows/quickstart.yaml          # its last two runs\n  \
                        restage diff RUN OTHER_RUN                      # folders as `restage status` lists them,\n  \
                                                                        also of other people's stores\n  \
                        restage diff alice.restage bob.restage          # what `restage share pack` wrote")]
pub(super) struct Arguments {
    /// A workflow file, the folder of a run, or a file of `restage share pack`
    a: PathBuf,
    /// Another one; without it, the last two runs of the first are compared
    b: Option<PathBuf>,
    /// Show all metrics, not only those that a sweep compares
    #[arg(long, short)]
    all: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What a path names.
enum What {
    Workflow(PathBuf),
    Run(PathBuf),
    Share(PathBuf),
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let (a, b) = match arguments.b {
        Some(b) => (what(arguments.a), what(b)),
        None => last_two(&arguments.a)?,
    };
    let (a, b) = (side(a).await?, side(b).await?);
    let compared = Comparison::new(&a.side, &b.side, |then, now| {
        let lists = (a.sources)(then).zip((b.sources)(now));
        lists.map(|(then, now)| changed_sources(&then, &now)).unwrap_or_default()
    });
    if arguments.json {
        print_json(&compared);
    } else {
        // Names in it may be anybody's.
        let text = compared.draw(arguments.all);
        say!("{}", text.lines().map(share::clean).collect::<Vec<_>>().join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn what(path: PathBuf) -> What {
    if path.is_dir() {
        What::Run(path)
    } else if share::is_share(&path) {
        What::Share(path)
    } else {
        What::Workflow(path)
    }
}

fn last_two(workflow: &Path) -> Result<(What, What), Failure> {
    let runs = journal::runs(&std::path::absolute(workflow)?, &open_store()?)?;
    match runs.as_slice() {
        [now, before, ..] => Ok((What::Run(before.clone()), What::Run(now.clone()))),
        _ => Err(Failure::OneRun),
    }
}

/// What an identity is of, where that is listed.
type Sources = Box<dyn Fn(&Digest) -> Option<SourceList>>;

/// A side, and what its plugins are of.
struct Known {
    side: Side,
    sources: Sources,
}

fn listed(store: &Path) -> Sources {
    let folder = store.join("plugins");
    Box::new(move |identity| source_list(&folder, identity))
}

async fn side(what: What) -> Result<Known, Failure> {
    match what {
        What::Run(folder) => {
            // `<store>/runs/<workflow>/<run>`, in whoever's store.
            let run = folder.canonicalize()?;
            let root = run.ancestors().nth(3).unwrap_or(Path::new("/")).to_owned();
            let events = journal::events(&folder)?;
            if events.is_empty() {
                return Err(Failure::NoRun(folder));
            }
            let store = if root.join("FORMAT").is_file() { Store::open(&root).ok() } else { None };
            let outcome = Outcome::of(events).ok_or(Failure::NoRun(folder.clone()))?;
            let scores = share::scores_of(&folder, store.as_ref());
            let title = format!("{} ({})", of_time(&outcome), folder.display());
            Ok(Known { side: of_run(title, &outcome, &scores), sources: listed(&root) })
        }
        What::Workflow(path) => {
            let target = Target::all_of(&path);
            let Planned { plan, cache, workflow } = planned_with(&target, Site::find()?.cache()?).await?;
            let sources = listed(cache.store.root());
            Ok(Known { side: of_plan(&path, &plan, workflow.sweep.test, &cache.store), sources })
        }
        What::Share(path) => {
            let opened = Opened::read(&path)?;
            let side = of_share(&path, &opened);
            Ok(Known { side, sources: Box::new(move |identity| opened.sources(identity)) })
        }
    }
}

/// What stages are called, by variant and action: by several names where equal stages are one action.
struct Names<'a>(HashMap<(&'a str, ActionId), BTreeSet<&'a str>>);

impl<'a> Names<'a> {
    fn of(instances: impl Iterator<Item = (&'a str, ActionId, &'a str)>) -> Self {
        let mut names = HashMap::<_, BTreeSet<_>>::new();
        for (variant, action, stage) in instances {
            names.entry((variant, action)).or_default().insert(stage);
        }
        Self(names)
    }

    fn of_heads(instances: &'a [InstanceHead]) -> Self {
        Self::of(instances.iter().map(|instance| (&*instance.variant, instance.action, &*instance.stage)))
    }

    /// What an action reads in a variant.
    fn reads(&self, variant: &str, inputs: &Reads) -> BTreeMap<String, BTreeSet<String>> {
        let names = |(action, output): &(ActionId, String)| {
            let stages = self.0.get(&(variant, *action)).into_iter().flatten();
            stages.map(|stage| format!("{stage}.{output}")).collect::<Vec<_>>()
        };
        inputs.iter().map(|(port, read)| (port.clone(), read.iter().flat_map(names).collect())).collect()
    }
}

fn of_plan(path: &Path, plan: &Plan, test: Test, store: &Store) -> Side {
    let instances = plan.instances.iter();
    let names =
        Names::of(instances.map(|instance| (&*instance.variant, instance.action.index(), &*instance.stage)));
    let entries = plan.instances.iter().map(|instance| {
        let action = &plan.graph[instance.action];
        let outputs = action.step.outputs.iter().filter(|(_, kind)| *kind == PortType::Metrics);
        let digests = outputs.filter_map(|(port, _)| action.artifacts.get(&**port));
        let entry = Entry {
            stage: instance.stage.to_string(),
            place: place(&instance.at),
            uses: action.step.uses.clone(),
            identity: action.step.code.identity,
            params: (*action.step.keyed_params).clone(),
            reads: names.reads(&instance.variant, &run::reads(action)),
            outputs: action.artifacts.clone(),
            metrics: run::metrics(action, store),
            scores: digests.filter_map(|digest| Scores::read(digest, store)).collect(),
        };
        ((instance.variant.to_string(), name(&instance.stage, &instance.at), instance.seed), entry)
    });
    Side {
        title: path.display().to_string(),
        entries: entries.collect(),
        compares: compares(&plan.metrics),
        test,
        note: None,
    }
}

/// `regions.yaml, run of 2026-…`.
fn of_time(outcome: &Outcome) -> String {
    let file = outcome.workflow.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{file}, run of {}", super::shown_time(outcome.time))
}

fn of_run(title: String, outcome: &Outcome, scores: &dyn Fn(&Digest) -> Option<Scores>) -> Side {
    let names = Names::of_heads(&outcome.instances);
    let entry = |instance: &InstanceHead| {
        let action = outcome.actions.get(instance.action)?;
        let done = action.done()?;
        let entry = Entry {
            stage: instance.stage.clone(),
            place: place(&instance.at),
            uses: done.past.uses.clone(),
            identity: done.past.identity,
            params: done.past.keyed_params.clone(),
            reads: names.reads(&instance.variant, &action.head.inputs),
            outputs: done.outputs.clone(),
            metrics: done.metrics.clone(),
            scores: action.outputs(PortType::Metrics).filter_map(|(_, digest)| scores(&digest)).collect(),
        };
        Some(((instance.variant.clone(), name(&instance.stage, &instance.at), instance.seed), entry))
    };
    Side {
        title,
        entries: outcome.instances.iter().filter_map(entry).collect(),
        compares: compares(&outcome.comparison.metrics),
        test: outcome.comparison.test,
        note: None,
    }
}

/// A run if one is in it, else the workflow.
fn of_share(path: &Path, opened: &Opened) -> Side {
    let by = opened.manifest.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    if let Some(outcome) = opened.events().and_then(Outcome::of) {
        let title = format!("{}: {}{by}", path.display(), of_time(&outcome));
        let scores = opened.scores();
        return of_run(title, &outcome, &|digest| scores.get(digest).cloned());
    }
    let plan = &opened.plan;
    let names = Names::of_heads(&plan.instances);
    let entry = |instance: &InstanceHead| {
        let action = plan.actions.get(instance.action)?;
        let entry = Entry {
            stage: instance.stage.clone(),
            place: place(&instance.at),
            uses: action.uses.clone(),
            identity: action.identity,
            params: action.params.clone(),
            reads: names.reads(&instance.variant, &action.inputs),
            outputs: BTreeMap::new(),
            metrics: BTreeMap::new(),
            scores: Vec::new(),
        };
        Some(((instance.variant.clone(), name(&instance.stage, &instance.at), instance.seed), entry))
    };
    Side {
        title: format!("{}: {}{by}", path.display(), opened.manifest.workflow),
        entries: plan.instances.iter().filter_map(entry).collect(),
        compares: compares(&plan.metrics),
        test: plan.test,
        note: Some(format!(
            "{} was packed without a run: params, data and code are compared, and no results; `restage share pack --records` \
             packs them",
            path.display()
        )),
    }
}

fn place(at: &BTreeMap<String, String>) -> String {
    at.values().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn compares(metrics: &[MetricRef]) -> BTreeSet<String> {
    metrics.iter().map(ToString::to_string).collect()
}
