//! The audit: whether cached actions, run again, give what is recorded of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use restage_cache::{ActionKey, Digest, Store, tree_digest};
use restage_stage::catalogue::Tolerance;
use serde::Serialize;
use serde_json::Value;

use super::compare::{Finding, Verdict, compare};
use crate::{executor::Computed, run::again::Cached};

/// So many of the actions, at least one, chosen by their keys: the same seed, the same ones.
pub(crate) fn sample(keys: &BTreeSet<ActionKey>, fraction: f64, seed: u64) -> BTreeSet<ActionKey> {
    let drawn = |key: &ActionKey| {
        let mut seeded = seed.to_le_bytes().to_vec();
        seeded.extend(key.to_string().bytes());
        (Digest::of(&seeded), *key)
    };
    let mut drawn: Vec<(Digest, ActionKey)> = keys.iter().map(drawn).collect();
    drawn.sort_unstable();
    // A number of actions is far from where floating point would lose one.
    let count = ((keys.len() as f64 * fraction).ceil() as usize).max(1);
    drawn.into_iter().take(count).map(|(_, key)| key).collect()
}

/// One output, as it is recorded and as it came out again.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    pub(crate) verdict: Verdict,
    /// The artifact that is recorded.
    pub(crate) then: Digest,
    /// What would have been one.
    pub(crate) now: Digest,
    /// Part by part, where the bytes differ.
    pub(crate) parts: Vec<Finding>,
}

/// Compares what an action wrote, output by output. An error is what keeps from it.
pub(crate) fn judge(
    cached: &Cached,
    computed: &Computed,
    store: &Store,
    tolerance: Option<Tolerance>,
) -> Result<BTreeMap<String, Compared>, String> {
    let told = |error: restage_cache::Error| crate::causes(&error).join(": ");
    let mut outputs = BTreeMap::new();
    for (port, then) in &cached.record.outputs {
        let Some(folder) = computed.folders.get(port) else {
            return Err(format!("the stage has no output `{port}` any more"));
        };
        let now = tree_digest(folder).map_err(told)?;
        let (mut verdict, mut parts) = (Verdict::BitEqual, Vec::new());
        if now != *then {
            let gone = || format!("its output `{port}` went from the cache meanwhile");
            let recorded = store.artifact(then).map_err(told)?.ok_or_else(gone)?;
            parts = compare(&recorded, folder, tolerance.unwrap_or_default())
                .map_err(|error| error.to_string())?;
            // Where nothing that counts differs, e.g. the layout of a group's text, the bytes still do.
            let worst = parts.iter().map(|part| part.verdict).max();
            verdict = worst.unwrap_or(Verdict::Within).max(Verdict::Within);
        }
        outputs.insert(port.clone(), Compared { verdict, then: *then, now, parts });
    }
    Ok(outputs)
}

/// An action that ran again.
#[derive(Serialize)]
pub(crate) struct Audited {
    pub(crate) workflow: PathBuf,
    /// Its name for people, with place, seed and variant.
    pub(crate) action: String,
    pub(crate) stage: String,
    pub(crate) at: BTreeMap<String, String>,
    pub(crate) uses: String,
    pub(crate) variant: String,
    pub(crate) seed: Option<u64>,
    pub(crate) key: ActionKey,
    pub(crate) tolerance: Option<Tolerance>,
    #[serde(flatten)]
    pub(crate) ended: Ended,
    /// Where the recorded result came from.
    pub(crate) then: Value,
    /// Where this one did.
    pub(crate) now: Value,
}

/// How it ended.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Ended {
    Compared { verdict: Verdict, outputs: BTreeMap<String, Compared> },
    Failed { failed: String },
}

impl Ended {
    pub(crate) fn of(outputs: Result<BTreeMap<String, Compared>, String>) -> Self {
        match outputs {
            Ok(outputs) => {
                let verdict =
                    outputs.values().map(|output| output.verdict).max().unwrap_or(Verdict::BitEqual);
                Self::Compared { verdict, outputs }
            }
            Err(failed) => Self::Failed { failed },
        }
    }

    /// `None` if it failed.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Compared { verdict, .. } => Some(*verdict),
            Self::Failed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_some_of_the_actions_and_the_same_ones_again() {
        let keys: BTreeSet<ActionKey> =
            (0..100u8).map(|number| ActionKey::derive("test", &[number])).collect();
        let of = |fraction, seed| sample(&keys, fraction, seed);
        assert_eq!([0.001, 0.05, 0.051, 1.0].map(|fraction| of(fraction, 7).len()), [1, 5, 6, 100]);
        assert!(of(0.5, 7).is_superset(&of(0.2, 7)) && keys.is_superset(&of(0.5, 7)));
        assert_eq!(of(0.1, 7), of(0.1, 7));
        assert_ne!(of(0.1, 7), of(0.1, 8));
        assert!(sample(&BTreeSet::new(), 1.0, 7).is_empty());
    }
}
