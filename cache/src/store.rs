//! The store as a whole: opening it, and the folders that it lends out.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::digest::ActionKey;
use crate::durable::Disk;
use crate::error::{Error, Result};
use crate::lately::Lately;
use crate::layout::Layout;
use crate::owner::Owner;

/// The latest format that this version reads and the one it writes.
const FORMAT: u32 = 1;

/// How a `FORMAT` file begins; a number follows.
const FORMAT_WORDS: &str = "restage-cache ";

/// Tells backup programs to leave the folder out: <https://bford.info/cachedir/>.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of restage. Everything in it can be computed again.\n";

/// A store on disk. Cheap to clone; any number of threads, processes and machines may use the same one.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    disk: Disk,
    owner: Owner,
    lately: Lately,
    /// A folder in `staging` for things on their way to a name.
    workshop: PathBuf,
    /// How many things were made in it.
    made: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What cannot be removed now is swept when a later process opens the store.
        drop(self.disk.remove(&self.workshop));
    }
}

/// How the name of an owner begins whose checkpoints are anybody's.
const NOBODY: &str = "nobody.";

fn is_left(owner: &str) -> bool {
    owner.starts_with(NOBODY)
}

impl Store {
    /// Opens the store at `root`, which is created if it is not there, and removes what processes that died on this
    /// machine have left in `staging`.
    ///
    /// Where the root folder is one that several users share (its group can write to it, and new things get that group:
    /// `chmod 2775`), every folder that the store makes is so too, whatever the umask.
    ///
    /// Refuses, before it changes anything, a store that a later version wrote.
    pub fn open(root: &Path) -> Result<Store> {
        Store::open_on(Disk::default(), root)
    }

    pub(crate) fn open_on(mut disk: Disk, root: &Path) -> Result<Store> {
        let known = has_known_format(&Layout::new(root.to_path_buf()))?;
        disk.create_folder(root)?;
        let root = fs::canonicalize(root).map_err(Error::io("find the folder", root))?;
        let (layout, owner) = (Layout::new(root), Owner::current());
        disk.suit(layout.root(), layout.stagings())?;
        let workshop = layout.stagings().join(owner.fresh_name());
        let (lately, made) = (Lately::default(), AtomicU64::new(0));
        let store = Store { inner: Arc::new(Inner { layout, disk, owner, lately, workshop, made }) };
        store.lay_out(known)?;
        store.sweep();
        Ok(store)
    }

    fn lay_out(&self, known: bool) -> Result<()> {
        let layout = self.layout();
        for folder in
            [layout.files(), layout.artifacts(), layout.actions(), layout.stagings(), layout.scratches()]
        {
            self.disk().create_folder(&folder)?;
        }
        if known {
            return Ok(());
        }
        // `FORMAT` comes last: with it, all else is there and on disk.
        self.create(&layout.tag(), TAG.as_bytes())?;
        self.disk().sync_folder(layout.current())?;
        self.create(&layout.format(), format_line().as_bytes())?;
        self.disk().sync_folder(layout.root())
    }

    /// Removes stagings of dead owners. Never an error: what cannot be removed now is in nobody's way.
    fn sweep(&self) {
        let Ok(stagings) = fs::read_dir(self.layout().stagings()) else { return };
        stagings
            .flatten()
            .filter(|staging| staging.file_name().to_str().is_some_and(|name| self.inner.owner.is_dead(name)))
            .for_each(|staging| drop(self.disk().remove(&staging.path())));
    }

    /// The store's folder, absolute and without links.
    pub fn root(&self) -> &Path {
        self.layout().root()
    }

    /// Whether several users share it: see [`Store::open`].
    pub fn is_shared(&self) -> bool {
        self.disk().is_shared()
    }

    /// A fresh, empty folder on the store's file system for outputs that are to be published.
    pub fn staging(&self) -> Result<Staging> {
        let path = self.layout().stagings().join(self.inner.owner.fresh_name());
        self.disk().create_folder(&path)?;
        Ok(Staging { path, store: self.clone() })
    }

