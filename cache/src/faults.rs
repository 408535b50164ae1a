//! For tests: lets the N-th operation on the disk fail, and knows what a power cut would spare.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::io::Errno;

use crate::durable::Op;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done.
    Undone(Errno),
    /// Half of the bytes are written, then the disk is full. Writes only.
    Short,
    /// A signal interrupts it, before or after it is done.
    Interrupted { done: bool },
    /// It is done, and the reply says otherwise, as happens on network file systems.
    ReplyLost,
    /// Neither it nor any later one is done: the process is dead.
    Death,
}

impl Fault {
    pub(crate) const ALL: [Fault; 8] = [
        Fault::Undone(Errno::DQUOT),
        Fault::Undone(Errno::IO),
        Fault::Undone(Errno::NOSPC),
        Fault::Short,
        Fault::Interrupted { done: false },
        Fault::Interrupted { done: true },
        Fault::ReplyLost,
        Fault::Death,
    ];

    /// One error stands for the others, where all of them would take long: only what the user is told differs.
    pub(crate) const EACH_KIND: &[Fault] = Fault::ALL.split_at(2).1;

    /// What the operation says, and the user is told; of an interruption nobody hears.
    pub(crate) fn errno(self) -> Errno {
        match self {
            Fault::Undone(errno) => errno,
            Fault::Short | Fault::Death => Errno::NOSPC,
            Fault::Interrupted { .. } => Errno::INTR,
            Fault::ReplyLost => Errno::IO,
        }
    }

    pub(crate) fn is_interruption(self) -> bool {
        matches!(self, Fault::Interrupted { .. })
    }

    fn strikes(self, op: Op) -> bool {
        match self {
            Fault::Short => op == Op::Write,
            // A write that was interrupted has written nothing, or says how much; and `open` tries again by itself.
            Fault::Interrupted { done: true } => !matches!(op, Op::Write | Op::CreateFile),
            _ => true,
        }
    }

    /// Whether it strikes few of the operations.
    pub(crate) fn is_rare(self) -> bool {
        self == Fault::Short
    }
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
    /// Of the operations that the fault strikes, this one.
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
        let planned = state.planned.filter(|(_, fault)| fault.strikes(op));
        state.performed += usize::from(planned.is_some());
        let fault = planned.filter(|(at, fault)| match fault {
            Fault::Death => number >= *at,
            _ => number == *at,
        });
        let fault = fault.map(|(_, fault)| fault);
        if let Some(fault) = fault {
            state.failed = state.failed.or(Some(op));
            let undone = Fault::Interrupted { done: false };
            if matches!(fault, Fault::Undone(_) | Fault::Death) || fault == undone {
                return Err(fault.errno().into());
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
        match fault {
            Some(fault) => {
                if fault == Fault::Short {
                    halve(path);
                }
                Err(fault.errno().into())
            }
            None => Ok(result),
        }
    }
}

/// What is left of a file whose second half the disk did not take.
fn halve(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
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
