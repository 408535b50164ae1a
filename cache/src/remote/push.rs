//! Pushing: what a remote lacks, files first, records last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{AT_ONCE, Progress, Remote, Transfer};
use crate::action;
use crate::digest::{ActionKey, Digest};
use crate::error::{Error, Result};
use crate::layout::{MANIFEST, TREE};
use crate::manifest::Manifest;
use crate::store::Store;

/// An artifact that the remote lacks.
struct Cargo {
    digest: Digest,
    encoded: Vec<u8>,
    manifest: Manifest,
    place: PathBuf,
}

impl Store {
    /// Gives a remote the results of these actions, and these artifacts. Only what it lacks travels.
    ///
    /// After an error nothing is half there: run it again, and it goes on from where it was.
    pub fn push(
        &self,
        remote: &Remote,
        actions: &BTreeSet<ActionKey>,
        artifacts: &BTreeSet<Digest>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        if remote.read_only {
            return Err(Error::ReadOnlyRemote(remote.url().to_owned()));
        }
        let mut pushed = Transfer::default();
        let mut records = Vec::new();
        let mut wanted = artifacts.clone();
        for key in actions {
            match self.lookup(key)? {
                crate::Lookup::Hit(record) => {
                    wanted.extend(record.outputs.values());
                    records.push((*key, record));
                }
                crate::Lookup::Miss(_) => pushed.missing.push(*key.as_digest()),
            }
        }
        let mut whole = Vec::new();
        for digest in wanted {
            match self.flaw_lately(&digest)? {
                None => whole.push(digest),
                Some(_) => pushed.missing.push(digest),
            }
        }
        remote.wait(async || {
            remote.lay_out().await?;
            let cargo = remote.lacking(self, &whole).await?;
            pushed.present = (whole.len() - cargo.len()) as u64;
            remote.send_files(&cargo, &mut pushed, progress).await?;
            stream::iter(&cargo)
                .map(async |artifact| {
                    remote.write(&remote.manifest(&artifact.digest), artifact.encoded.clone()).await
                })
                .buffer_unordered(AT_ONCE)
                .try_collect::<Vec<()>>()
                .await?;
            pushed.artifacts = cargo.len() as u64;
            let written: Vec<_> = stream::iter(&records)
                .map(|(key, record)| remote.write_record(key, record))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            for written in written {
                match written {
                    Written::Ours => pushed.records += 1,
                    Written::Same => {}
                    Written::Different(key) => drop(pushed.different.insert(key)),
                }
            }
            Ok(pushed)
        })?
    }
}

/// What became of a record.
enum Written {
    Ours,
    Same,
    Different(ActionKey),
}

impl Remote {
    async fn lay_out(&self) -> Result<()> {
        if !self.is_there().await? {
            self.write_new(&self.format(), crate::store::format_line().into_bytes()).await?;
        }
        Ok(())
    }

    /// The artifacts of which the remote has no manifest. One that has it has the files, which came before, but for those
    /// that turned out otherwise.
    async fn lacking(&self, store: &Store, artifacts: &[Digest]) -> Result<Vec<Cargo>> {
        let look = async |digest: &Digest| {
            let place = store.layout().artifact(digest);
            let path = place.join(MANIFEST);
            let encoded = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let Some(manifest) = Manifest::decode(&encoded, digest) else {
                return Err(Error::Damaged { path });
            };
            let is_sound = !manifest.entries().iter().any(|entry| self.is_suspect(&self.file(&entry.digest)));
            if is_sound && self.has(&self.manifest(digest), encoded.len() as u64).await? {
                return Ok(None);
            }
            Ok(Some(Cargo { digest: *digest, encoded, manifest, place }))
        };
        let found: Vec<_> = stream::iter(artifacts).map(look).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn send_files(&self, cargo: &[Cargo], pushed: &mut Transfer, progress: Progress<'_>) -> Result<()> {
        let mut files: BTreeMap<Digest, (u64, PathBuf)> = BTreeMap::new();
        for artifact in cargo {
            for entry in artifact.manifest.entries() {
                let from = || (entry.size, artifact.place.join(TREE).join(&entry.path));
                files.entry(entry.digest).or_insert_with(from);
            }
        }
        let total: u64 = files.values().map(|(size, _)| size).sum();
        let done = AtomicU64::new(0);
        let told = |bytes: u64| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        let send = async |(digest, (size, from)): (&Digest, &(u64, PathBuf))| {
            if self.has(&self.file(digest), *size).await? {
                told(*size);
                return Ok::<_, Error>(None);
            }
            self.send(digest, *size, from, &told).await?;
            Ok(Some(*size))
        };
        let sent: Vec<_> = stream::iter(&files).map(send).buffer_unordered(AT_ONCE).try_collect().await?;
        pushed.files = sent.iter().flatten().count() as u64;
        pushed.bytes = sent.iter().flatten().sum();
        Ok(())
    }

    /// Gives the remote a record, unless it has one; reads it back to know which one it has.
    async fn write_record(&self, key: &ActionKey, record: &action::Record) -> Result<Written> {
        let name = self.record_name(key);
        if let Some(theirs) = self.record_at(&name, key).await? {
            if theirs.outputs == record.outputs {
                return Ok(Written::Same);
            }
        } else {
            let bytes = action::encode(key, record)?;
            if self.is_suspect(&name) {
                self.write(&name, bytes).await?;
            } else {
                self.write_new(&name, bytes).await?;
            }
            match self.record_at(&name, key).await? {
                Some(theirs) if theirs.outputs == record.outputs => return Ok(Written::Ours),
                Some(_) => {}
                None => {
                    return Err(self.fails("write", name.as_ref(), "it is not there after it was written"));
                }
            }
        }
        self.write(&self.seen(key, &action::outputs_digest(key, record)?), action::encode(key, record)?)
            .await?;
        Ok(Written::Different(*key))
    }
}
