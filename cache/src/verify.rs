//! Reading everything again: whether what is stored is what its names say.
//!
//! A file that artifacts share is read once. What is found damaged is looked at a second time before it is moved, as
//! somebody may have repaired it meanwhile; a disk that does not answer is told, and nothing is done about it.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::action;
use crate::digest::{ActionKey, Digest};
use crate::error::Result;
use crate::inventory;
use crate::layout::{MANIFEST, RECORD, SEEN, TREE};
use crate::manifest::Manifest;
use crate::repair::Repair;
use crate::store::Store;
use crate::tree::hash_file;

/// How much to read, and what to do about damage.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions {
    /// Which part of the artifacts and files to read: 1 for all of them.
    pub fraction: f64,
    /// Chooses which ones, if not all: the same number chooses the same ones.
    pub seed: u64,
    /// Rebuild what can be rebuilt from good copies, and move the rest to the quarantine.
    pub repair: bool,
}

impl Default for VerifyOptions {
    fn default() -> VerifyOptions {
        VerifyOptions { fraction: 1.0, seed: 0, repair: false }
    }
}

/// What reading everything found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verification {
    /// Each artifact that was read.
    pub artifacts: Vec<Verified>,
    /// Each file in `files/` that was read.
    pub files: Vec<Verified>,
    /// How many records were read.
    pub records: u64,
    /// Those that cannot be.
    pub bad_records: Vec<BadRecord>,
    /// How many bytes were read; what has several names once.
    pub bytes: u64,
}

/// Something that was read.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The artifact or file.
    pub digest: Digest,
    /// How it is.
    pub verdict: Verdict,
    /// What was done about that; nothing where nothing was asked for, or nothing is wrong.
    pub repair: Option<Repair>,
}

/// How something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it was stored.
    Ok,
    /// Not as it was stored.
    Damaged(Vec<Damage>),
    /// The operating system does not give it to us, so nothing can be said.
    Unreadable {
        /// Below the artifact's folder, or the file.
        file: PathBuf,
        /// The reason.
        why: String,
    },
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Below the artifact's folder: `manifest`, or below `tree`. The path of a file in `files/`.
    pub file: PathBuf,
    /// What it was.
    pub expected: Digest,
    /// What it is. None if it is no file, or not there.
    pub found: Option<Digest>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, Serialize)]
pub struct BadRecord {
    /// The action.
    pub key: ActionKey,
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub why: String,
    /// What was done about that.
    pub repair: Option<Repair>,
}

impl Verification {
    /// Whether nothing is wrong, or nothing any more.
    pub fn is_sound(&self) -> bool {
        let is_mended = |repair: &Option<Repair>| !matches!(repair, None | Some(Repair::Failed(_)));
        let mut all = self.artifacts.iter().chain(&self.files);
        all.all(|thing| thing.verdict == Verdict::Ok || is_mended(&thing.repair))
            && self.bad_records.iter().all(|record| is_mended(&record.repair))
    }
}

/// A file that should have some content.
struct Expected {
    /// As in [`Damage::file`].
    file: PathBuf,
    path: PathBuf,
    digest: Digest,
    look: Look,
}

/// What is at a path, before it is read.
pub(crate) enum Look {
    File { inode: (u64, u64), bytes: u64 },
    NoFile,
    Unreadable(String),
}

/// What was read of a file on disk, or why it could not be.
type Hashes = HashMap<(u64, u64), Result<Digest, String>>;

impl Store {
    /// Reads artifacts, files and records, and says how each is. With all threads of the current rayon pool.
    ///
    /// `progress` is told how many bytes of how many are read, by any thread.
    pub fn verify(
        &self,
        options: &VerifyOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Verification> {
        let chosen = |found: &(Digest, PathBuf)| is_chosen(&found.0, options);
        let artifacts = inventory::sharded(&self.layout().artifacts())?;
        let files = inventory::sharded(&self.layout().files())?;
        let artifacts: Vec<_> =
            artifacts.into_par_iter().filter(chosen).filter_map(expect_artifact).collect();
        let files: Vec<_> = files.into_par_iter().filter(chosen).map(expect_file).collect();

        let all = artifacts.iter().filter_map(|(_, expected)| expected.as_ref().ok()).flatten();
        let (hashes, bytes) = hash_all(all.chain(files.iter().map(|(_, expected)| expected)), progress);
        let mut report = Verification { bytes, ..Verification::default() };
        // What a sweep took meanwhile is not damaged.
        let verified = |digest: &Digest, verdict, place: PathBuf| {
            let is_there = verdict == Verdict::Ok || place.exists();
            is_there.then_some(Verified { digest: *digest, verdict, repair: None })
        };
        let of_artifact = |(digest, expected): &(Digest, Result<Vec<Expected>, Verdict>)| {
            let verdict = expected.as_ref().map_or_else(Verdict::clone, |expected| judge(expected, &hashes));
            verified(digest, verdict, self.layout().artifact(digest))
        };
        let of_file = |(digest, expected): &(Digest, Expected)| {
            let verdict = judge(std::slice::from_ref(expected), &hashes);
            verified(digest, verdict, self.layout().file(digest))
        };
        report.artifacts = artifacts.par_iter().filter_map(of_artifact).collect();
        report.files = files.par_iter().filter_map(of_file).collect();
        (report.records, report.bad_records) = self.verify_records()?;
        if options.repair {
            let all = artifacts.iter().filter_map(|(_, expected)| expected.as_ref().ok()).flatten();
            let good = good_copies(all.chain(files.iter().map(|(_, expected)| expected)), &hashes);
            self.repair(&mut report, &good);
        }
        Ok(report)
    }

    fn verify_records(&self) -> Result<(u64, Vec<BadRecord>)> {
        let mut read = 0;
        let mut bad = Vec::new();
        for (digest, home) in inventory::sharded(&self.layout().actions())? {
            let key = ActionKey::from_digest(digest);
            let seen = inventory::unless_gone(inventory::list(&home.join(SEEN)))?.unwrap_or_default();
            for file in std::iter::once(home.join(RECORD)).chain(seen.into_iter().map(|(_, path)| path)) {
                let why = match fs::read(&file) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => Some(error.to_string()),
                    // A later version's is not ours to judge.
                    Ok(bytes) if action::version(&bytes).is_some_and(|found| found > action::VERSION) => None,
                    Ok(bytes) => action::parse(&bytes, &key).err(),
                };
                read += 1;
                bad.extend(why.map(|why| BadRecord { key, file, why, repair: None }));
            }
        }
        Ok((read, bad))
    }
}

