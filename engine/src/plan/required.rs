//! Inputs that may be left out, and are needed all the same: by what a stage's params say, or as one of several.

use std::{collections::HashSet, sync::Arc};

use restage_stage::catalogue::{Choice, InputPort, ParamIs, PortType, StageType};
use serde_json::Value;

use super::{
    group::{Draft, Group},
    words::inside,
};
use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Stage},
};

/// Tells of inputs that are not connected, though the params of a draft need them.
pub(super) fn by_params(
    groups: &[Group],
    drafts: &[Draft],
    canonical: &[Option<Arc<Value>>],
    catalog: &Catalog,
    problems: &mut Diagnostics,
) {
    // The drafts of a stage share its mistakes; what variants do not change is one stage.
    let mut told = HashSet::new();
    for (draft, params) in drafts.iter().zip(canonical) {
        let (group, Some(params)) = (&groups[draft.group], params) else { continue };
        let stage = &group.stage;
        let Some(offer) = catalog.find(&stage.uses.value) else { continue };
        for port in
            offer.stage.inputs.iter().filter(|port| !stage.misshapen && !is_connected(stage, &port.name))
        {
            if let Some(by) = port.needed_if.iter().find(|by| by.holds(params))
                && told.insert((Arc::as_ptr(stage), &port.name, by.to_string()))
            {
                problems.push(lacks_by(&group.name, stage, port, by));
            }
        }
    }
}

fn lacks_by(name: &str, stage: &Stage, port: &InputPort, by: &ParamIs) -> Diagnostic {
    let problem = lacks(name, stage, port, &format!(" where {by}"));
    // A default stands nowhere.
    match stage.with.get(by.param.split('.').next().unwrap_or_default()) {
        Some((_, node)) => problem.and(inside(node, &by.param).0, "it is here"),
        None => problem,
    }
}

/// A stage lacks an input; `when` says when it reads it.
pub(super) fn lacks(name: &str, stage: &Stage, port: &InputPort, when: &str) -> Diagnostic {
    let kind = if port.kind == PortType::Any { String::new() } else { format!(" ({})", port.kind) };
    let label = format!("`{}` reads `{}`{kind}{when}", stage.uses.value, port.name);
    Diagnostic::new(&stage.uses.at, format!("stage `{name}` lacks its input `{}`", port.name), label)
        .help(format!("add `in: {{ {}: STAGE.OUTPUT }}` ({})", port.name, port.doc))
}

/// Tells of inputs of which one is needed and none is connected, or of which one only is taken.
pub(super) fn of_choices(name: &str, stage: &Stage, kind: &StageType, problems: &mut Diagnostics) {
    for Choice { of, several } in kind.choices.iter().filter(|_| !stage.misshapen) {
        let connected: Vec<&String> = of.iter().filter(|port| is_connected(stage, port)).collect();
        match &connected[..] {
            [] => {
                let port = |name: &String| kind.inputs.iter().find(|port| port.name == *name);
                let docs = of.iter().filter_map(port).map(|port| format!("`{}`: {}", port.name, port.doc));
                let docs: Vec<String> = docs.collect();
                let label = if *several { "it reads one of them, or more" } else { "it reads one of them" };
                let message = format!("stage `{name}` lacks an input: {}", listed(of, "or"));
                problems.push(
                    Diagnostic::new(&stage.uses.at, message, label)
                        .help(format!("add `in: {{ NAME: STAGE.OUTPUT }}` ({})", docs.join("; "))),
                );
            }
            [first, second, ..] if !*several => {
                let message = format!("`{}` takes one of {}", stage.uses.value, listed(of, "and"));
                let [first, second] =
                    [first, second].map(|name| stage.inputs.get(*name).map(|input| &input.at));
                let problem = Diagnostic::new(second.unwrap_or(&stage.uses.at), message, "the second one");
                let problem = first.into_iter().fold(problem, |told, first| told.and(first, "the first one"));
                problems.push(problem.help("leave one of them out"));
            }
            _ => {}
        }
    }
}

fn is_connected(stage: &Stage, port: &str) -> bool {
    stage.inputs.get(port).is_some_and(|input| !input.from.is_empty())
}

/// `a`, `b` or `c`.
fn listed(names: &[String], last: &str) -> String {
    match names {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [before @ .., end] => {
            let before: Vec<String> = before.iter().map(|name| format!("`{name}`")).collect();
            format!("{} {last} `{end}`", before.join(", "))
        }
    }
}
