//! YAML text as a tree in which every value knows its place. With `traps.rs` all that speaks to the YAML crate.

use std::{collections::HashMap, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place, Source},
    file::MAX_BYTES,
    traps,
};

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
    /// Refers to what cannot be had, which is told: nothing more is said about it.
    Unknown,
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
pub(super) const MAX_DEPTH: usize = 64;
/// More values than this out of aliases (`*name`) are a trap.
const MAX_ALIASED: usize = 10_000;

fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        // `no` and `on` are text.
        strict_booleans: true,
        // So is `010`: sections are numbered like this.
        leading_zero_numbers_as_strings: true,
        // Told with both places, and all of them: see `node`.
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        budget: serde_yaml::budget! { max_depth: MAX_DEPTH, max_total_scalar_bytes: 2 * MAX_BYTES },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MAX_ALIASED },
    }
}

/// Parses one YAML document.
pub(crate) fn parse(source: &Source, problems: &mut Diagnostics) -> Result<Node, Diagnostic> {
    let text = source.text();
    if text.len() > MAX_BYTES {
        let message = format!("a workflow file may have {MAX_BYTES} bytes; this one has {}", text.len());
        return Err(Diagnostic::new(&Place { source: source.clone(), span: 0..0 }, message, "too long")
            .help("is it a data file? give its path as a param instead"));
    }
    let tree: Spanned<Raw> = serde_yaml::from_str_with_options(text, options()).map_err(|error| {
        let span = error.location().map_or(0..0, |location| span(&location, text));
        traps::explain(error.without_snippet(), Place { source: source.clone(), span })
    })?;
    traps::tagged(source, problems);
    Ok(node(tree, source, problems))
}

/// A scalar as YAML reads it; `None` if the text is not one.
pub(super) fn scalar(text: &str) -> Option<Value> {
    match serde_yaml::from_str_with_options::<Raw>(text, options()).ok()? {
        Raw::Leaf(value) => Some(value),
        _ => None,
    }
}

fn span(location: &serde_yaml::Location, text: &str) -> Range<usize> {
    let span = location.span();
    let Some(start) = span.byte_offset().and_then(|offset| usize::try_from(offset).ok()) else {
        let start = offset(location, text);
        return start..text.ceil_char_boundary((start + 1).min(text.len()));
    };
    let start = start.min(text.len());
    let len = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    // A block's span reaches to the next token; what a reader wants underlined is its first line.
    let end = text.floor_char_boundary((start + len).min(text.len()));
    let line = text.get(start..end).and_then(|inside| inside.find('\n'));
    start..line.map_or(end, |line| start + line)
}

/// The byte of a line and column: of what it cannot read, the parser knows no more.
fn offset(location: &serde_yaml::Location, text: &str) -> usize {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let line = text.split_inclusive('\n').take(number(location.line()));
    let start: usize = line.map(str::len).sum();
    let rest = text.get(start..).unwrap_or_default();
    rest.char_indices().nth(number(location.column())).map_or(text.len(), |(column, _)| start + column)
}

