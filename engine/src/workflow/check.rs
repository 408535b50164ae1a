//! Files against the tables of `grammar.rs`: everything that has the wrong shape is told, with what was expected.

use super::{
    Diagnostic, Diagnostics, Located, Node, Value,
    diagnostic::{nearest, suggest},
    grammar::{self, Key, Shape, Shape::*},
    reference::{OutputRef, is_name},
    traps, units,
};

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
        Factor => {
            is(node.text().and_then(units::factor).is_some(), "how many times as much, from `x2` to `x64`")
        }
        Word(words) => {
            let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            is(node.text().is_some_and(|text| words.contains(&text)), &quoted.join(" or "))
        }
        Commit => is(
            node.text().is_some_and(is_commit),
            "the full id of a commit, 40 hexadecimal digits, e.g. what `git rev-parse HEAD` prints",
        ),
        Reference => is(is_reference(node), "a reference, `${params.NAME}`"),
        Output => is(
            node.text().is_some_and(OutputRef::is_one),
            "the output of a stage, e.g. `stage.port`, or `stage` if it has one output",
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
        Either(..) => return check_either(node, shape, what, problems),
    };
    if let Some(expected) = expected {
        tell(node, shape, what, &expected, problems);
    }
}

/// Tells a value of the wrong shape; examples stand with the place only.
fn tell(node: &Node, shape: &Shape, what: &str, expected: &str, problems: &mut Diagnostics) {
    let short = expected.split(", e.g. ").next().unwrap_or(expected);
    let message = format!("{what} is {}, not {short}", shown(node));
    let problem = Diagnostic::new(&node.at, message, format!("expected {expected}"));
    problems.push(match advice(node, shape) {
        Some(advice) => problem.help(advice),
        None => problem,
    });
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

/// Words for mistakes that are easily made.
fn advice(node: &Node, shape: &Shape) -> Option<String> {
    let written = node.at.source.text().get(node.at.span.clone()).unwrap_or_default();
    Some(match (&node.value, shape) {
        (Value::Text(text), Record(..) | Named(_) | Paths(_) | Titled(_))
            if traps::squeezed(text).is_some() =>
        {
            let (name, value) = traps::squeezed(text)?;
            format!("after a colon a space is missing: write `{name}: {value}`")
        }
        (Value::Null, _) => "there is nothing after the colon: give a value, or remove the key".to_owned(),
        (Value::Text(text), Whole(_) | Either(..) | Size | Time | Flag) if text.contains("${") => {
            "references stand in `with`, `foreach` and `params` only: write the value; `--set` changes it for one run".to_owned()
        }
        (Value::Text(text), Whole(_) | Exactly(_)) if text.parse::<f64>().is_ok() => {
            "without quotes it is a number".to_owned()
        }
        (Value::Int(_), Exactly(known)) => {
            format!("this `restage` reads version {known} of the language; a newer one may read others")
        }
        (Value::Text(text), Flag) => format!("`{text}` is text; write `{}`", boolean_word(text)?),
        (Value::Int(number), Time) => format!("did you mean `{number}s`?"),
        (Value::Int(number), Size) => format!("did you mean `{number}GiB`?"),
        (Value::Int(_) | Value::Float(_) | Value::Bool(_), Text) => "put it in quotes".to_owned(),
        (Value::Text(text), Output) if text.contains('/') => {
            "a file is no output: name it in the params (`with:`) of a stage that loads it".to_owned()
        }
        (Value::Text(_), Record(_, keys)) => {
            let key = keys.iter().find(|key| key.required && matches!(key.shape, Text))?;
            format!("write `{{ {}: {written} }}`", key.name)
        }
        (Value::Text(_) | Value::Int(_) | Value::Float(_), Commit) => {
            "a short id, a branch or a tag may be another commit tomorrow; a branch or a tag may stand as `ref:`, \
             if `restage.lock` pins it"
                .to_owned()
        }
        // Seeds, of which people say how many they want.
        (Value::Int(count @ 2..=20), List(Whole(_), _)) => {
            let seeds: Vec<String> = (0..*count).map(|seed| seed.to_string()).collect();
            format!("for {count} of them write `[{}]`, for this one `[{written}]`", seeds.join(", "))
        }
        (Value::Text(_) | Value::Int(_) | Value::Float(_), List(..)) => {
            format!("for one value write `[{written}]`")
        }
        (Value::Text(_) | Value::Int(_) | Value::Float(_), Either(_, [List(..), ..])) => {
            format!("for one value write `[{written}]`")
        }
        (Value::List(_), Named(_) | Paths(_) | Titled(_) | Record(..)) if written.starts_with('-') => {
            "a mapping has no dashes: write `name: value` lines".to_owned()
        }
        (_, Named(_) | Paths(_) | Titled(_) | Record(..)) => {
            "a mapping is lines `name: value`, or `{ name: value }`".to_owned()
        }
        (Value::Map(_), List(..)) => "a list is lines that begin with `-`, or `[…]`".to_owned(),
        _ => return None,
    })
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
            let problem =
                Diagnostic::new(&name.at, format!("{title} has no `{}`", name.value), "unknown key");
            problems.push(problem.help(unknown_key(title, &name.value, keys)));
        }
    }
}

