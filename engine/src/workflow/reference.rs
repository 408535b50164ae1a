//! References: `stage.port` in inputs, `${params.x}`, `${foreach.x}` and `${env.X}` in values.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{Diagnostic, Diagnostics, Node, Place, Value, diagnostic::suggest, node};

/// An output of a stage. Without a port: its only output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputRef {
    /// The stage.
    pub(crate) stage: Arc<str>,
    /// The port.
    pub(crate) port: Option<Arc<str>>,
}

impl OutputRef {
    /// Whether a text may be `stage` or `stage.port`; stages that were imported have dots in their names.
    pub(super) fn is_one(text: &str) -> bool {
        text.split('.').all(is_name)
    }

    /// Reads `stage` or `stage.port`, given the names of the stages. A stage that is not there is found out later,
    /// when it is looked up.
    pub(super) fn parse(text: &str, is_stage: impl Fn(&str) -> bool) -> Self {
        if is_stage(text) {
            return Self { stage: text.into(), port: None };
        }
        match text.rsplit_once('.') {
            Some((stage, port)) => Self { stage: stage.into(), port: Some(port.into()) },
            None => Self { stage: text.into(), port: None },
        }
    }

    /// The same output of a stage that was imported under a prefix.
    pub(super) fn under(&self, prefix: &str) -> Self {
        Self { stage: join(prefix, &self.stage).into(), port: self.port.clone() }
    }
}

impl std::fmt::Display for OutputRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.port {
            Some(port) => write!(f, "{}.{port}", self.stage),
            None => f.write_str(&self.stage),
        }
    }
}

/// A name under a prefix, which may be empty.
pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Whether a text can name a stage, a port or a param.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// Names that a value may refer to, by scope: `params`, `foreach`, `env`.
pub(crate) type Names<'a> = [(&'static str, &'a IndexMap<String, Node>)];

/// What references may bring in all together, so that params that double each other do not fill the memory: bytes of
/// text, and for each value as much as it takes.
pub(crate) const ROOM: usize = 1 << 28;
/// What a value takes besides its text.
const VALUE: usize = 64;

/// Replaces references in a value. A value that is one reference takes the type of what it refers to; inside
/// longer text the referred value is written out. `$${` stands for `${` itself. A value whose references cannot be had
/// is unknown, and what refers to it is, too: that is told once, where it begins.
///
/// What comes out knows where its *value* was written: relative paths are relative to that file. `room` is what
/// references may still bring in.
pub(crate) fn interpolate(
    node: &Node,
    names: &Names<'_>,
    room: &mut usize,
    problems: &mut Diagnostics,
) -> Node {
    let value = match &node.value {
        Value::Text(text) if text.contains("${") => {
            return interpolate_text(node, text, names, room, problems);
        }
        Value::List(items) => {
            Value::List(items.iter().map(|item| interpolate(item, names, room, problems)).collect())
        }
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), interpolate(value, names, room, problems)))
                .collect(),
        ),
        plain => plain.clone(),
    };
    Node { value, at: node.at.clone() }
}

/// How much room a value takes.
fn size(node: &Node) -> usize {
    VALUE
        + match &node.value {
            Value::Text(text) => text.len(),
            Value::List(items) => items.iter().map(size).sum(),
            Value::Map(entries) => entries.iter().map(|(key, value)| key.value.len() + size(value)).sum(),
            _ => 0,
        }
}

/// Takes what a value needs out of the room. That there is not enough is told when it happens first.
fn takes(room: &mut usize, found: &Node, at: &Place, problems: &mut Diagnostics) -> bool {
    if *room == 0 {
        return false;
    }
    *room = room.saturating_sub(size(found));
    if *room == 0 {
        problems.push(
            Diagnostic::new(
                at,
                "the references bring in more than any workflow needs",
                "here it is too much",
            )
            .help("values that hold others twice, which hold others twice, grow without end"),
        );
    }
    *room > 0
}