    /// The folder in which an action keeps checkpoints: kept when the process dies, not part of any result.
    ///
    /// It has one owner. Of two processes that work on one action at once each has a folder of its own; what a dead
    /// process left, or one that [gave it up](Self::leave_scratch), is taken over, by a rename that only one can win. Whether a
    /// process of another machine lives cannot be seen from here: what it left goes to who has the action's claim, for then it
    /// has missed its beats. Within a process it is the same on every call.
    pub fn scratch(&self, key: &ActionKey) -> Result<PathBuf> {
        let owner = &self.inner.owner;
        let place = |name: &str| self.layout().scratches().join(format!("{key}.{name}"));
        let left = self.scratches_of(key)?;
        if let Some(name) = left.iter().find(|name| owner.is_ours(name)) {
            return Ok(place(name));
        }
        let ours = place(&owner.fresh_name());
        let is_claimed = self.is_claimed_by_us(key);
        let taken = left
            .iter()
            .filter(|name| owner.is_dead(name) || is_left(name) || is_claimed && owner.is_elsewhere(name))
            .any(|name| self.disk().rename(&place(name), &ours).is_ok());
        if !taken {
            self.disk().create_folder(&ours)?;
        }
        Ok(ours)
    }

    /// Leaves an action's checkpoints to whoever goes on with it, on whatever machine. No error if there are none.
    pub fn leave_scratch(&self, key: &ActionKey) -> Result<()> {
        let owner = &self.inner.owner;
        let place = |name: &str| self.layout().scratches().join(format!("{key}.{name}"));
        for name in self.scratches_of(key)?.iter().filter(|name| owner.is_ours(name)) {
            self.disk().rename(&place(name), &place(&format!("{NOBODY}{}", owner.fresh_name())))?;
        }
        Ok(())
    }

    /// Removes an action's checkpoints, this process's and those of dead ones, each wholly or not at all. No error if
    /// there are none.
    pub fn discard_scratch(&self, key: &ActionKey) -> Result<()> {
        let owner = &self.inner.owner;
        for name in self
            .scratches_of(key)?
            .iter()
            .filter(|name| owner.is_ours(name) || owner.is_dead(name) || is_left(name))
        {
            let path = self.layout().scratches().join(format!("{key}.{name}"));
            if self.disk().remove_empty(&path).is_ok() {
                continue;
            }
            // Out of reach by one rename, then removed: a crash in between must not leave half the checkpoints.
            let aside = self.staging()?;
            self.disk().rename(&path, &aside.path().join("scratch"))?;
        }
        Ok(())
    }

