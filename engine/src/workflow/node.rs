//! YAML text as a tree in which every value knows its place. The only module that speaks to the YAML crate.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

use super::diagnostic::{Diagnostic, Place, Source};

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The value.
    pub(crate) value: Value,
    /// Where it stands.
    pub(crate) at: Place,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// `true` or `false`; `yes` and `no` are text.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Located<String>, Node)>),
}

/// Something with its place.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    /// The thing.
    pub(crate) value: T,
    /// Where it stands.
    pub(crate) at: Place,
}

/// Deeper nesting than this is nobody's workflow.
const MAX_DEPTH: usize = 64;
/// Longer files than this are nobody's workflow.
const MAX_BYTES: usize = 1 << 20;

/// Parses one YAML document.
pub(crate) fn parse(source: &Source) -> Result<Node, Diagnostic> {
    let text = source.text();
    if text.len() > MAX_BYTES {
        let message = format!("a workflow file may have {MAX_BYTES} bytes; this one has {}", text.len());
        return Err(Diagnostic::new(&Place { source: source.clone(), span: 0..0 }, message, "too long")
            .help("is it a data file? give its path as a param instead"));
    }
    let options = serde_yaml::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_yaml::budget! { max_depth: MAX_DEPTH },
    };
    let tree: Spanned<Raw> = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let span = error.location().map_or(0..0, |location| span(&location, text));
        let at = Place { source: source.clone(), span };
        let message = error.without_snippet().to_string();
        let (message, help) = explain(&message, text);
        let diagnostic = Diagnostic::new(&at, message, "here");
        match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }
    })?;
    Ok(node(tree, source))
}

/// The YAML crate's words, without the place that the excerpt shows anyway, and advice for known traps.
fn explain(message: &str, text: &str) -> (String, Option<String>) {
    let lower = message.to_lowercase();
    let help = if text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t')) {
        Some("YAML is indented with spaces; there is a tab at the start of a line")
    } else if lower.contains("duplicate") {
        Some("give each key once; the second would silently replace the first")
    } else if lower.contains("budget") || lower.contains("depth") {
        Some("the file is nested more deeply than any workflow is")
    } else if lower.contains("multiple documents") {
        Some("a workflow is one document: remove the `---` line")
    } else {
        None
    };
    let message = message.split(" at line ").next().unwrap_or(message);
    (format!("not valid YAML: {message}"), help.map(str::to_owned))
}

/// A scalar as YAML reads it; `None` if the text is not one.
pub(super) fn scalar(text: &str) -> Option<Value> {
    let options = serde_yaml::options! { strict_booleans: true, with_snippet: false };
    match serde_yaml::from_str_with_options::<Raw>(text, options).ok()? {
        Raw::Leaf(value) => Some(value),
        _ => None,
    }
}

fn span(location: &serde_yaml::Location, text: &str) -> Range<usize> {
    let span = location.span();
    let Some(start) = span.byte_offset().and_then(|offset| usize::try_from(offset).ok()) else { return 0..0 };
    let start = start.min(text.len());
    let len = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    // A block's span reaches to the next token; what a reader wants underlined is its first line.
    let end = text[start..].find('\n').map_or(text.len(), |line| start + line);
    start..(start + len).min(end).max(start)
}

/// A node as the deserializer makes it: children with places, itself without.
enum Raw {
    Leaf(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, source: &Source) -> Node {
    let place = |location: &serde_yaml::Location| Place {
        source: source.clone(),
        span: span(location, source.text()),
    };
    let at = place(&raw.referenced);
    let value = match raw.value {
        Raw::Leaf(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let at = place(&key.referenced);
                    (Located { value: key.value, at }, node(value, source))
                })
                .collect(),
        ),
    };
    Node { value, at }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Int(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Raw, E> {
        i64::try_from(value)
            .map(|value| Raw::Leaf(Value::Int(value)))
            .map_err(|_| E::custom(format!("{value} is too large for a whole number")))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Raw, E> {
        if value.is_finite() {
            Ok(Raw::Leaf(Value::Float(value)))
        } else {
            Err(E::custom("NaN and infinity are not values of a workflow"))
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        while let Some(entry) = map.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            if entries.iter().any(|(key, _)| key.value == entry.0.value) {
                return Err(A::Error::custom(format!("duplicate key `{}`", entry.0.value)));
            }
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

impl Node {
    /// What kind of value it is, in the words of a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub(super) fn int(&self) -> Option<i64> {
        match self.value {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The entries of a mapping; none if it is something else.
    pub(crate) fn entries(&self) -> &[(Located<String>, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name.value == key).map(|(_, node)| node)
    }

    /// The items of a list; none if it is something else.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The items of a list; itself if it is something else.
    pub(super) fn each(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// Its texts with their places, one or a list of them.
    pub(super) fn texts(&self) -> Vec<Located<String>> {
        let located = |item: &Self| Some(Located { value: item.text()?.to_owned(), at: item.at.clone() });
        self.each().iter().filter_map(located).collect()
    }

    /// The plain value.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, value)| (key.value.clone(), value.to_json())).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn node(text: &str) -> Result<Node, Diagnostic> {
        parse(&Source::new(Path::new("w.yaml"), text.into()))
    }

    #[test]
    fn every_value_knows_its_place() {
        let text = "a: 1\nb: { c: [x, 2.5] }\n";
        let Value::Map(entries) = node(text).unwrap().value else { panic!("a mapping") };
        let (key, b) = &entries[1];
        assert_eq!(&text[key.at.span.clone()], "b");
        let Value::Map(entries) = &b.value else { panic!("a mapping") };
        let Value::List(items) = &entries[0].1.value else { panic!("a list") };
        assert_eq!(&text[items[0].at.span.clone()], "x");
        assert_eq!(&text[items[1].at.span.clone()], "2.5");
        assert!(matches!(items[1].value, Value::Float(value) if value == 2.5));
    }

    #[test]
    fn words_are_not_booleans_and_small_numbers_are_numbers() {
        let json = node("a: no\nb: on\nc: 1e-4\nd: true\ne:\n").unwrap().to_json();
        assert_eq!(json, serde_json::json!({"a": "no", "b": "on", "c": 1e-4, "d": true, "e": null}));
    }

    #[test]
    fn hostile_and_broken_files_are_refused_at_their_place() {
        for text in [
            "a: 1\na: 2\n".to_owned(),
            "a: [1, 2\nb: 3\n".to_owned(),
            "a: .nan\n".to_owned(),
            "a:\n\t- 1\n".to_owned(),
            "a: 1\n---\nb: 2\n".to_owned(),
            "[".repeat(100_000),
            format!("a: {}", "x".repeat(2 << 20)),
        ] {
            let error = node(&text).map(|node| node.to_json()).expect_err(&text[..text.len().min(40)]);
            assert!(!error.message.is_empty());
        }
        let error = node("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(error.line_column().0, 3, "{error}");
    }
}
