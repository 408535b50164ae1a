//! Keys: what makes two actions the same.
//!
//! | | definition key | action key |
//! | --- | --- | --- |
//! | stage type, identity of its code | yes | yes |
//! | canonical params: typed, defaults filled, `1` and `1.0` meet where the type is a float | yes | yes |
//! | content of files that params name, by digest | yes | yes |
//! | seed, if the stage type takes one; that of one stream, where it has its own | yes | yes |
//! | inputs | by definition key and port | by artifact digest |
//! | order of inputs on a port | yes | yes |
//! | declared environment | where a param refers to it: as that param's value | the same |
//! | names of stages, variants, dimensions; the workflow's path | no: renaming changes no result | no |
//! | paths of data files | no: data that moved are the same data | no |
//! | threads, memory, device, retries, timeout, times, user, host | no: recorded | no |
//! | params marked `x-restage-unkeyed`, e.g. how often checkpoints are written | no: they change no result | no |
//!
//! A definition key is known before anything runs and merges equal actions of a sweep. An action key is known when
//! the inputs' content is, and looks up results: same input bytes, same result, whatever produced them.

use std::{collections::BTreeMap, sync::Arc};

use restage_cache::{ActionKey, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of the encoding; a change of it disowns every result there is.
const VERSION: u32 = 1;

/// Plain data in a form that has one encoding: maps sorted, numbers that are whole written as integers.
#[derive(Serialize)]
#[serde(untagged)]
enum Canonical {
    Null,
    Bool(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Canonical>),
    Map(BTreeMap<String, Canonical>),
}

impl From<&serde_json::Value> for Canonical {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), _, _) => Self::Int(value),
                (None, Some(value), _) => Self::Unsigned(value),
                (None, None, Some(value)) if is_whole(value) => Self::Int(value as i64),
                (None, None, value) => Self::Float(value.unwrap_or_default()),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(entries) => {
                Self::Map(entries.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

/// Whether a number is a whole one that both types hold exactly; -0.0 is 0.
fn is_whole(value: f64) -> bool {
    value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0
}

/// Where an action's random numbers come from. In key material a number, or a map where a stream has its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seeds {
    /// The seed of all its streams; `None` for a stage that draws nothing.
    pub(crate) all: Option<u64>,
    /// A stream that has another one.
    pub(crate) other: Option<(Arc<str>, u64)>,
}

impl Serialize for Seeds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.other {
            None => self.all.serialize(serializer),
            Some((stream, seed)) => serializer.collect_map([("", self.all), (&**stream, Some(*seed))]),
        }
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The two ways in which they are written.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(Option<u64>),
            Each(BTreeMap<String, Option<u64>>),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::One(all) => Self { all, other: None },
            Written::Each(mut each) => {
                let all = each.remove("").flatten();
                let other = each.into_iter().find_map(|(stream, seed)| Some((stream.into(), seed?)));
                Self { all, other }
            }
        })
    }
}

/// What an action is, before its seed and inputs are named: encoded once, shared by the actions of all seeds.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    /// The first four entries of a CBOR map of six: version, uses, identity, params.
    head: Box<[u8]>,
}

impl Definition {
    pub(crate) fn new(
        uses: &str,
        identity: &Digest,
        keyed_params: &serde_json::Value,
    ) -> Result<Self, String> {
        // 0xa6: a map of six entries.
        let mut head = vec![0xa6];
        entry(&mut head, "version", &VERSION)?;
        entry(&mut head, "uses", uses)?;
        entry(&mut head, "identity", identity)?;
        entry(&mut head, "params", &Canonical::from(keyed_params))?;
        Ok(Self { head: head.into() })
    }

    /// The whole key material. `inputs` are sorted by port; `I` is how inputs are named.
    fn encode<P: Serialize, I: Serialize>(
        &self,
        seeds: &Seeds,
        inputs: &[(P, Vec<I>)],
    ) -> Result<Vec<u8>, String> {
        let mut bytes = self.head.to_vec();
        entry(&mut bytes, "seed", seeds)?;
        entry(&mut bytes, "inputs", &AsMap(inputs))?;
        Ok(bytes)
    }

    /// The key by which equal actions of a plan are merged: inputs by the definition keys of what makes them.
    pub(crate) fn definition_key(
        &self,
        seeds: &Seeds,
        inputs: &[(&str, Vec<(Digest, &str)>)],
    ) -> Result<Digest, String> {
        let material = self.encode(seeds, inputs)?;
        Ok(Digest::from_bytes(blake3::derive_key("restage definition v1", &material)))
    }

    /// The key by which results are looked up: inputs by their content.
    pub(crate) fn action_key(
        &self,
        seeds: &Seeds,
        inputs: &BTreeMap<String, Vec<Digest>>,
    ) -> Result<ActionKey, String> {
        let inputs: Vec<(&String, Vec<Digest>)> =
            inputs.iter().map(|(port, digests)| (port, digests.clone())).collect();
        Ok(ActionKey::derive("restage action v1", &self.encode(seeds, &inputs)?))
    }

    /// What the action is apart from its inputs: whether anything like it ever ran.
    pub(crate) fn stage_key(&self, seeds: &Seeds) -> Result<Digest, String> {
        let material = self.encode::<&str, Digest>(seeds, &[])?;
        Ok(Digest::from_bytes(blake3::derive_key("restage stage v1", &material)))
    }
}

