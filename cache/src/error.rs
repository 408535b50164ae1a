//! What can go wrong, with the path it went wrong at and one thing to do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::digest::{ActionKey, Digest};

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do what was asked. What it holds is sound nevertheless: see the crate's promise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} `{}`: {source}{}", path.display(), advice(source))]
    Io {
        /// What was being done, as a verb with its object: `create the folder`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The store was written by a later version.
    #[error("the cache `{}` has format {found}, this restage knows {known}: update restage, or name another folder", root.display())]
    NewerFormat {
        /// The store.
        root: PathBuf,
        /// The format it has.
        found: u32,
        /// The latest format this version knows.
        known: u32,
    },
    /// The `FORMAT` file says no format.
    #[error("`{}` says `{found}` where a cache says its format: name another folder as the cache", path.display())]
    NotAFormat {
        /// The file.
        path: PathBuf,
        /// Its first characters.
        found: String,
    },
    /// A file or folder that can be no part of an artifact or of an input.
    #[error("`{}` {why}", path.display())]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        why: Refusal,
    },
    /// A file from outside was written to whenever it was read.
    #[error("`{}` changes while it is read: wait until it is written", .0.display())]
    Changing(PathBuf),
    /// Only what lies in a staging folder can be published.
    #[error("`{}` is not inside a staging folder of this cache: write the outputs into `Staging::path()`", .0.display())]
    NotStaged(PathBuf),
    /// A record names an artifact that was not published, or was damaged since.
    #[error("output `{port}` is artifact {digest}, which is not in the cache: publish it before its record")]
    Unpublished {
        /// The output.
        port: String,
        /// What it should be.
        digest: Digest,
    },
    /// A folder name that the store cannot give away.
    #[error(
        "`{0}` is not a name for a folder of the cache: use lower-case letters, digits, `-` and `_`, a letter first, \
         and not `v` with a number"
    )]
    BucketName(String),
    /// Not a name for a pin.
    #[error(
        "`{0}` is not a name for a pin: use up to 100 letters, digits, `-`, `_` and `.`, a letter or a digit first"
    )]
    PinName(String),
    /// A pin cannot be read, so nobody can say what it keeps.
    #[error("the pin `{}` cannot be read ({why}): repair it or remove that file; until then nothing is removed", path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What is to be pinned is not there.
    #[error(
        "cannot pin artifact {digest} as `{name}`: it is not in the cache, or not whole; run what makes it first"
    )]
    NothingToPin {
        /// The pin.
        name: String,
        /// The artifact.
        digest: Digest,
    },
    /// A record that a later version wrote: nobody can say what it keeps.
    #[error("the record `{}` has version {found}, which this restage does not know: update restage; until then nothing is removed", path.display())]
    NewerRecord {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u32,
    },
    /// A file of the store is not what it was, so it is not given to others.
    #[error("`{}` is damaged: `restage cache verify --repair` mends what can be mended", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A bundle that is none, or was tampered with.
    #[error("the bundle `{}` was not taken: {}{why}", file.display(), of(member))]
    Bundle {
        /// The file.
        file: PathBuf,
        /// Which member of it. Empty for the bundle itself.
        member: String,
        /// What is wrong.
        why: String,
    },
    /// Not the URL of a remote.
    #[error(
        "`{url}` is not a remote: {why}; expected file:///folder, s3://bucket/prefix, http:// or https://"
    )]
    RemoteUrl {
        /// The URL, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A remote refused, or did not answer, or gave something else.
    #[error("cannot {doing} `{url}`: {why}")]
    Remote {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To what, without a password.
        url: String,
        /// The reason.
        why: String,
        /// Whether it is about that one thing, or about all of the remote.
        fault: Fault,
    },
    /// Nothing can be pushed to a plain web server.
    #[error("`{0}` can only be read: push to file:// or s3://, or copy the files there by other means")]
    ReadOnlyRemote(String),
    /// A manifest could not be encoded.
    #[error("cannot encode the manifest of `{}`: {why}", folder.display())]
    Manifest {
        /// The folder it describes.
        folder: PathBuf,
        /// The encoder's reason.
        why: String,
    },
    /// A record could not be encoded.
    #[error("cannot encode the record of action {key}: {source}")]
    Record {
        /// The action.
        key: ActionKey,
        /// The encoder's reason.
        source: serde_json::Error,
    },
}

/// What an error of a remote is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One object is damaged or missing; others may be good.
    Object,
    /// It did not answer, or not us.
    Remote,
}

/// Why a file or folder can be no part of an artifact or of an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A symbolic link in an artifact.
    #[error("is a symbolic link, which an artifact cannot hold: write the file itself")]
    Link,
    /// A symbolic link to a folder, inside an input.
    #[error(
        "is a link to a folder; inside an input only links to files are followed: name that folder as an input"
    )]
    LinkToFolder,
    /// A device, socket or pipe.
    #[error("is neither a file nor a folder: remove it")]
    Special,
    /// A file of an artifact that can be changed through another name.
    #[error("has {0} hard links, so it could be changed through another name: write a copy")]
    HardLinks(u64),
    /// A name that is not UTF-8.
    #[error("has a name that is not UTF-8: rename it")]
    NotUtf8,
    /// A name that does not travel between systems.
    #[error("has a control character or a backslash in its name: rename it")]
    OddName,
    /// An artifact is a folder.
    #[error("is not a folder: an artifact is a folder, put the file into one")]
    NotAFolder,
    /// A name that another file of the artifact has too where `A` is `a`.
    #[error("differs from `{0}` only in case: one of them would be lost on other systems, so rename one")]
    CaseTwin(String),
    /// A file and a folder of one name.
    #[error("is a file and a folder at once")]
    FileAndFolder,
    /// A name that file systems do not take.
    #[error("has a name that is too long: 255 bytes a name and 3,000 a path")]
    LongName,
    /// More files than an artifact may have.
    #[error("has {0} files, of which an artifact may have 262,144: write Zarr in shards")]
    TooMany(usize),
    /// More bytes than there can be.
    #[error("claims more bytes than any disk holds")]
    TooLarge,
    /// Bytes that are no manifest, or not the one that was asked for.
    #[error("is not the manifest that its name says")]
    NotAManifest,
}

impl Error {
    /// For `map_err`: the operating system refused to do this to `path`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { doing, path: path.to_path_buf(), source }
    }

    /// Whether it says that something is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn refused(path: impl Into<PathBuf>, why: Refusal) -> Error {
        Error::Refused { path: path.into(), why }
    }
}

/// The member of a bundle that is at fault, if it is one.
fn of(member: &str) -> String {
    if member.is_empty() { String::new() } else { format!("`{member}`: ") }
}

/// One thing to do about the commonest causes.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        _ if source.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            ": the disk fails, or the way to it; look into the system's log, and name a cache folder on another disk"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space there, or name a cache folder on another file system"
        }
        io::ErrorKind::PermissionDenied => ": check who owns it",
        io::ErrorKind::ReadOnlyFilesystem => ": name a cache folder that can be written",
        _ => "",
    }
}

/// Whether a thing is as good as not there: gone, or not ours to see. Anything else (an I/O error, too many open
/// files) says nothing about the thing and must not be taken for a miss.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}
