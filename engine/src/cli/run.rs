//! `restage run`: runs a workflow and prints its table.

use std::{collections::HashMap, io::IsTerminal, process::ExitCode};

use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use super::{
    Failure, Planned, Target,
    limits::{Limits, check_gpus, check_gpus_away},
    plan, planned_with, print_json,
    progress::{self, Progress, Style},
    screen,
};
use crate::{
    cache::Cache,
    executor::slurm::Slurm,
    plan::Plan,
    report::{Outcome, Table},
    run::{
        self, End, Summary,
        board::Board,
        event::{Event, Started},
        journal::{self, Journal},
    },
    site::{Site, Where},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage run workflows/quickstart.yaml\n  \
                        restage run workflows/quickstart.yaml --set regions.c=0.5 --only baseline")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    limits: Limits,
    /// Where stages run, if not where `restage.toml` says
    #[arg(long, value_enum, value_name = "WHERE")]
    executor: Option<Where>,
    /// How to show what happens
    #[arg(long, value_enum, default_value_t, value_name = "STYLE")]
    progress: Style,
    /// Only tell what would run: `restage plan`
    #[arg(long)]
    dry_run: bool,
    /// Show only what failed: `--progress none`
    #[arg(long, short, conflicts_with = "progress")]
    quiet: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if arguments.dry_run {
        return plan::run(plan::Arguments { target: arguments.target, all: false }).await;
    }
    let target = &arguments.target;
    let site = Site::find()?;
    let cache = site.cache()?;
    let mut ended = run_once(&arguments, &site, cache.clone()).await?;
    // The remote could not give what it said that it has. By now that is known, so another plan does without.
    for _ in 0..MOST_PLANS {
        if cache.shared.is_none() || !ended.summary.input_gone || ended.summary.interrupted {
            break;
        }
        eprintln!("planning again without what the remote could not give");
        ended = run_once(&arguments, &site, cache.clone()).await?;
    }
    let Ended { plan, summary, outcome } = ended;
    let table = Table::new(&outcome, &cache.store);
    if target.json {
        print_json(&to_json(&plan, &summary, &table));
    } else {
        print(target, &plan, &summary, &table, cache.store.root());
    }
    Ok(if summary.succeeded(&plan) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A chain of results that are all damaged in the remote takes a plan each.
const MOST_PLANS: usize = 20;

/// A plan, and what became of it.
struct Ended {
    plan: Plan,
    summary: Summary,
    outcome: Outcome,
}

async fn run_once(arguments: &Arguments, site: &Site, cache: Cache) -> Result<Ended, Failure> {
    let Planned { workflow, cache, mut plan } = planned_with(&arguments.target, cache).await?;
    let machine = arguments.limits.machine();
    let place = arguments.executor.unwrap_or(site.executor);
    match place {
        Where::Local => check_gpus(&plan, &machine)?,
        Where::Slurm => check_gpus_away(&plan, &site.slurm)?,
    }
    let started = run::started(&workflow, &plan);
    let journal = Journal::begin(&workflow.path, &cache.store, run::now())?;
    journal.keep(&workflow.path, &workflow.imported())?;
    let (sender, receiver) = mpsc::channel(256);
    let style = if arguments.quiet { Style::None } else { arguments.progress };
    let may_run = plan.graph.node_weights().any(|action| !action.decision.is_known());
    let took = if may_run { journal::took(&workflow.path, &cache.store) } else { HashMap::new() };
    let board = Board::new(&plan, took);
    let reader = read(receiver, journal, Progress::new(board, style), started);
    let executor = arguments.limits.executor(&cache.store);
    let (cancel_sender, cancel) = watch::channel(false);
    let interrupts = tokio::spawn(interrupt(cancel_sender, place));
    let away = match place {
        Where::Local => None,
        Where::Slurm => {
            let (notices, told) = mpsc::unbounded_channel();
            tokio::spawn(pass_on(told, sender.clone()));
            let (settings, grace) = (site.slurm.clone(), arguments.limits.grace());
            Some(Slurm::new(settings, &workflow.path, &cache.store, grace, notices, cancel.clone())?)
        }
    };
    let (summary, recorded) =
        tokio::join!(run::run(&mut plan, &cache, executor, away, machine, sender, cancel), reader);
    interrupts.abort();
    Ok(Ended { plan, summary: summary?, outcome: recorded? })
}

/// What happens to allocations is part of the run's story.
async fn pass_on(mut told: mpsc::UnboundedReceiver<String>, events: mpsc::Sender<Event>) {
    while let Some(message) = told.recv().await {
        let _ = events.send(Event::Notice { message }).await;
    }
}

/// Reads the run's events to their end: each is written down, then shown, then counted.
async fn read(
    mut events: mpsc::Receiver<Event>,
    mut journal: Journal,
    mut progress: Progress,
    started: Started,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::begun(started.clone());
    journal.write(&Event::Started(Box::new(started)))?;
    let mut ticks = tokio::time::interval(progress::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick: u64 = 0;
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { break };
                journal.write(&event)?;
                progress.show(&event, |action| journal.log_path(action));
                outcome.add(event);
            }
            _ = ticks.tick() => {
                let now = progress.now();
                progress.draw(&now);
                if tick.is_multiple_of(TICKS_TOLD) {
                    journal.stands(&now);
                }
                tick += 1;
            }
        }
    }
    progress.end();
    journal.end();
    Ok(outcome)
}

