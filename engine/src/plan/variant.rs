//! The variants of a sweep: the workflow as written, and with each change against it.

use crate::{
    plugin::Catalog,
    workflow::{
        Ablation, Diagnostic, Diagnostics, Located, Node, OutputRef, Workflow, set_argument, suggest,
    },
};

use super::Selection;

/// The variant without changes.
pub(crate) const BASELINE: &str = "baseline";

/// A workflow with its changes made.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) workflow: Workflow,
}

/// All variants that are asked for, the baseline first.
pub(super) fn variants(
    workflow: &Workflow,
    selection: &Selection,
    catalog: &Catalog,
    problems: &mut Diagnostics,
) -> Vec<Variant> {
    let mut baseline = workflow.clone();
    for text in &selection.set {
        match set_argument(text) {
            Ok((path, value)) => baseline.set(&path, &value, problems),
            Err(problem) => problems.push(problem),
        }
    }
    let mut variants = Vec::new();
    for ablation in &workflow.sweep.ablate {
        for (name, changes) in series(ablation, problems) {
            let mut changed = baseline.clone();
            for (path, value) in &changes {
                changed.set(path, value, problems);
            }
            for stage in &ablation.drop {
                drop_stage(&mut changed, stage, catalog, problems);
            }
            variants.push(Variant { name, workflow: changed });
        }
    }
    variants.insert(0, Variant { name: BASELINE.to_owned(), workflow: baseline });
    select(variants, selection, problems)
}

fn select(variants: Vec<Variant>, selection: &Selection, problems: &mut Diagnostics) -> Vec<Variant> {
    if selection.only.is_empty() {
        return variants;
    }
    for wanted in &selection.only {
        if !variants.iter().any(|variant| variant.name == *wanted) {
            let at = crate::workflow::Place::argument(wanted);
            let known = variants.iter().map(|variant| variant.name.as_str());
            problems.push(
                Diagnostic::new(&at, format!("there is no variant `{wanted}`"), "asked for here")
                    .help(suggest(wanted, known)),
            );
        }
    }
    variants.into_iter().filter(|variant| selection.only.contains(&variant.name)).collect()
}

type Changes = Vec<(Located<String>, Node)>;

/// The variants of one ablation: itself, or one per value that it varies.
fn series(ablation: &Ablation, problems: &mut Diagnostics) -> Vec<(String, Changes)> {
    let name = &ablation.name;
    match ablation.vary.as_slice() {
        [] => vec![(name.value.clone(), ablation.set.clone())],
        [(path, values)] => values
            .iter()
            .map(|value| {
                let mut changes = ablation.set.clone();
                changes.push((path.clone(), value.clone()));
                let shown = match value.to_json() {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                (format!("{} = {shown}", name.value), changes)
            })
            .collect(),
        [_, (second, _), ..] => {
            problems.push(
                Diagnostic::new(&second.at, "an ablation varies one path", "the second one").help(
                    "give each path an ablation of its own, so that each row of the table has one cause",
                ),
            );
            Vec::new()
        }
    }
}

/// Leaves a stage out: who read an output of it gets its input of the same port type.
fn drop_stage(
    workflow: &mut Workflow,
    dropped: &Located<String>,
    catalog: &Catalog,
    problems: &mut Diagnostics,
) {
    let names: Vec<String> = workflow.stages.keys().cloned().collect();
    let Some(stage) = workflow.stages.shift_remove(&dropped.value) else {
        problems.push(
            Diagnostic::new(&dropped.at, format!("there is no stage `{}`", dropped.value), "dropped here")
                .help(suggest(&dropped.value, names.iter().map(String::as_str))),
        );
        return;
    };
    let Some(offer) = catalog.find(&stage.uses.value) else { return };
    let replacement = |output: &OutputRef| -> Option<Vec<Located<OutputRef>>> {
        let port = match &output.port {
            Some(port) => offer.stage.outputs.iter().find(|known| known.name == *port)?,
            None => offer.stage.outputs.first()?,
        };
        let same_type = offer.stage.inputs.iter().find(|input| input.kind == port.kind)?;
        Some(stage.inputs.get(&same_type.name)?.from.clone())
    };
    for reader in workflow.stages.values_mut() {
        for input in reader.inputs.values_mut() {
            let mut from = Vec::new();
            for output in std::mem::take(&mut input.from) {
                if output.value.stage != dropped.value {
                    from.push(output);
                    continue;
                }
                match replacement(&output.value) {
                    Some(outputs) => from.extend(outputs),
                    None => problems.push(
                        Diagnostic::new(
                            &dropped.at,
                            format!("`{}` cannot be dropped", dropped.value),
                            "dropped here",
                        )
                        .and(&output.at, "this reads an output that no input of it could replace")
                        .help("set the reader's input to another stage instead"),
                    ),
                }
            }
            input.from = from;
        }
    }
}
