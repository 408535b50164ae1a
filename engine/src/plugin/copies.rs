//! Copies of plugins' libraries in the store, `plugins/<digest>.so`. Hosts load these, so that a rebuild never touches a file that
//! a running host has mapped. Every build leaves one; a sweep removes those that no workflow used lately, as they can be built again.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use restage_cache::{Digest, Store};
use serde::Serialize;

use super::build::BuildError;
use crate::last_use;

const FOLDER: &str = "plugins";
/// Where plugins are built whose sources were fetched into the store.
const TARGET: &str = "target";
/// What cargo writes into a target folder when it makes it.
const TAG: &str = "CACHEDIR.TAG";

/// What is younger stays in any case: a run that goes on starts hosts from it. Longer than the longest run.
const GRACE: Duration = Duration::from_secs(72 * 60 * 60);

/// The folder of copies, and of what is known of what they were built from.
pub(super) fn folder(store: &Store) -> Result<PathBuf, BuildError> {
    Ok(store.folder(FOLDER)?)
}

/// Cargo's target folder for sources that are to stay as they were fetched.
pub(super) fn target(store: &Store) -> Result<PathBuf, BuildError> {
    let target = folder(store)?.join(TARGET);
    last_use::note(&target.join(TAG));
    Ok(target)
}

/// Where the copy of a library is, if there is one; it counts as used.
pub(super) fn find(binary: &Digest, store: &Store) -> Result<Option<PathBuf>, BuildError> {
    let path = place(binary, store)?;
    last_use::note(&path);
    Ok(path.is_file().then_some(path))
}

/// Copies a library to its content-named place.
pub(super) fn keep(library: &Path, binary: &Digest, store: &Store) -> Result<PathBuf, BuildError> {
    if let Some(path) = find(binary, store)? {
        return Ok(path);
    }
    let path = place(binary, store)?;
    let bytes = std::fs::read(library).map_err(BuildError::io(library))?;
    replace(&path, &bytes)?;
    Ok(path)
}

fn place(binary: &Digest, store: &Store) -> Result<PathBuf, BuildError> {
    Ok(folder(store)?.join(format!("{binary}.so")))
}

/// Writes a file in one piece by rename, not synced: it can be made again.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes).map_err(BuildError::io(&temporary))?;
    // Who may enter the store may read what is there by a name of its content, whatever this user's umask is.
    std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o644))
        .map_err(BuildError::io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(BuildError::io(path))
}

/// What was built and is of no use.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    /// A copy, what a killed process left of one, or the target folder.
    pub(crate) path: PathBuf,
    /// What it takes.
    pub(crate) bytes: u64,
    /// The file whose time tells when it was last of use.
    #[serde(skip)]
    noted: PathBuf,
    /// For how long it was of none.
    #[serde(skip)]
    keep: Duration,
}

/// What this user's builds left that was of no use for so long, and for three days.
pub(crate) fn idle(store: &Store, keep: Duration) -> Vec<Idle> {
    let entries = std::fs::read_dir(store.root().join(FOLDER)).into_iter().flatten().flatten();
    let keep = keep.max(GRACE);
    let mut idle: Vec<Idle> = entries.filter_map(|entry| idle_since(entry.path(), keep)).collect();
    idle.sort_by(|a, b| a.path.cmp(&b.path));
    idle
}

fn idle_since(path: PathBuf, keep: Duration) -> Option<Idle> {
    let is_copy = path.extension().is_some_and(|extension| extension == "so" || extension == "tmp");
    let noted = match path.file_name()? == TARGET {
        true => path.join(TAG),
        false => Some(path.clone()).filter(|_| is_copy)?,
    };
    let user = rustix::process::geteuid();
    let is_own = user.is_root() || noted.metadata().is_ok_and(|meta| meta.uid() == user.as_raw());
    let is_idle = is_own && last_use::age(&noted).is_some_and(|age| age > keep);
    is_idle.then(|| Idle { bytes: size(&path), path, noted, keep })
}

fn size(path: &Path) -> u64 {
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    match meta.is_dir() {
        true => {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
        }
        false => meta.len(),
    }
}

/// Removes it, if no run began to use it meanwhile.
///
/// # Errors
/// If it stays.
pub(crate) fn forget(idle: &Idle) -> io::Result<()> {
    if last_use::age(&idle.noted).is_none_or(|age| age <= idle.keep) {
        return Ok(());
    }
    if idle.path.is_dir() { std::fs::remove_dir_all(&idle.path) } else { std::fs::remove_file(&idle.path) }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::SystemTime};

    use super::*;

    #[test]
    fn what_a_run_began_to_use_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let places = ["used.so", "idle.so"].map(|name| super::folder(&store).unwrap().join(name));
        let month = Duration::from_secs(30 * 24 * 60 * 60);
        for place in &places {
            std::fs::write(place, "a library").unwrap();
            File::options()
                .append(true)
                .open(place)
                .unwrap()
                .set_modified(SystemTime::now() - 2 * month)
                .unwrap();
        }
        let idle = idle(&store, month);
        assert_eq!(idle.iter().map(|idle| idle.bytes).collect::<Vec<_>>(), [9, 9]);
        last_use::note(&places[0]);
        idle.iter().for_each(|idle| forget(idle).unwrap());
        assert_eq!(places.map(|place| place.exists()), [true, false]);
    }
}
