//! What the store remembers of a run's results: how long they took, on what, of whom.

use rayon::prelude::*;
use restage_cache::{Lookup, Store};
use serde_json::Value;

use super::super::outcome::{Outcome, State};
use crate::run::event::How;

/// Per action what its record tells.
pub(super) struct Records(Vec<Option<Value>>);

impl Records {
    pub(super) fn of(outcome: &Outcome, store: &Store) -> Self {
        let record = |action: &super::super::outcome::ActionOutcome| match store.lookup(&action.done()?.key) {
            Ok(Lookup::Hit(record)) => Some(record.provenance),
            _ => None,
        };
        Self(outcome.actions.par_iter().map(record).collect())
    }

    /// Leaves something out of all of them.
    pub(super) fn forget(&mut self, name: &str) {
        for record in self.0.iter_mut().flatten().filter_map(Value::as_object_mut) {
            record.remove(name);
        }
    }

    pub(super) fn get(&self, action: usize) -> Option<&Value> {
        self.0.get(action)?.as_ref()
    }

    pub(super) fn text(&self, action: usize, name: &str) -> Option<&str> {
        self.get(action)?.get(name)?.as_str()
    }

    /// How long an action took when it ran, whenever that was. 0 if nobody knows.
    pub(super) fn milliseconds(&self, outcome: &Outcome, action: usize) -> u64 {
        let ran = outcome.actions.get(action).map(|action| &action.state);
        match ran {
            Some(State::Done(done)) => match done.how {
                How::Ran { milliseconds } => milliseconds,
                How::Cached | How::Fetched => {
                    self.get(action).and_then(|record| record.get("milliseconds")?.as_u64()).unwrap_or(0)
                }
            },
            Some(State::Failed { milliseconds, .. }) => *milliseconds,
            _ => 0,
        }
    }

    /// On what it ran, in words.
    pub(super) fn device(&self, action: usize) -> Option<String> {
        let record = self.get(action)?;
        let gpus = record.get("device").and_then(Value::as_array).into_iter().flatten();
        let names: Vec<&str> = gpus.filter_map(|gpu| gpu.get("name")?.as_str()).collect();
        let threads = record.get("threads").and_then(Value::as_u64)?;
        let threads = super::text::counted(threads as usize, "thread");
        Some(std::iter::once(threads.as_str()).chain(names).collect::<Vec<_>>().join(", "))
    }
}
