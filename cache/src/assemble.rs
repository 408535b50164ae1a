//! An artifact put together file by file: from what is stored already, and from what comes from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::artifact::{Stored, find};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::{MANIFEST, TREE};
use crate::manifest::{Entry, Manifest};
use crate::store::{Staging, Store};

/// An artifact that is being put together in a staging of its own. Dropped, nothing of it stays.
pub(crate) struct Assembly<'a> {
    store: &'a Store,
    digest: Digest,
    manifest: &'a Manifest,
    work: Staging,
    /// Of each file, what `files/` had.
    stored: Vec<Stored>,
}

impl<'a> Assembly<'a> {
    /// Makes the folders, and takes what `files/` has: all of it is read and compared first.
    pub(crate) fn begin(store: &'a Store, digest: &Digest, manifest: &'a Manifest) -> Result<Assembly<'a>> {
        let work = store.staging()?;
        let mut assembly = Assembly { store, digest: *digest, manifest, work, stored: Vec::new() };
        for folder in assembly.folders() {
            store.disk().create_folder(&folder)?;
            store.disk().open_up(&folder)?;
        }
        let take = |entry: &Entry| {
            let theirs = store.layout().file(&entry.digest);
            match find(&theirs, entry) {
                Stored::Same if !assembly.share(&theirs, &assembly.place(entry)) => Stored::No,
                found => found,
            }
        };
        assembly.stored = manifest.entries().par_iter().map(take).collect();
        Ok(assembly)
    }

    /// The files that are still to be brought, each content once.
    pub(crate) fn lacking(&self) -> Vec<&'a Entry> {
        let mut seen = BTreeSet::new();
        self.rows()
            .filter(|(entry, stored)| *stored != Stored::Same && seen.insert(entry.digest))
            .map(|(entry, _)| entry)
            .collect()
    }

    /// Where a file of the artifact is to be brought.
    pub(crate) fn place(&self, entry: &Entry) -> PathBuf {
        self.tree().join(&entry.path)
    }

    /// Brings a file that lies on the store's file system and holds the entry's bytes, and leaves it where it is. False if
    /// it can neither be linked nor cloned.
    pub(crate) fn share(&self, from: &Path, to: &Path) -> bool {
        self.store.disk().link(from, to).is_ok() || self.store.disk().clone(from, to).is_ok()
    }

    /// Makes the artifact, all files of which are there now, visible and durable.
    pub(crate) fn finish(self) -> Result<()> {
        self.fill_twins()?;
        let disk = self.store.disk();
        let encoded =
            self.manifest.encode().map_err(|why| Error::Manifest { folder: self.pending(), why })?;
        disk.write_unsynced(&self.pending().join(MANIFEST), &encoded)?;
        let files = self.manifest.entries().iter().map(|entry| self.place(entry));
        let files: Vec<_> = files.chain([self.pending().join(MANIFEST)]).collect();
        disk.sync_all(&self.pending(), &files, &self.folders())?;
        self.store.offer(&self.tree(), self.manifest, &self.stored);
        self.store.settle(&self.pending(), &self.digest)?;
        self.store.sync_names(&self.digest)
    }

    /// Files with the bytes of one that was brought.
    fn fill_twins(&self) -> Result<()> {
        let mut brought: BTreeMap<Digest, PathBuf> = BTreeMap::new();
        for (entry, _) in self.rows().filter(|(_, stored)| *stored != Stored::Same) {
            let ours = self.place(entry);
            match brought.get(&entry.digest) {
                None => {
                    brought.insert(entry.digest, ours);
                }
                Some(first) => self.store.disk().link(first, &ours)?,
            }
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = (&'a Entry, Stored)> {
        self.manifest.entries().iter().zip(self.stored.iter().copied())
    }

    fn pending(&self) -> PathBuf {
        self.work.path().join("artifact")
    }

    fn tree(&self) -> PathBuf {
        self.pending().join(TREE)
    }

    /// All of them, parents before children.
    fn folders(&self) -> Vec<PathBuf> {
        let (pending, tree) = (self.pending(), self.tree());
        let paths: Vec<PathBuf> =
            self.manifest.entries().iter().map(|entry| tree.join(&entry.path)).collect();
        let inside = |folder: &&Path| folder.starts_with(&pending);
        let folders: BTreeSet<&Path> =
            paths.iter().flat_map(|file| file.ancestors().skip(1).take_while(inside)).collect();
        let folders: BTreeSet<&Path> = folders.into_iter().chain([&*pending, &*tree]).collect();
        folders.into_iter().map(Path::to_path_buf).collect()
    }
}
