//! Digests of data outside the store, each file hashed once: a 5 GB image that a workflow names is read the first time, and
//! looked at afterwards.
//!
//! What is known lies in one file for each path that was asked for: a digest of the rest of it, then JSON. It is a hint. It
//! is not flushed, two processes may write it at once (the last one wins), and where it cannot be read or written everything
//! is hashed again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Entry;
use crate::stat::Stat;
use crate::store::Store;
use crate::tree::{self, Found, hash_file};

/// The version of the JSON on disk.
const VERSION: u32 = 1;

/// A file that changed later than this before it was read is not believed the next time.
///
/// A file system's clock ticks: every few milliseconds, on some every second or two. A file that is written, read and
/// written again within one tick has the same times after both writes, so times that are as young as a tick say nothing.
/// A server whose clock is late by more than this makes the times of its files look older than they are; only two changes
/// in one tick of that server would then be taken for one.
const TICK: Duration = Duration::from_secs(2);

/// How often to read a file that changes meanwhile.
const ATTEMPTS: usize = 4;

/// The files below one path, by their path below it.
type Known = BTreeMap<String, Hashed>;

/// A file that was read, and what it looked like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Hashed {
    stat: Stat,
    digest: Digest,
}

/// What is known, as it is on disk.
#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    /// For people: the file's name is a digest of it.
    path: String,
    files: Known,
}

impl Store {
    /// The same digest as [`tree_digest`](crate::tree_digest) of a file or folder, but a file whose size, times and
    /// identity are what they were when it was last read is not read again.
    ///
    /// A file that changes while it is read is read again, and is an error if it goes on changing. Not being able to write
    /// down what is known is no error. Uses all threads of the current rayon pool.
    pub fn digest_outside(&self, path: &Path) -> Result<Digest> {
        self.digest_with(path, TICK, &hash_file)
    }

    /// `hash` gives the size and digest of a file.
    pub(crate) fn digest_with(
        &self,
        path: &Path,
        tick: Duration,
        hash: &(impl Fn(&Path) -> io::Result<(u64, Digest)> + Sync),
    ) -> Result<Digest> {
        let files = tree::input(path)?;
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let place = self.layout().outside(&real);
        let known = recall(&place).unwrap_or_default();
        // The moment before anything is looked at: what changes later is younger.
        let settled = SystemTime::now().checked_sub(tick).unwrap_or(SystemTime::UNIX_EPOCH);
        let looked_at: Vec<(Entry, Stat)> = files
            .par_iter()
            .map(|file| entry(file, known.get(&file.relative), hash))
            .collect::<Result<_>>()?;
        let believed: Known = looked_at
            .iter()
            // Files of `/proc` have another size than their content.
            .filter(|(entry, stat)| stat.is_older_than(settled) && stat.size() == entry.size)
            .map(|(entry, stat)| (entry.path.clone(), Hashed { stat: *stat, digest: entry.digest }))
            .collect();
        if believed != known {
            // Not an error: it costs time and nothing else.
            drop(self.remember(&place, &real, believed));
        }
        tree::digest_of(path, looked_at.into_iter().map(|(entry, _)| entry).collect())
    }

    fn remember(&self, place: &Path, real: &Path, files: Known) -> Result<()> {
        let on_disk = OnDisk { version: VERSION, path: real.to_string_lossy().into_owned(), files };
        let Ok(json) = serde_json::to_string(&on_disk) else { return Ok(()) };
        let rest = format!("\n{json}\n");
        self.disk().create_folder(&self.layout().outsides())?;
        self.replace_unsynced(place, format!("{}{rest}", Digest::of(rest.as_bytes())).as_bytes())
    }
}

/// Whether what is known there is of a path that may still be there.
pub(crate) fn is_of_use(place: &Path) -> bool {
    let path = read(place).map(|known| known.path);
    path.is_some_and(|path| !matches!(Path::new(&path).try_exists(), Ok(false)))
}

/// What is known of a path; `None` if that is nothing, torn, or another version's.
fn recall(place: &Path) -> Option<Known> {
    read(place).map(|known| known.files)
}

fn read(place: &Path) -> Option<OnDisk> {
    let bytes = fs::read(place).ok()?;
    let (digest, rest) = bytes.split_at_checked(64)?;
    if digest != Digest::of(rest).to_string().as_bytes() {
        return None;
    }
    let on_disk: OnDisk = serde_json::from_slice(rest).ok()?;
    (on_disk.version == VERSION).then_some(on_disk)
}

/// The file's entry, and what it looked like before and after it was read.
fn entry(
    file: &Found,
    known: Option<&Hashed>,
    hash: &impl Fn(&Path) -> io::Result<(u64, Digest)>,
) -> Result<(Entry, Stat)> {
    let look = || Stat::of(&file.path).map_err(Error::io("open", &file.path));
    let of = |size, digest| Entry { path: file.relative.clone(), size, digest };
    let mut before = look()?;
    if let Some(known) = known.filter(|known| known.stat == before) {
        return Ok((of(before.size(), known.digest), before));
    }
    for _ in 0..ATTEMPTS {
        let (size, digest) = hash(&file.path).map_err(Error::io("read", &file.path))?;
        let after = look()?;
        if after == before {
            return Ok((of(size, digest), after));
        }
        before = after;
    }
    Err(Error::Changing(file.path.clone()))
}
