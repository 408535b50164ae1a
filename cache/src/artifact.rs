//! Artifacts: from a folder in staging to a read-only folder under the digest of its tree, all or nothing.
//!
//! The order is what makes a crash harmless: hash and protect; replace files that are stored already by links to them;
//! write the manifest beside the tree; flush all of it; offer the new files to `files/`; one rename of tree and manifest
//! together to the final name; flush that name. Whoever sees the name sees everything, and nothing is left but staging.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rayon::prelude::*;

use crate::area::Area;
use crate::digest::Digest;
use crate::error::{Error, Refusal, Result, is_absent};
use crate::lately::Outside;
use crate::layout::{MANIFEST, TREE};
use crate::manifest::{Entry, Manifest};
use crate::stat::Stat;
use crate::store::{Store, same_file};
use crate::tree::{self, Found, Links, Scan, hash_file};

/// How often to try for the final name while others repair the same artifact.
const ATTEMPTS: usize = 4;

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The artifact: [`tree_digest`](crate::tree_digest) of its folder.
    pub digest: Digest,
    /// Of all files together.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
    /// The same artifact was there already and was kept.
    pub existed: bool,
}

/// Why an artifact cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is not there.
    Gone,
    /// It is, but not this path in its folder, or that was changed.
    Damaged(PathBuf),
}

/// What `files/` has under the digest of one of our files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing.
    No,
    /// The same bytes.
    Same,
    /// Something that was changed after it was stored.
    Damaged,
}

impl Store {
    /// Makes `folder`, which lies inside a [`Staging`](crate::Staging) or is one, an artifact.
    ///
    /// Nobody may write to it any more. It is used up: what was published is at [`Store::artifact`]. After an error it is
    /// still there, unless the artifact became visible before the error, and can be published again.
    ///
    /// What it holds is on disk before it is visible; that it is visible is on disk before any record or pin that names it.
    ///
    /// Symbolic links, devices, files with another hard link and names with control characters or backslashes are refused.
    /// Empty folders are no part of an artifact and are dropped. Uses all threads of the current rayon pool.
    pub fn publish(&self, folder: &Path) -> Result<Published> {
        let folder = self.staged(folder)?;
        let scan = tree::scan(&folder, Links::Refuse)?;
        let entries = scan.files.par_iter().map(|file| self.seal(file)).collect::<Result<_>>()?;
        let manifest = Manifest::new(entries);
        manifest.check_names().map_err(|(path, why)| Error::refused(folder.join(path), why))?;
        let encoded = manifest.encode().map_err(|why| Error::Manifest { folder: folder.clone(), why })?;
        let digest = Manifest::digest(&encoded);
        let existed = self.renewed(&digest)? || self.install(&folder, &scan, &manifest, &encoded, &digest)?;
        let bytes = manifest.entries().iter().map(|entry| entry.size).sum();
        Ok(Published { digest, bytes, files: manifest.entries().len() as u64, existed })
    }

    /// The artifact's name is on disk when this returns.
    pub(crate) fn sync_names(&self, digest: &Digest) -> Result<()> {
        if let Some(shard) = self.layout().artifact(digest).parent() {
            self.disk().sync_folder(shard)?;
        }
        self.disk().sync_folder(&self.layout().artifacts())
    }

    /// Whether the artifact is there, and now as young as one just published, so that no sweep takes it before it has a
    /// record. Another user's cannot be made so; that user's sweep reads the records once more.
    fn renewed(&self, digest: &Digest) -> Result<bool> {
        if self.flaw(digest)?.is_some() {
            return Ok(false);
        }
        let swept = self.disk().touch(&self.layout().artifact(digest)).is_err_and(|error| error.is_missing());
        Ok(!swept)
    }

    /// The artifact's folder: plain and read-only, to be opened in place. `None` if it is not there, lacks a file or was
    /// changed. Costs a look at each file, unless this process had one a moment ago; reads only files that were touched
    /// after they were published.
    pub fn artifact(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let tree = self.layout().artifact(digest).join(TREE);
        Ok(self.flaw_lately(digest)?.is_none().then_some(tree))
    }

