//! The language as data: every key with its shape and what it means. Files are checked against these tables, and the
//! JSON Schema that editors complete from is written from them, so that the two cannot disagree.

use super::{
    Diagnostic, Diagnostics, Located, Node, Value,
    diagnostic::suggest,
    reference::{OutputRef, is_name},
    units,
};

/// A key of a mapping.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) shape: Shape,
    /// What it means, for editors.
    pub(super) doc: &'static str,
}

/// What a value may look like.
pub(super) enum Shape {
    /// Anything; someone else checks it.
    Any,
    /// Text.
    Text,
    /// This whole number.
    Exactly(i64),
    /// A whole number from here on.
    Whole(i64),
    /// `true` or `false`.
    Flag,
    /// A length of time.
    Time,
    /// A number of bytes.
    Size,
    /// A reference to a value that is elsewhere, `${params.x}`.
    Reference,
    /// `stage.port`, or `stage`.
    Output,
    /// `stage.metric`.
    Metric,
    /// A list with at least so many items.
    List(&'static Shape, usize),
    /// One, or a list.
    OneOrMore(&'static Shape),
    /// Two numbers, the lower one first.
    Bounds,
    /// A mapping with known keys; the text says what it is.
    Record(&'static str, &'static [Key]),
    /// A mapping from names.
    Named(&'static Shape),
    /// A mapping from paths of values, `stage.param`.
    Paths(&'static Shape),
    /// A mapping from any text.
    Titled(&'static Shape),
    /// One of these; the text says what is expected.
    Either(&'static str, &'static [Shape]),
}

use Shape::*;

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, required: false, shape, doc }
}

const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, required: true, shape, doc }
}

pub(super) const WORKFLOW: Shape = Record(
    "a workflow",
    &[
        required("restage", Exactly(1), "Version of the workflow language."),
        key("name", Text, "The workflow's name; by default the file's."),
        key("plugins", List(&PLUGIN, 0), "Where the stage types come from."),
        key("import", Named(&IMPORT), "Stages of other files, under a prefix: `prep` brings `prep.counts`."),
        key(
            "env",
            Either("a list of names, or names with defaults", &[List(&Text, 0), Named(&Any)]),
            "Environment variables that values may refer to as `${env.NAME}`; with a default, or they must be set.",
        ),
        key("params", Named(&Any), "Values that others refer to as `${params.NAME}`."),
        key("stages", Named(&STAGE), "The steps, by name."),
        key("sweep", SWEEP, "What is varied and compared."),
    ],
);

const PLUGIN: Shape = Record(
    "a plugin",
    &[required(
        "path",
        Text,
        "The folder of its sources, built when they change, or its library; relative to this file.",
    )],
);

const IMPORT: Shape = Record(
    "an import",
    &[
        required("path", Text, "A workflow file, relative to this one."),
        key("params", Named(&Any), "Values for its params."),
    ],
);

pub(super) const STAGE: Shape = Record(
    "a stage",
    &[
        required("uses", Text, "The stage type, `plugin/name`."),
        key(
            "in",
            Named(&OneOrMore(&Output)),
            "Per input port the output that it reads: `stage.port`, or a list.",
        ),
        key("with", Named(&Any), "The params of the stage type."),
        key("foreach", Named(&VALUES), "Maps the stage over values; they are `${foreach.NAME}` in `with`."),
        key("gather", OneOrMore(&Text), "Dimensions of mapped inputs that it collects into lists."),
        key(
            "resources",
            RESOURCES,
            "What it needs of the machine. Changes no result, so nothing runs again for it.",
        ),
        key("retries", Whole(0), "How often it is tried again when it fails. Default 0."),
        key("timeout", Time, "How long one try may take, e.g. `30m`. Default: as long as it likes."),
    ],
);

const VALUES: Shape = Either("a list, or a reference to one", &[List(&Any, 1), Reference]);

const RESOURCES: Shape = Record(
    "`resources`",
    &[
        key("cpus", Whole(1), "Threads. Default 1."),
        key(
            "memory",
            Size,
            "Main memory, e.g. `4GiB`: stages wait until that much is free of others' claims.",
        ),
        key(
            "gpus",
            Either("a whole number from 0, or `{ count, required }`", &[Whole(0), GPUS]),
            "GPUs, taken as available; with `required: true` it cannot do without.",
        ),
    ],
);

const GPUS: Shape = Record(
    "`gpus`",
    &[
        required("count", Whole(0), "How many."),
        key("required", Flag, "Whether it cannot do without. Default false."),
    ],
);

const SWEEP: Shape = Record(
    "`sweep`",
    &[
        key("metric", OneOrMore(&Metric), "What the table compares, `stage.metric`; the first one decides."),
        key("seeds", List(&Whole(0), 1), "Seeds; only stages that take one fork. Default `[0]`."),
        key(
            "baseline",
            Text,
            "The variant that others are compared with; by default the workflow as written.",
        ),
        key("ablate", Titled(&ABLATION), "Changes against the workflow as written, by name: a variant each."),
        key("grid", Paths(&List(&Any, 1)), "A variant for each combination of values."),
        key(
            "zip",
            Paths(&List(&Any, 1)),
            "A variant for the first values, one for the second ones, and so on.",
        ),
        key("random", RANDOM, "Variants with values drawn at random."),
        key("only", OneOrMore(&Text), "Variants to take, of all of these; `--only` takes others instead."),
        key(
            "exclude",
            List(&Paths(&Any), 1),
            "Variants of `grid`, `zip` and `random` to leave out, by values.",
        ),
    ],
);

const ABLATION: Shape = Record(
    "an ablation",
    &[
        key("set", Paths(&Any), "Values to set, all together."),
        key("vary", Paths(&List(&Any, 1)), "One path with the values that it takes: a variant each."),
        key("drop", OneOrMore(&Text), "Stages to leave out; who reads them gets their input instead."),
    ],
);

const RANDOM: Shape = Record(
    "`random`",
    &[
        required("samples", Whole(1), "How many variants. More of them later keep the ones drawn before."),
        key("seed", Whole(0), "Where the numbers come from. Default 0."),
        required("over", Paths(&RANGE), "Per path a list to choose from, or a range."),
    ],
);

const RANGE: Shape = Either(
    "a list, or one of `{ uniform }`, `{ log_uniform }`, `{ whole }` with `[low, high]`",
    &[
        List(&Any, 1),
        Record("a range", &[required("uniform", Bounds, "Evenly between two numbers.")]),
        Record(
            "a range",
            &[required("log_uniform", Bounds, "Evenly in the logarithm: learning rates and the like.")],
        ),
        Record("a range", &[required("whole", Bounds, "A whole number, both ends included.")]),
    ],
);

/// Tells everything in which a value differs from a shape. `what` names it in messages.
pub(super) fn check(node: &Node, shape: &Shape, what: &str, problems: &mut Diagnostics) {
    if problems.full() {
        return;
    }
    let expected = match shape {
        Any => return,
        Text => is(matches!(node.value, Value::Text(_)), "text"),
        Exactly(number) => match node.value {
            Value::Int(found) if found == *number => None,
            _ => Some(number.to_string()),
        },
        Whole(from) => match node.value {
            Value::Int(found) if found >= *from => None,
            _ => Some(format!("a whole number from {from}")),
        },
        Flag => is(matches!(node.value, Value::Bool(_)), "`true` or `false`"),
        Time => is(
            node.text().and_then(units::duration).is_some(),
            "a time with its unit, e.g. `90s`, `30m`, `1h 30m`",
        ),
        Size => {
            is(node.text().and_then(units::bytes).is_some(), "a size with its unit, e.g. `512MiB` or `4GiB`")
        }
        Reference => is(is_reference(node), "a reference, `${params.NAME}`"),
        Output => is(
            node.text().is_some_and(OutputRef::is_one),
            "the output of a stage: `stage.port`, or `stage` if it has one",
        ),
        Metric => is(
            node.text()
                .and_then(|text| text.rsplit_once('.'))
                .is_some_and(|(stage, name)| !stage.is_empty() && is_name(name)),
            "a stage's metric, e.g. `evaluate.macro_f1`",
        ),
        Bounds => is(bounds(node).is_some(), "two numbers `[low, high]`, the lower one first"),
        List(item, at_least) => match &node.value {
            Value::List(items) if items.len() >= *at_least => {
                return items
                    .iter()
                    .for_each(|node| check(node, item, &format!("an item of {what}"), problems));
            }
            Value::List(_) => Some("at least one value".to_owned()),
            _ => Some("a list".to_owned()),
        },
        OneOrMore(item) => match &node.value {
            Value::List(items) => {
                return items
                    .iter()
                    .for_each(|node| check(node, item, &format!("an item of {what}"), problems));
            }
            _ => return check(node, item, what, problems),
        },
        Record(_, keys) => match &node.value {
            Value::Map(entries) => return check_record(node, entries, shape, keys, problems),
            _ => Some("a mapping".to_owned()),
        },
        Named(value) | Paths(value) | Titled(value) => match &node.value {
            Value::Map(entries) => return check_entries(entries, shape, value, problems),
            _ => Some("a mapping".to_owned()),
        },
        Either(expected, shapes) => return check_either(node, shapes, expected, what, problems),
    };
    if let Some(expected) = expected {
        let message = format!("{what} is {}, not {expected}", shown(node));
        problems.push(advise(
            node,
            shape,
            Diagnostic::new(&node.at, message, format!("expected {expected}")),
        ));
    }
}

fn is(right: bool, expected: &str) -> Option<String> {
    (!right).then(|| expected.to_owned())
}

/// What was found: short values themselves, others by their kind.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Text(text) if text.chars().count() <= 24 => format!("the text `{text}`"),
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => format!("`{}`", node.to_json()),
        Value::List(items) if items.is_empty() => "an empty list".to_owned(),
        _ => node.kind().to_owned(),
    }
}

