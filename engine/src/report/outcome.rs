//! What a run gave, event by event: what its tables, its report, its exports and the server read.

use std::{collections::BTreeMap, path::PathBuf};

use restage_cache::{ActionKey, Digest, Store};
use restage_stage::catalogue::PortType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    plan::{BASELINE, PastAction},
    run::event::{ActionHead, ActionId, Comparison, Event, How, InstanceHead, Started},
};

/// A run, as far as it got.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The workflow's file.
    pub(crate) workflow: PathBuf,
    /// restage's version.
    pub(crate) version: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) time: u64,
    /// Who ran it, and where.
    pub(crate) by: Option<String>,
    /// How long it took; `None` for one that goes on, or was killed.
    pub(crate) milliseconds: Option<u64>,
    pub(crate) variants: Vec<String>,
    /// The variant that others are compared with.
    pub(crate) baseline: String,
    /// What its sweep compares, and how.
    pub(crate) comparison: Comparison,
    /// In the plan's order; an [`ActionId`] is a position here.
    pub(crate) actions: Vec<ActionOutcome>,
    /// Which action each stage of each variant and seed is.
    pub(crate) instances: Vec<InstanceHead>,
}

/// An action, as far as it got.
#[derive(Clone, Debug)]
pub(crate) struct ActionOutcome {
    pub(crate) head: ActionHead,
    pub(crate) state: State,
    /// Per name the points that its stage told in this run, of all its tries.
    pub(crate) curves: BTreeMap<String, Vec<(u64, Option<f64>)>>,
    /// When each of them was told, in milliseconds since 1970; 0 where the journal is of before that was written down.
    pub(crate) times: BTreeMap<String, Vec<u64>>,
    /// How often it failed and was tried again.
    pub(crate) retries: u32,
}

/// How far an action is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Nothing was told of it yet.
    Pending,
    /// Another run computes it.
    Waiting,
    /// It runs.
    Running,
    /// Its result is there.
    Done(Box<Done>),
    /// It failed.
    Failed { message: String, milliseconds: u64 },
    /// What it reads failed.
    Skipped { because: ActionId },
}

/// A result.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) how: How,
    pub(crate) key: ActionKey,
    /// Per port.
    pub(crate) outputs: BTreeMap<String, Digest>,
    /// What it was made of.
    pub(crate) past: PastAction,
    /// The numbers of its metrics output, if it has one.
    pub(crate) metrics: BTreeMap<String, f64>,
}

impl Outcome {
    /// A run from its events. `None` if they do not tell that one began.
    pub(crate) fn of(events: impl IntoIterator<Item = Event>) -> Option<Self> {
        let mut events = events.into_iter();
        let Some(Event::Started(started)) = events.next() else { return None };
        let mut outcome = Self::begun(*started);
        events.for_each(|event| outcome.add(event));
        Some(outcome)
    }

    /// A run of which nothing is known but its plan.
    pub(crate) fn begun(started: Started) -> Self {
        let Started { workflow, version, time, by, actions, instances, variants, baseline, comparison } =
            started;
        let action = |head| ActionOutcome {
            head,
            state: State::Pending,
            curves: BTreeMap::new(),
            times: BTreeMap::new(),
            retries: 0,
        };
        Self {
            workflow,
            version,
            time,
            by,
            milliseconds: None,
            variants,
            baseline: baseline.unwrap_or_else(|| BASELINE.to_owned()),
            comparison,
            actions: actions.into_iter().map(action).collect(),
            instances,
        }
    }

    /// Adds what happened next.
    pub(crate) fn add(&mut self, event: Event) {
        let (id, state) = match event {
            Event::Started(_) | Event::Log { .. } | Event::Progress { .. } | Event::Notice { .. } => return,
            Event::Finished { milliseconds } => {
                self.milliseconds = Some(milliseconds);
                return;
            }
            Event::Metric { action, name, step, value, time } => {
                if let Some(action) = self.actions.get_mut(action) {
                    action.times.entry(name.clone()).or_default().push(time);
                    action.curves.entry(name).or_default().push((step, value));
                }
                return;
            }
            Event::Retrying { action, .. } => {
                if let Some(action) = self.actions.get_mut(action) {
                    action.retries += 1;
                }
                return;
            }
            Event::Waiting { action, .. } => (action, State::Waiting),
            Event::Running { action, .. } => (action, State::Running),
            Event::Done { action, how, key, outputs, past, metrics } => {
                (action, State::Done(Box::new(Done { how, key, outputs, past: *past, metrics })))
            }
            Event::Failed { action, message, milliseconds } => {
                (action, State::Failed { message, milliseconds })
            }
            Event::Skipped { action, because } => (action, State::Skipped { because }),
        };
        if let Some(action) = self.actions.get_mut(id) {
            action.state = state;
        }
    }