    /// Like [`Store::flaw`], for who reads: an artifact that was whole a moment ago is believed to be.
    pub(crate) fn flaw_lately(&self, digest: &Digest) -> Result<Option<Flaw>> {
        let (now, outside) = (Instant::now(), self.outside(digest));
        if outside.as_ref().is_some_and(|outside| self.lately().knows(digest, outside, now)) {
            return Ok(None);
        }
        self.flaw_of(digest, now, outside)
    }

    /// Why the artifact cannot be used; `None` if it is whole. Looks at each file.
    pub(crate) fn flaw(&self, digest: &Digest) -> Result<Option<Flaw>> {
        self.flaw_of(digest, Instant::now(), self.outside(digest))
    }

    /// The same, where it is known what it looks like from outside. That was looked at before the files are: what changes
    /// meanwhile is not the same from outside.
    fn flaw_of(&self, digest: &Digest, now: Instant, outside: Option<Outside>) -> Result<Option<Flaw>> {
        let flaw = self.examine(digest)?;
        let whole = outside.filter(|_| flaw.is_none());
        self.lately().set(digest, whole.map(|outside| (now, outside)));
        Ok(flaw)
    }

    /// What the artifact looks like from outside. `None` if nothing can be said.
    fn outside(&self, digest: &Digest) -> Option<Outside> {
        let place = self.layout().artifact(digest);
        let look = |name| fs::symlink_metadata(place.join(name)).ok().map(|meta| Stat::from(&meta));
        Some(Outside { manifest: look(MANIFEST)?, tree: look(TREE)? })
    }

    fn examine(&self, digest: &Digest) -> Result<Option<Flaw>> {
        let place = self.layout().artifact(digest);
        let path = place.join(MANIFEST);
        let Some((encoded, sealed)) =
            unless_absent(read_with_time(&path)).map_err(Error::io("read", &path))?
        else {
            let is_there =
                unless_absent(fs::symlink_metadata(&place)).map_err(Error::io("look at", &place))?;
            return Ok(Some(is_there.map_or(Flaw::Gone, |_| Flaw::Damaged(MANIFEST.into()))));
        };
        let Some(manifest) = Manifest::decode(&encoded, digest) else {
            return Ok(Some(Flaw::Damaged(MANIFEST.into())));
        };
        let tree = place.join(TREE);
        let top = unless_absent(fs::symlink_metadata(&tree)).map_err(Error::io("look at", &tree))?;
        if !top.is_some_and(|meta| meta.is_dir()) {
            return Ok(Some(Flaw::Damaged(TREE.into())));
        }
        let flaw = |entry: &Entry| {
            let path = tree.join(&entry.path);
            match unless_absent(is_sound(&path, entry, sealed)) {
                Ok(Some(true)) => None,
                Ok(_) => Some(Ok(Flaw::Damaged(Path::new(TREE).join(&entry.path)))),
                Err(error) => Some(Err(Error::io("read", &path)(error))),
            }
        };
        manifest.entries().par_iter().with_min_len(64).find_map_first(flaw).transpose()
    }

    /// The folder's real path, if it is a folder inside a staging of this store.
    fn staged(&self, folder: &Path) -> Result<PathBuf> {
        let kind = fs::symlink_metadata(folder).map_err(Error::io("look at", folder))?.file_type();
        if !kind.is_dir() {
            let why = if kind.is_symlink() { Refusal::Link } else { Refusal::NotAFolder };
            return Err(Error::refused(folder, why));
        }
        let real = fs::canonicalize(folder).map_err(Error::io("find the folder", folder))?;
        match real.strip_prefix(self.layout().stagings()) {
            Ok(inside) if inside.components().next().is_some() => Ok(real),
            _ => Err(Error::NotStaged(folder.to_path_buf())),
        }
    }

