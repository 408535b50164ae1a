//! What plugins say of wrong params, in the words of all other mistakes, and at the very value.

use restage_stage::catalogue::StageType;

use crate::workflow::{Diagnostic, Node, Place, Stage, Value, boolean_word, suggest};

/// One of several, with the params that it has.
const KIND: &str = "a mapping with its kind";

/// What is said of a param, and what to do.
struct Words {
    message: String,
    label: String,
    help: Option<String>,
}

/// The plugin's words on wrong params, at the param that they begin with, and that param.
pub(super) fn problem(
    stage: &Stage,
    stage_type: &StageType,
    messages: &[String],
    origin: impl Fn(&str) -> Option<Place>,
) -> (Diagnostic, Option<String>) {
    let message = messages.join(": ");
    let told = message.strip_prefix('`').and_then(|rest| rest.split_once('`'));
    let param = told.and_then(|(path, _)| path.split(['.', '[']).next()).map(str::to_owned);
    let Some((_, node)) = param.as_ref().and_then(|param| stage.with.get(param)) else {
        return (of_all(stage, stage_type, messages, message), None);
    };
    let (path, words) = told.unwrap_or_default();
    let words = words.trim_start_matches(": ");
    let (at, value) = inside(node, path);
    let said = plainly(path, words, value).unwrap_or_else(|| Words {
        message: message.clone(),
        label: "this value".to_owned(),
        help: None,
    });
    let mut problem = Diagnostic::new(at, said.message, said.label);
    if let Some(origin) = param.as_ref().and_then(|param| origin(param)) {
        problem = problem.and(&origin, "the value comes from here");
    }
    if let Some(help) = said.help {
        problem = problem.help(help);
    }
    (problem, param)
}

/// What is wrong with no param in particular.
fn of_all(stage: &Stage, stage_type: &StageType, messages: &[String], message: String) -> Diagnostic {
    let uses = &stage.uses;
    let Some(param) = missing(messages) else {
        return Diagnostic::new(&uses.at, message, "in the params of this stage")
            .help("`restage plugin list WORKFLOW` shows the params of every stage type");
    };
    let doc = stage_type.params.get("properties").and_then(|params| params.get(&param)?.get("description"));
    let doc = doc.and_then(serde_json::Value::as_str).map(|doc| format!(" ({doc})")).unwrap_or_default();
    Diagnostic::new(&uses.at, format!("`{}` needs the param `{param}`", uses.value), "it is not given")
        .help(format!("add `with: {{ {param}: VALUE }}`{doc}"))
}

/// The param that a plugin misses.
pub(super) fn missing(messages: &[String]) -> Option<String> {
    let message = messages.first()?;
    message.strip_prefix("missing field `")?.split('`').next().map(str::to_owned)
}

/// The value at a path like `stop.patience` or `layers[1]`, as far as it leads; and where it stands, or its name if
/// that is what is wrong.
pub(super) fn inside<'a>(node: &'a Node, path: &str) -> (&'a Place, &'a Node) {
    let mut found = node;
    for step in path.split(['.', '[']).skip(1) {
        let next = match step.strip_suffix(']').map(str::parse::<usize>) {
            Some(Ok(index)) => found.items().get(index),
            _ => found.get(step),
        };
        let Some(next) = next else { break };
        found = next;
    }
    (&found.at, found)
}

/// serde's words in plain ones.
fn plainly(path: &str, words: &str, node: &Node) -> Option<Words> {
    let found = words.strip_prefix("invalid type: ").or_else(|| words.strip_prefix("invalid value: "));
    if let Some((found, expected)) = found.and_then(|rest| rest.split_once(", expected ")) {
        let expected = wanted(expected);
        return Some(Words {
            message: format!("`{path}` is {}, not {expected}", shown(found)),
            label: format!("expected {expected}"),
            help: advice(node, found, &expected),
        });
    }
    for (prefix, what) in [("unknown variant `", "has no choice"), ("unknown field `", "has no")] {
        let Some((wrong, rest)) = words.strip_prefix(prefix).and_then(|rest| rest.split_once('`')) else {
            continue;
        };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        // The path of an unknown field ends with it.
        let owner = path.strip_suffix(wrong).and_then(|owner| owner.strip_suffix('.')).unwrap_or(path);
        let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        return Some(Words {
            message: format!("`{owner}` {what} `{wrong}`"),
            label: if known.is_empty() { "remove it".to_owned() } else { format!("expected {listed}") },
            help: Some(suggest(wrong, known)),
        });
    }
    let field = words.strip_prefix("missing field `")?.split('`').next()?;
    Some(Words {
        message: format!("`{path}` needs `{field}`"),
        label: format!("expected `{field}:` in it"),
        help: None,
    })
}

/// What serde calls a value that it found.
fn shown(found: &str) -> String {
    let quoted = |prefix: &str, quote: char| found.strip_prefix(prefix)?.strip_suffix(quote);
    if let Some(text) = quoted("string \"", '"') {
        return format!("the text `{text}`");
    }
    let plain = ["integer `", "floating point `", "boolean `"].iter().find_map(|prefix| quoted(prefix, '`'));
    match (plain, found) {
        (Some(value), _) => format!("`{value}`"),
        (None, "null" | "unit value" | "Option value") => "nothing".to_owned(),
        (None, "sequence") => "a list".to_owned(),
        (None, "map") => "a mapping".to_owned(),
        (None, other) => other.to_owned(),
    }
}

/// What serde calls a type that it wants.
fn wanted(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other if other.starts_with("internally tagged enum ") => KIND.to_owned(),
        other => other.to_owned(),
    }
}

/// Words for mistakes that YAML invites.
fn advice(node: &Node, found: &str, expected: &str) -> Option<String> {
    match &node.value {
        Value::Null => Some("there is nothing after the colon: give a value, or remove the key".to_owned()),
        Value::Text(text) if expected.starts_with("`true`") => {
            boolean_word(text).map(|word| format!("`{text}` is text; write `{word}`"))
        }
        Value::Text(text) if expected == KIND => Some(format!("write `{{ kind: {text} }}`")),
        Value::Text(text) if expected.contains("number") => {
            let zeros = text.trim_start_matches('0');
            let is_number = |text: &str| text.parse::<f64>().is_ok_and(f64::is_finite);
            if is_number(text) && zeros.len() < text.len() && zeros.starts_with(|c: char| c.is_ascii_digit())
            {
                return Some(format!("a number has no zeros before it: write `{zeros}`"));
            }
            is_number(text).then(|| "without quotes it is a number".to_owned())
        }
        Value::Int(_) | Value::Float(_) | Value::Bool(_) if expected == "text" => {
            let text = node.at.source.text();
            let written = text.get(node.at.span.clone()).filter(|written| !written.is_empty());
            Some(format!("put it in quotes: \"{}\"", written?))
        }
        Value::Map(_) | Value::List(_) if expected == "text" => {
            Some("text that begins with a bracket needs quotes".to_owned())
        }
        Value::Text(_) | Value::Int(_) | Value::Float(_) if expected == "a list" && found != "sequence" => {
            Some("for one value write `[…]` around it".to_owned())
        }
        _ => None,
    }
}
