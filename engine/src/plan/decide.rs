//! What happens with each action, and why: decided by looking up what is known, before anything runs.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;
use restage_cache::{Digest, Lookup, MissReason, Store};
use serde::{Deserialize, Serialize};

use super::{Action, Plan, PlanError, key::Definition};

/// What happens with an action.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "decision", content = "reason")]
pub(crate) enum Decision {
    /// Its result is in the store.
    #[serde(rename = "cached")]
    Cached,
    /// It will run.
    #[serde(rename = "run")]
    Run(Reason),
    /// It runs unless its inputs come out as they were.
    #[serde(rename = "may run")]
    MayRun(Reason),
}

/// Why an action is not cached.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub(crate) enum Reason {
    /// Nothing like it ran before.
    New,
    /// A param has another value than when it last ran.
    Param {
        /// Path of the param.
        param: String,
        /// Its value then.
        from: serde_json::Value,
        /// Its value now.
        to: serde_json::Value,
    },
    /// A file that a param names has other content.
    File {
        /// Path of the param.
        param: String,
    },
    /// The plugin's code is not what it was.
    Code {
        /// The plugin.
        plugin: String,
    },
    /// Another seed.
    Seed,
    /// An input has other content.
    Input {
        /// The port.
        port: String,
    },
    /// It reads what will run first.
    Upstream {
        /// That action.
        action: String,
    },
    /// Its result is recorded, but the artifact is gone.
    Missing {
        /// The output port.
        port: String,
    },
    /// Its record cannot be read.
    Unreadable {
        /// Why.
        message: String,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("never run before"),
            Self::Param { param, from, to } => write!(f, "{param}: {from} -> {to}"),
            Self::File { param } => write!(f, "the content of `{param}` changed"),
            Self::Code { plugin } => write!(f, "the code of plugin {plugin} changed"),
            Self::Seed => f.write_str("another seed"),
            Self::Input { port } => write!(f, "its input `{port}` changed"),
            Self::Upstream { action } => write!(f, "reads {action}, which will run"),
            Self::Missing { port } => write!(f, "its output `{port}` is gone from the store"),
            Self::Unreadable { message } => write!(f, "its record cannot be read: {message}"),
        }
    }
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cached => f.write_str("cached"),
            Self::Run(reason) => write!(f, "run: {reason}"),
            Self::MayRun(reason) => write!(f, "may run: {reason}"),
        }
    }
}

/// What earlier runs of the workflow left: the actions of each stage, newest first. Explains, decides nothing.
#[derive(Default)]
pub(crate) struct History(pub(crate) Vec<PastAction>);

/// An action of an earlier run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PastAction {
    pub(crate) stage: String,
    pub(crate) at: BTreeMap<String, String>,
    pub(crate) uses: String,
    pub(crate) identity: Digest,
    pub(crate) keyed_params: serde_json::Value,
    pub(crate) seed: Option<u64>,
    pub(crate) inputs: BTreeMap<String, Vec<Digest>>,
}

/// Bucket of the store with a mark for each definition, inputs apart, that ever ran.
const DEFINITIONS: &str = "definitions";

pub(super) fn decide(plan: &mut Plan, store: &Store, history: &History) -> Result<(), PlanError> {
    let definitions = store.folder(DEFINITIONS)?;
    for node in plan.order() {
        let action = &plan.graph[node];
        let running = action.inputs.values().flatten().map(|(source, _)| &plan.graph[*source]);
        let running = running.into_iter().find(|source| source.decision != Decision::Cached);
        let (decision, key, artifacts) = match running {
            Some(source) => {
                let known = action.stage_key().map_err(|message| action.key_error(message))?;
                let reason = Reason::Upstream { action: source.name() };
                let ran_before = definitions.join(known.to_string()).exists();
                let decision = match action.change(history) {
                    // Nothing of this definition ever ran, so no input can make it a hit.
                    Some(change) if !ran_before => Decision::Run(change),
                    None if !ran_before => Decision::Run(Reason::New),
                    _ => Decision::MayRun(reason),
                };
                (decision, None, BTreeMap::new())
            }
            None => {
                let inputs = input_digests(plan, action);
                let key = action.action_key(&inputs).map_err(|message| action.key_error(message))?;
                match store.lookup(&key)? {
                    Lookup::Hit(record) => (Decision::Cached, Some(key), record.outputs),
                    Lookup::Miss(miss) => {
                        let reason = match miss {
                            MissReason::ArtifactMissing { port, .. } => Reason::Missing { port },
                            MissReason::Unreadable(message) => Reason::Unreadable { message },
                            MissReason::Never => action
                                .change(history)
                                .or_else(|| action.input_change(&inputs, history))
                                .unwrap_or(Reason::New),
                        };
                        (Decision::Run(reason), Some(key), BTreeMap::new())
                    }
                }
            }
        };
        let action = &mut plan.graph[node];
        (action.decision, action.key, action.artifacts) = (decision, key, artifacts);
    }
    Ok(())
}