    /// Hashes a file and makes it read-only.
    fn seal(&self, found: &Found) -> Result<Entry> {
        let entry = found.hash()?;
        let file = File::open(&found.path).map_err(Error::io("open", &found.path))?;
        let links = file.metadata().map_err(Error::io("look at", &found.path))?.nlink();
        // The store's own name for it is fine: an earlier attempt to publish got that far.
        if links > 1 && !same_file(&found.path, &self.layout().file(&entry.digest)) {
            return Err(Error::refused(&found.path, Refusal::HardLinks(links)));
        }
        self.disk().protect(&file, &found.path)?;
        Ok(entry)
    }

    /// Moves the folder to its final name. True if another publisher was faster. After an error the folder is back.
    fn install(
        &self,
        folder: &Path,
        scan: &Scan,
        manifest: &Manifest,
        encoded: &[u8],
        digest: &Digest,
    ) -> Result<bool> {
        let folders = self.tidy(folder, scan)?;
        let pending = self.aside()?;
        let stored = self.adopt(folder, manifest);
        let tree = pending.join(TREE);
        self.disk().create_folder(&pending)?;
        self.disk().open_up(&pending)?;
        self.disk().write_unsynced(&pending.join(MANIFEST), encoded)?;
        let moved = self.disk().rename(folder, &tree).and_then(|()| {
            let files = manifest.entries().iter().map(|entry| tree.join(&entry.path));
            let files: Vec<_> = files.chain([pending.join(MANIFEST)]).collect();
            let below = folders.iter().map(|relative| tree.join(relative));
            let folders: Vec<_> = below.chain([tree.clone(), pending.clone()]).collect();
            self.disk().sync_all(&pending, &files, &folders)?;
            self.offer(&tree, manifest, &stored);
            self.settle(&pending, digest)
        });
        if moved.is_err() {
            // If this fails too, the outputs are lost with the staging and the action runs again.
            drop(self.disk().rename(&tree, folder));
        }
        // It has its final name, or is another's twin, or took the place of something damaged.
        drop(self.disk().remove(&pending));
        moved
    }

