//! `restage plan`: what would run, and why, grouped by cause.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use indexmap::IndexMap;
use petgraph::graph::NodeIndex;
use serde_json::json;

use super::{Failure, Planned, Target, limits::check_gpus, planned, print_json};
use crate::{
    machine::Machine,
    plan::{Decision, Instance, Plan, Reason},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage plan workflows/quickstart.yaml --set regions.c=0.5\n  \
                        restage plan --all workflows/quickstart.yaml\n\nOne action in full: restage why WORKFLOW STAGE")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
    /// List every action, not groups
    #[arg(long)]
    pub(super) all: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Planned { plan, .. } = planned(&arguments.target).await?;
    check_gpus(&plan, &Machine::here())?;
    if arguments.target.json {
        print_json(&to_json(&plan));
    } else if arguments.all {
        for (action, label) in plan.graph.node_weights().zip(plan.labels()) {
            say!("{label}: {}", told(&action.decision));
        }
        say!("{}", counted(&plan));
        print_known_by_binary(&plan);
    } else {
        say!("{}", summary(&plan));
        print_known_by_binary(&plan);
    }
    Ok(ExitCode::SUCCESS)
}

/// A decision with all its reasons.
pub(super) fn told(decision: &Decision) -> String {
    match decision.reasons() {
        [] => decision.word().to_owned(),
        reasons => format!("{}: {}", decision.word(), together(reasons)),
    }
}

fn together(reasons: &[Reason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Instances of each action.
pub(super) fn instances_of(plan: &Plan) -> BTreeMap<NodeIndex, Vec<&Instance>> {
    let mut of: BTreeMap<NodeIndex, Vec<&Instance>> = BTreeMap::new();
    for instance in &plan.instances {
        of.entry(instance.action).or_default().push(instance);
    }
    of
}

/// An action for programs.
pub(super) fn action_json(plan: &Plan, node: NodeIndex, instances: &[&Instance]) -> serde_json::Value {
    let action = &plan.graph[node];
    let step = &action.step;
    let reasons = action.decision.reasons();
    let variants: indexmap::IndexSet<&str> = instances.iter().map(|instance| &*instance.variant).collect();
    let seeds: indexmap::IndexSet<u64> = instances.iter().filter_map(|instance| instance.seed).collect();
    let inputs: BTreeMap<&str, Vec<serde_json::Value>> = action
        .inputs
        .iter()
        .map(|(port, sources)| {
            let source = |(source, output): &(NodeIndex, std::sync::Arc<str>)| {
                let digest = plan.graph[*source].artifacts.get(&**output);
                json!({ "action": source.index(), "output": &**output, "digest": digest })
            };
            (&**port, sources.iter().map(source).collect())
        })
        .collect();
    json!({
        "action": node.index(),
        "stage": &*step.stage,
        "at": *step.at,
        "uses": step.uses,
        "seed": action.seeds.all,
        "variants": variants,
        "seeds": seeds,
        "decision": action.decision.word(),
        "reason": reasons.first(),
        "reasons": reasons,
        "explanation": (!reasons.is_empty()).then(|| together(reasons)),
        "key": action.key,
        "params": *step.params,
        "inputs": inputs,
        "outputs": action.artifacts,
    })
}

/// Plugins whose results only who has the very same library shares.
fn known_by_binary(plan: &Plan) -> BTreeSet<&str> {
    let steps = plan.graph.node_weights().map(|action| &action.step).filter(|step| !step.code.from_sources);
    steps.filter_map(|step| Some(step.uses.split_once('/')?.0)).collect()
}

fn print_known_by_binary(plan: &Plan) {
    for plugin in known_by_binary(plan) {
        say!(
            "plugin {plugin} is known by its binary only: another build of it shares no results; \
             give the folder of its sources to be known by those"
        );
    }
}

fn to_json(plan: &Plan) -> serde_json::Value {
    let of = instances_of(plan);
    let actions: Vec<_> = of.iter().map(|(node, instances)| action_json(plan, *node, instances)).collect();
    let variants: Vec<&str> = plan.variants.iter().map(|name| &**name).collect();
    json!({ "variants": variants, "baseline": &*plan.baseline, "seeds": plan.seeds, "actions": actions,
        "known_by_binary": known_by_binary(plan) })
}

/// How many actions there are of each decision.
fn counted(plan: &Plan) -> String {
    let count =
        |word: &str| plan.graph.node_weights().filter(|action| action.decision.word() == word).count();
    let [cached, fetch, run, may] = ["cached", "fetch", "run", "may run"].map(count);
    let fetch = if fetch > 0 { format!(", {fetch} to fetch") } else { String::new() };
    format!("{} actions: {cached} cached{fetch}, {run} to run, {may} may run", plan.graph.node_count())
}

/// Groups of actions that run for the same reasons, the reasons' order that of the plan.
fn summary(plan: &Plan) -> String {
    let mut lines = vec![counted(plan)];
    for (word, title) in [("run", "to run"), ("may run", "may run, unless inputs come out as they were")] {
        let mut groups: IndexMap<String, IndexMap<&str, usize>> = IndexMap::new();
        for action in plan.graph.node_weights().filter(|action| action.decision.word() == word) {
            let upstream = |reason: &&Reason| matches!(reason, Reason::Upstream { .. });
            let own: Vec<Reason> =
                action.decision.reasons().iter().filter(|reason| !upstream(reason)).cloned().collect();
            let cause = if own.is_empty() { "of those".to_owned() } else { together(&own) };
            *groups.entry(cause).or_default().entry(&action.step.stage).or_default() += 1;
        }
        if groups.is_empty() {
            continue;
        }
        let total: usize = groups.values().flat_map(IndexMap::values).sum();
        lines.push(format!("{total} {title}:"));
        for (cause, stages) in groups {
            let count: usize = stages.values().sum();
            lines.push(format!("  {count} because {cause}"));
            let stages: Vec<String> = stages
                .iter()
                .map(
                    |(stage, count)| {
                        if *count == 1 { (*stage).to_owned() } else { format!("{stage} x {count}") }
                    },
                )
                .collect();
            lines.push(format!("      {}", stages.join(", ")));
        }
    }
    lines.join("\n")
}
