//! Trees of files: walking one, hashing a file, and the digest of a file or folder from outside.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::digest::Digest;
use crate::error::{Error, Refusal, Result};
use crate::manifest::{Entry, Manifest, is_odd};

/// From this size on the parts of a file are hashed by all threads; below, threads take whole files.
const LARGE: u64 = 1 << 20;

/// How much of a large file is read at once.
const PART: usize = 4 << 20;

/// The digest of a file or of a folder with all it holds: paths, sizes and contents; no times, modes, owners or empty
/// folders. Equal to the digest of the artifact with the same files.
///
/// A link at the top is followed, links to files inside too; a link to a folder inside, a device or a name that is not
/// UTF-8 is an error. Uses all threads of the current rayon pool and reads each byte once.
pub fn tree_digest(path: &Path) -> Result<Digest> {
    digest_of(path, input(path)?.par_iter().map(Found::hash).collect::<Result<_>>()?)
}

/// The files of an input: the one that it is, or all that are in the folder, sorted by path.
pub(crate) fn input(path: &Path) -> Result<Vec<Found>> {
    let top = fs::metadata(path).map_err(Error::io("look at", path))?;
    if top.is_dir() {
        Ok(scan(path, Links::Follow)?.files)
    } else if top.is_file() {
        Ok(vec![Found { path: path.to_path_buf(), relative: String::new() }])
    } else {
        Err(Error::refused(path, Refusal::Special))
    }
}

/// The digest of the input at `path`, of whose files these are the entries.
pub(crate) fn digest_of(path: &Path, entries: Vec<Entry>) -> Result<Digest> {
    let encoded = Manifest::new(entries).encode();
    encoded.map(|bytes| Manifest::digest(&bytes)).map_err(|why| Error::Manifest { folder: path.into(), why })
}

/// What to do with symbolic links inside a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Links to files count as the file (folders of data often hold some). Any UTF-8 name will do.
    Follow,
    /// Links and names that do not travel are errors: what an artifact is held to.
    Refuse,
}

/// What a walk found, each sorted by path.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) files: Vec<Found>,
    /// Below the top, parents before children.
    pub(crate) folders: Vec<Found>,
}

/// A file or folder of a tree.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Below the top of the tree, `/` between its parts.
    pub(crate) relative: String,
}

impl Found {
    pub(crate) fn hash(&self) -> Result<Entry> {
        let (size, digest) = hash_file(&self.path).map_err(Error::io("read", &self.path))?;
        Ok(Entry { path: self.relative.clone(), size, digest })
    }
}

/// All files and folders below `top`.
pub(crate) fn scan(top: &Path, links: Links) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut pending = vec![Found { path: top.to_path_buf(), relative: String::new() }];
    while let Some(folder) = pending.pop() {
        let listing = "list the folder";
        for child in fs::read_dir(&folder.path).map_err(Error::io(listing, &folder.path))? {
            let child = child.map_err(Error::io(listing, &folder.path))?;
            let found = Found { path: child.path(), relative: relative(&folder, &child, links)? };
            if is_folder(&child, links)? {
                pending.push(found);
            } else {
                scan.files.push(found);
            }
        }
        scan.folders.push(folder);
    }
    scan.folders.swap_remove(0); // the top itself
    scan.files.sort_by(|a, b| a.relative.cmp(&b.relative));
    scan.folders.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(scan)
}

fn relative(folder: &Found, child: &fs::DirEntry, links: Links) -> Result<String> {
    let name = child.file_name();
    let Some(name) = name.to_str() else {
        return Err(Error::refused(child.path(), Refusal::NotUtf8));
    };
    if links == Links::Refuse && is_odd(name) {
        return Err(Error::refused(child.path(), Refusal::OddName));
    }
    Ok(if folder.relative.is_empty() { name.to_owned() } else { format!("{}/{name}", folder.relative) })
}

/// Whether the child is a folder to go into; if not, it is a file.
fn is_folder(child: &fs::DirEntry, links: Links) -> Result<bool> {
    let path = child.path();
    let kind = child.file_type().map_err(Error::io("look at", &path))?;
    if kind.is_dir() || kind.is_file() {
        return Ok(kind.is_dir());
    }
    let why = if !kind.is_symlink() {
        Refusal::Special
    } else if links == Links::Refuse {
        Refusal::Link
    } else {
        let target = fs::metadata(&path).map_err(Error::io("follow the link", &path))?;
        if target.is_file() {
            return Ok(false);
        }
        if target.is_dir() { Refusal::LinkToFolder } else { Refusal::Special }
    };
    Err(Error::refused(path, why))
}

/// The size and digest of a file's content, read once. The size is that of what was hashed.
pub(crate) fn hash_file(path: &Path) -> io::Result<(u64, Digest)> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    if file.metadata()?.len() < LARGE {
        hasher.update_reader(file)?;
    } else {
        // Read and not mapped: a mapped file that somebody shortens, or whose disk fails, would kill the process.
        let (mut ready, mut coming) = (Vec::with_capacity(PART), Vec::with_capacity(PART));
        read_part(&mut file, &mut ready)?;
        while !ready.is_empty() {
            // The next part is read while this one is hashed.
            let (_, read) =
                rayon::join(|| hasher.update_rayon(&ready).count(), || read_part(&mut file, &mut coming));
            read?;
            std::mem::swap(&mut ready, &mut coming);
        }
    }
    Ok((hasher.count(), hasher.finalize().into()))
}

/// The next part of a file, in place of what is in `part`. Empty at the end.
fn read_part(file: &mut File, part: &mut Vec<u8>) -> io::Result<usize> {
    part.clear();
    file.take(PART as u64).read_to_end(part)
}