/// What was meant by a key that is not there.
fn unknown_key(title: &str, name: &str, keys: &[Key]) -> String {
    if let Some((key, value)) = traps::squeezed(name) {
        return format!("after a colon a space is missing: write `{key}: {value}`");
    }
    let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let help = suggest(name, known.iter().copied());
    match (nearest(name, &known), &grammar::STAGE) {
        (None, Record(stage, _)) if *stage == title => {
            format!("the params of a stage stand in its `with:`; else {help}")
        }
        (None, Record(_, of_stage)) if of_stage.iter().any(|key| key.name == name) => {
            format!("it is a key of a stage: indent it below one; else {help}")
        }
        _ => help,
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
            let misspelled = |(name, _): &(Located<String>, Node)| {
                let name = traps::squeezed(&name.value).map_or(&*name.value, |(name, _)| name);
                nearest(name, &[key.name]).is_some()
                    && !entries.iter().any(|(known, _)| known.value == key.name)
                    && !keys.iter().any(|other| other.name == name && other.name != key.name)
            };
            // The one that is meant is told as an unknown key.
            if entries.iter().any(misspelled) {
                continue;
            }
            let help = match key.shape {
                Exactly(number) => format!("add `{}: {number}`", key.name),
                _ => format!("add `{}:`. {}", key.name, key.doc),
            };
            let message = format!("{title} needs `{}`", key.name);
            problems.push(Diagnostic::new(&node.at, message, format!("expected `{}:`", key.name)).help(help));
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

/// Checks against the form that the value is meant to be: that of the same kind, among mappings that with its keys.
fn check_either(node: &Node, shape: &Shape, what: &str, problems: &mut Diagnostics) {
    let Either(expected, shapes) = shape else { return };
    let fitting: Vec<&Shape> = shapes.iter().filter(|shape| same_kind(node, shape)).collect();
    let tried = |shape: &&Shape| {
        let mut problems = Diagnostics::default();
        check(node, shape, what, &mut problems);
        problems
    };
    if fitting.iter().any(|shape| tried(shape).0.is_empty()) {
        return;
    }
    let has_key = |shape: &&&Shape| match shape {
        Record(_, keys) => {
            keys.iter().any(|key| node.entries().iter().any(|(name, _)| name.value == key.name))
        }
        _ => fitting.len() == 1,
    };
    let meant = fitting.iter().find(has_key).filter(|_| !is_scalar(node));
    match meant {
        Some(meant) => tried(meant).0.into_iter().for_each(|problem| problems.push(problem)),
        None => tell(node, shape, what, expected, problems),
    }
}

fn is_scalar(node: &Node) -> bool {
    !matches!(node.value, Value::List(_) | Value::Map(_))
}

fn same_kind(node: &Node, shape: &Shape) -> bool {
    match shape {
        List(..) | Bounds => matches!(node.value, Value::List(_)),
        Record(..) | Named(_) | Paths(_) | Titled(_) => matches!(node.value, Value::Map(_)),
        Whole(_) | Exactly(_) => matches!(node.value, Value::Int(_) | Value::Float(_)),
        Flag => matches!(node.value, Value::Bool(_)),
        Text | Time | Size | Factor | Word(_) | Commit | Reference | Output | Metric => {
            matches!(node.value, Value::Text(_))
        }
        Any | OneOrMore(_) | Either(..) => true,
    }
}

/// Whether a text is the full id of a commit: SHA-1's, or SHA-256's where a repository uses that.
pub(super) fn is_commit(text: &str) -> bool {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits && matches!(text.len(), 40 | 64)
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
