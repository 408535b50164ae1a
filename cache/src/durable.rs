//! Everything that changes the disk. No other module does, so this is where durability is decided and where the tests
//! let each operation fail. `clippy.toml` forbids it everywhere else.

#![expect(clippy::disallowed_methods, reason = "the one module that may")]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_NOW, ioctl_ficlone, renameat_with, syncfs,
    utimensat,
};
use rustix::process::geteuid;

use crate::error::{Error, Result};
use crate::together::Together;

/// From this many files on, one flush of the file system is cheaper than one per file.
const MANY: usize = 16;

/// Files are read-only for everybody.
const SEALED: u32 = 0o444;

/// Folders stay writable for their owner, or `rm -r` and renames would fail for them.
const FOLDER: u32 = 0o755;

/// The store's own folders where several users share it: whoever is in the group may add to them, and what is added
/// belongs to that group.
const SHARED_FOLDER: u32 = 0o2775;

/// What is new in a folder gets the folder's group.
const SET_GROUP: u32 = 0o2000;

/// What a root folder has where several users share the store: its group writes, and new things get that group.
const SHARED_BITS: u32 = 0o2020;

/// The operations, as the words of an error: `cannot create the folder …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    CreateFolder,
    CreateFile,
    Write,
    Protect,
    SyncFile,
    SyncFolder,
    SyncFileSystem,
    Link,
    Clone,
    Rename,
    Swap,
    Remove,
    Touch,
}

impl Op {
    fn words(self) -> &'static str {
        match self {
            Op::CreateFolder => "create the folder",
            Op::CreateFile => "create the file",
            Op::Write => "write",
            Op::Protect => "set the permissions of",
            Op::SyncFile | Op::SyncFolder => "flush to disk",
            Op::SyncFileSystem => "flush the file system of",
            Op::Link => "create the hard link",
            Op::Clone => "create the clone",
            Op::Rename => "rename something to",
            Op::Swap => "swap something with",
            Op::Remove => "remove",
            Op::Touch => "set the time of",
        }
    }
}

/// The disk, as something that can be changed.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Several users share the store: see [`Disk::suit`].
    shared: bool,
    /// Where folders of artifacts are made.
    stagings: Option<PathBuf>,
    together: Together,
    /// Fails operations on purpose.
    #[cfg(test)]
    pub(crate) faults: crate::faults::Faults,
}

impl Disk {
    #[cfg(test)]
    pub(crate) fn with(faults: crate::faults::Faults) -> Disk {
        Disk { faults, ..Disk::default() }
    }

    /// Whether several users share the store.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Learns from the root folder whether several users share the store.
    pub(crate) fn suit(&mut self, root: &Path, stagings: PathBuf) -> Result<()> {
        self.stagings = Some(stagings);
        let mode = fs::metadata(root).map_err(Error::io("look at", root))?.mode();
        self.shared = is_shared(mode);
        Ok(())
    }

    /// What is the same done twice. If a signal interrupts it, it is done again.
    fn perform<T>(&self, op: Op, path: &Path, act: impl FnMut() -> io::Result<T>) -> Result<T> {
        self.perform_once(op, path, act, || None)
    }