/// Appends an entry of a CBOR map.
fn entry(bytes: &mut Vec<u8>, key: &str, value: &(impl Serialize + ?Sized)) -> Result<(), String> {
    let write = |bytes: &mut Vec<u8>| -> Result<(), ciborium::ser::Error<std::io::Error>> {
        ciborium::into_writer(key, &mut *bytes)?;
        ciborium::into_writer(value, bytes)
    };
    write(bytes).map_err(|error| error.to_string())
}

/// Pairs as a map.
struct AsMap<'a, K, V>(&'a [(K, V)]);

impl<K: Serialize, V: Serialize> Serialize for AsMap<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Whether two values are the same to a key: `1` and `1.0` are.
pub(crate) fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn key(uses: &str, params: &serde_json::Value, seed: Option<u64>, inputs: &[(&str, &[u8])]) -> String {
        let identity = Digest::of(b"code");
        let mut ports: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
        for (port, content) in inputs {
            ports.entry((*port).into()).or_default().push(Digest::of(content));
        }
        Definition::new(uses, &identity, params)
            .unwrap()
            .action_key(&Seeds { all: seed, other: None }, &ports)
            .unwrap()
            .to_string()
    }

    #[test]
    fn order_of_params_and_form_of_whole_numbers_do_not_matter() {
        let a = key("p/s", &json!({"a": 1, "b": {"c": 2.5, "d": [1, 2]}}), None, &[]);
        let b = key("p/s", &json!({"b": {"d": [1.0, 2], "c": 2.5}, "a": 1.0}), None, &[]);
        assert_eq!(a, b);
        assert_eq!(key("p/s", &json!(0.0), None, &[]), key("p/s", &json!(-0.0), None, &[]));
    }

    #[test]
    fn everything_in_the_table_matters() {
        let base = key("p/s", &json!({"a": 1}), Some(0), &[("x", b"1"), ("x", b"2")]);
        for other in [
            key("p/t", &json!({"a": 1}), Some(0), &[("x", b"1"), ("x", b"2")]),
            key("p/s", &json!({"a": 2}), Some(0), &[("x", b"1"), ("x", b"2")]),
            key("p/s", &json!({"a": "1"}), Some(0), &[("x", b"1"), ("x", b"2")]),
            key("p/s", &json!({"a": 1}), Some(1), &[("x", b"1"), ("x", b"2")]),
            key("p/s", &json!({"a": 1}), None, &[("x", b"1"), ("x", b"2")]),
            key("p/s", &json!({"a": 1}), Some(0), &[("x", b"2"), ("x", b"1")]),
            key("p/s", &json!({"a": 1}), Some(0), &[("y", b"1"), ("x", b"2")]),
            key("p/s", &json!({"a": 1}), Some(0), &[("x", b"1")]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_stream_of_its_own_is_another_key_and_one_encoding() {
        let definition = Definition::new("p/s", &Digest::of(b""), &json!({})).unwrap();
        let material = |seed, other: Option<(&str, u64)>| {
            let seeds = Seeds { all: Some(seed), other: other.map(|(stream, seed)| (stream.into(), seed)) };
            definition.encode::<&str, Digest>(&seeds, &[]).unwrap()
        };
        let all = [
            material(0, None),
            material(0, Some(("init", 0))),
            material(0, Some(("init", 1))),
            material(1, Some(("init", 1))),
            material(0, Some(("batches", 1))),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        // A map of two entries, of definite length.
        assert!(all[2].windows(2).any(|pair| pair == [0xa2, 0x60]));
    }

    /// An action as `tests/golden-keys.jsonl` writes it: code and inputs by texts whose digests they are.
    #[derive(serde::Deserialize)]
    struct Golden {
        uses: String,
        code: String,
        params: serde_json::Value,
        seed: Option<u64>,
        inputs: BTreeMap<String, Vec<String>>,
        key: String,
    }

    /// A changed key means that everybody's cache is worth nothing any more. Lines are only ever added: the first ones
    /// are held by their digest, and whoever adds some counts them in here.
    #[test]
    fn keys_stay_what_they_were() {
        const HELD: usize = 15;
        const HELD_DIGEST: &str = "3c95b56ce93e37d7b6ab8721d0ce4bd2640a0e0be85760974f14ef1114f9b531";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden-keys.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let golden: Golden = serde_json::from_str(line).unwrap();
            let digest = |text: &String| Digest::of(text.as_bytes());
            let inputs =
                golden.inputs.iter().map(|(port, texts)| (port.clone(), texts.iter().map(digest).collect()));
            let definition = Definition::new(&golden.uses, &digest(&golden.code), &golden.params).unwrap();
            let key =
                definition.action_key(&Seeds { all: golden.seed, other: None }, &inputs.collect()).unwrap();
            assert_eq!(key.to_string(), golden.key, "{line}");
        }
        let held: String = text.lines().take(HELD).flat_map(|line| [line, "\n"]).collect();
        assert_eq!(Digest::of(held.as_bytes()).to_string(), HELD_DIGEST);
    }

    fn plain() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i32>().prop_map(|value| json!(value)),
            (-1e6..1e6).prop_map(|value: f64| json!(value)),
            "[a-z]{0,3}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|items| json!(items)),
                prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn keys_are_equal_exactly_when_the_params_are(a in plain(), b in plain()) {
            prop_assert_eq!(key("p/s", &a, None, &[]) == key("p/s", &b, None, &[]), same(&a, &b));
        }
    }
}