    /// Whether anybody has written to checkpoints of an action since, as far as the clocks of file system and caller agree.
    /// Takes nothing over.
    pub fn is_checkpointed_since(&self, key: &ActionKey, since: SystemTime) -> bool {
        let owners = self.scratches_of(key).unwrap_or_default();
        let mut folders: Vec<PathBuf> =
            owners.iter().map(|name| self.layout().scratches().join(format!("{key}.{name}"))).collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else if metadata.modified().is_ok_and(|modified| modified >= since) {
                    return true;
                }
            }
        }
        false
    }

    /// Names of the owners of an action's checkpoints, the youngest folder first.
    fn scratches_of(&self, key: &ActionKey) -> Result<Vec<String>> {
        let folder = self.layout().scratches();
        let entries = fs::read_dir(&folder).map_err(|source| Error::Io {
            doing: "list the folder",
            path: folder.clone(),
            source,
        })?;
        let prefix = format!("{key}.");
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let owner = entry.file_name().to_str()?.strip_prefix(&prefix)?.to_owned();
                Some((entry.metadata().and_then(|metadata| metadata.modified()).ok(), owner))
            })
            .collect();
        found.sort();
        Ok(found.into_iter().rev().map(|(_, owner)| owner).collect())
    }

    /// A folder of the caller's own under the root, created if need be.
    ///
    /// `bucket` is lower-case letters, digits, `-` and `_`, a letter first; `v1`, `v2`, … are the store's.
    pub fn folder(&self, bucket: &str) -> Result<PathBuf> {
        let path = self.layout().bucket(bucket)?;
        self.disk().create_folder(&path)?;
        Ok(path)
    }

    /// A path on the store's file system that nothing has, for something on its way to a name. One folder of this process's
    /// has them all: to make and remove a folder each would cost more than the thing.
    pub(crate) fn aside(&self) -> Result<PathBuf> {
        let Inner { disk, workshop, made, .. } = &*self.inner;
        disk.create_folder(workshop)?;
        Ok(workshop.join(made.fetch_add(1, Ordering::Relaxed).to_string()))
    }

    /// Creates the file `place`, complete and synced or not at all. False if there is one already, which stays.
    pub(crate) fn create(&self, place: &Path, bytes: &[u8]) -> Result<bool> {
        self.with_aside(|ours| {
            self.disk().write(ours, bytes)?;
            self.give_name(ours, place)
        })
    }

    /// Creates the file `place`, complete or not at all; a power cut may take or tear it. False if there is one already.
    pub(crate) fn create_unsynced(&self, place: &Path, bytes: &[u8]) -> Result<bool> {
        self.with_aside(|ours| {
            self.disk().write_unsynced(ours, bytes)?;
            self.give_name(ours, place)
        })
    }

    /// Does something with a new file, whose first name goes with it.
    fn with_aside<T>(&self, act: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let ours = self.aside()?;
        let result = act(&ours);
        // It may be under its final name only by now.
        drop(self.disk().remove_file(&ours));
        result
    }

    /// Gives a staged file its final name, unless something has it.
    pub(crate) fn give_name(&self, ours: &Path, place: &Path) -> Result<bool> {
        let Err(refused) = self.disk().link(ours, place) else { return Ok(true) };
        // A network file system may do it and lose the reply, so what is there decides, not the error.
        match place.try_exists() {
            Ok(true) => Ok(same_file(ours, place)),
            Ok(false) if is_without_links(&refused) => self.disk().rename(ours, place).map(|()| true),
            _ => Err(refused),
        }
    }

    /// Puts a file at `place`, complete and synced, in place of the one that is there.
    pub(crate) fn replace(&self, place: &Path, bytes: &[u8]) -> Result<()> {
        let ours = self.aside()?;
        self.disk().write(&ours, bytes)?;
        self.disk().rename(&ours, place)
    }

    /// Puts a file at `place`, in place of the one that is there: complete, but a power cut may take or tear it.
    pub(crate) fn replace_unsynced(&self, place: &Path, bytes: &[u8]) -> Result<()> {
        let ours = self.aside()?;
        self.disk().write_unsynced(&ours, bytes)?;
        self.disk().rename(&ours, place)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    pub(crate) fn lately(&self) -> &Lately {
        &self.inner.lately
    }
}

/// A folder to write outputs into. Removed when dropped, except for what was published out of it.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    store: Store,
}

impl Staging {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is swept when a later process opens the store.
        drop(self.store.disk().remove(&self.path));
    }
}

/// What `FORMAT` says.
pub(crate) fn format_line() -> String {
    format!("{FORMAT_WORDS}{FORMAT}\n")
}

/// Whether there is a `FORMAT`, and it is one we know.
pub(crate) fn has_known_format(layout: &Layout) -> Result<bool> {
    let path = layout.format();
    match fs::read(&path) {
        Ok(bytes) => check_format(&bytes, layout.root(), &path).map(|()| true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// Whether this is the `FORMAT` of a store that we know.
pub(crate) fn check_format(bytes: &[u8], root: &Path, path: &Path) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    match text.strip_prefix(FORMAT_WORDS).and_then(|number| number.trim_end().parse::<u32>().ok()) {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => {
            Err(Error::NewerFormat { root: root.to_path_buf(), found, known: FORMAT })
        }
        _ => {
            let found = text.trim_end().chars().take(40).collect();
            Err(Error::NotAFormat { path: path.to_path_buf(), found })
        }
    }
}

/// Whether two paths are names of one file.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

/// Whether a link was refused because this file system has none.
fn is_without_links(error: &Error) -> bool {
    // `PermissionDenied` is what `link` says there (EPERM).
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::Unsupported];
    matches!(error, Error::Io { source, .. } if kinds.contains(&source.kind()))
}