/// Who watches from elsewhere sees how the run stands about once a second.
const TICKS_TOLD: u64 = 5;

/// Ctrl-C once, or what Slurm and a closed terminal send: stages are asked to stop, and what is done is kept. Twice: now;
/// the hosts die with the engine.
async fn interrupt(cancel: watch::Sender<bool>, place: Where) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let Ok([mut interrupts, mut terminations, mut hangups]) = listen(kinds) else { return };
    let mut once = async || {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
            // Allocations do not hang on a terminal: they go on, and the same command comes back to them.
            _ = hangups.recv() => if place == Where::Slurm { std::process::exit(129) },
        }
    };
    once().await;
    screen::above(
        "stopping: running stages may write their checkpoints; press Ctrl-C again to stop at once\n",
    );
    let _ = cancel.send(true);
    once().await;
    std::process::exit(130);
}

fn listen(kinds: [SignalKind; 3]) -> std::io::Result<[Signal; 3]> {
    let [first, second, third] = kinds;
    Ok([signal(first)?, signal(second)?, signal(third)?])
}

fn to_json(plan: &Plan, summary: &Summary, table: &Table) -> serde_json::Value {
    let failed: Vec<_> = summary
        .ends
        .iter()
        .filter_map(|(node, end)| match end {
            End::Failed(message) => Some(json!({ "action": plan.graph[*node].name(), "message": message })),
            _ => None,
        })
        .collect();
    json!({
        "actions": plan.graph.node_count(), "ran": summary.ran(), "reused": summary.reused(),
        "fetched": summary.fetched(), "given": summary.given, "kept": summary.kept(plan), "failed": failed, "interrupted": summary.interrupted, "milliseconds": summary.milliseconds, "table": table,
    })
}

fn print(target: &Target, plan: &Plan, summary: &Summary, table: &Table, store: &std::path::Path) {
    // What is complete is worth seeing although something else failed.
    if summary.succeeded(plan) || table.has_scores() {
        let terminal = std::io::stdout().is_terminal().then(screen::size).flatten();
        say!("{}", table.draw(terminal.map(|(columns, _)| columns)));
    }
    let count = |wanted: fn(&End) -> bool| summary.ends.values().filter(|end| wanted(end)).count();
    let failed = count(|end| matches!(end, End::Failed(_)));
    let skipped = count(|end| matches!(end, End::Skipped));
    let seconds = summary.milliseconds as f64 / 1000.0;
    if summary.ran() == 0 && failed == 0 && summary.succeeded(plan) {
        let fetched = match summary.fetched() {
            0 => String::new(),
            fetched => format!(", {fetched} of them in the remote"),
        };
        say!("nothing had to run: all {} actions are cached{fetched} ({seconds:.2} s)", summary.reused());
    } else {
        let mut parts = vec![format!("{} ran", summary.ran()), format!("{} reused", summary.reused())];
        parts.extend((summary.fetched() > 0).then(|| format!("{} of them fetched", summary.fetched())));
        parts.extend((failed > 0).then(|| format!("{failed} failed")));
        parts.extend((skipped > 0).then(|| format!("{skipped} skipped")));
        let parts = parts.join(", ");
        if summary.interrupted {
            say!("{parts}, interrupted after {seconds:.1} s; the same command goes on");
        } else {
            say!("{parts} in {seconds:.1} s");
        }
    }
    match summary.kept(plan) {
        0 => {}
        kept if summary.ran() > 0 => {
            let stages = if kept == 1 { "stage" } else { "stages" };
            say!("re-ran, same result: {kept} {stages} kept");
        }
        _ => {}
    }
    if summary.given > 0 {
        say!("{} new results were given to the remote", summary.given);
    }
    say!("artifacts: restage show --all {}  (in {})", target.workflow.display(), store.display());
}