    /// Whether every action has its result.
    pub(crate) fn succeeded(&self) -> bool {
        self.actions.iter().all(|action| action.done().is_some())
    }

    /// The instances of a variant.
    pub(crate) fn of_variant(&self, variant: &str) -> impl Iterator<Item = &InstanceHead> {
        self.instances.iter().filter(move |instance| instance.variant == variant)
    }

    /// Names of the actions for people: stage, place, seed, and the variant if it is not the baseline.
    pub(crate) fn labels(&self) -> Vec<String> {
        let mut labels: Vec<Option<String>> = vec![None; self.actions.len()];
        let is_baseline = |instance: &&InstanceHead| instance.variant == self.baseline;
        let of_baseline = self.instances.iter().filter(is_baseline);
        for instance in of_baseline.chain(&self.instances) {
            if let Some(label) = labels.get_mut(instance.action) {
                label.get_or_insert_with(|| instance.label(&self.baseline));
            }
        }
        let named = labels.into_iter().zip(&self.actions);
        named.map(|(label, action)| label.unwrap_or_else(|| action.head.name.clone())).collect()
    }

    /// What an instance's action gave.
    pub(crate) fn done(&self, instance: &InstanceHead) -> Option<&Done> {
        self.actions.get(instance.action)?.done()
    }
}

impl ActionOutcome {
    /// Its result, if it is there.
    pub(crate) fn done(&self) -> Option<&Done> {
        match &self.state {
            State::Done(done) => Some(done),
            _ => None,
        }
    }

    /// Its outputs of a type: port and digest.
    pub(crate) fn outputs(&self, kind: PortType) -> impl Iterator<Item = (&str, Digest)> {
        let of_kind = move |port: &str| self.head.outputs.get(port) == Some(&kind);
        let outputs = self.done().into_iter().flat_map(|done| &done.outputs);
        outputs.filter(move |(port, _)| of_kind(port)).map(|(port, digest)| (port.as_str(), *digest))
    }
}

/// Numbers of a metrics artifact.
pub(crate) type Numbers = BTreeMap<String, f64>;

/// A metrics artifact, as the attributes of its root group tell.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Scores {
    /// Name to value.
    pub(crate) values: Numbers,
    /// Group, as a patient or a section, to name to value.
    pub(crate) groups: BTreeMap<String, Numbers>,
    /// What explains the numbers. Does not travel.
    #[serde(skip)]
    pub(crate) details: Value,
}

impl Scores {
    /// Reads one. `None` if it is gone from the store, or is none.
    pub(crate) fn read(digest: &Digest, store: &Store) -> Option<Self> {
        let folder = store.artifact(digest).ok()??;
        let mut root: Value = serde_json::from_slice(&std::fs::read(folder.join("zarr.json")).ok()?).ok()?;
        let attributes = root.get_mut("attributes")?.as_object_mut()?;
        let groups = attributes.get("groups").and_then(Value::as_object);
        Some(Self {
            values: numbers(attributes.get("metrics")?.as_object()?),
            groups: groups
                .into_iter()
                .flatten()
                .filter_map(|(group, values)| Some((group.clone(), numbers(values.as_object()?))))
                .collect(),
            details: attributes.get_mut("details").map(Value::take).unwrap_or_default(),
        })
    }
}

impl Scores {
    /// A metric per group: those that the artifact tells, as patients; of one that tells none, `place`, which is what its stage is
    /// mapped over, where it is.
    pub(crate) fn of_groups<'a>(
        &'a self,
        metric: &'a str,
        place: &'a str,
    ) -> impl Iterator<Item = (&'a str, f64)> {
        let own = self.groups.iter().filter_map(move |(group, values)| {
            let value = values.get(metric).or_else(|| values.get(mean_of(metric)?))?;
            Some((group.as_str(), *value))
        });
        let of_place = self.values.get(metric).filter(|_| self.groups.is_empty() && !place.is_empty());
        own.chain(of_place.map(|value| (place, *value)))
    }
}

/// What a metric is a mean of: `accuracy` of `accuracy_patient_mean`.
fn mean_of(name: &str) -> Option<&str> {
    Some(name.strip_suffix("_mean")?.rsplit_once('_')?.0)
}

/// Those that are numbers.
fn numbers(values: &Map<String, Value>) -> Numbers {
    values.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_over_groups_is_found_in_them() {
        assert_eq!(mean_of("macro_f1_patient_mean"), Some("macro_f1"));
        assert_eq!(mean_of("macro_f1"), None);
    }
}