/// Words for mistakes that YAML invites.
fn advise(node: &Node, shape: &Shape, diagnostic: Diagnostic) -> Diagnostic {
    match (&node.value, shape) {
        (Value::Text(text), Whole(_) | Exactly(_)) if text.parse::<f64>().is_ok() => {
            diagnostic.help("without quotes it is a number")
        }
        (Value::Text(text), Flag) => match boolean_word(text) {
            Some(word) => diagnostic.help(format!("`{text}` is text; write `{word}`")),
            None => diagnostic,
        },
        (Value::Null, _) => {
            diagnostic.help("there is nothing after the colon: give a value, or remove the key")
        }
        (Value::Int(number), Time) => diagnostic.help(format!("did you mean `{number}s`?")),
        (Value::Int(number), Size) => diagnostic.help(format!("did you mean `{number}GiB`?")),
        (Value::Int(_) | Value::Float(_) | Value::Bool(_), Text) => diagnostic.help("put it in quotes"),
        _ => diagnostic,
    }
}

/// What older YAML took for a boolean, in today's words.
pub(crate) fn boolean_word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" => Some(true),
        "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// Checks one entry of a mapping with known keys.
pub(super) fn check_key(record: &Shape, name: &Located<String>, value: &Node, problems: &mut Diagnostics) {
    let Record(title, keys) = record else { return };
    match keys.iter().find(|key| key.name == name.value) {
        None if problems.full() => {}
        Some(key) => check(value, &key.shape, &format!("`{}`", key.name), problems),
        None => {
            let known = keys.iter().map(|key| key.name);
            problems.push(
                Diagnostic::new(&name.at, format!("{title} has no `{}`", name.value), "unknown key")
                    .help(suggest(&name.value, known)),
            );
        }
    }
}

