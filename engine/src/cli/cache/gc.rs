//! `restage cache gc`: what goes, what stays, and why.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use bytesize::ByteSize;
use humantime::format_duration;
use indicatif::{ProgressBar, ProgressStyle};
use restage_cache::{Amount, Area, GcOptions, GcPlan, GcReport, KeptBy, Store};
use serde_json::json;

use super::many;
use crate::{
    cli::{Failure, open_store, print_json},
    plugin::copies::{self, Idle},
    report::{grid, size},
    run::past::{self, Retained, Retention},
    workflow::git,
};

/// Shorter times than this may take what is in use: a hit is noted once a day, and runs take hours.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// More refusals than this are told by their number.
const SHOWN: usize = 5;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage cache gc --dry-run\n  restage cache gc --keep 7d --keep-last 1\n  \
                        restage cache gc --max-size 50GiB         # then also what is the cheapest to compute again\n\n\
                        What goes is moved to the trash, and deleted by the next `gc` after the grace period. Pins, and what is \
                        being computed, always stay."
)]
pub(super) struct Arguments {
    /// Keep all that the last N runs of each workflow gave
    #[arg(long, default_value_t = 3, value_name = "N")]
    keep_last: usize,
    /// Keep what was of use this short a time ago
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, value_name = "TIME")]
    keep: Duration,
    /// Keep what is younger than this, and trash for so long; longer than the longest run
    #[arg(long, default_value = "72h", value_parser = humantime::parse_duration, value_name = "TIME")]
    grace: Duration,
    /// Go on until what stays is no more than this
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    max_size: Option<u64>,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// Print JSON for programs; sizes are in bytes
    #[arg(long)]
    pub(super) json: bool,
}

/// `50GiB`. A number without its unit could be anything.
fn bytes(text: &str) -> Result<u64, String> {
    let has_unit = text.trim_end().ends_with(|c: char| c.is_alphabetic());
    let size = text.parse::<ByteSize>().ok().filter(|_| has_unit);
    size.map(|size| size.as_u64()).ok_or_else(|| "expected a size with its unit, like `50GiB`".into())
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let retention = Retention { last: arguments.keep_last, keep: arguments.keep };
    let retained = past::retained(&past::all(&store)?, retention, SystemTime::now());
    let plan = store.plan_gc(&GcOptions {
        keep: arguments.keep,
        grace: arguments.grace,
        max_bytes: arguments.max_size,
        artifacts: retained.artifacts.clone(),
        actions: retained.actions.clone(),
    })?;
    let long = arguments.keep.max(arguments.grace);
    let others = Others { commits: git::idle(&store, long), builds: copies::idle(&store, long) };
    let warnings = warnings(arguments, &plan);
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if !arguments.json {
        tell_plan(arguments, &plan, &retained, &others);
    }
    let done = if arguments.dry_run { None } else { Some(sweep(&store, &plan, &retained, &others)?) };
    if arguments.json {
        print_json(&json!({
            "dry_run": arguments.dry_run, "warnings": warnings, "plan": plan,
            "runs_that_keep": retained.runs, "old_runs": retained.old, "idle_commits": others.commits,
            "idle_builds": others.builds,
            "report": done.as_ref().map(|done| &done.report),
            "forgotten": done.as_ref().map(|done| done.forgotten),
        }));
    } else {
        tell_done(arguments, done.as_ref());
    }
    Ok(ExitCode::SUCCESS)
}

fn warnings(arguments: &Arguments, plan: &GcPlan) -> Vec<String> {
    let mut warnings = Vec::new();
    if arguments.grace < DAY {
        warnings.push(format!(
            "--grace {}: a run that is going on may lose what it found, and computes it again",
            format_duration(arguments.grace)
        ));
    }
    if arguments.keep < DAY {
        warnings.push(format!(
            "--keep {}: use is noted once a day, so what was of use today may go",
            format_duration(arguments.keep)
        ));
    }
    if plan.others.count > 0 {
        warnings.push(format!(
            "{} that nothing keeps, {}, stay: they belong to other users, whose own `restage cache gc` removes them",
            many(plan.others.count, "artifact"),
            size(plan.others.bytes)
        ));
    }
    if plan.over > 0 {
        warnings.push(format!(
            "what stays is {} more than --max-size: recent runs, pins and what is young are not given up for that",
            size(plan.over)
        ));
    }
    warnings
}

/// What lies beside the cache proper, was of no use lately, and can be had again.
struct Others {
    commits: Vec<PathBuf>,
    builds: Vec<Idle>,
}

/// What a sweep did.
struct Done {
    report: GcReport,
    /// Runs without their journals now.
    forgotten: usize,
    /// Commits and builds of plugins that are gone.
    gone: usize,
    /// Runs whose journals could not be removed, commits and builds of plugins, and why.
    not_forgotten: Vec<(PathBuf, String)>,
}

