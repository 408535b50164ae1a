//! Why an action is not cached: one variant per cause, with what was and what is. Earlier runs explain; they decide nothing.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use restage_cache::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Action, Instance, files::DIGEST_MARK, key, name};

/// Why an action is not cached.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub(crate) enum Reason {
    /// Nothing like it ran before.
    New,
    /// Another stage type than when it last ran.
    StageType {
        /// The type then.
        from: String,
        /// The type now.
        to: String,
    },
    /// A param has another value than when it last ran.
    Param(Change),
    /// A file that a param names has other content.
    File {
        /// Path of the param.
        param: String,
        /// The file.
        file: Option<PathBuf>,
    },
    /// The plugin's code is not what it was.
    Code {
        /// The plugin.
        plugin: String,
        /// Its sources that changed, where they are known.
        sources: Vec<String>,
    },
    /// Another seed.
    Seed {
        /// The seed then.
        from: Option<u64>,
        /// The seed now.
        to: Option<u64>,
    },
    /// One stream of random numbers has another seed.
    Stream {
        /// The stream and its seed then.
        from: Option<String>,
        /// The same now.
        to: Option<String>,
    },
    /// An input has other content.
    Input {
        /// The port.
        port: String,
        /// The actions that it comes from.
        actions: Vec<String>,
        /// The artifacts then.
        from: Vec<Digest>,
        /// The artifacts now.
        to: Vec<Digest>,
    },
    /// It reads what will run first.
    Upstream {
        /// That action.
        action: String,
    },
    /// It ran like this before, but the record of the result is gone.
    Forgotten,
    /// Its result is recorded, but the artifact is gone.
    Gone {
        /// The output port.
        port: String,
    },
    /// Its result is recorded, but the artifact is not what it was.
    Damaged {
        /// The output port.
        port: String,
        /// The file in which it differs.
        file: PathBuf,
    },
    /// Its record cannot be read.
    Unreadable {
        /// Why.
        message: String,
    },
    /// It was asked for.
    Forced,
}

/// A value that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    /// Path of the value.
    pub(crate) param: String,
    /// The value then.
    pub(crate) from: Value,
    /// The value now.
    pub(crate) to: Value,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.param, shown(&self.from), shown(&self.to))
    }
}

/// A value on one line that people can read.
fn shown(value: &Value) -> String {
    const WIDTH: usize = 60;
    let text = match value {
        Value::Null => "nothing".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("never run before"),
            Self::StageType { from, to } => write!(f, "stage type {from} -> {to}"),
            Self::Param(change) => change.fmt(f),
            Self::File { param, file: Some(file) } => {
                write!(f, "the content of {} changed ({param})", file.display())
            }
            Self::File { param, file: None } => write!(f, "the content of `{param}` changed"),
            Self::Code { plugin, sources } if sources.is_empty() => {
                write!(f, "the code of plugin {plugin} changed")
            }
            Self::Code { plugin, sources } => {
                const TOLD: usize = 4;
                let told = sources.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = sources.len().saturating_sub(TOLD);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                write!(f, "the code of plugin {plugin} changed: {told}{more}")
            }
            Self::Seed { from, to } => {
                let seed = |seed: &Option<u64>| seed.map_or("none".to_owned(), |seed| seed.to_string());
                write!(f, "seed {} -> {}", seed(from), seed(to))
            }
            Self::Stream { from, to } => {
                let told = |stream: &Option<String>| stream.clone().unwrap_or_else(|| "none".to_owned());
                write!(f, "the seed of one stream {} -> {}", told(from), told(to))
            }
            Self::Input { port, actions, .. } => {
                write!(f, "its input `{port}` changed (from {})", actions.join(", "))
            }
            Self::Upstream { action } => write!(f, "reads {action}, which will run"),
            Self::Forgotten => f.write_str("the record of its result is gone from the store"),
            Self::Gone { port } => write!(f, "its output `{port}` is gone from the store"),
            Self::Damaged { port, file } => {
                write!(f, "its output `{port}` is damaged in the store: {}", file.display())
            }
            Self::Unreadable { message } => write!(f, "its record cannot be read: {message}"),
            Self::Forced => f.write_str("asked for with --force"),
        }
    }
}

