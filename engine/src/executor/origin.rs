//! What a record says of how a result came to be: told, never keyed.

use std::collections::BTreeMap;

use restage_cache::{Digest, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Circumstances;
use crate::{
    now,
    plan::{Action, remember},
};

/// What is known of a result before it is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Of which stage, with which params, seed and inputs, and of which code.
    told: serde_json::Map<String, Value>,
    /// What the stage is, whatever it reads: marked as one that ran.
    stage_key: Option<Digest>,
}

impl Origin {
    /// Of an action whose inputs are known.
    pub(crate) fn of(action: &Action, inputs: &BTreeMap<String, Vec<Digest>>) -> Self {
        let told = [
            ("stage", json!(action.name())),
            ("uses", json!(action.step.uses)),
            ("params", json!(*action.step.params)),
            ("seed", json!(action.seeds)),
            ("inputs", json!(inputs)),
            ("plugin", json!({ "identity": action.step.code.identity, "binary": action.step.code.binary })),
        ];
        let told = told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { told, stage_key: action.stage_key().ok() }
    }

    /// Who made the result, when, where and of what. `how` is not there for what failed.
    pub(crate) fn of_result(&self, how: Option<&Circumstances>) -> Value {
        let mut told = self.told.clone();
        let here = [
            ("restage", json!(env!("CARGO_PKG_VERSION"))),
            ("user", json!(user())),
            ("host", json!(host())),
            (
                "device",
                json!(how.map(|how| if how.gpus.is_empty() { json!("cpu") } else { json!(how.gpus) })),
            ),
            ("threads", json!(how.map(|how| how.threads))),
            ("memory", json!(how.and_then(|how| how.memory))),
            ("sandbox", json!(how.map(|how| how.sandbox.to_string()))),
            ("finished", json!(now())),
            ("milliseconds", json!(how.map(|how| how.milliseconds))),
        ];
        told.extend(here.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(told)
    }

    /// Marks the stage as one that ran.
    pub(crate) fn remember(&self, store: &Store) {
        if let Some(stage_key) = &self.stage_key {
            remember(stage_key, store);
        }
    }
}

/// Who runs this, if the environment tells.
pub(crate) fn user() -> Option<String> {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok()
}

/// The machine's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