/// Marks that an action's definition has run.
pub(crate) fn remember(action: &Action, store: &Store) -> Result<(), PlanError> {
    let known = action.stage_key().map_err(|message| action.key_error(message))?;
    let path = store.folder(DEFINITIONS)?.join(known.to_string());
    // A mark that is lost costs a `run` where `may run` would have been told; nothing else.
    let _ = std::fs::File::create(path);
    Ok(())
}

/// Digests of an action's inputs, all known.
pub(crate) fn input_digests(plan: &Plan, action: &Action) -> BTreeMap<String, Vec<Digest>> {
    let digest = |(source, port): &(NodeIndex, String)| plan.graph[*source].artifacts.get(port).copied();
    action
        .inputs
        .iter()
        .map(|(port, list)| (port.clone(), list.iter().filter_map(digest).collect()))
        .collect()
}

impl PastAction {
    pub(crate) fn of(action: &Action, inputs: BTreeMap<String, Vec<Digest>>) -> Self {
        Self {
            stage: action.stage.clone(),
            at: action.at.clone(),
            uses: action.uses.clone(),
            identity: action.identity,
            keyed_params: action.keyed_params.clone(),
            seed: action.seed,
            inputs,
        }
    }
}

impl Action {
    fn definition(&self) -> Definition<'_> {
        let (uses, identity, keyed_params) = (self.uses.as_str(), &self.identity, &self.keyed_params);
        Definition { uses, identity, keyed_params, seed: self.seed }
    }

    /// The key by which its result is looked up, given its inputs' content.
    pub(crate) fn action_key(
        &self,
        inputs: &BTreeMap<String, Vec<Digest>>,
    ) -> Result<restage_cache::ActionKey, String> {
        self.definition().action_key(inputs)
    }

    fn stage_key(&self) -> Result<Digest, String> {
        self.definition().stage_key()
    }

    pub(crate) fn key_error(&self, message: String) -> PlanError {
        PlanError::Key { stage: self.stage.clone(), message }
    }

    fn past<'a>(&self, history: &'a History) -> impl Iterator<Item = &'a PastAction> {
        let same = |past: &&PastAction| past.stage == self.stage && past.at == self.at;
        history.0.iter().filter(same)
    }

    /// How its definition differs from when its stage last ran; `None` if it does not, or never ran.
    fn change(&self, history: &History) -> Option<Reason> {
        let past: Vec<&PastAction> = self.past(history).collect();
        let same_definition = |past: &&&PastAction| {
            past.uses == self.uses
                && past.identity == self.identity
                && past.keyed_params == self.keyed_params
                && past.seed == self.seed
        };
        if past.iter().any(|past| same_definition(&past)) {
            return None;
        }
        // The one that differs least tells most: same seed before another, same code before another.
        let nearest = past.iter().filter(|past| past.uses == self.uses).min_by_key(|past| {
            let params = differences("", &past.keyed_params, &self.keyed_params).len();
            (past.seed != self.seed, past.identity != self.identity, params)
        })?;
        if nearest.identity != self.identity {
            let plugin = self.uses.split('/').next().unwrap_or_default().to_owned();
            return Some(Reason::Code { plugin });
        }
        let mut changed = differences(&self.stage, &nearest.keyed_params, &self.keyed_params);
        if changed.is_empty() {
            return Some(Reason::Seed);
        }
        let (param, from, to) = changed.swap_remove(0);
        let is_file = from.get("$digest").is_some() && to.get("$digest").is_some();
        Some(if is_file { Reason::File { param } } else { Reason::Param { param, from, to } })
    }

    fn input_change(&self, inputs: &BTreeMap<String, Vec<Digest>>, history: &History) -> Option<Reason> {
        let last = self.past(history).find(|past| past.seed == self.seed)?;
        let changed = inputs.iter().find(|(port, digests)| last.inputs.get(*port) != Some(digests));
        changed.map(|(port, _)| Reason::Input { port: port.clone() })
    }
}

type Difference = (String, serde_json::Value, serde_json::Value);

/// Where two params differ: path, old, new.
fn differences(path: &str, from: &serde_json::Value, to: &serde_json::Value) -> Vec<Difference> {
    use serde_json::Value;
    match (from, to) {
        (Value::Object(a), Value::Object(b)) if !a.contains_key("$digest") => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let null = Value::Null;
            keys.into_iter()
                .flat_map(|key| {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    differences(&path, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
                })
                .collect()
        }
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![(path.to_owned(), a.clone(), b.clone())],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_the_path_and_both_values() {
        let from = json!({"a": 1, "b": {"c": 2, "d": 3}, "f": {"$digest": "x"}});
        let to = json!({"a": 1, "b": {"c": 5, "d": 3}, "f": {"$digest": "y"}});
        let found = differences("s", &from, &to);
        assert_eq!(found[0], ("s.b.c".into(), json!(2), json!(5)));
        assert_eq!(found[1].0, "s.f");
        assert!(differences("s", &from, &from).is_empty());
    }
}
