//! Remotes: a bucket, a folder or a web server that holds results for others.
//!
//! A remote is laid out like a store, less what only a disk needs: `FORMAT`, `v1/files/…`, `v1/artifacts/…/manifest` and
//! `v1/actions/…/record.json` (with `seen/` beside it). So the folder of a store, served by any web server, is a remote to
//! read from, and so is a bundle that was unpacked.
//!
//! - What is pushed appears in the order of the store's promise: files, then manifests, then records. A connection that is
//!   cut leaves files that nobody points at, and the next push goes on from there.
//! - Nothing that arrives is believed: every file and manifest is hashed on its way, against the digest that asked for it.
//!   What is too long is cut off where it should have ended.
//! - Conditional writes are used and not relied on (some servers have none, and a reply may be lost): names that are digests
//!   can be written twice, and a record is read back after it was written.

mod open;
mod pull;
mod push;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use object_store::{ObjectStore, path::Path};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::digest::{ActionKey, Digest};
use crate::durable::Disk;
use crate::error::{Error, Fault, Result};
use crate::layout::{Layout, MANIFEST, RECORD, SEEN};

/// How many objects travel at once.
const AT_ONCE: usize = 16;

/// A place where results are kept for others. Opening one asks nobody; the first use does.
///
/// Each method waits for its answer, from any thread, also from within an asynchronous program.
pub struct Remote {
    url: String,
    objects: Arc<dyn ObjectStore>,
    /// Plain web servers take nothing.
    read_only: bool,
    /// Of a folder that several users share: where it is, and what makes folders in it.
    group: Option<(PathBuf, Disk)>,
    names: Layout,
    /// Whether there is anything at all, asked once.
    found: OnceLock<bool>,
    /// What was found damaged there: written again although it is there.
    damaged: Mutex<BTreeSet<Path>>,
    /// Taken only by `drop`.
    runtime: Option<Runtime>,
}

/// What a push or a pull did: from here to there, or from there to here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Records that the receiver has now, and had not.
    pub records: u64,
    /// Artifacts that it has now, and had not.
    pub artifacts: u64,
    /// Files that travelled.
    pub files: u64,
    /// Bytes that travelled.
    pub bytes: u64,
    /// Artifacts that the receiver had already.
    pub present: u64,
    /// Actions for which it has another result: that one stays, the sender's is kept beside it.
    pub different: BTreeSet<ActionKey>,
    /// Actions and artifacts that the sender does not have, or not whole.
    pub missing: Vec<Digest>,
}

/// Told of progress: bytes done, and bytes in all as far as is known. By any thread.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

impl Remote {
    /// The remote at `url`: `file:///a/folder`, `s3://bucket/prefix`, `http://host/path` or `https://host/path`.
    ///
    /// For S3 the usual environment counts: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`. A
    /// password in the URL of a web server is used and never shown.
    pub fn open(url: &str) -> Result<Remote> {
        Remote::open_with(url, &BTreeMap::new())
    }

    /// Like [`Remote::open`], with settings that come before the environment: for S3 `aws_endpoint`, `aws_region`,
    /// `aws_access_key_id`, … as `object_store` names them.
    pub fn open_with(url: &str, settings: &BTreeMap<String, String>) -> Result<Remote> {
        open::open(url, settings)
    }

    /// The URL, without a password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether nothing can be pushed there: a plain web server.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Does some work and waits for it, on a thread of its own: this one may be of another runtime, which must not wait for
    /// a second one.
    fn wait<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> Result<T> {
        let Some(runtime) = &self.runtime else { return Err(self.fails("use", "", "it is closed")) };
        thread::scope(|scope| match scope.spawn(|| runtime.block_on(work())).join() {
            Ok(answer) => Ok(answer),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Makes the folders of an object where a group shares them: all may write to each, whatever the umask.
    fn make_room(&self, name: &Path) -> Result<()> {
        let Some((root, disk)) = &self.group else { return Ok(()) };
        root.join(name.as_ref()).parent().map_or(Ok(()), |folder| disk.create_folder(folder))
    }

    /// An object that is written is all the group's to read.
    fn open_up(&self, name: &Path) -> Result<()> {
        let Some((root, disk)) = &self.group else { return Ok(()) };
        let path = root.join(name.as_ref());
        disk.protect(&File::open(&path).map_err(Error::io("open", &path))?, &path)
    }

    /// One object is not what it should be.
    fn fails(&self, doing: &'static str, name: &str, why: impl Into<String>) -> Error {
        self.error(doing, name, why.into(), Fault::Object)
    }

    fn refused(&self, doing: &'static str, name: &Path, error: &object_store::Error) -> Error {
        self.error(doing, name.as_ref(), transfer::words(error), Fault::Remote)
    }

    fn error(&self, doing: &'static str, name: &str, why: String, fault: Fault) -> Error {
        let separator = if name.is_empty() || self.url.ends_with('/') { "" } else { "/" };
        Error::Remote { doing, url: format!("{}{separator}{name}", self.url), why, fault }
    }

    /// Looks twice at what is there under this name from now on.
    fn suspect(&self, name: &Path) {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
    }

    fn is_suspect(&self, name: &Path) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn settled(&self, name: &Path) {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn file(&self, digest: &Digest) -> Path {
        object(self.names.file(digest))
    }

    fn manifest(&self, digest: &Digest) -> Path {
        object(self.names.artifact(digest).join(MANIFEST))
    }

    fn record_name(&self, key: &ActionKey) -> Path {
        object(self.names.action(key).join(RECORD))
    }

    fn seen(&self, key: &ActionKey, outputs: &Digest) -> Path {
        object(self.names.action(key).join(SEEN).join(format!("{outputs}.json")))
    }

    fn format(&self) -> Path {
        object(self.names.format())
    }
}

/// The name of an object, from the path that it has in a store. Digests and our own words only, so it needs no care.
fn object(path: PathBuf) -> Path {
    Path::from_iter(path.iter().map(|part| part.to_string_lossy().into_owned()))
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.url).finish()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A runtime that is dropped within another one's task would panic.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