/// A piece of a text: itself, or what a reference names.
enum Piece<'a> {
    Plain(&'a str),
    Reference(&'a str),
    /// `${` without its `}`.
    Open,
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(escaped) = before.strip_suffix('$') {
            pieces.extend([Piece::Plain(escaped), Piece::Plain("${")]);
            rest = after;
            continue;
        }
        pieces.push(Piece::Plain(before));
        let Some((name, behind)) = after.split_once('}') else {
            pieces.push(Piece::Open);
            return pieces;
        };
        pieces.push(Piece::Reference(name));
        rest = behind;
    }
    pieces.push(Piece::Plain(rest));
    pieces.retain(|piece| !matches!(piece, Piece::Plain("")));
    pieces
}

fn interpolate_text(
    node: &Node,
    text: &str,
    names: &Names<'_>,
    room: &mut usize,
    problems: &mut Diagnostics,
) -> Node {
    let unknown = || Node { value: Value::Unknown, at: node.at.clone() };
    let pieces = pieces(text);
    let mut at = node.at.clone();
    let mut written = String::new();
    let mut known = true;
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Plain(text) => written.push_str(text),
            Piece::Open => {
                problems.push(
                    Diagnostic::new(
                        &node.at,
                        "a reference without its closing brace",
                        "`${` is never closed",
                    )
                    .help("write `${params.name}`, or `$${` for the characters themselves"),
                );
                known = false;
            }
            Piece::Reference(name) => {
                let found = look_up(node, name, names, problems);
                let Some((scope, found)) = found.filter(|(_, found)| !found.is_unknown()) else {
                    known = false;
                    continue;
                };
                if !takes(room, found, &node.at, problems) {
                    return unknown();
                }
                if pieces.len() == 1 {
                    return if scope == "env" { typed(found) } else { found.clone() };
                }
                if index == 0 {
                    at = found.at.clone();
                }
                match found.to_json() {
                    serde_json::Value::String(text) => written.push_str(&text),
                    other => written.push_str(&other.to_string()),
                }
            }
        }
    }
    if known { Node { value: Value::Text(written), at } } else { unknown() }
}

/// The environment holds texts; one that is a number or a boolean as YAML writes it stands for that.
fn typed(found: &Node) -> Node {
    let Value::Text(text) = &found.value else { return found.clone() };
    let value = match node::scalar(text) {
        Some(value @ (Value::Int(_) | Value::Float(_) | Value::Bool(_))) => value,
        _ => found.value.clone(),
    };
    Node { value, at: found.at.clone() }
}

fn look_up<'a>(
    node: &Node,
    name: &str,
    names: &Names<'a>,
    problems: &mut Diagnostics,
) -> Option<(&'static str, &'a Node)> {
    let (scope, key) = name.split_once('.').unwrap_or((name, ""));
    let wrong =
        |message: String, help: String| Diagnostic::new(&node.at, message, "referred to here").help(help);
    let Some((scope, known)) = names.iter().find(|(known, _)| *known == scope) else {
        let help = match scope {
            "foreach" => "only the params of a mapped stage may refer to what it is mapped over".to_owned(),
            // A name without its scope.
            _ => match names.iter().find(|(_, known)| known.contains_key(name)) {
                Some((scope, _)) => format!("did you mean `${{{scope}.{name}}}`?"),
                None => {
                    let scopes = names.iter().map(|(known, _)| *known);
                    format!("references begin with a scope, e.g. `${{params.x}}`; {}", suggest(scope, scopes))
                }
            },
        };
        problems.push(wrong(format!("unknown reference `${{{name}}}`"), help));
        return None;
    };
    let found = known.get(key);
    if found.is_none() {
        let (what, none) = match *scope {
            "env" => ("environment variable", format!("declare it: `env: [{key}]`")),
            "foreach" => {
                let help = "the stage is not mapped: give it `foreach:`, or read a stage that has".to_owned();
                ("dimension", help)
            }
            _ => {
                let help = format!("this file has no params of its own: add `params: {{ {key}: VALUE }}`");
                ("param", help)
            }
        };
        let help = match (*scope, known.is_empty()) {
            (_, true) => none,
            // The right name may be one that is not declared.
            ("env", false) => {
                let near = suggest(key, known.keys().map(String::as_str));
                format!("{near}{} {none}", if near.ends_with('?') { " else" } else { "; else" })
            }
            _ => suggest(key, known.keys().map(String::as_str)),
        };
        let message = match (*scope, key) {
            (_, "") => format!("`${{{name}}}` names no {what}"),
            ("env", _) => format!("the environment variable `{key}` is not declared"),
            _ => format!("there is no {what} `{key}`"),
        };
        problems.push(wrong(message, help));
    }
    Some((scope, found?))
}

