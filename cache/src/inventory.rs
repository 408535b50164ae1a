//! What a store holds, as lists: upkeep starts from these.
//!
//! Something that goes away while it is listed was not there. Any other failure is an error: who removes things must not
//! take what cannot be read for what is not needed.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use crate::action::{self, Record};
use crate::artifact::read_with_time;
use crate::digest::{ActionKey, Digest};
use crate::error::{Error, Result};
use crate::layout::{Layout, MANIFEST, RECORD, SEEN};
use crate::manifest::Manifest;

/// A result that was recorded.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) key: ActionKey,
    pub(crate) path: PathBuf,
    /// When it was last of use.
    pub(crate) modified: SystemTime,
    /// What it says, or why it cannot be read.
    pub(crate) record: Result<Record, String>,
}

/// An artifact.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) digest: Digest,
    pub(crate) place: PathBuf,
    /// When it was last published.
    pub(crate) modified: SystemTime,
    /// Whose it is.
    pub(crate) user: u32,
    /// None where it cannot be read, or is not what the name says.
    pub(crate) manifest: Option<Manifest>,
}

/// A file on disk, by any of its names.
#[derive(Debug, Clone)]
pub(crate) struct Sized {
    pub(crate) path: PathBuf,
    pub(crate) inode: (u64, u64),
    pub(crate) bytes: u64,
    /// How many names it has.
    pub(crate) links: u64,
    pub(crate) modified: SystemTime,
}

impl Sized {
    fn new(path: PathBuf, meta: &Metadata) -> Sized {
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let inode = (meta.dev(), meta.ino());
        Sized { path, inode, bytes: meta.len(), links: meta.nlink(), modified }
    }
}

/// All records, and the results that disagree with them.
pub(crate) fn records(layout: &Layout) -> Result<Vec<Noted>> {
    let of_action = |(digest, home): &(Digest, PathBuf)| {
        let key = ActionKey::from_digest(*digest);
        let seen = unless_gone(list(&home.join(SEEN)))?.unwrap_or_default();
        let others = seen.into_iter().filter(|(name, _)| name.ends_with(".json")).map(|(_, path)| path);
        let all = std::iter::once(home.join(RECORD)).chain(others);
        all.filter_map(|path| noted(key, path).transpose()).collect::<Result<Vec<_>>>()
    };
    let found: Vec<_> = sharded(&layout.actions())?.par_iter().map(of_action).collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn noted(key: ActionKey, path: PathBuf) -> Result<Option<Noted>> {
    let read = read_with_time(&path).map_err(Error::io("read", &path));
    let Some((bytes, modified)) = unless_gone(read)? else { return Ok(None) };
    if let Some(found) = action::version(&bytes).filter(|version| *version > action::VERSION) {
        return Err(Error::NewerRecord { path, found });
    }
    let record = action::parse(&bytes, &key);
    Ok(Some(Noted { key, path, modified, record }))
}

/// All artifacts.
pub(crate) fn artifacts(layout: &Layout) -> Result<Vec<Held>> {
    let held = |(digest, place): (Digest, PathBuf)| {
        let look = fs::symlink_metadata(&place).and_then(|meta| Ok((meta.modified()?, meta.uid())));
        let looked = unless_gone(look.map_err(Error::io("look at", &place)))?;
        let manifest =
            fs::read(place.join(MANIFEST)).ok().and_then(|bytes| Manifest::decode(&bytes, &digest));
        Ok(looked.map(|(modified, user)| Held { digest, place, modified, user, manifest }))
    };
    let found = sharded(&layout.artifacts())?.into_par_iter();
    found.filter_map(|found| held(found).transpose()).collect()
}

/// All files that artifacts share.
pub(crate) fn files(layout: &Layout) -> Result<Vec<(Digest, Sized)>> {
    let sized = |(digest, path): (Digest, PathBuf)| {
        let look = fs::symlink_metadata(&path).map_err(Error::io("look at", &path));
        Ok(unless_gone(look)?.map(|meta| (digest, Sized::new(path, &meta))))
    };
    let found = sharded(&layout.files())?.into_par_iter();
    found.filter_map(|found| sized(found).transpose()).collect()
}

/// All files at and below `top`, which need not be there.
pub(crate) fn below(top: &Path) -> Result<Vec<Sized>> {
    let mut found = Vec::new();
    let mut pending = vec![top.to_path_buf()];
    while let Some(path) = pending.pop() {
        let look = fs::symlink_metadata(&path).map_err(Error::io("look at", &path));
        let Some(meta) = unless_gone(look)? else { continue };
        if meta.is_dir() {
            pending.extend(unless_gone(list(&path))?.unwrap_or_default().into_iter().map(|(_, path)| path));
        } else {
            found.push(Sized::new(path, &meta));
        }
    }
    Ok(found)
}

/// When anything at or below `top` was last written to. None if it is not there.
pub(crate) fn newest(top: &Path) -> Result<Option<SystemTime>> {
    let look = fs::symlink_metadata(top).and_then(|meta| meta.modified()).map_err(Error::io("look at", top));
    let Some(own) = unless_gone(look)? else { return Ok(None) };
    Ok(below(top)?.iter().map(|file| file.modified).max().max(Some(own)))
}

/// What lies as `base/ab/cdef…`, sorted.
pub(crate) fn sharded(base: &Path) -> Result<Vec<(Digest, PathBuf)>> {
    let mut found = Vec::new();
    for (shard, folder) in list(base)? {
        if shard.len() != 2 || !folder.is_dir() {
            continue;
        }
        for (rest, path) in unless_gone(list(&folder))?.unwrap_or_default() {
            found.extend(format!("{shard}{rest}").parse().ok().map(|digest| (digest, path)));
        }
    }
    found.sort();
    Ok(found)
}

/// Names and paths of what is in a folder. Names that are not UTF-8 are none of ours, but are there.
pub(crate) fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let named = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
    };
    fs::read_dir(folder)
        .and_then(|entries| entries.map(named).collect())
        .map_err(Error::io("list the folder", folder))
}

/// None for what is not there.
pub(crate) fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Io { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}
