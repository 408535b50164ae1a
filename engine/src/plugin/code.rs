//! A plugin's code: the library that hosts load, what it was built from, and what changed since an earlier build.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use restage_cache::Digest;

/// A plugin's library, and what it is.
#[derive(Debug)]
pub(crate) struct Code {
    /// The content-named copy in the store.
    pub(crate) library: PathBuf,
    /// What its code is: part of every action key of its stages.
    pub(crate) identity: Digest,
    /// Digest of the library's file; recorded.
    pub(crate) binary: Digest,
    /// Whether the identity is of sources, so that other people's builds share hits; else it is the binary's own.
    pub(crate) from_sources: bool,
    /// What was asked for before: earlier identities with what changed since.
    changed: Mutex<HashMap<Digest, Vec<String>>>,
}

impl Code {
    pub(super) fn new(library: PathBuf, identity: Digest, binary: Digest, from_sources: bool) -> Self {
        Self { library, identity, binary, from_sources, changed: Mutex::default() }
    }

    /// Code without a library.
    #[cfg(test)]
    pub(super) fn model(identity: Digest) -> Self {
        Self::new(PathBuf::new(), identity, identity, true)
    }

    /// Sources that differ from those of an earlier build; empty where one of the two was not built from sources.
    pub(crate) fn changed_since(&self, earlier: &Digest) -> Vec<String> {
        let mut known = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(*earlier).or_insert_with(|| self.compare(earlier).unwrap_or_default()).clone()
    }

    fn compare(&self, earlier: &Digest) -> Option<Vec<String>> {
        let folder = self.library.parent()?;
        Some(changed_sources(&source_list(folder, earlier)?, &source_list(folder, &self.identity)?))
    }
}

/// What an identity is of, piece by piece.
pub(crate) type SourceList = BTreeMap<String, Digest>;

/// Pieces that differ between two identities.
pub(crate) fn changed_sources(then: &SourceList, now: &SourceList) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    names.into_iter().filter(|name| then.get(*name) != now.get(*name)).cloned().collect()
}

fn list_path(folder: &Path, identity: &Digest) -> PathBuf {
    folder.join(format!("{identity}.sources.json"))
}

/// Keeps what an identity is of, so that a later plan can say which source changed.
pub(super) fn write_sources(folder: &Path, identity: &Digest, sources: &[(String, Digest)]) {
    let path = list_path(folder, identity);
    let list: BTreeMap<&String, &Digest> = sources.iter().map(|(name, digest)| (name, digest)).collect();
    // A list that is lost costs a reason its details; nothing else.
    if let (false, Ok(text)) = (path.exists(), serde_json::to_vec(&list)) {
        let _ = super::copies::replace(&path, &text);
    }
}

/// What an identity is of, from the folder that lists it; `None` where it is not listed.
pub(crate) fn source_list(folder: &Path, identity: &Digest) -> Option<SourceList> {
    serde_json::from_slice(&std::fs::read(list_path(folder, identity)).ok()?).ok()
}
