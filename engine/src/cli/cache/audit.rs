//! `restage cache audit`: whether what is cached comes out again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use indicatif::{ProgressBar, ProgressStyle};
use restage_cache::{ActionKey, Store};
use restage_stage::catalogue::Tolerance;
use serde_json::{Value, json};

use super::{many, verify::fraction};
use crate::{
    cache::Cache,
    cli::{Failure, limits::Limits, load, open_catalog, open_store, print_json, shown_time, tell},
    executor::ExecuteError,
    plan::{Instance, Plan, Selection},
    report::{Audited, Ended, Verdict, judge, sample},
    run::{
        self,
        again::{self, Cached, Lack},
        journal, past,
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage cache audit workflows/quickstart.yaml\n  \
                        restage cache audit --sample 100% workflows/quickstart.yaml\n  \
                        restage cache audit                        # some of what any run in the cache did\n\n\
                        Nothing is recorded, and no cached result is touched. Exit status: 0 if all came out as recorded, or \
                        within the tolerance that the stage type declares; 1 if something did not, or failed.")]
pub(super) struct Arguments {
    /// Workflow files; without any, all whose runs are in the cache
    workflows: Vec<PathBuf>,
    /// How much of what is cached runs again, e.g. `100%`; one action at least
    #[arg(long, default_value = "5%", value_parser = fraction, value_name = "PART")]
    sample: f64,
    /// Chooses the part: the same number, the same part
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    limits: Limits,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    // A remote is not asked: what is here is audited.
    let cache = Cache { store: open_store()?, shared: None };
    let found = find(arguments, &cache).await?;
    // Without a number, another part each time: in the end all of it runs.
    let seed = arguments.seed.unwrap_or_else(run::now);
    let chosen = sample(&found.candidates.iter().map(|one| one.cached.key).collect(), arguments.sample, seed);
    let chosen: Vec<&Candidate> =
        found.candidates.iter().filter(|one| chosen.contains(&one.cached.key)).collect();
    let (audited, elsewhere) = audit(&chosen, &cache.store, &arguments.limits).await;
    let told = Told { audited, elsewhere, found: &found, sample: arguments.sample, seed };
    if arguments.json {
        print_json(&told.json());
    } else {
        told.print();
    }
    Ok(if told.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A cached action that can run again.
struct Candidate {
    cached: Arc<Cached>,
    workflow: PathBuf,
    label: String,
    instance: Instance,
    tolerance: Option<Tolerance>,
}

/// What there is to audit, and what cannot be.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    lacks: BTreeMap<Lack, u64>,
    /// Workflows of earlier runs that cannot be planned any more.
    unplanned: Vec<PathBuf>,
}

async fn find(arguments: &Arguments, cache: &Cache) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for workflow in &arguments.workflows {
        add(&mut found, &mut seen, workflow, cache).await?;
    }
    if arguments.workflows.is_empty() {
        for workflow in of_runs(&cache.store)? {
            // One that was written wrongly since does not keep the others from their audit.
            if let Err(failure) = add(&mut found, &mut seen, &workflow, cache).await {
                if !arguments.json {
                    tell(&failure, false);
                }
                found.unplanned.push(workflow);
            }
        }
    }
    Ok(found)
}

/// Workflows that ran and are still there.
fn of_runs(store: &Store) -> Result<BTreeSet<PathBuf>, Failure> {
    let of_one = |runs: Vec<past::PastRun>| runs.into_iter().find_map(|run| run.workflow);
    Ok(past::all(store)?.into_iter().filter_map(of_one).filter(|workflow| workflow.is_file()).collect())
}

/// Plans a workflow and adds its actions. Those that several workflows have are the first one's.
async fn add(
    found: &mut Found,
    seen: &mut BTreeSet<ActionKey>,
    path: &Path,
    cache: &Cache,
) -> Result<(), Failure> {
    let workflow = load(path, &cache.store)?;
    let mut catalog = open_catalog(&workflow, &cache.store).await?;
    let history = journal::history(&workflow.path, &cache.store);
    let plan = Plan::new(&workflow, &Selection::default(), &mut catalog, cache, &history).await?;
    let mut first = BTreeMap::new();
    for instance in &plan.instances {
        first.entry(instance.action).or_insert(instance);
    }
    for (node, instance) in first {
        match again::find(&plan, node, &cache.store)? {
            Err(lack) => *found.lacks.entry(lack).or_default() += 1,
            Ok(cached) if !seen.insert(cached.key) => {}
            Ok(cached) => found.candidates.push(Candidate {
                workflow: workflow.path.clone(),
                label: instance.label(&plan.baseline),
                instance: instance.clone(),
                tolerance: catalog.find(&cached.action.step.uses).and_then(|offer| offer.stage.tolerance),
                cached: Arc::new(cached),
            }),
        }
    }
    Ok(())
}

/// Runs what was chosen; also how many of it cannot run on this machine.
async fn audit(chosen: &[&Candidate], store: &Store, limits: &Limits) -> (Vec<Audited>, u64) {
    let actions: Vec<Arc<Cached>> = chosen.iter().map(|one| one.cached.clone()).collect();
    let tolerances: BTreeMap<ActionKey, Option<Tolerance>> =
        chosen.iter().map(|one| (one.cached.key, one.tolerance)).collect();
    let tolerances = Arc::new(tolerances);
    let ours = store.clone();
    let judge = move |cached: &Cached, computed: &crate::executor::Computed| {
        judge(cached, computed, &ours, tolerances.get(&cached.key).copied().flatten())
    };
    let bar = bar(actions.len() as u64);
    let executor = limits.executor(store);
    let mut ended =
        again::run(&actions, store, executor, limits.machine(), judge, |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    let mut elsewhere = 0;
    let mut audited = Vec::new();
    for one in chosen {
        let (result, now) = match ended.remove(&one.cached.key) {
            Some(again) => (again.result, again.provenance),
            None => (Err(ExecuteError::Lost("the engine gave it up".into())), Value::Null),
        };
        let outputs = match result {
            Ok(outputs) => outputs,
            Err(ExecuteError::NoGpu { .. }) => {
                elsewhere += 1;
                continue;
            }
            Err(error) => Err(crate::causes(&error).join(": ")),
        };
        audited.push(Audited {
            workflow: one.workflow.clone(),
            action: one.label.clone(),
            stage: one.instance.stage.to_string(),
            at: (*one.instance.at).clone(),
            uses: one.cached.action.step.uses.clone(),
            variant: one.instance.variant.to_string(),
            seed: one.cached.action.seeds.all,
            key: one.cached.key,
            tolerance: one.tolerance,
            ended: Ended::of(outputs),
            then: one.cached.record.provenance.clone(),
            now,
        });
    }
    (audited, elsewhere)
}

/// Only for people who watch.
fn bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template("{bar:24} {pos}/{len} actions") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What is told in the end.
struct Told<'a> {
    audited: Vec<Audited>,
    /// How many were chosen that this machine cannot run.
    elsewhere: u64,
    found: &'a Found,
    sample: f64,
    seed: u64,
}

impl Told<'_> {
    fn is_sound(&self) -> bool {
        self.audited.iter().all(|one| one.ended.verdict().is_some_and(|verdict| verdict < Verdict::Different))
    }

    fn count(&self, verdict: Option<Verdict>) -> usize {
        self.audited.iter().filter(|one| one.ended.verdict() == verdict).count()
    }

    fn counts(&self) -> [usize; 4] {
        [Some(Verdict::BitEqual), Some(Verdict::Within), Some(Verdict::Different), None]
            .map(|verdict| self.count(verdict))
    }

    /// What was not run again although it is of the workflows, and why.
    fn not_run(&self) -> [(&'static str, u64); 4] {
        let lacks = |lack| self.found.lacks.get(&lack).copied().unwrap_or_default();
        [
            ("results are not in the cache", lacks(Lack::Result)),
            ("code changed, which makes them other actions", lacks(Lack::Code)),
            ("inputs are gone from the cache", lacks(Lack::Inputs)),
            ("GPUs this machine lacks", self.elsewhere),
        ]
    }

    fn print(&self) {
        let mut of = None;
        let several = self
            .audited
            .iter()
            .any(|one| Some(&one.workflow) != self.audited.first().map(|one| &one.workflow));
        for one in &self.audited {
            if several && of != Some(&one.workflow) {
                say!("{}:", one.workflow.display());
                of = Some(&one.workflow);
            }
            told(one).iter().for_each(|line| say!("{line}"));
        }
        let [equal, within, different, failed] = self.counts();
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let ran = many(self.audited.len(), "action");
        say!("{ran} run again: {equal} bit-equal, {within} within tolerance, {different} different{failed}");
        if self.sample < 1.0 && self.audited.len() < self.found.candidates.len() {
            say!("chosen from {} by `--seed {}`", self.found.candidates.len(), self.seed);
        }
        for (why, count) in self.not_run().into_iter().filter(|(_, count)| *count > 0) {
            say!("not run again: {} whose {why}", many(count, "action"));
        }
        if !self.found.unplanned.is_empty() {
            say!("not run again: {}, which cannot be planned", many(self.found.unplanned.len(), "workflow"));
        }
    }

    fn json(&self) -> Value {
        let [equal, within, different, failed] = self.counts();
        let [not_cached, other_code, inputs_gone, elsewhere] = self.not_run().map(|(_, count)| count);
        json!({
            "sound": self.is_sound(),
            "seed": self.seed,
            "candidates": self.found.candidates.len(),
            "bit_equal": equal, "within": within, "different": different, "failed": failed,
            "not_run": {
                "not_cached": not_cached, "other_code": other_code, "inputs_gone": inputs_gone,
                "no_gpu": elsewhere, "workflows": self.found.unplanned,
            },
            "actions": self.audited,
        })
    }
}

/// A line that says how it ended, and, unless it is bit-equal, what differs and where both results came from.
fn told(one: &Audited) -> Vec<String> {
    let word = match one.ended.verdict() {
        Some(Verdict::BitEqual) => "bit-equal",
        Some(Verdict::Within) => "within",
        Some(Verdict::Different) => "different",
        None => "failed",
    };
    let mut lines = vec![format!("{word:<9}  {} ({})", one.action, one.uses)];
    match &one.ended {
        Ended::Compared { verdict: Verdict::BitEqual, .. } => return lines,
        Ended::Compared { verdict, outputs } => {
            // Beside others that are different.
            let near = |part: Verdict| if part < *verdict { " (within)" } else { "" };
            let differing = outputs.iter().filter(|(_, output)| output.verdict > Verdict::BitEqual);
            for (port, output) in differing {
                let parts = output.parts.iter().filter(|part| part.verdict > Verdict::BitEqual);
                let mut told: Vec<String> =
                    parts.map(|part| format!("    {port}: {part}{}", near(part.verdict))).collect();
                if told.is_empty() {
                    told.push(format!("    {port}: the same content in other bytes"));
                }
                lines.extend(told);
            }
            lines.extend(one.tolerance.map(|tolerance| format!("    tolerance: {tolerance}")));
        }
        Ended::Failed { failed } => lines.push(format!("    {failed}")),
    }
    lines.push(format!("    then: {}", origin(&one.then)));
    lines.push(format!("    now:  {}", origin(&one.now)));
    lines
}

/// Where a result came from, as far as its provenance says.
fn origin(provenance: &Value) -> String {
    let text = |place: &str| provenance.pointer(place).and_then(Value::as_str);
    let host = text("/host").unwrap_or("an unknown host");
    let threads = provenance.get("threads").and_then(Value::as_u64);
    let time = provenance.get("finished").and_then(Value::as_u64);
    let mut parts = vec![match text("/user") {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    }];
    parts.extend(text("/device").map(|device| format!("device {device}")));
    parts.extend(threads.map(|threads| format!("{threads} thread{}", if threads == 1 { "" } else { "s" })));
    parts.extend(
        text("/plugin/binary").map(|binary| format!("binary {}", binary.get(..12).unwrap_or(binary))),
    );
    parts.extend(text("/restage").map(|version| format!("restage {version}")));
    parts.extend(time.map(shown_time));
    parts.join(", ")
}