/// An action of an earlier run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PastAction {
    pub(crate) stage: String,
    pub(crate) at: BTreeMap<String, String>,
    pub(crate) uses: String,
    pub(crate) identity: Digest,
    pub(crate) keyed_params: Value,
    pub(crate) seed: Option<u64>,
    /// A stream that had another seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<(String, u64)>,
    pub(crate) inputs: BTreeMap<String, Vec<Digest>>,
}

impl PastAction {
    pub(crate) fn of(action: &Action, inputs: BTreeMap<String, Vec<Digest>>) -> Self {
        let step = &action.step;
        Self {
            stage: step.stage.to_string(),
            at: (*step.at).clone(),
            uses: step.uses.clone(),
            identity: step.code.identity,
            keyed_params: (*step.keyed_params).clone(),
            seed: action.seeds.all,
            stream: action.seeds.other.as_ref().map(|(stream, seed)| (stream.to_string(), *seed)),
            inputs,
        }
    }
}

/// What earlier runs of the workflow left. Read when it is first asked for: what is cached needs no explanation.
pub(crate) struct History(LazyLock<Past, Box<dyn FnOnce() -> Past + Send>>);

/// Actions of earlier runs, by variant, stage and seed; the newest counts.
#[derive(Default)]
pub(crate) struct Past {
    by_seed: HashMap<(String, String, Option<u64>), Arc<PastAction>>,
    of_any_seed: HashMap<(String, String), Arc<PastAction>>,
}

impl Past {
    /// Adds an instance of an earlier run; runs are added newest first.
    pub(crate) fn add(&mut self, variant: &str, place: String, seed: Option<u64>, past: &Arc<PastAction>) {
        self.of_any_seed.entry((variant.to_owned(), place.clone())).or_insert_with(|| past.clone());
        self.by_seed.entry((variant.to_owned(), place, seed)).or_insert_with(|| past.clone());
    }
}

impl History {
    /// A history that is read by `read`.
    pub(crate) fn new(read: impl FnOnce() -> Past + Send + 'static) -> Self {
        Self(LazyLock::new(Box::new(read)))
    }

    /// What an instance is best compared with: itself, another seed of it, or the baseline's.
    pub(crate) fn nearest(&self, instance: &Instance, baseline: &str) -> Option<&PastAction> {
        let place = name(&instance.stage, &instance.at);
        [&*instance.variant, baseline].into_iter().find_map(|variant| {
            let id = (variant.to_owned(), place.clone(), instance.seed);
            self.0.by_seed.get(&id).or_else(|| self.0.of_any_seed.get(&(id.0, id.1))).map(|past| &**past)
        })
    }
}

/// How an action's definition differs from an earlier one; empty if it does not.
pub(super) fn changes(action: &Action, past: &PastAction) -> Vec<Reason> {
    let step = &action.step;
    if past.uses != step.uses {
        return vec![Reason::StageType { from: past.uses.clone(), to: step.uses.clone() }];
    }
    let mut reasons = Vec::new();
    for change in differences(&step.stage, &past.keyed_params, &step.keyed_params) {
        let is_file = |value: &Value| value.get(DIGEST_MARK).is_some();
        reasons.push(if is_file(&change.from) && is_file(&change.to) {
            let digest = change.to.get(DIGEST_MARK).and_then(Value::as_str);
            let mut named = step.named.code.iter().chain(&step.named.files);
            let file = named.find(|(_, known)| Some(known.to_string().as_str()) == digest);
            Reason::File { param: change.param, file: file.map(|(path, _)| path.clone()) }
        } else {
            Reason::Param(change)
        });
    }
    if past.identity != step.code.identity {
        let plugin = step.uses.split('/').next().unwrap_or_default().to_owned();
        reasons.push(Reason::Code { plugin, sources: step.code.changed_since(&past.identity) });
    }
    if past.seed != action.seeds.all {
        reasons.push(Reason::Seed { from: past.seed, to: action.seeds.all });
    }
    let past_stream = past.stream.as_ref().map(|(stream, seed)| (stream.as_str(), *seed));
    let stream = action.seeds.other.as_ref().map(|(stream, seed)| (&**stream, *seed));
    if past_stream != stream {
        let told = |stream: Option<(&str, u64)>| stream.map(|(stream, seed)| format!("{stream}: {seed}"));
        reasons.push(Reason::Stream { from: told(past_stream), to: told(stream) });
    }
    reasons
}