fn check_record(
    node: &Node,
    entries: &[(Located<String>, Node)],
    record: &Shape,
    keys: &[Key],
    problems: &mut Diagnostics,
) {
    for (name, value) in entries {
        check_key(record, name, value, problems);
    }
    let Record(title, _) = record else { return };
    for key in keys.iter().filter(|key| key.required) {
        if !entries.iter().any(|(name, _)| name.value == key.name) {
            let message = format!("{title} needs `{}`", key.name);
            problems.push(
                Diagnostic::new(&node.at, message, format!("expected `{}:`", key.name))
                    .help(format!("add `{}:`. {}", key.name, key.doc)),
            );
        }
    }
}

fn check_entries(
    entries: &[(Located<String>, Node)],
    shape: &Shape,
    value: &Shape,
    problems: &mut Diagnostics,
) {
    for (name, node) in entries {
        let (right, help) = match shape {
            Named(_) => (is_name(&name.value), "names are letters, digits, `_` and `-`"),
            Paths(_) => (
                name.value.contains('.') && name.value.split('.').all(|part| !part.is_empty()),
                "a path names a value: `stage.param`, `stage.in.port`, or `params.name`",
            ),
            _ => (!name.value.trim().is_empty(), "give it a name"),
        };
        if !right {
            let message = match shape {
                Paths(_) => format!("`{}` is not the path of a value", name.value),
                _ => format!("`{}` cannot be a name", name.value),
            };
            problems.push(Diagnostic::new(&name.at, message, "here").help(help));
        }
        check(node, value, &format!("`{}`", name.value), problems);
    }
}

