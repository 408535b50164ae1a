//! For tests: lets the N-th operation on the disk fail, and knows what a power cut would spare.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::io::Errno;

use crate::durable::Op;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done: the disk is full.
    Undone,
    /// It is done, and the reply says otherwise, as happens on network file systems.
    ReplyLost,
    /// Neither it nor any later one is done: the process is dead.
    Death,
}

/// Which operation fails, and what is on disk.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    planned: Option<(usize, Fault)>,
    performed: usize,
    failed: Option<Op>,
    /// Inodes whose content (a file's bytes, a folder's names) has been flushed since it last changed.
    durable: HashSet<u64>,
}

impl Faults {
    pub(crate) fn at(number: usize, fault: Fault) -> Faults {
        let planned = Some((number, fault));
        Faults { state: Mutex::new(State { planned, ..State::default() }) }
    }

    /// The operation that failed first.
    pub(crate) fn failed(&self) -> Option<Op> {
        self.state.lock().unwrap().failed
    }

    pub(crate) fn is_durable(&self, path: &Path) -> bool {
        inode(path).is_some_and(|inode| self.state.lock().unwrap().durable.contains(&inode))
    }

    /// What was there before is taken to be on disk.
    pub(crate) fn trust(&self, root: &Path) {
        self.state.lock().unwrap().durable.extend(inodes(root));
    }

    pub(crate) fn around<T>(
        &self,
        op: Op,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock().unwrap();
        let number = state.performed;
        state.performed += 1;
        let fault = state.planned.filter(|(at, fault)| match fault {
            Fault::Death => number >= *at,
            _ => number == *at,
        });
        if let Some((_, fault)) = fault {
            state.failed = state.failed.or(Some(op));
            if fault != Fault::ReplyLost {
                return Err(Errno::NOSPC.into());
            }
        }
        let changed = changed(op, path);
        let result = act()?;
        state.durable.retain(|inode| !changed.contains(inode));
        match op {
            Op::SyncFile | Op::SyncFolder => state.durable.extend(inode(path)),
            Op::SyncFileSystem => state.durable.extend(inodes(path)),
            _ => {}
        }
        if fault.is_some() { Err(Errno::IO.into()) } else { Ok(result) }
    }
}

/// What will no longer be as it was flushed when the operation is done.
fn changed(op: Op, path: &Path) -> Vec<u64> {
    match op {
        Op::CreateFolder | Op::CreateFile | Op::Link => existing(path).into_iter().collect(),
        Op::Rename => inode(path).into_iter().chain(path.parent().and_then(inode)).collect(),
        Op::Swap => path.parent().and_then(inode).into_iter().collect(),
        Op::Write => inode(path).into_iter().collect(),
        // Their numbers will be given to others, except those of files that have a name elsewhere.
        Op::Remove => {
            walk(path).iter().filter(|path| !has_two_names(path)).filter_map(|path| inode(path)).collect()
        }
        Op::Protect | Op::Touch | Op::Clone | Op::SyncFile | Op::SyncFolder | Op::SyncFileSystem => {
            Vec::new()
        }
    }
}

/// Of the nearest thing above `path`, or at it, that exists.
fn existing(path: &Path) -> Option<u64> {
    path.ancestors().find_map(inode)
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

fn has_two_names(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.nlink() > 1)
}

/// Of everything at and below `path`.
fn inodes(path: &Path) -> impl Iterator<Item = u64> {
    walk(path).into_iter().filter_map(|path| inode(&path))
}

/// `top` and everything below it.
pub(crate) fn walk(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_path_buf()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            found.extend(fs::read_dir(&path).unwrap().map(|child| child.unwrap().path()));
        }
    }
    found
}
