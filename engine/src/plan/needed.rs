//! What a variant runs: what leads to the sweep's metrics, and what nobody was to read in the first place, such as a drawing. Not the
//! features that it does without, and not the other head that another variant evaluates in place of its own.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::variant::Variants;
use crate::workflow::{Body, Diagnostic, Diagnostics, Place, Workflow, suggest};

/// Stages for which a variant runs others: those of the metrics, and those that nothing reads as the workflow is written, but for
/// alternatives. Without metrics, there is no telling what is needed: all.
pub(super) fn ends<'a>(
    workflow: &Workflow,
    as_written: &'a Body,
    alternatives: &HashSet<Arc<str>>,
) -> BTreeSet<&'a str> {
    let metrics = &workflow.sweep.metrics;
    if metrics.is_empty() {
        return as_written.names().collect();
    }
    let of_metrics: BTreeSet<&str> = metrics.iter().map(|metric| metric.value.stage.as_str()).collect();
    let read = read(as_written.stages.values().map(|stage| &**stage));
    let is_end =
        |name: &&str| of_metrics.contains(name) || !read.contains(name) && !alternatives.contains(*name);
    as_written.names().filter(is_end).collect()
}

/// The stages that `--until` asks for, each of some variant at least; `None` if it asks for none.
pub(super) fn asked<'a>(
    until: &'a [String],
    variants: &Variants,
    problems: &mut Diagnostics,
) -> Option<BTreeSet<&'a str>> {
    let bodies = variants.list.iter().map(|variant| &variant.body).chain([&variants.as_written]);
    let known: BTreeSet<&str> = bodies.flat_map(Body::names).collect();
    for stage in until.iter().filter(|stage| !known.contains(stage.as_str())) {
        let message = format!("there is no stage `{stage}`");
        let help = suggest(stage, known.iter().copied());
        problems.push(Diagnostic::new(&Place::argument(stage), message, "asked for here").help(help));
    }
    (!until.is_empty()).then(|| until.iter().map(String::as_str).collect())
}

/// The stages of a variant that lead to these ends, themselves included. `order` has inputs before their readers.
pub(super) fn needed<'a>(body: &'a Body, order: &'a [Arc<str>], ends: &BTreeSet<&str>) -> HashSet<&'a str> {
    let mut needed = HashSet::new();
    for name in order.iter().rev() {
        let Some(stage) = body.stages.get(name) else { continue };
        if ends.contains(&**name) || needed.contains(&**name) {
            needed.insert(&**name);
            needed.extend(read([&**stage]));
        }
    }
    needed
}

fn read<'a>(stages: impl IntoIterator<Item = &'a crate::workflow::Stage>) -> HashSet<&'a str> {
    let inputs = stages.into_iter().flat_map(|stage| stage.inputs.values());
    inputs.flat_map(|input| &input.from).map(|output| &*output.value.stage).collect()
}
