//! `restage why`: one stage's decision in full: what it is, what it reads, what changed, and where that began.

use std::{collections::BTreeMap, process::ExitCode};

use petgraph::graph::NodeIndex;
use restage_cache::{Lookup, Store};

use super::{
    Failure, Planned, Target,
    plan::{action_json, told},
    planned, print_json,
};
use crate::plan::{Action, Instance, Plan, Reason};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage why workflows/quickstart.yaml regions\n  \
                        restage why workflows/quickstart.yaml 'regions@image only' --set regions.c=0.5")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
    /// The stage; `STAGE[VALUE]` for one point of a mapped stage, with `@VARIANT` for one variant
    stage: String,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Planned { plan, cache, .. } = planned(&arguments.target).await?;
    let store = cache.store;
    let mut actions: BTreeMap<NodeIndex, Vec<&Instance>> = BTreeMap::new();
    for instance in plan.named(&arguments.stage)? {
        actions.entry(instance.action).or_default().push(instance);
    }
    if arguments.target.json {
        let list: Vec<_> = actions
            .iter()
            .map(|(node, instances)| {
                let mut action = action_json(&plan, *node, instances);
                if let Some(entries) = action.as_object_mut() {
                    let chain: Vec<String> =
                        chain(&plan, *node).iter().map(|node| plan.graph[*node].name()).collect();
                    entries.insert("chain".into(), chain.into());
                    entries.insert("last".into(), provenance(&plan.graph[*node], &store).unwrap_or_default());
                }
                action
            })
            .collect();
        print_json(&list);
        return Ok(ExitCode::SUCCESS);
    }
    // Seeds and points that differ in nothing else are told together.
    let mut groups: indexmap::IndexMap<String, Vec<String>> = indexmap::IndexMap::new();
    for (node, instances) in &actions {
        let labels = instances.iter().map(|instance| instance.label(&plan.baseline));
        groups.entry(explain(&plan, *node, &store)).or_default().extend(labels);
    }
    for (text, labels) in groups {
        say!("{}\n{text}", labels.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything about one action but its name.
fn explain(plan: &Plan, node: NodeIndex, store: &Store) -> String {
    let action = &plan.graph[node];
    let step = &action.step;
    let mut lines = vec![format!("  {}", told(&action.decision))];
    let chain = chain(plan, node);
    if let Some((root, path)) = chain.split_last()
        && !path.is_empty()
    {
        let names: Vec<String> = path.iter().map(|node| plan.graph[*node].name()).collect();
        let root = &plan.graph[*root];
        lines.push(format!("    {} <- {}: {}", names.join(" <- "), root.name(), told(&root.decision)));
    }
    let from = if step.code.from_sources { "sources" } else { "library" };
    lines.push(format!("  uses {}  (code {:.12}, known by its {from})", step.uses, step.code.identity));
    for (param, value) in step.params.as_object().into_iter().flatten() {
        lines.push(format!("  with {param} = {value}"));
    }
    for (path, digest) in &step.named.files {
        lines.push(format!("  file {}  ({digest:.12})", path.display()));
    }
    for (port, sources) in &action.inputs {
        for (source, output) in sources {
            let source = &plan.graph[*source];
            let state = match source.artifacts.get(&**output) {
                Some(digest) => format!("{digest:.12}"),
                None => format!("not known before it ran: {}", source.decision.word()),
            };
            lines.push(format!("  in   {port} = {}.{output}  ({state})", source.name()));
        }
    }
    if let Some(key) = &action.key {
        lines.push(format!("  key  {key}"));
    }
    if let Some(last) = provenance(action, store) {
        let text = |name: &str| last.get(name).and_then(serde_json::Value::as_str).unwrap_or("?").to_owned();
        let seconds = last.get("milliseconds").and_then(serde_json::Value::as_f64).unwrap_or(0.0) / 1000.0;
        lines.push(format!("  made by {} on {} in {seconds:.1} s", text("user"), text("host")));
        lines.push(format!("  on {}; sandbox {}", device(&last), text("sandbox")));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What a result was computed with, in words.
fn device(provenance: &serde_json::Value) -> String {
    let gpus = provenance.get("device").and_then(|device| device.as_array()).into_iter().flatten();
    let names: Vec<&str> = gpus.filter_map(|gpu| gpu.get("name")?.as_str()).collect();
    let threads = provenance.get("threads").and_then(serde_json::Value::as_u64).unwrap_or(1);
    let threads = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
    let memory = provenance.get("memory").and_then(serde_json::Value::as_u64);
    let memory = memory.map(|bytes| format!(", {} of memory at most", bytesize::ByteSize::b(bytes)));
    format!(
        "{threads}{}{}",
        names.iter().map(|name| format!(", {name}")).collect::<String>(),
        memory.unwrap_or_default()
    )
}

/// An action and what it waits for, down to the one where the change begins.
fn chain(plan: &Plan, node: NodeIndex) -> Vec<NodeIndex> {
    let mut chain = vec![node];
    let mut current = node;
    loop {
        let action = &plan.graph[current];
        let waits = action.decision.reasons().iter().any(|reason| matches!(reason, Reason::Upstream { .. }));
        let sources = action.inputs.iter().flat_map(|(_, sources)| sources);
        let next = sources.map(|(source, _)| *source).find(|source| !plan.graph[*source].decision.is_known());
        match next.filter(|_| waits) {
            Some(next) => {
                chain.push(next);
                current = next;
            }
            None => return chain,
        }
    }
}

/// Who made the result that is in the store.
fn provenance(action: &Action, store: &Store) -> Option<serde_json::Value> {
    match store.lookup(action.key.as_ref()?) {
        Ok(Lookup::Hit(record)) => Some(record.provenance),
        _ => None,
    }
}
