//! Where results are: the store, and behind it the remote that a team shares, if there is one.
//!
//! A remote is a help and never in the way: one that does not answer is told of once and left alone, and what it would have
//! given is computed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use restage_cache::{ActionKey, Digest, Lookup, Record, Remote, Store};

/// The store, and the remote behind it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache {
    /// What is on this machine.
    pub(crate) store: Store,
    /// What others have.
    pub(crate) shared: Option<Arc<Shared>>,
}

/// A remote that may fail.
pub(crate) struct Shared {
    remote: Remote,
    /// Whether what is computed here is given to it.
    pub(crate) write_back: bool,
    /// It did not answer.
    silent: AtomicBool,
    /// What it said that it has, and could not give: damaged there.
    bad: Mutex<BTreeSet<ActionKey>>,
}

impl Cache {
    /// A store with nothing behind it.
    #[cfg(test)]
    pub(crate) fn alone(store: Store) -> Self {
        Self { store, shared: None }
    }
}

impl Shared {
    pub(crate) fn new(remote: Remote, write_back: bool) -> Self {
        Self { remote, write_back, silent: AtomicBool::new(false), bad: Mutex::default() }
    }

    /// The remote, for who wants to see its errors.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What it has of these actions, and can give as far as is known.
    pub(crate) fn records(&self, keys: &BTreeSet<ActionKey>) -> BTreeMap<ActionKey, Record> {
        let mut records = self.ask(|remote| remote.records(keys)).unwrap_or_default();
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|key, _| !bad.contains(key));
        records
    }

    /// Brings an action's result into the store. `None` if it cannot.
    pub(crate) fn fetch(&self, store: &Store, key: &ActionKey) -> Option<Record> {
        let keys = BTreeSet::from([*key]);
        let pulled = self.ask(|remote| store.pull(remote, &keys, &BTreeSet::new(), &|_, _| {}));
        match store.lookup(key) {
            Ok(Lookup::Hit(record)) if pulled.is_some() => return Some(record),
            _ => {}
        }
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(*key);
        None
    }

    /// Brings artifacts into the store, as far as it can.
    pub(crate) fn fetch_artifacts(&self, store: &Store, artifacts: &BTreeSet<Digest>) {
        self.ask(|remote| store.pull(remote, &BTreeSet::new(), artifacts, &|_, _| {}));
    }

    /// Gives it results. How many it took that it had not.
    pub(crate) fn give(&self, store: &Store, keys: &BTreeSet<ActionKey>) -> u64 {
        self.ask(|remote| store.push(remote, keys, &BTreeSet::new(), &|_, _| {}))
            .map_or(0, |pushed| pushed.records)
    }

    fn ask<T>(&self, question: impl FnOnce(&Remote) -> restage_cache::Result<T>) -> Option<T> {
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        match question(&self.remote) {
            Ok(answer) => Some(answer),
            Err(error @ restage_cache::Error::Remote { fault: restage_cache::Fault::Object, .. }) => {
                // One thing of it is damaged; the rest may be good.
                tracing::warn!("{error}");
                None
            }
            Err(error) => {
                if !self.silent.swap(true, Ordering::Relaxed) {
                    tracing::warn!("{error}; going on without {}", self.remote.url());
                }
                None
            }
        }
    }
}
