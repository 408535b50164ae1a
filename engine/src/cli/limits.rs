//! What a command that runs stages may use of this machine.

use std::{num::NonZeroUsize, time::Duration};

use super::Failure;
use crate::{
    executor::{self, Executor, Local, slurm::Settings},
    machine::Machine,
    plan::{Decision, Plan},
    workflow::{Diagnostic, Diagnostics},
};

#[derive(clap::Args)]
pub(super) struct Limits {
    /// How many stages may run at once; by default as many as have threads
    #[arg(long, short = 'j', value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// How many threads running stages are given together; by default all cores. A stage that does not say how many it
    /// wants gets one, and those that nobody has as it begins
    #[arg(long, value_name = "N")]
    cpus: Option<NonZeroUsize>,
    /// How much main memory all running stages may use together, e.g. `16GiB`; by default all there is
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// How long a stage may take to stop when it is asked to, e.g. to write a checkpoint; by default 10s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
}

fn size(text: &str) -> Result<u64, String> {
    crate::workflow::bytes(text)
        .ok_or_else(|| "expected a size with its unit, e.g. `512MiB` or `16GiB`".to_owned())
}

impl Limits {
    /// This machine, as far as it may be used.
    pub(super) fn machine(&self) -> Machine {
        let here = Machine::here();
        Machine {
            jobs: self.jobs.map_or(here.jobs, NonZeroUsize::get),
            cpus: self.cpus.map_or(here.cpus, NonZeroUsize::get),
            memory: self.memory.unwrap_or(here.memory),
            gpus: here.gpus,
        }
    }

    /// What runs stages on this machine.
    pub(super) fn executor(&self, store: &restage_cache::Store) -> Executor {
        Executor::Local(Local::new(store.clone(), self.grace()))
    }

    /// How long a stage may take to stop.
    pub(super) fn grace(&self) -> Duration {
        self.grace.unwrap_or(executor::GRACE)
    }
}

/// Tells what of a plan this machine cannot run for want of GPUs, and what it runs without them.
///
/// # Errors
/// If a stage that will run requires more GPUs than there are.
pub(super) fn check_gpus(plan: &Plan, machine: &Machine) -> Result<(), Failure> {
    let mut problems = Diagnostics::default();
    let (mut told, mut without) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for action in plan.graph.node_weights().filter(|action| !action.decision.is_known()) {
        let (wanted, stage) = (&action.step.execution.gpus, &action.step.stage);
        let fitting =
            machine.gpus.iter().filter(|gpu| wanted.memory.is_none_or(|need| need <= gpu.memory)).count();
        match &wanted.asked {
            _ if fitting >= wanted.count => {}
            None => drop(without.insert(stage.to_string())),
            Some(at) => {
                if matches!(action.decision, Decision::Run(_)) && told.insert(stage.clone()) {
                    problems.push(lacking(stage, wanted.count, fitting, at, machine));
                }
            }
        }
    }
    if !problems.0.is_empty() {
        return Err(crate::plan::PlanError::Invalid(problems).into());
    }
    if !without.is_empty() {
        let stages = without.into_iter().collect::<Vec<_>>().join(", ");
        match machine.gpus.len() {
            0 => eprintln!("no GPU here: on the CPU runs {stages}"),
            seen => eprintln!("fewer GPUs than asked for ({seen} here): with what there is runs {stages}"),
        }
    }
    Ok(())
}

/// Tells what of a plan no allocation can run for want of GPUs.
///
/// # Errors
/// If a stage that will run requires GPUs, and no profile of the site has any.
pub(super) fn check_gpus_away(plan: &Plan, settings: &Settings) -> Result<(), Failure> {
    if settings.has_gpus() {
        return Ok(());
    }
    let mut problems = Diagnostics::default();
    for action in plan.graph.node_weights().filter(|action| matches!(action.decision, Decision::Run(_))) {
        if let Some(at) = &action.step.execution.gpus.asked {
            let message = format!("`{}` requires GPUs, and no allocation has any", action.step.stage);
            problems.push(Diagnostic::new(at, message, "required here").help(
                "give a `[[slurm.profile]]` of `restage.toml` a `gres`, e.g. `gres = \"gpu\"`; or say `as available`",
            ));
        }
    }
    if problems.0.is_empty() { Ok(()) } else { Err(crate::plan::PlanError::Invalid(problems).into()) }
}

fn lacking(
    stage: &str,
    wanted: usize,
    fitting: usize,
    at: &crate::workflow::Place,
    machine: &Machine,
) -> Diagnostic {
    let gpus = |count: usize| format!("{count} GPU{}", if count == 1 { "" } else { "s" });
    let message = format!(
        "`{stage}` requires {}, and this machine has {}",
        gpus(wanted),
        match (fitting, machine.gpus.len()) {
            (0, 0) => "none".to_owned(),
            (fitting, seen) if fitting == seen => gpus(seen),
            (fitting, seen) => format!("{fitting} of {seen} with so much free memory"),
        }
    );
    Diagnostic::new(at, message, "required here").help(
        "run it where there are; or say `as available` instead of `required`, and it runs on the CPU; results that somebody \
         else has computed are used on any machine",
    )
}
