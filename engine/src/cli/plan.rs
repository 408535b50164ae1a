//! `restage plan`: what would run, and why.

use std::{collections::BTreeMap, process::ExitCode};

use petgraph::graph::NodeIndex;
use serde_json::json;

use super::{Failure, Planned, Target, planned, print_json};
use crate::plan::{Decision, Plan};

#[derive(clap::Args)]
#[command(after_help = "Example: restage plan workflows/quickstart.yaml --set regions.c=0.5")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let target = arguments.target;
    let Planned { plan, .. } = planned(&target).await?;
    if target.json {
        print_json(&to_json(&plan));
    } else {
        print(&plan);
    }
    Ok(ExitCode::SUCCESS)
}

/// Variants and seeds for which each action is done.
fn wanted_by(plan: &Plan) -> BTreeMap<NodeIndex, Vec<(&str, Option<u64>)>> {
    let mut wanted: BTreeMap<NodeIndex, Vec<(&str, Option<u64>)>> = BTreeMap::new();
    for instance in &plan.instances {
        wanted.entry(instance.action).or_default().push((&instance.variant, instance.seed));
    }
    wanted
}

fn to_json(plan: &Plan) -> serde_json::Value {
    let wanted = wanted_by(plan);
    let actions: Vec<_> = plan
        .graph
        .node_indices()
        .map(|node| {
            let action = &plan.graph[node];
            let (decision, reason) = match &action.decision {
                Decision::Cached => ("cached", None),
                Decision::Run(reason) => ("run", Some(reason)),
                Decision::MayRun(reason) => ("may run", Some(reason)),
            };
            let seeds: Vec<_> = wanted.get(&node).into_iter().flatten().collect();
            json!({
                "action": node.index(),
                "stage": action.stage,
                "at": action.at,
                "uses": action.uses,
                "seed": action.seed,
                "variants": seeds.iter().map(|(variant, _)| variant).collect::<std::collections::BTreeSet<_>>(),
                "decision": decision,
                "reason": reason,
                "explanation": reason.map(ToString::to_string),
                "key": action.key,
            })
        })
        .collect();
    json!({ "variants": plan.variants, "seeds": plan.seeds, "actions": actions })
}

fn print(plan: &Plan) {
    let mut counts = [0; 3];
    for (action, label) in plan.graph.node_weights().zip(plan.labels()) {
        counts[match action.decision {
            Decision::Cached => 0,
            Decision::Run(_) => 1,
            Decision::MayRun(_) => 2,
        }] += 1;
        say!("{label}: {}", action.decision);
    }
    let [cached, run, may] = counts;
    say!("{} actions: {cached} cached, {run} to run, {may} may run", plan.graph.node_count());
}