/// Checks against the form that the value is meant to be: the first of the same kind.
fn check_either(node: &Node, shapes: &[Shape], expected: &str, what: &str, problems: &mut Diagnostics) {
    let tried: Vec<Diagnostics> = shapes
        .iter()
        .filter(|shape| same_kind(node, shape))
        .map(|shape| {
            let mut problems = Diagnostics::default();
            check(node, shape, what, &mut problems);
            problems
        })
        .collect();
    if tried.iter().any(|problems| problems.0.is_empty()) {
        return;
    }
    match <[Diagnostics; 1]>::try_from(tried) {
        Ok([only]) => problems.0.extend(only.0),
        Err(_) => problems.push(Diagnostic::new(
            &node.at,
            format!("{what} is {}, not {expected}", shown(node)),
            format!("expected {expected}"),
        )),
    }
}

fn same_kind(node: &Node, shape: &Shape) -> bool {
    match shape {
        List(..) | Bounds => matches!(node.value, Value::List(_)),
        Record(..) | Named(_) | Paths(_) | Titled(_) => matches!(node.value, Value::Map(_)),
        Whole(_) | Exactly(_) => matches!(node.value, Value::Int(_) | Value::Float(_)),
        Flag => matches!(node.value, Value::Bool(_)),
        Text | Time | Size | Reference | Output | Metric => matches!(node.value, Value::Text(_)),
        Any | OneOrMore(_) | Either(..) => true,
    }
}

fn is_reference(node: &Node) -> bool {
    node.text().is_some_and(|text| text.starts_with("${") && text.ends_with('}'))
}

/// A number, whole or not.
pub(super) fn number(node: &Node) -> Option<f64> {
    match node.value {
        Value::Int(value) => Some(value as f64),
        Value::Float(value) => Some(value),
        _ => None,
    }
}

/// `[low, high]`.
pub(super) fn bounds(node: &Node) -> Option<(f64, f64)> {
    match &node.value {
        Value::List(items) => match items.as_slice() {
            [low, high] => Some((number(low)?, number(high)?)).filter(|(low, high)| low < high),
            _ => None,
        },
        _ => None,
    }
}