fn sweep(store: &Store, plan: &GcPlan, retained: &Retained, others: &Others) -> Result<Done, Failure> {
    let bar = bar();
    let report = store.run_gc(plan, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let tried = retained.old.iter().map(|run| (run.clone(), past::forget(run, store)));
    let mut not_forgotten: Vec<_> =
        tried.filter_map(|(run, result)| result.err().map(|why| (run, why))).collect();
    let forgotten = retained.old.len() - not_forgotten.len();
    let commits = others.commits.iter().map(|place| (place, git::forget(place)));
    let builds = others.builds.iter().map(|build| (&build.path, copies::forget(build)));
    let (gone, left): (Vec<_>, Vec<_>) = commits.chain(builds).partition(|(_, result)| result.is_ok());
    not_forgotten.extend(
        left.into_iter().filter_map(|(place, result)| Some((place.clone(), result.err()?.to_string()))),
    );
    Ok(Done { report, forgotten, gone: gone.len(), not_forgotten })
}

/// Only for people who watch.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{bar:24} {pos}/{len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn tell_plan(arguments: &Arguments, plan: &GcPlan, retained: &Retained, others: &Others) {
    let of = |amounts: &BTreeMap<Area, Amount>, area| amounts.get(&area).copied().unwrap_or_default();
    let areas = Area::ALL.into_iter().map(|area| (area, of(&plan.removable, area), of(&plan.kept, area)));
    let rows = areas.filter(|(_, goes, stays)| goes.count + stays.count > 0).map(|(area, goes, stays)| {
        let [goes, stays] = [goes, stays].map(|amount| [amount.count.to_string(), size(amount.bytes)]);
        [vec![area.to_string()], goes.to_vec(), stays.to_vec()].concat()
    });
    let rows = rows.filter_map(|row| <[String; 5]>::try_from(row).ok());
    say!("{}", grid(["part", ">goes", ">size", ">stays", ">size"], rows));
    let kept = kept(&plan.kept_by, arguments, retained);
    if !kept.is_empty() {
        say!("artifacts stay: {}", kept.join(", "));
    }
    let goes = if arguments.dry_run { "would be" } else { "are" };
    if !retained.old.is_empty() {
        say!("journals and logs of {} {goes} removed", many(retained.old.len(), "older run"));
    }
    if !others.commits.is_empty() {
        say!(
            "files of {} that no workflow imported lately {goes} removed",
            many(others.commits.len(), "git commit")
        );
    }
    if !others.builds.is_empty() {
        say!(
            "{} of plugins that no workflow used lately, {}, {goes} removed",
            many(others.builds.len(), "build"),
            size(others.builds.iter().map(|build| build.bytes).sum())
        );
    }
}

/// Why artifacts stay, each counted for its first reason.
fn kept(by: &KeptBy, arguments: &Arguments, retained: &Retained) -> Vec<String> {
    let going_on = match retained.going_on {
        0 => String::new(),
        more => format!(", {more} of them older and perhaps going on"),
    };
    [
        (by.pins, "pinned".to_owned()),
        (by.claims, "being computed with".to_owned()),
        (by.asked, format!("in {} to keep{going_on}", many(retained.runs, "run"))),
        (by.records, format!("of use in the last {}", format_duration(arguments.keep))),
        (by.grace, format!("younger than {}", format_duration(arguments.grace))),
        (by.others, "of other users".to_owned()),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, why)| format!("{count} {why}"))
    .collect()
}

fn tell_done(arguments: &Arguments, done: Option<&Done>) {
    let Some(Done { report, not_forgotten, forgotten, gone }) = done else {
        return say!("a dry run: nothing was removed");
    };
    let deleted = report.swept.get(&Area::Trash).copied().unwrap_or_default();
    let moved = report.swept.iter().filter(|(area, _)| **area != Area::Trash);
    let (count, bytes) = moved.fold((0, 0), |sum, (_, amount)| (sum.0 + amount.count, sum.1 + amount.bytes));
    if count > 0 {
        let grace = format_duration(arguments.grace);
        say!("moved to the trash: {}; the next `gc` after {grace} deletes it", size(bytes));
    }
    if deleted.count > 0 {
        say!("deleted: {} of earlier trash", size(deleted.bytes));
    }
    if count + deleted.count == 0 && forgotten + gone == 0 {
        say!("nothing to remove");
    }
    if report.spared > 0 {
        say!("used meanwhile, and stay: {}", report.spared);
    }
    let refused = report.refused.iter().map(|one| format!("{} {:.12}: {}", one.area, one.name, one.why));
    let runs = not_forgotten.iter().map(|(run, why)| format!("{}: {why}", run.display()));
    let refused: Vec<String> = refused.chain(runs).collect();
    for line in refused.iter().take(SHOWN) {
        eprintln!("not removed: {line}");
    }
    if refused.len() > SHOWN {
        eprintln!("not removed: {} more", refused.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!(["0B", "50GiB", "2 MB"].map(bytes), [0, 50 << 30, 2_000_000].map(Ok));
        for wrong in ["", "50", "GiB", "-1GiB", "much"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
