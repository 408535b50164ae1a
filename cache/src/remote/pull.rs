//! Pulling: results that a remote has and this store lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{AT_ONCE, Progress, Remote, Transfer};
use crate::action::{self, Lookup, Record, Recorded};
use crate::assemble::Assembly;
use crate::digest::{ActionKey, Digest};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::store::{Store, check_format};

impl Remote {
    /// The records that the remote has of these actions, whether or not their artifacts are here.
    pub fn records(&self, keys: &BTreeSet<ActionKey>) -> Result<BTreeMap<ActionKey, Record>> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.wait(async || {
            if !self.is_there().await? {
                return Ok(BTreeMap::new());
            }
            let ask = async |key: &ActionKey| -> Result<_> {
                Ok(self.record_at(&self.record_name(key), key).await?.map(|record| (*key, record)))
            };
            let found: Vec<_> = stream::iter(keys).map(ask).buffer_unordered(AT_ONCE).try_collect().await?;
            Ok(found.into_iter().flatten().collect())
        })?
    }

    /// Whether something was ever pushed there. An error if it is of a version that we do not know.
    pub(super) async fn is_there(&self) -> Result<bool> {
        if let Some(found) = self.found.get() {
            return Ok(*found);
        }
        let found = match self.read(&self.format()).await? {
            None => false,
            Some(bytes) => {
                let shown = format!("{}/FORMAT", self.url().trim_end_matches('/'));
                check_format(&bytes, self.url().as_ref(), shown.as_ref())?;
                // Nothing there is asked again: somebody may push soon.
                let _ = self.found.set(true);
                true
            }
        };
        Ok(found)
    }

    /// The record under this name. One that cannot be read is none, and is written again by the next push.
    pub(super) async fn record_at(
        &self,
        name: &object_store::path::Path,
        key: &ActionKey,
    ) -> Result<Option<Record>> {
        let Some(bytes) = self.read(name).await? else { return Ok(None) };
        match action::parse(&bytes, key) {
            Ok(record) => Ok(Some(record)),
            // A later version's is not ours to write over.
            Err(_) if action::version(&bytes).is_some_and(|version| version > action::VERSION) => Ok(None),
            Err(_) => {
                self.suspect(name);
                Ok(None)
            }
        }
    }
}

impl Store {
    /// Takes the results of these actions, and these artifacts, from a remote. Only what this store lacks travels; all of
    /// it is hashed on its way. What the remote does not have is told, and is no error.
    ///
    /// After an error what is whole is there, and nothing else: run it again, and it goes on from where it was.
    pub fn pull(
        &self,
        remote: &Remote,
        actions: &BTreeSet<ActionKey>,
        artifacts: &BTreeSet<Digest>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        let mut pulled = Transfer::default();
        let mut wanted = artifacts.clone();
        let mut unknown = BTreeSet::new();
        for key in actions {
            match self.lookup(key)? {
                Lookup::Hit(record) => pulled.present += record.outputs.len() as u64,
                Lookup::Miss(_) => drop(unknown.insert(*key)),
            }
        }
        let records = remote.records(&unknown)?;
        pulled
            .missing
            .extend(unknown.iter().filter(|key| !records.contains_key(key)).map(|key| *key.as_digest()));
        wanted.extend(records.values().flat_map(|record| record.outputs.values()));
        self.pull_artifacts(remote, &wanted, &mut pulled, progress)?;
        for (key, record) in &records {
            if record.outputs.values().any(|digest| pulled.missing.contains(digest)) {
                continue;
            }
            match self.record(key, record)? {
                Recorded::First => pulled.records += 1,
                Recorded::Same => {}
                Recorded::Different(_) => drop(pulled.different.insert(*key)),
            }
        }
        Ok(pulled)
    }

    fn pull_artifacts(
        &self,
        remote: &Remote,
        wanted: &BTreeSet<Digest>,
        pulled: &mut Transfer,
        progress: Progress<'_>,
    ) -> Result<()> {
        let mut lacking = Vec::new();
        for digest in wanted {
            match self.flaw_lately(digest)? {
                None => pulled.present += 1,
                Some(_) => lacking.push(*digest),
            }
        }
        let ask = async |digest: Digest| -> Result<_> {
            let bytes = remote.read(&remote.manifest(&digest)).await?;
            bytes.map(|bytes| remote.admitted(&bytes, &digest)).transpose().map(|manifest| (digest, manifest))
        };
        let manifests: Vec<(Digest, Option<Manifest>)> =
            remote.wait(async || stream::iter(lacking).map(ask).buffered(AT_ONCE).try_collect().await)??;
        let total = manifests.iter().filter_map(|(_, manifest)| manifest.as_ref()?.bytes()).sum();
        let done = AtomicU64::new(0);
        let told = |bytes: u64| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        for (digest, manifest) in manifests {
            let Some(manifest) = manifest else {
                pulled.missing.push(digest);
                continue;
            };
            let assembly = Assembly::begin(self, &digest, &manifest)?;
            let files = assembly.lacking();
            let fetch = async |entry: &crate::manifest::Entry| {
                remote.fetch(&entry.digest, entry.size, &assembly.place(entry), self.disk(), &told).await
            };
            remote.wait(async || {
                stream::iter(files.iter().copied())
                    .map(fetch)
                    .buffer_unordered(AT_ONCE)
                    .try_collect::<Vec<()>>()
                    .await
            })??;
            pulled.files += files.len() as u64;
            pulled.bytes += files.iter().map(|entry| entry.size).sum::<u64>();
            assembly.finish()?;
            pulled.artifacts += 1;
        }
        Ok(())
    }
}

impl Remote {
    fn admitted(&self, bytes: &[u8], digest: &Digest) -> Result<Manifest> {
        Manifest::admit(bytes, digest).map_err(|(path, why)| {
            let name = self.manifest(digest);
            self.suspect(&name);
            let of =
                if path.is_empty() { String::new() } else { format!("its file `{}` ", path.escape_debug()) };
            self.fails("take", name.as_ref(), format!("{of}{why}"))
        })
    }
}
