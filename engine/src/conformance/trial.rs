//! What stages do when they run: all of their outputs and nothing else, the same bytes each time, and they stop when they
//! are asked to. They fail in words where they cannot work, and the next one works.

use std::{collections::BTreeMap, path::PathBuf};

use restage_cache::Digest;
use restage_stage::{
    catalogue::{InputPort, StageType, Tolerance},
    task::Task,
};
use serde_json::Value;

use super::{
    Check, Checked, Example, KitError,
    bench::{Bench, GRACE, Place},
    failed, skipped,
};
use crate::{
    plugin::Failure,
    report::{Verdict, compare},
};

/// What the first run is done with, and another seed than that.
const SEED: u64 = 0;
const OTHER_SEED: u64 = 1;

/// A stage type with all that a run of it takes.
struct Trial<'a> {
    stage: &'a StageType,
    params: Value,
    inputs: BTreeMap<String, Vec<PathBuf>>,
}

/// Checks what runs of a stage type do, with canonical params if there are any.
pub(super) async fn checks(
    bench: &mut Bench,
    stage: &StageType,
    params: Option<Value>,
    example: Option<&Example>,
    checks: &mut Vec<Check>,
) -> Result<(), KitError> {
    let checked = without_inputs(bench, stage, params.as_ref()).await;
    checks.push(Check::new("no-inputs", checked));
    let is_needed =
        |port: &InputPort| !port.optional || params.as_ref().is_some_and(|params| port.is_needed(params));
    let needs_inputs = !stage.choices.is_empty() || stage.inputs.iter().any(is_needed);
    if stage.open {
        // Its ports are a workflow's to choose; a workflow is what tries it.
        for name in ["runs", "same-bytes", "seed", "cancel", "fails-well"] {
            checks.push(Check::new(name, Err(skipped("its ports are open"))));
        }
        return Ok(());
    }
    let trial = match (params, example) {
        (None, None) => {
            Err("a param must be given; `--workflow` takes params from one that uses the stage type")
        }
        (None, Some(_)) => Err("its params are not canonical"),
        (Some(_), None) if needs_inputs => {
            Err("it reads inputs; `--workflow` takes them from one that uses the stage type")
        }
        (Some(params), example) => {
            Ok(Trial { stage, params, inputs: example.map(|one| one.inputs.clone()).unwrap_or_default() })
        }
    };
    let first = match &trial {
        Ok(trial) => trial.runs(bench).await,
        Err(why) => Err(skipped(*why)),
    };
    let (first, checked) = match first {
        Ok(first) => (Ok(first), Ok(())),
        Err(not_ok @ super::NotOk::Failed(_)) => (Err(skipped("it does not run")), Err(not_ok)),
        Err(not_ok) => (Err(not_ok.clone()), Err(not_ok)),
    };
    checks.push(Check::new("runs", checked));
    let (Ok(trial), Ok(first)) = (&trial, &first) else {
        let why = first.err().unwrap_or_else(|| skipped("it does not run"));
        for name in ["same-bytes", "seed", "cancel", "fails-well"] {
            checks.push(Check::new(name, Err(why.clone())));
        }
        return Ok(());
    };
    let same = trial.same_bytes(bench, first).await;
    let steady = same.is_ok();
    checks.push(Check::new("same-bytes", same));
    let seed =
        if steady { trial.seed(bench, first).await } else { Err(skipped("its bytes are not the same")) };
    checks.push(Check::new("seed", seed));
    checks.push(Check::new("cancel", trial.cancel(bench).await));
    checks.push(Check::new("fails-well", trial.fails_well(bench, first, steady).await));
    Ok(())
}

