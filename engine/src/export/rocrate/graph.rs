//! Entities of a crate, as JSON-LD wants them.

use std::fmt::Write;

use indexmap::IndexMap;
use restage_cache::Digest;
use serde_json::{Map, Value, json};

use super::ROOT;

/// Entities by their id, in the order in which they came.
#[derive(Default)]
pub(super) struct Graph(pub(super) IndexMap<String, Map<String, Value>>);

impl Graph {
    /// Adds an entity, if it is not there.
    pub(super) fn add(&mut self, id: &str, kind: impl Into<Kind>, fields: Value) {
        if self.0.contains_key(id) {
            return;
        }
        let mut entity = Map::new();
        entity.insert("@id".to_owned(), id.into());
        entity.insert("@type".to_owned(), kind.into().0);
        if let Value::Object(fields) = fields {
            entity.extend(fields);
        }
        self.0.insert(id.to_owned(), entity);
    }

    /// The entities, what the crate itself is before what is in it; a list of one is that one, as RO-Crate recommends.
    pub(super) fn compact(mut self) -> Vec<Map<String, Value>> {
        if let Some(root) = self.0.get_index_of(ROOT) {
            self.0.move_index(root, 1);
        }
        for value in self.0.values_mut().flat_map(Map::values_mut) {
            if let Value::Array(list) = value
                && let [one] = list.as_mut_slice()
            {
                *value = one.take();
            }
        }
        self.0.into_values().collect()
    }

    /// Adds to a list of an entity what is not in it.
    pub(super) fn extend(&mut self, id: &str, field: &str, values: Vec<Value>) {
        let Some(entity) = self.0.get_mut(id) else { return };
        if values.is_empty() {
            return;
        }
        if let Value::Array(list) = entity.entry(field).or_insert_with(|| Value::Array(Vec::new())) {
            for value in values {
                if !list.contains(&value) {
                    list.push(value);
                }
            }
        }
    }

    pub(super) fn person(&mut self, name: &str) -> Value {
        let id = format!("#person/{}", escaped(name));
        self.add(&id, "Person", json!({ "name": name }));
        to(&id)
    }

    /// A param or seed, as an example of what its tool takes.
    pub(super) fn value(&mut self, formal: &str, name: &str, value: &Value) -> String {
        let text = value.to_string();
        let id = format!("{formal}={:.16}", Digest::of(text.as_bytes()));
        // Lists and maps as JSON.
        let value = if value.is_object() || value.is_array() { text.into() } else { value.clone() };
        self.add(&id, "PropertyValue", json!({ "name": name, "value": value, "exampleOfWork": to(formal) }));
        id
    }

    /// An artifact, as an example of what goes in or out of a port.
    pub(super) fn artifact(&mut self, digest: &Digest, name: Option<&str>, formal: &str) -> String {
        let id = artifact(digest);
        self.add(&id, "Dataset", json!({
            "name": name.unwrap_or("an artifact"),
            "description": "a folder in restage's store (mostly Zarr v3), known by the BLAKE3 digest of its tree",
            "identifier": blake3(digest),
        }));
        // Who reads it may be told of before who wrote it.
        if let (Some(name), Some(entity)) = (name, self.0.get_mut(&id)) {
            entity.insert("name".to_owned(), name.into());
        }
        self.extend(&id, "exampleOfWork", vec![to(formal)]);
        id
    }
}

pub(super) fn blake3(digest: &Digest) -> String {
    format!("blake3:{digest}")
}

/// One type, or several.
pub(super) struct Kind(Value);

impl From<&str> for Kind {
    fn from(kind: &str) -> Self {
        Self(kind.into())
    }
}

impl<const N: usize> From<[&str; N]> for Kind {
    fn from(kinds: [&str; N]) -> Self {
        Self(json!(kinds.as_slice()))
    }
}

pub(super) fn to(id: &str) -> Value {
    json!({ "@id": id })
}

/// Without what is null or empty.
pub(super) fn filled(mut fields: Value) -> Value {
    if let Value::Object(fields) = &mut fields {
        fields.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
    }
    fields
}

/// What `additionalType` calls a value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "Boolean",
        Value::Number(number) if number.is_f64() => "Float",
        Value::Number(_) => "Integer",
        _ => "Text",
    }
}

/// How ids of artifacts begin.
pub(super) const ARTIFACT: &str = "urn:blake3:";

pub(super) fn artifact(digest: &Digest) -> String {
    format!("{ARTIFACT}{digest}")
}

/// What may stand in a fragment of a URI.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                escaped.push(byte.into())
            }
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}
