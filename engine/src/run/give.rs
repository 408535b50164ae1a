//! Giving results to the remote while the run goes on: one thread, which takes what has come in together.

use std::{collections::BTreeSet, sync::mpsc, sync::mpsc::Sender};

use restage_cache::ActionKey;
use tokio::task::JoinHandle;

use crate::cache::Cache;

/// A remote that is given what is computed.
pub(super) struct Giving {
    keys: Sender<ActionKey>,
    thread: JoinHandle<u64>,
}

impl Giving {
    /// `None` where nothing is to be given.
    pub(super) fn begin(cache: &Cache) -> Option<Self> {
        let shared = cache.shared.clone().filter(|shared| shared.write_back)?;
        let store = cache.store.clone();
        let (keys, received) = mpsc::channel();
        let thread = tokio::task::spawn_blocking(move || {
            let mut given = 0;
            while let Ok(first) = received.recv() {
                let together: BTreeSet<ActionKey> =
                    std::iter::once(first).chain(received.try_iter()).collect();
                given += shared.give(&store, &together);
            }
            given
        });
        Some(Self { keys, thread })
    }

    /// Gives the result of an action, some time before the run ends.
    pub(super) fn give(&self, key: ActionKey) {
        // The thread takes keys until this side hangs up.
        let _ = self.keys.send(key);
    }

    /// Waits until all is given. How many results the remote had not.
    pub(super) async fn end(self) -> u64 {
        drop(self.keys);
        self.thread.await.unwrap_or(0)
    }
}