    /// Every operation goes through here. One that a signal interrupted may have been done all the same where the file
    /// system is in another process or on another machine: it is done again, unless `done` sees that it was.
    fn perform_once<T>(
        &self,
        op: Op,
        path: &Path,
        mut act: impl FnMut() -> io::Result<T>,
        done: impl Fn() -> Option<T>,
    ) -> Result<T> {
        loop {
            #[cfg(test)]
            let result = self.faults.around(op, path, &mut act);
            #[cfg(not(test))]
            let result = act();
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if let Some(outcome) = done() {
                        return Ok(outcome);
                    }
                }
                other => return other.map_err(Error::io(op.words(), path)),
            }
        }
    }

    /// The folder and its parents, whether or not they are there already.
    pub(crate) fn create_folder(&self, path: &Path) -> Result<()> {
        if !self.shared {
            if path.is_dir() {
                return Ok(());
            }
            return self.perform(Op::CreateFolder, path, || DirBuilder::new().recursive(true).create(path));
        }
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
        if let Some(nearest) = path.ancestors().nth(missing.len()) {
            self.finish_shared(nearest)?;
        }
        missing.into_iter().rev().try_for_each(|folder| self.create_shared(folder))
    }

    /// A folder that was made and not opened to the group, as who made it died in between, is opened now. Those in a
    /// staging become artifacts, and are their owner's on purpose.
    fn finish_shared(&self, folder: &Path) -> Result<()> {
        // If it is gone by now, what is to be made in it says so.
        let Ok(meta) = fs::metadata(folder) else { return Ok(()) };
        let stagings = self.stagings.as_deref();
        let staged = stagings.is_some_and(|stagings| folder != stagings && folder.starts_with(stagings));
        if staged || is_shared(meta.mode()) || meta.uid() != geteuid().as_raw() {
            return Ok(());
        }
        self.share(folder)
    }

    fn share(&self, folder: &Path) -> Result<()> {
        let mode = Permissions::from_mode(SHARED_FOLDER);
        self.perform(Op::Protect, folder, || File::open(folder)?.set_permissions(mode.clone()))
    }

    /// One folder that the whole group can write to, whatever this process's umask is. One that somebody else has made
    /// meanwhile is left as it is.
    fn create_shared(&self, folder: &Path) -> Result<()> {
        let create = || match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(false),
            other => other.map(|()| true),
        };
        let done = || folder.is_dir().then_some(true);
        let ours = self.perform_once(Op::CreateFolder, folder, create, done)?;
        if !ours {
            return Ok(());
        }
        self.share(folder)
    }

    /// A file that was not there before, on disk when this returns.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.write_unsynced(path, bytes)?;
        self.perform(Op::SyncFile, path, || file.sync_all())
    }

    /// A file that was not there before, and that a power cut may take or tear.
    pub(crate) fn write_unsynced(&self, path: &Path, bytes: &[u8]) -> Result<File> {
        // `open` itself opens again what a signal interrupted.
        let mut file = self
            .perform(Op::CreateFile, path, || OpenOptions::new().write(true).create_new(true).open(path))?;
        self.perform(Op::Write, path, || file.write_all(bytes))?;
        self.protect(&file, path)?;
        Ok(file)
    }

    /// A file that was not there before, to be written part by part.
    pub(crate) fn start<'a>(&'a self, path: &'a Path) -> Result<Writer<'a>> {
        let create = || OpenOptions::new().write(true).create_new(true).open(path);
        Ok(Writer { file: self.perform(Op::CreateFile, path, create)?, path, disk: self })
    }

    /// Makes a file read-only for everybody. One that is already may be another user's, and is left as it is.
    pub(crate) fn protect(&self, file: &File, path: &Path) -> Result<()> {
        let mode = file.metadata().map_err(Error::io("look at", path))?.mode();
        if mode & 0o7777 == SEALED {
            return Ok(());
        }
        self.perform(Op::Protect, path, || file.set_permissions(Permissions::from_mode(SEALED)))
    }

    /// Makes a folder readable for everybody and writable for its owner, whatever it was created with.
    pub(crate) fn open_up(&self, folder: &Path) -> Result<()> {
        let mode = fs::metadata(folder).map_err(Error::io("look at", folder))?.mode();
        if mode & 0o777 == FOLDER {
            return Ok(());
        }
        // What is made in it gets its group, if that is so.
        let opened = Permissions::from_mode(FOLDER | mode & SET_GROUP);
        self.perform(Op::Protect, folder, || fs::set_permissions(folder, opened.clone()))
    }

    /// The file or folder was changed now, says its time. Who may write to it may do this, and its owner.
    pub(crate) fn touch(&self, path: &Path) -> Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        self.perform(Op::Touch, path, || Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// A second name `to`, which must not be there, for the file `from`.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.perform_once(Op::Link, to, || fs::hard_link(from, to), || is(to, identity(from)))
    }

    /// A new file `to` that shares the blocks of `from`, where the file system can.
    pub(crate) fn clone(&self, from: &Path, to: &Path) -> Result<()> {
        let create = || OpenOptions::new().write(true).create_new(true).mode(SEALED).open(to);
        let file = self.perform(Op::CreateFile, to, create)?;
        self.perform(Op::Clone, to, || Ok(ioctl_ficlone(&file, File::open(from)?)?))?;
        self.protect(&file, to)
    }

    /// A file outside the store, whose bytes are on disk, gets its name, which nothing may have.
    pub(crate) fn settle_outside(&self, from: &Path, to: &Path) -> Result<()> {
        match self.link(from, to) {
            Ok(()) => self.remove_file(from),
            // A file system without links.
            Err(Error::Io { source, .. })
                if source.kind() != io::ErrorKind::AlreadyExists && !to.exists() =>
            {
                self.rename(from, to)
            }
            Err(error) => Err(error),
        }
    }

    /// `from` becomes `to`, which is replaced if it is a file or an empty folder.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let ours = identity(from);
        self.perform_once(Op::Rename, to, || fs::rename(from, to), || is(to, ours))
    }

    /// Each takes the other's name, at once.
    pub(crate) fn swap(&self, from: &Path, to: &Path) -> Result<()> {
        let ours = identity(from);
        let swap = || Ok(renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?);
        self.perform_once(Op::Swap, to, swap, || is(to, ours))
    }

    /// The names in a folder are on disk when this returns.
    pub(crate) fn sync_folder(&self, path: &Path) -> Result<()> {
        self.perform(Op::SyncFolder, path, || match File::open(path)?.sync_all() {
            // Some network file systems cannot, because they need not.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                Ok(())
            }
            other => other,
        })
    }

    /// These files and folders, all on the file system of `top`, are on disk when this returns. Threads that ask at once
    /// are served by one flush.
    pub(crate) fn sync_all(&self, top: &Path, files: &[PathBuf], folders: &[PathBuf]) -> Result<()> {
        let all = || self.perform(Op::SyncFileSystem, top, || Ok(syncfs(File::open(top)?)?));
        let alone = || {
            if files.len() + folders.len() >= MANY {
                return all();
            }
            let sync = |path: &PathBuf| self.perform(Op::SyncFile, path, || File::open(path)?.sync_all());
            // One after the other: the first one takes the turn of the disk, and what it took along is there already.
            files.iter().try_for_each(sync)?;
            folders.iter().try_for_each(|path| self.sync_folder(path))
        };
        self.together.flush(alone, all)
    }

    /// Removes an empty folder.
    pub(crate) fn remove_empty(&self, folder: &Path) -> Result<()> {
        self.perform_once(Op::Remove, folder, || fs::remove_dir(folder), || is_gone(folder))
    }

    /// Removes a file.
    pub(crate) fn remove_file(&self, file: &Path) -> Result<()> {
        self.perform_once(Op::Remove, file, || fs::remove_file(file), || is_gone(file))
    }

    /// Removes a folder with all that is in it. No error if it is not there.
    pub(crate) fn remove(&self, folder: &Path) -> Result<()> {
        self.perform(Op::Remove, folder, || match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }
}

/// A file on its way, that a power cut may take or tear.
pub(crate) struct Writer<'a> {
    file: File,
    path: &'a Path,
    disk: &'a Disk,
}

impl Writer<'_> {
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.disk.perform(Op::Write, self.path, || self.file.write_all(bytes))
    }

    /// All is written, and is on disk when this returns.
    pub(crate) fn sync(self) -> Result<()> {
        self.disk.perform(Op::SyncFile, self.path, || self.file.sync_all())
    }

    /// All is written: nobody changes it any more.
    pub(crate) fn finish(self) -> Result<()> {
        self.disk.protect(&self.file, self.path)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a name stands for: device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Something if the name stands for that.
fn is(path: &Path, that: Option<(u64, u64)>) -> Option<()> {
    (that.is_some() && identity(path) == that).then_some(())
}

/// Something if there is certainly nothing of that name.
fn is_gone(path: &Path) -> Option<()> {
    let look = fs::symlink_metadata(path);
    look.is_err_and(|error| error.kind() == io::ErrorKind::NotFound).then_some(())
}

/// Whether a root folder with this mode says that several users share the store.
pub(crate) fn is_shared(mode: u32) -> bool {
    mode & SHARED_BITS == SHARED_BITS
}
