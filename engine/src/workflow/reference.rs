//! References: `stage.port` in inputs, `${params.x}` and `${foreach.x}` in values.

use indexmap::IndexMap;

use super::{Diagnostic, Diagnostics, Node, Value, diagnostic::suggest};

/// An output of a stage. Without a port: its only output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputRef {
    /// The stage.
    pub(crate) stage: String,
    /// The port.
    pub(crate) port: Option<String>,
}

impl OutputRef {
    /// Reads `stage` or `stage.port`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (stage, port) = match text.split_once('.') {
            Some((stage, port)) => (stage, Some(port)),
            None => (text, None),
        };
        let names = std::iter::once(stage).chain(port);
        names.clone().all(is_name).then(|| Self { stage: stage.to_owned(), port: port.map(str::to_owned) })
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

/// Whether a text can name a stage, a port or a param.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// Names that a value may refer to, by scope: `params`, `foreach`.
pub(crate) type Scopes<'a> = [(&'static str, &'a IndexMap<String, Node>)];

/// Replaces references in a value. A value that is one reference takes the type of what it refers to; inside
/// longer text the referred value is written out.
pub(crate) fn interpolate(node: &Node, scopes: &Scopes<'_>, problems: &mut Diagnostics) -> Node {
    let value = match &node.value {
        Value::Text(text) => return interpolate_text(node, text, scopes, problems),
        Value::List(items) => {
            Value::List(items.iter().map(|item| interpolate(item, scopes, problems)).collect())
        }
        Value::Map(entries) => Value::Map(
            entries.iter().map(|(key, value)| (key.clone(), interpolate(value, scopes, problems))).collect(),
        ),
        plain => plain.clone(),
    };
    Node { value, at: node.at.clone() }
}

fn interpolate_text(node: &Node, text: &str, scopes: &Scopes<'_>, problems: &mut Diagnostics) -> Node {
    let mut written = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(len) = rest[start..].find('}') else {
            problems.push(
                Diagnostic::new(&node.at, "a reference without its closing brace", "`${` is never closed")
                    .help("write `${params.name}`"),
            );
            return node.clone();
        };
        let name = &rest[start + 2..start + len];
        let Some(found) = look_up(node, name, scopes, problems) else { return node.clone() };
        if text.len() == len + 1 {
            return Node { value: found.value.clone(), at: node.at.clone() };
        }
        written.push_str(&rest[..start]);
        match found.to_json() {
            serde_json::Value::String(text) => written.push_str(&text),
            other => written.push_str(&other.to_string()),
        }
        rest = &rest[start + len + 1..];
    }
    written.push_str(rest);
    Node { value: Value::Text(written), at: node.at.clone() }
}

fn look_up<'a>(node: &Node, name: &str, scopes: &Scopes<'a>, problems: &mut Diagnostics) -> Option<&'a Node> {
    let (scope, key) = name.split_once('.').unwrap_or((name, ""));
    let Some((_, names)) = scopes.iter().find(|(known, _)| *known == scope) else {
        let known = scopes.iter().map(|(known, _)| *known);
        problems.push(
            Diagnostic::new(&node.at, format!("unknown reference `${{{name}}}`"), "here")
                .help(format!("references begin with a scope; {}", suggest(scope, known))),
        );
        return None;
    };
    let found = names.get(key);
    if found.is_none() {
        problems.push(
            Diagnostic::new(&node.at, format!("there is no `{key}` among {scope}"), "referred to here")
                .help(suggest(key, names.keys().map(String::as_str))),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Place;

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
        let scopes = [("params", &params)];
        let mut json = |value: &str| interpolate(&text(value), &scopes, &mut problems).to_json();
        assert_eq!(json("${params.epochs}"), 50);
        assert_eq!(json("${params.dir}/A1-${params.epochs}"), "data/A1-50");
        assert_eq!(json("no reference"), "no reference");
        assert!(problems.0.is_empty());
    }

    #[test]
    fn a_wrong_reference_names_the_right_one() {
        let params = params();
        let mut problems = Diagnostics::default();
        interpolate(&text("${params.epoch}"), &[("params", &params)], &mut problems);
        interpolate(&text("${param.epochs}"), &[("params", &params)], &mut problems);
        interpolate(&text("${params.epochs"), &[("params", &params)], &mut problems);
        let help: Vec<_> = problems.0.iter().filter_map(|problem| problem.help.as_deref()).collect();
        assert_eq!(help[0], "did you mean `epochs`?");
        assert!(help[1].contains("did you mean `params`?"), "{help:?}");
        assert_eq!(help.len(), 3);
    }

    #[test]
    fn an_output_is_a_stage_and_perhaps_a_port() {
        assert_eq!(OutputRef::parse("a.b").unwrap().to_string(), "a.b");
        assert_eq!(OutputRef::parse("a").unwrap().port, None);
        assert!(OutputRef::parse("a.b.c").is_none() && OutputRef::parse("").is_none());
    }
}