/// The names in one scope that a value refers to.
pub(crate) fn referred<'a>(node: &'a Node, scope: &str, found: &mut Vec<&'a str>) {
    match &node.value {
        Value::Text(text) => {
            for piece in pieces(text) {
                if let Piece::Reference(name) = piece
                    && let Some(name) = name.strip_prefix(scope).and_then(|rest| rest.strip_prefix('.'))
                {
                    found.push(name);
                }
            }
        }
        Value::List(items) => items.iter().for_each(|item| referred(item, scope, found)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| referred(value, scope, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Node {
        Node { value: Value::Text(value.into()), at: Place::argument(value) }
    }

    fn params() -> IndexMap<String, Node> {
        let int = Node { value: Value::Int(50), at: Place::argument("50") };
        [("epochs".to_owned(), int), ("dir".to_owned(), text("data"))].into()
    }

    #[test]
    fn a_lone_reference_keeps_its_type_and_one_in_text_is_written_out() {
        let (params, mut problems) = (params(), Diagnostics::default());
        let env = [("N".to_owned(), text("5")), ("V".to_owned(), text("1.10"))].into();
        let names = [("params", &params), ("env", &env)];
        let mut json =
            |value: &str| interpolate(&text(value), &names, &mut ROOM.clone(), &mut problems).to_json();
        assert_eq!(json("${params.epochs}"), 50);
        assert_eq!(json("${params.dir}/A1-${params.epochs}"), "data/A1-50");
        assert_eq!(json("no reference"), "no reference");
        assert_eq!(json("$${params.epochs} costs $5"), "${params.epochs} costs $5");
        assert_eq!(json("${env.N}"), 5, "the environment holds texts; this one is a number");
        assert_eq!(json("v${env.V}"), "v1.10", "inside text it stays as it is");
        assert!(problems.0.is_empty());
    }

    #[test]
    fn a_wrong_reference_names_the_right_one() {
        let params = params();
        let mut problems = Diagnostics::default();
        for wrong in ["${params.epoch}", "${param.epochs}", "${params.epochs", "${epochs}"] {
            let unknown = interpolate(&text(wrong), &[("params", &params)], &mut ROOM.clone(), &mut problems);
            assert!(unknown.is_unknown(), "{wrong}");
        }
        let help: Vec<_> = problems.0.iter().filter_map(|problem| problem.help.as_deref()).collect();
        assert_eq!(help[0], "did you mean `epochs`?");
        assert!(help[1].contains("did you mean `params`?"), "{help:?}");
        assert_eq!(help[3], "did you mean `${params.epochs}`?");
        assert_eq!(help.len(), 4);
    }

    #[test]
    fn an_output_is_a_stage_and_perhaps_a_port() {
        let is_stage = |name: &str| ["a", "prep.a"].contains(&name);
        let parse = |text: &str| OutputRef::parse(text, is_stage);
        assert_eq!(parse("a.b"), OutputRef { stage: "a".into(), port: Some("b".into()) });
        assert_eq!(parse("a"), OutputRef { stage: "a".into(), port: None });
        assert_eq!(parse("prep.a"), OutputRef { stage: "prep.a".into(), port: None });
        assert_eq!(parse("prep.a.b").port.as_deref(), Some("b"));
        assert!(OutputRef::is_one("prep.a.b") && !OutputRef::is_one("a..b") && !OutputRef::is_one(""));
    }
}
