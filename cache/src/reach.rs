//! Which artifacts are held, and what that takes: a file that several of them have takes its bytes once.

use std::collections::HashMap;

use crate::action::Record;
use crate::digest::Digest;
use crate::inventory::{Held, Noted};
use crate::manifest::Entry;

/// Which artifacts are held, how often, and what that takes.
pub(crate) struct Reach<'a> {
    artifacts: HashMap<Digest, &'a Held>,
    held: HashMap<Digest, usize>,
    files: HashMap<Digest, usize>,
    /// Of all files of what is held.
    pub(crate) bytes: u64,
}

impl<'a> Reach<'a> {
    pub(crate) fn new(artifacts: &'a [Held]) -> Reach<'a> {
        let artifacts = artifacts.iter().map(|held| (held.digest, held)).collect();
        Reach { artifacts, held: HashMap::new(), files: HashMap::new(), bytes: 0 }
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.held.get(digest).is_some_and(|times| *times > 0)
    }

    pub(crate) fn hold(&mut self, digest: &Digest) {
        let times = self.held.entry(*digest).or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        for entry in entries(self.artifacts.get(digest).copied()) {
            let names = self.files.entry(entry.digest).or_default();
            *names += 1;
            self.bytes += if *names == 1 { entry.size } else { 0 };
        }
    }

    pub(crate) fn release(&mut self, digest: &Digest) {
        let Some(times) = self.held.get_mut(digest) else { return };
        *times = times.saturating_sub(1);
        if *times > 0 {
            return;
        }
        for entry in entries(self.artifacts.get(digest).copied()) {
            let names = self.files.entry(entry.digest).or_default();
            *names = names.saturating_sub(1);
            self.bytes -= if *names == 0 { entry.size } else { 0 };
        }
    }

    /// Of the record's artifacts, each file counted as often as they have it.
    pub(crate) fn bytes_of(&self, noted: &Noted) -> u64 {
        let outputs = noted.record.iter().flat_map(|record| record.outputs.values());
        outputs.flat_map(|digest| entries(self.artifacts.get(digest).copied())).map(|entry| entry.size).sum()
    }

    /// Milliseconds that it takes to compute a gigabyte of the record's artifacts again.
    pub(crate) fn worth(&self, noted: &Noted) -> u128 {
        let milliseconds = noted.record.as_ref().map_or(0, milliseconds);
        (u128::from(milliseconds) << 30) / u128::from(self.bytes_of(noted).max(1))
    }
}

/// How long the action took, where its provenance says so.
fn milliseconds(record: &Record) -> u64 {
    record.provenance.get("milliseconds").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

pub(crate) fn entries(held: Option<&Held>) -> impl Iterator<Item = &Entry> {
    held.and_then(|held| held.manifest.as_ref()).into_iter().flat_map(|manifest| manifest.entries())
}

pub(crate) fn contents(held: &Held) -> impl Iterator<Item = Digest> {
    entries(Some(held)).map(|entry| entry.digest)
}

/// What the records that can be read say.
pub(crate) fn outputs<'a>(records: &[&'a Noted]) -> impl Iterator<Item = &'a Digest> + use<'a> {
    let read: Vec<&'a Record> = records.iter().filter_map(|noted| noted.record.as_ref().ok()).collect();
    read.into_iter().flat_map(|record| record.outputs.values())
}