/// Which inputs have other content than an earlier action's.
pub(super) fn input_changes(
    inputs: &BTreeMap<String, Vec<Digest>>,
    past: &PastAction,
    actions: impl Fn(&str) -> Vec<String>,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (port, now) in inputs {
        let then = past.inputs.get(port).cloned().unwrap_or_default();
        if then != *now {
            reasons.push(Reason::Input {
                port: port.clone(),
                actions: actions(port),
                from: then,
                to: now.clone(),
            });
        }
    }
    for (port, then) in past.inputs.iter().filter(|(port, _)| !inputs.contains_key(*port)) {
        reasons.push(Reason::Input {
            port: port.clone(),
            actions: Vec::new(),
            from: then.clone(),
            to: Vec::new(),
        });
    }
    reasons
}

/// Where two params differ.
pub(crate) fn differences(path: &str, from: &Value, to: &Value) -> Vec<Change> {
    match (from, to) {
        (Value::Object(a), Value::Object(b)) if !a.contains_key(DIGEST_MARK) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter()
                .flat_map(|key| {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    differences(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null))
                })
                .collect()
        }
        // Of a list of files, those that changed; other lists are short enough to be told whole.
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().any(|item| item.is_object()) => {
            let items = a.iter().zip(b).enumerate();
            items.flat_map(|(index, (a, b))| differences(&format!("{path}[{index}]"), a, b)).collect()
        }
        (a, b) if key::same(a, b) => Vec::new(),
        (a, b) => vec![Change { param: path.to_owned(), from: a.clone(), to: b.clone() }],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_the_path_and_both_values() {
        let from = json!({"a": 1, "b": {"c": 2, "d": 3}, "f": {"$digest": "x"}});
        let to = json!({"a": 1.0, "b": {"c": 5, "d": 3}, "f": {"$digest": "y"}});
        let found = differences("s", &from, &to);
        assert_eq!(found[0], Change { param: "s.b.c".into(), from: json!(2), to: json!(5) });
        assert_eq!(found[1].param, "s.f");
        assert_eq!(found.len(), 2, "1 and 1.0 are the same");
        assert!(differences("s", &from, &from).is_empty());
    }

    #[test]
    fn every_cause_has_its_words_and_its_json() {
        let digest = Digest::of(b"x");
        let all = [
            Reason::New,
            Reason::StageType { from: "a/b".into(), to: "a/c".into() },
            Reason::Param(Change { param: "s.rate".into(), from: json!(0.1), to: json!(0.2) }),
            Reason::Param(Change { param: "s.list".into(), from: json!(null), to: json!("x".repeat(90)) }),
            Reason::File { param: "s.path".into(), file: Some("data/a.txt".into()) },
            Reason::Code { plugin: "ssl".into(), sources: (1..7).map(|n| format!("src/{n}.rs")).collect() },
            Reason::Code { plugin: "ssl".into(), sources: Vec::new() },
            Reason::Seed { from: Some(0), to: Some(1) },
            Reason::Input {
                port: "table".into(),
                actions: vec!["a".into()],
                from: vec![digest],
                to: vec![digest],
            },
            Reason::Upstream { action: "counts[P1]".into() },
            Reason::Forgotten,
            Reason::Gone { port: "table".into() },
            Reason::Damaged { port: "table".into(), file: "X/c/0".into() },
            Reason::Unreadable { message: "it is empty".into() },
            Reason::Forced,
        ];
        let told: Vec<String> = all
            .iter()
            .map(|reason| format!("{reason}\n    {}", serde_json::to_string(reason).unwrap()))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