/// A node as the deserializer makes it: children with places, itself without.
enum Raw {
    Leaf(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, source: &Source, problems: &mut Diagnostics) -> Node {
    let place = |location: &serde_yaml::Location| Place {
        source: source.clone(),
        span: span(location, source.text()),
    };
    let at = place(&raw.referenced);
    let value = match raw.value {
        Raw::Leaf(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source, problems)).collect()),
        Raw::Map(entries) => {
            let mut first: HashMap<String, Place> = HashMap::with_capacity(entries.len());
            let mut different = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let at = place(&key.referenced);
                if let Some(first) = first.get(&key.value) {
                    problems.push(traps::twice(&key.value, &at, first));
                    continue;
                }
                first.insert(key.value.clone(), at.clone());
                different.push((Located { value: key.value, at }, node(value, source, problems)));
            }
            Value::Map(different)
        }
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
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry::<Spanned<String>, Spanned<Raw>>()? {
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
            Value::Unknown => "unknown",
        }
    }

    /// Whether it refers, somewhere inside, to what cannot be had.
    pub(crate) fn is_unknown(&self) -> bool {
        match &self.value {
            Value::Unknown => true,
            Value::List(items) => items.iter().any(Self::is_unknown),
            Value::Map(entries) => entries.iter().any(|(_, value)| value.is_unknown()),
            _ => false,
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
            Value::Null | Value::Unknown => serde_json::Value::Null,
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

    /// The value of a text, or the first thing that is wrong with it.
    fn node(text: &str) -> Result<Node, Diagnostic> {
        let mut problems = Diagnostics::default();
        let node = parse(&Source::new(Path::new("w.yaml"), text.into()), &mut problems)?;
        problems.0.into_iter().next().map_or(Ok(node), Err)
    }

    fn json(text: &str) -> serde_json::Value {
        node(text).map(|node| node.to_json()).unwrap_or_else(|error| panic!("{text:?}: {error}"))
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
    fn words_are_text_and_only_true_and_false_are_booleans() {
        let read = json("[no, on, Yes, off, n, y, true, False, NULL, '', nothing]");
        assert_eq!(
            read,
            serde_json::json!(["no", "on", "Yes", "off", "n", "y", true, false, null, "", "nothing"])
        );
        assert_eq!(
            json("{ a: ~, b: , c: '~', d: null }"),
            serde_json::json!({ "a": null, "b": null, "c": "~", "d": null })
        );
    }

    #[test]
    fn numbers_are_what_they_look_like() {
        let read = json("[1e-4, 1E3, 1_000, 0x1F, 0o17, -5, +5, .5, 5., 1.10, '1.10']");
        assert_eq!(read, serde_json::json!([1e-4, 1000.0, 1000, 31, 15, -5, 5, 0.5, 5.0, 1.1, "1.10"]));
        assert_eq!(json("[9223372036854775807, 0.1]"), serde_json::json!([i64::MAX, 0.1]));
    }

    #[test]
    fn what_only_looks_like_a_number_stays_text() {
        // Samples are called so; a time and a date mean something else elsewhere, too.
        let read = json("[010, 007, 12:30, 2024-01-31, 1.2.3, 1e, 0x, infinity, nan, 5%]");
        let texts = ["010", "007", "12:30", "2024-01-31", "1.2.3", "1e", "0x", "infinity", "nan", "5%"];
        assert_eq!(read, serde_json::json!(texts));
    }

    #[test]
    fn aliases_and_merge_keys_give_what_they_stand_for() {
        let read = json("a: &a { x: 1, y: 2 }\nb: *a\nc: { <<: *a, y: 3 }\nd: [&t text, *t]\n");
        let expected = serde_json::json!({
            "a": { "x": 1, "y": 2 }, "b": { "x": 1, "y": 2 }, "c": { "x": 1, "y": 3 }, "d": ["text", "text"]
        });
        assert_eq!(read, expected);
        assert_eq!(
            json("[&a { x: 1 }, { <<: [*a, { x: 2, z: 3 }] }]")[1],
            serde_json::json!({ "x": 1, "z": 3 })
        );
    }

    #[test]
    fn ends_of_lines_marks_and_characters_of_other_systems_mean_nothing() {
        let expected = serde_json::json!({ "a": 1, "ä😀": ["b", "c"] });
        for text in [
            "a: 1\nä😀: [b, c]",
            "a: 1\r\nä😀: [b, c]\r\n",
            "a: 1\nä😀: [\tb,\tc\t]\n",
            "---\na: 1\nä😀: [b, c]\n...\n",
        ] {
            assert_eq!(json(text), expected, "{text:?}");
        }
        assert_eq!(json("%YAML 1.2\n---\na: 1\n"), serde_json::json!({ "a": 1 }));
        assert_eq!(json("1: a\ntrue: b\n1.5: c\n"), serde_json::json!({ "1": "a", "true": "b", "1.5": "c" }));
    }

    #[test]
    fn hostile_and_broken_files_are_refused_at_their_place() {
        let many = |text: &dyn Fn(usize) -> String| (0..90_000).map(text).collect::<String>();
        for text in [
            "a: 1\na: 2\n".to_owned(),
            "a: [1, 2\nb: 3\n".to_owned(),
            "a: .nan\n".to_owned(),
            "a: -.inf\n".to_owned(),
            "a: 1e999\n".to_owned(),
            "a: 9223372036854775808\n".to_owned(),
            "a:\n\t- 1\n".to_owned(),
            "a: 1\n---\nb: 2\n".to_owned(),
            "[".repeat(100_000),
            format!("a: {}", "x".repeat(2 << 20)),
            format!("a: &a {}\nb: [{}]", "x".repeat(400_000), "*a, ".repeat(100_000)),
            many(&|key| format!("k{}: 1\n", key / 2)),
        ] {
            let start = std::time::Instant::now();
            let error = node(&text).map(|node| node.to_json()).expect_err(&text[..text.len().min(40)]);
            assert!(!error.message.is_empty());
            assert!(start.elapsed().as_secs_f64() < 5.0, "{}", &text[..text.len().min(40)]);
        }
        let error = node("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(error.line_column().0, 3, "{error}");
    }

    #[test]
    fn many_keys_take_no_time() {
        let text: String = (0..90_000).map(|key| format!("k{key}: 1\n")).collect();
        let start = std::time::Instant::now();
        assert_eq!(node(&text).unwrap().entries().len(), 90_000);
        assert!(start.elapsed().as_secs_f64() < 5.0);
    }
}
