//! The ports of a stage: those of its type; where the type leaves them open, those that the workflow chooses.

use std::{borrow::Cow, sync::Arc};

use restage_stage::catalogue::{InputPort, OutputPort, PortType, StageType};
use serde_json::Value;

use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Node, Stage},
};

/// The param of an open type that names its outputs.
const OUTPUTS: &str = "outputs";

/// The param of an open type that says whether it takes a seed.
const SEED: &str = "seed";

/// A stage's type with the ports that the stage has.
pub(super) fn of<'a>(stage: &Stage, catalog: &'a Catalog) -> Option<Cow<'a, StageType>> {
    let known = catalog.find(&stage.uses.value)?.stage;
    if !known.open {
        return Some(Cow::Borrowed(known));
    }
    let input = |name: &String| InputPort {
        name: name.clone(),
        kind: PortType::Any,
        optional: true,
        needed_if: Vec::new(),
        many: true,
        doc: String::new(),
    };
    let outputs = stage.with.get(OUTPUTS).map(|(_, node)| node.entries()).unwrap_or_default();
    let output = |name: &str, kind: PortType| OutputPort { name: name.to_owned(), kind, doc: String::new() };
    Some(Cow::Owned(StageType {
        inputs: stage.inputs.keys().map(input).collect(),
        // A type that is none is told by the plugin; until then anything may read it.
        outputs: outputs
            .iter()
            .map(|(name, kind)| output(&name.value, kind_of(kind).unwrap_or(PortType::Any)))
            .collect(),
        ..known.clone()
    }))
}

fn kind_of(node: &Node) -> Option<PortType> {
    serde_json::from_value(node.text()?.into()).ok()
}

/// Tells what cannot be said of open ports.
pub(super) fn check(name: &str, stage: &Stage, catalog: &Catalog, problems: &mut Diagnostics) {
    let is_open = catalog.find(&stage.uses.value).is_some_and(|offer| offer.stage.open);
    let Some((_, outputs)) = stage.with.get(OUTPUTS).filter(|_| is_open) else { return };
    let texts = outputs
        .entries()
        .iter()
        .map(|(_, kind)| kind)
        .chain([outputs])
        .filter_map(|node| Some((node, node.text()?)));
    for (node, _) in texts.filter(|(_, text)| text.contains("${")) {
        problems.push(
            Diagnostic::new(&node.at, format!("the outputs of `{name}` depend on a value"), "a reference")
                .help("write them out, `outputs: { table: table }`: other stages are wired to them before values are known"),
        );
    }
}

/// What a stage draws its random numbers by.
#[derive(Clone, Debug)]
pub(super) enum Draws {
    /// It draws none.
    Nothing,
    /// From the seed; these streams of it have names.
    Streams(Arc<[Arc<str>]>),
}

/// What a stage of this type with these params draws by.
pub(super) fn draws(kind: &StageType, params: &Value) -> Draws {
    let seeded = kind.seeded
        || kind.seeded_if.iter().any(|by| by.holds(params))
        || (kind.open && params.get(SEED) == Some(&Value::Bool(true)));
    match seeded {
        true => Draws::Streams(kind.streams.iter().map(|stream| stream.as_str().into()).collect()),
        false => Draws::Nothing,
    }
}

/// The outputs of a stage of this type with these params, which are right.
pub(super) fn outputs(kind: &StageType, params: &Value) -> Vec<(String, PortType)> {
    if !kind.open {
        return kind.outputs.iter().map(|port| (port.name.clone(), port.kind)).collect();
    }
    let named = params.get(OUTPUTS).and_then(Value::as_object).into_iter().flatten();
    named
        .filter_map(|(name, kind)| Some((name.clone(), serde_json::from_value(kind.clone()).ok()?)))
        .collect()
}