/// Without an input that it needs a stage says that it failed.
async fn without_inputs(bench: &mut Bench, stage: &StageType, params: Option<&Value>) -> Checked {
    if stage.inputs.iter().all(|port| port.optional) {
        return Err(skipped("it needs none"));
    }
    let params = params.ok_or_else(|| skipped("its params are not known"))?;
    let trial = Trial { stage, params: params.clone(), inputs: BTreeMap::new() };
    let place = trial.place(bench)?;
    let help = "`run` answers FAILED with a message; the engine sees to it that inputs are wired, and another host may not";
    match bench.run(trial.task(&place, SEED, 1), &place).await? {
        Err(Failure::Failed { messages }) if said(&messages) => {
            bench.check(&stage.name, params).await.map(drop)
        }
        Err(Failure::Failed { .. }) => Err(failed("a failure with a message", "there is none", help)),
        Err(failure) => Err(failed("it says that it failed", failure.to_string(), help)),
        Ok(()) => Err(failed("it says that it failed", "it said that it is done", help)),
    }
}

fn said(messages: &[String]) -> bool {
    messages.iter().any(|message| !message.trim().is_empty())
}

impl Trial<'_> {
    fn place(&self, bench: &Bench) -> Checked<Place> {
        let outputs = self.stage.outputs.iter().map(|port| port.name.clone());
        bench.place(outputs).map_err(|error| skipped(error.to_string()))
    }

    fn task(&self, place: &Place, seed: u64, threads: usize) -> Task {
        Task {
            stage: self.stage.name.clone(),
            params: self.params.clone(),
            inputs: self.inputs.clone(),
            outputs: place.outputs.clone(),
            seed,
            streams: Default::default(),
            threads,
            gpus: 0,
            scratch: place.scratch(),
        }
    }

    /// Runs to its end and has written every output.
    async fn ran(&self, bench: &mut Bench, seed: u64, threads: usize) -> Checked<Place> {
        let place = self.place(bench)?;
        if let Err(failure) = bench.run(self.task(&place, seed, threads), &place).await? {
            let help = match failure {
                Failure::TimedOut { .. } => {
                    "give it more time with `--timeout`, or less work with `--workflow`"
                }
                Failure::Failed { .. } => "params or inputs that it can work with come from `--workflow`",
                _ => "a stage ends with a status, whatever happens; the process is the host's",
            };
            return Err(failed("it runs to its end", failure.to_string(), help));
        }
        match place.outputs.iter().find(|(_, folder)| !folder.exists()) {
            None => Ok(place),
            Some((port, _)) => Err(failed(
                format!("its output `{port}` is a folder that it made"),
                "it said that it is done, and nothing is there",
                "the task's `outputs` say where each output goes",
            )),
        }
    }

    /// It runs, writes every output, nothing else, and leaves its inputs alone.
    async fn runs(&self, bench: &mut Bench) -> Checked<Place> {
        let before = self.inputs_now()?;
        let place = self.ran(bench, SEED, 1).await?;
        let expected = "it writes into the folders of its outputs, and into `scratch`";
        let help = "temporary files belong into the task's `scratch`: what lies elsewhere is lost or in somebody's way";
        let litter = place.litter();
        if !litter.is_empty() {
            return Err(failed(expected, format!("beside its outputs lies {}", litter.join(", ")), help));
        }
        let litter = bench.litter();
        if !litter.is_empty() {
            return Err(failed(expected, format!("in its working folder lies {}", litter.join(", ")), help));
        }
        if self.inputs_now()? != before {
            return Err(failed(
                "its inputs are as they were",
                "it wrote into one of them",
                "others read the same folders",
            ));
        }
        Ok(place)
    }

    fn inputs_now(&self) -> Checked<Vec<Digest>> {
        let folders = self.inputs.values().flatten();
        let digests = folders.map(|folder| restage_cache::tree_digest(folder)).collect::<Result<_, _>>();
        digests.map_err(|error| skipped(error.to_string()))
    }

    /// Again in the same process, in another one, and on more threads: the same bytes, or as near as the stage type says.
    async fn same_bytes(&self, bench: &mut Bench, first: &Place) -> Checked {
        let again = self.ran(bench, SEED, 1).await?;
        self.same(first, &again, "run again in the same process")?;
        bench.part();
        let elsewhere = self.ran(bench, SEED, 1).await?;
        self.same(first, &elsewhere, "in another process")?;
        let wide = self.ran(bench, SEED, 2).await?;
        self.same(first, &wide, "on 2 threads")
    }

    /// A stage type that takes no seed does not look at it.
    async fn seed(&self, bench: &mut Bench, first: &Place) -> Checked {
        let other = self.ran(bench, OTHER_SEED, 1).await?;
        if self.stage.seeded || self.stage.seeded_if.iter().any(|by| by.holds(&self.params)) {
            return Ok(());
        }
        self.same(first, &other, "with another seed, which it says it does not take,")
    }

    fn same(&self, then: &Place, now: &Place, how: &str) -> Checked {
        let unreadable = |error: &dyn std::fmt::Display| {
            failed(
                "outputs that can be read",
                error.to_string(),
                "plain files and folders, no links, names in UTF-8",
            )
        };
        let tolerance = self.stage.tolerance;
        for (port, was) in &then.outputs {
            let Some(is) = now.outputs.get(port) else { continue };
            let digest = |path| restage_cache::tree_digest(path).map_err(|error| unreadable(&error));
            if digest(was)? == digest(is)? {
                continue;
            }
            let findings =
                compare(was, is, tolerance.unwrap_or_default()).map_err(|error| unreadable(&error))?;
            // What is stored in other bytes has other values' digest: only who declares a tolerance may do that.
            let fails = |verdict| {
                verdict == Verdict::Different || (tolerance.is_none() && verdict != Verdict::BitEqual)
            };
            if let Some(finding) = findings.iter().find(|finding| fails(finding.verdict)) {
                return Err(self.differs(how, port, &finding.to_string()));
            }
            if tolerance.is_none() {
                return Err(self.differs(how, port, "other files"));
            }
        }
        Ok(())
    }

    fn differs(&self, how: &str, port: &str, what: &str) -> super::NotOk {
        let expected = match self.stage.tolerance {
            None => "the same bytes each time".to_owned(),
            Some(tolerance) => format!("the same each time, or apart by {}", shown(tolerance)),
        };
        failed(
            expected,
            format!("{how} it gives other bytes: output `{port}`, {what}"),
            "no time, address, hash map's order or thread's turn may reach an output; random numbers come from the seed. \
             Where a library cannot be held to the bit, declare a `tolerance`",
        )
    }

    /// Asked to stop, it does.
    async fn cancel(&self, bench: &mut Bench) -> Checked {
        let place = self.place(bench)?;
        let expected = "it stops soon when it is asked to, or is done";
        let help =
            "ask `cancelled` in every long loop (`ctx.check_cancelled()?` in Rust) and answer CANCELLED";
        match bench.cancel(self.task(&place, SEED, 1), &place).await? {
            Some(Ok(()) | Err(Failure::Cancelled)) => Ok(()),
            Some(Err(failure)) => Err(failed(expected, failure.to_string(), help)),
            None => {
                let found = format!("it went on for {}", humantime::format_duration(GRACE));
                Err(failed(expected, found, help))
            }
        }
    }

    /// Where its outputs cannot be written it says so, and the next run in the same process is as good as any.
    async fn fails_well(&self, bench: &mut Bench, first: &Place, steady: bool) -> Checked {
        let place = self.place(bench)?.blocked().map_err(|error| skipped(error.to_string()))?;
        let expected = "it says that it failed when an output cannot be written";
        let help =
            "`run` answers FAILED with a message when a file cannot be written, and frees what it holds";
        match bench.run(self.task(&place, SEED, 1), &place).await? {
            Err(Failure::Failed { messages }) if said(&messages) => {}
            Err(Failure::Failed { .. }) => return Err(failed(expected, "it failed without a message", help)),
            Err(failure) => return Err(failed(expected, failure.to_string(), help)),
            Ok(()) => return Err(failed(expected, "it said that it is done", help)),
        }
        let next = self.ran(bench, SEED, 1).await?;
        if steady { self.same(first, &next, "after a run that failed") } else { Ok(()) }
    }
}

fn shown(tolerance: Tolerance) -> String {
    tolerance.to_string()
}