fn is_chosen(digest: &Digest, options: &VerifyOptions) -> bool {
    let mut seeded = options.seed.to_le_bytes().to_vec();
    seeded.extend(digest.as_bytes());
    let drawn =
        Digest::of(&seeded).as_bytes().iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    options.fraction >= 1.0 || (drawn as f64) < options.fraction * (u64::MAX as f64)
}

/// What the artifact's files should be, or a verdict if that cannot be said. None if it is gone.
fn expect_artifact((digest, place): (Digest, PathBuf)) -> Option<(Digest, Result<Vec<Expected>, Verdict>)> {
    let path = place.join(MANIFEST);
    let damaged = |found| Verdict::Damaged(vec![Damage { file: MANIFEST.into(), expected: digest, found }]);
    let expected = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if !place.exists() {
                return None;
            }
            Err(damaged(None))
        }
        Err(error) => Err(Verdict::Unreadable { file: MANIFEST.into(), why: error.to_string() }),
        Ok(bytes) => match Manifest::decode(&bytes, &digest) {
            None => Err(damaged(Some(Manifest::digest(&bytes)))),
            Some(manifest) => Ok(manifest
                .entries()
                .iter()
                .map(|entry| {
                    let file = Path::new(TREE).join(&entry.path);
                    let path = place.join(&file);
                    Expected { file, look: look(&path), path, digest: entry.digest }
                })
                .collect()),
        },
    };
    Some((digest, expected))
}

fn expect_file((digest, path): (Digest, PathBuf)) -> (Digest, Expected) {
    (digest, Expected { file: path.clone(), look: look(&path), path, digest })
}

pub(crate) fn look(path: &Path) -> Look {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Look::File { inode: (meta.dev(), meta.ino()), bytes: meta.len() },
        Ok(_) => Look::NoFile,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Look::NoFile,
        Err(error) => Look::Unreadable(error.to_string()),
    }
}

/// Reads each file on disk once. Says also how many bytes those are.
fn hash_all<'a>(
    all: impl Iterator<Item = &'a Expected>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> (Hashes, u64) {
    let mut files: HashMap<(u64, u64), (u64, &Path)> = HashMap::new();
    for expected in all {
        if let Look::File { inode, bytes } = expected.look {
            files.insert(inode, (bytes, &expected.path));
        }
    }
    let total = files.values().map(|(bytes, _)| bytes).sum();
    let done = AtomicU64::new(0);
    let mut files: Vec<_> = files.into_iter().collect();
    // The large ones first, so that no thread is left with one at the end.
    files.sort_by_key(|(inode, (bytes, _))| (std::cmp::Reverse(*bytes), *inode));
    let hash = |(inode, (bytes, path)): ((u64, u64), (u64, &Path))| {
        let hashed = hash_file(path).map(|(_, digest)| digest).map_err(|error| error.to_string());
        progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        (inode, hashed)
    };
    (files.into_par_iter().with_max_len(1).map(hash).collect(), total)
}

fn judge(all: &[Expected], hashes: &Hashes) -> Verdict {
    let mut damages = Vec::new();
    for expected in all {
        let found = match &expected.look {
            Look::NoFile => None,
            Look::Unreadable(why) => {
                return Verdict::Unreadable { file: expected.file.clone(), why: why.clone() };
            }
            Look::File { inode, .. } => match hashes.get(inode) {
                Some(Ok(found)) if *found == expected.digest => continue,
                Some(Ok(found)) => Some(*found),
                // What was read under another name may have lost that name; it is tried under this one.
                Some(Err(_)) | None => match hash_file(&expected.path) {
                    Ok((_, found)) if found == expected.digest => continue,
                    Ok((_, found)) => Some(found),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => {
                        return Verdict::Unreadable { file: expected.file.clone(), why: error.to_string() };
                    }
                },
            },
        };
        damages.push(Damage { file: expected.file.clone(), expected: expected.digest, found });
    }
    if damages.is_empty() { Verdict::Ok } else { Verdict::Damaged(damages) }
}

fn good_copies<'a>(all: impl Iterator<Item = &'a Expected>, hashes: &Hashes) -> HashMap<Digest, PathBuf> {
    let is_good = |expected: &&Expected| match expected.look {
        Look::File { inode, .. } => {
            matches!(hashes.get(&inode), Some(Ok(found)) if *found == expected.digest)
        }
        _ => false,
    };
    all.filter(is_good).map(|expected| (expected.digest, expected.path.clone())).collect()
}