    /// Gives the folders their modes and drops the empty ones. Returns those that stay, relative.
    fn tidy<'a>(&self, folder: &Path, scan: &'a Scan) -> Result<Vec<&'a str>> {
        self.disk().open_up(folder)?;
        let mut kept = Vec::new();
        for found in scan.folders.iter().rev() {
            let inside = format!("{}/", found.relative);
            let first = scan.files.partition_point(|file| file.relative < inside);
            if scan.files.get(first).is_some_and(|file| file.relative.starts_with(&inside)) {
                self.disk().open_up(&found.path)?;
                kept.push(found.relative.as_str());
            } else {
                self.disk().remove_empty(&found.path)?;
            }
        }
        Ok(kept)
    }

    /// Replaces files that are stored already by links to them, so that their bytes exist once. What cannot be shared
    /// stays a copy: never an error. Says for each file what was stored.
    fn adopt(&self, folder: &Path, manifest: &Manifest) -> Vec<Stored> {
        let adopt = |entry: &Entry| {
            let ours = folder.join(&entry.path);
            let theirs = self.layout().file(&entry.digest);
            let stored = if same_file(&ours, &theirs) { return Stored::Same } else { find(&theirs, entry) };
            if stored == Stored::Same {
                drop(self.share(&theirs).and_then(|shared| self.disk().rename(&shared, &ours)));
            }
            stored
        };
        manifest.entries().par_iter().map(adopt).collect()
    }

    /// A second name for a stored file, or a clone of it, in a place of ours. Another user's file cannot be linked, nor one
    /// that has all the links its file system counts.
    fn share(&self, theirs: &Path) -> Result<PathBuf> {
        let linked = self.aside()?;
        if self.disk().link(theirs, &linked).is_ok() {
            return Ok(linked);
        }
        let cloned = self.aside()?;
        self.disk().clone(theirs, &cloned).map(|()| cloned)
    }

    /// Gives new files, which are on disk by now, their names in `files/` for later publishers to share. Never an error:
    /// nobody depends on those names.
    pub(crate) fn offer(&self, tree: &Path, manifest: &Manifest, stored: &[Stored]) {
        let offer = |(entry, stored): (&Entry, &Stored)| {
            let ours = tree.join(&entry.path);
            let place = self.layout().file(&entry.digest);
            let shard = place.parent().map(|shard| self.disk().create_folder(shard));
            match (stored, shard) {
                (Stored::No, Some(Ok(()))) => drop(self.disk().link(&ours, &place)),
                (Stored::Damaged, Some(Ok(()))) => {
                    let aside = self.quarantine(Area::Files, &entry.digest.to_string(), &place);
                    drop(aside.and_then(|()| self.disk().link(&ours, &place)));
                }
                _ => {}
            }
        };
        manifest.entries().par_iter().zip(stored).for_each(offer);
    }

    /// The one rename that makes an artifact visible. True if a whole one is there that is not ours.
    pub(crate) fn settle(&self, pending: &Path, digest: &Digest) -> Result<bool> {
        let place = self.layout().artifact(digest);
        if let Some(shard) = place.parent() {
            self.disk().create_folder(shard)?;
        }
        let mut attempt = 1;
        loop {
            let Err(refused) = self.disk().rename(pending, &place) else { return Ok(false) };
            // The reply may be lost, or another publisher faster: what is there decides.
            if self.flaw(digest)?.is_none() {
                return Ok(pending.exists());
            }
            if attempt == ATTEMPTS {
                return Err(refused);
            }
            // Something damaged is in the way. Swapped, the name is never without an artifact; where the file system cannot
            // do that, what is in the way goes first.
            if self.disk().swap(pending, &place).is_ok() {
                return Ok(false);
            }
            if self.flaw(digest)?.is_some() && place.exists() {
                let aside = self.staging()?;
                if self.disk().rename(&place, &aside.path().join("damaged")).is_err() {
                    // Another user's folder cannot get another parent; where it is, it can get another name. Nobody looks at
                    // a name that is no digest, and its owner can remove it.
                    let name = format!("damaged-{}", self.owner().fresh_name());
                    drop(self.disk().rename(&place, &place.with_file_name(name)));
                }
            }
            attempt += 1;
        }
    }
}

/// The content of a file, and when it was written. For files that never grow: as many bytes as it has when it is opened are
/// read, in one go, where `read_to_end` asks for the size itself and then for the end. A plan reads thousands.
pub(crate) fn read_with_time(path: &Path) -> io::Result<(Vec<u8>, SystemTime)> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let size = usize::try_from(meta.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_exact(&mut bytes)?;
    Ok((bytes, meta.modified()?))
}

/// Whether the file is as it was published. Bytes are read only if it was written to after the manifest, `sealed`, was.
fn is_sound(path: &Path, entry: &Entry, sealed: SystemTime) -> io::Result<bool> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() || meta.len() != entry.size {
        return Ok(false);
    }
    Ok(meta.modified()? <= sealed || hash_file(path)?.1 == entry.digest)
}

/// What is stored at `path`, where `entry`'s bytes should be. They are read: good bytes in hand are not given up for a
/// name.
pub(crate) fn find(path: &Path, entry: &Entry) -> Stored {
    let same_size = |meta: &fs::Metadata| meta.is_file() && meta.len() == entry.size;
    match fs::symlink_metadata(path) {
        Err(_) => Stored::No,
        Ok(meta)
            if same_size(&meta) && matches!(hash_file(path), Ok((_, digest)) if digest == entry.digest) =>
        {
            Stored::Same
        }
        Ok(_) => Stored::Damaged,
    }
}

pub(crate) fn unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_absent(&error) => Ok(None),
        other => other.map(Some),
    }
}
