//! A plugin's path in a workflow to a library that can be loaded: built when its sources changed, never else.
//!
//! A built library is copied into the store and loaded from there (`copies.rs`). Beside it lies a *stamp* for each source folder
//! with the size and time of every watched file; when all still agree, neither cargo nor rustc is started.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io::{self, BufRead},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use restage_cache::{Digest, Store};
use serde::{Deserialize, Serialize};

use super::{
    code::{self, Code},
    copies,
    identity::{self, Sources},
    settings::{self, Settings},
};
use crate::workflow::git;

/// Why a plugin could not be built.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(crate) enum BuildError {
    /// Nothing is at the path.
    #[error("there is no plugin at {}", path.display())]
    #[diagnostic(help("`path:` is relative to the workflow file: a crate's folder, or a built library"))]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The folder is not a crate that makes a plugin.
    #[error("{} does not build a plugin library", path.display())]
    #[diagnostic(help("a plugin is a crate with `crate-type = [\"cdylib\"]` under `[lib]`"))]
    NotACrate {
        /// Its manifest.
        path: PathBuf,
    },
    /// cargo or rustc could not be started.
    #[error("cannot start cargo, which builds plugins given by their source folder")]
    #[diagnostic(help("install Rust, or give the path of a built library"))]
    NoCargo(#[source] io::Error),
    /// cargo refused; its words are the best there are.
    #[error("cargo cannot build {}\n{output}", path.display())]
    Cargo {
        /// The manifest.
        path: PathBuf,
        /// What cargo said.
        output: String,
    },
    /// The sources changed while they were built.
    #[error("the sources of {} changed while they were being built", path.display())]
    #[diagnostic(help("run the command again"))]
    Changing {
        /// The manifest.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    /// A digest could not be taken.
    #[error("cannot digest the sources: {0}")]
    Digest(String),
}

impl BuildError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// What was built from a source folder, and from which state of it.
#[derive(Clone, Serialize, Deserialize)]
struct Stamp {
    identity: Digest,
    binary: Digest,
    package: String,
    workspace: PathBuf,
    watched: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileState>,
    /// Settings of the environment that it was built with.
    #[serde(default)]
    told: Settings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

/// A source folder, and whether what was built from it still stands.
struct Folder {
    manifest: PathBuf,
    stamp_path: PathBuf,
    package: String,
    workspace: PathBuf,
    state: State,
}

enum State {
    Built(Code),
    Stale(Stale),
}

/// Sources without a library.
struct Stale {
    identity: Digest,
    watched: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileState>,
}

/// The libraries of plugins, in the order of their paths. `notice` is told before cargo is started, which may take
/// minutes. Plugins of one workspace are built by one call of cargo, so that they share their dependencies.
pub(crate) fn libraries(
    paths: &[PathBuf],
    store: &Store,
    notice: &dyn Fn(&str),
) -> Result<Vec<Code>, BuildError> {
    let mut libraries: Vec<Option<Code>> = Vec::new();
    let mut folders: Vec<(usize, Folder)> = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        if path.is_file() {
            let binary = restage_cache::tree_digest(path)?;
            let path = copies::keep(path, &binary, store)?;
            libraries.push(Some(Code::new(path, binary, binary, false)));
        } else {
            folders.push((index, folder(path, store)?));
            libraries.push(None);
        }
    }
    let stale = |folder: &&(usize, Folder)| matches!(folder.1.state, State::Stale(_));
    let workspaces: BTreeSet<PathBuf> =
        folders.iter().filter(stale).map(|(_, folder)| folder.workspace.clone()).collect();
    let mut built = BTreeMap::new();
    for workspace in &workspaces {
        let members: Vec<&Folder> = folders
            .iter()
            .map(|(_, folder)| folder)
            .filter(|folder| folder.workspace == *workspace)
            .collect();
        let names: Vec<&str> = members.iter().map(|folder| folder.package.as_str()).collect();
        notice(&format!("building plugins: {}", names.join(", ")));
        // What was fetched from a repository stays as it was fetched.
        let elsewhere = git::root_of(workspace, store).map(|_| copies::target(store)).transpose()?;
        built.append(&mut cargo_build(workspace, &names, elsewhere.as_deref())?);
    }
    for (index, folder) in folders {
        libraries[index] = Some(match folder.state {
            State::Built(library) => library,
            State::Stale(stale) => {
                let manifest =
                    std::fs::canonicalize(&folder.manifest).map_err(BuildError::io(&folder.manifest))?;
                let library = built.get(&manifest).ok_or(BuildError::NotACrate { path: manifest })?;
                if identity::sources(&folder.manifest)?.identity != stale.identity {
                    return Err(BuildError::Changing { path: folder.manifest });
                }
                let binary = restage_cache::tree_digest(library)?;
                let path = copies::keep(library, &binary, store)?;
                let Stale { identity, watched, files } = stale;
                let (package, workspace) = (folder.package, folder.workspace);
                write_stamp(
                    &folder.stamp_path,
                    &Stamp {
                        identity,
                        binary,
                        package,
                        workspace,
                        watched,
                        files,
                        told: settings::of_environment(),
                    },
                )?;
                Code::new(path, identity, binary, true)
            }
        });
    }
    Ok(libraries.into_iter().flatten().collect())
}

/// Looks at a source folder: stats if nothing changed, digests if something did.
fn folder(path: &Path, store: &Store) -> Result<Folder, BuildError> {
    let manifest = path.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(BuildError::Missing { path: path.to_owned() });
    }
    let stamp_path = stamp_path(&manifest, store)?;
    let stamp = read_stamp(&stamp_path);
    let library = |stamp: &Stamp| -> Result<Option<Code>, BuildError> {
        let copy = copies::find(&stamp.binary, store)?;
        Ok(copy.map(|path| Code::new(path, stamp.identity, stamp.binary, true)))
    };
    if let Some(stamp) = &stamp
        // A watched folder that is gone is a change like any other.
        && state(&stamp.watched).is_ok_and(|files| files == stamp.files)
        && settings::of_environment() == stamp.told
        && let Some(library) = library(stamp)?
    {
        let (package, workspace) = (stamp.package.clone(), stamp.workspace.clone());
        return Ok(Folder { manifest, stamp_path, package, workspace, state: State::Built(library) });
    }
    let Sources { identity, watched, package, workspace, files: listed } = identity::sources(&manifest)?;
    code::write_sources(&copies::folder(store)?, &identity, &listed);
    let files = state(&watched)?;
    let state = match stamp {
        // Touched, or only a comment changed: the library stands.
        Some(stamp) if stamp.identity == identity && library(&stamp)?.is_some() => {
            let fresh = Stamp { watched, files, told: settings::of_environment(), ..stamp };
            write_stamp(&stamp_path, &fresh)?;
            library(&fresh)?.map(State::Built)
        }
        _ => Some(State::Stale(Stale { identity, watched, files })),
    };
    let state = state.ok_or_else(|| BuildError::Changing { path: manifest.clone() })?;
    Ok(Folder { manifest, stamp_path, package, workspace, state })
}

/// What is known of a plugin's code without building anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its identity: it was built here, and no source changed since; or it is a library.
    Known(Digest),
    /// It was built here, from other sources than lie there now.
    Changed,
    /// It is there, and was never built here.
    Unbuilt,
    /// Nothing is there.
    Missing,
}

/// Looks at a plugin's path, and starts nothing.
pub(crate) fn look(path: &Path, store: &Store) -> Found {
    if path.is_file() {
        return restage_cache::tree_digest(path).map_or(Found::Missing, Found::Known);
    }
    let manifest = path.join("Cargo.toml");
    if !manifest.is_file() {
        return Found::Missing;
    }
    let Some(stamp) = stamp_path(&manifest, store).ok().and_then(|path| read_stamp(&path)) else {
        return Found::Unbuilt;
    };
    let stands = state(&stamp.watched).is_ok_and(|files| files == stamp.files)
        && settings::of_environment() == stamp.told;
    if stands { Found::Known(stamp.identity) } else { Found::Changed }
}

/// Brings a crate's lock file up to date, from what is on this machine if that will do.
pub(crate) fn lock(manifest: &Path) -> Result<(), BuildError> {
    let manifest = &std::fs::canonicalize(manifest).map_err(BuildError::io(manifest))?;
    let metadata = |more: &[&str]| {
        let mut cargo = identity::cargo(manifest.parent().unwrap_or(Path::new(".")));
        cargo.args(["metadata", "--format-version", "1"]).args(more).arg("--manifest-path").arg(manifest);
        cargo.output().map_err(BuildError::NoCargo)
    };
    if metadata(&["--offline"])?.status.success() {
        return Ok(());
    }
    let output = metadata(&[])?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(BuildError::Cargo { path: manifest.to_owned(), output })
}

fn stamp_path(manifest: &Path, store: &Store) -> Result<PathBuf, BuildError> {
    let canonical = std::fs::canonicalize(manifest).map_err(BuildError::io(manifest))?;
    let name = Digest::of(canonical.as_os_str().as_encoded_bytes());
    Ok(copies::folder(store)?.join(format!("{name}.stamp.json")))
}

fn read_stamp(path: &Path) -> Option<Stamp> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The stamp is a hint that can be made again: written in one piece by rename, not synced.
fn write_stamp(path: &Path, stamp: &Stamp) -> Result<(), BuildError> {
    let text = serde_json::to_vec(stamp).map_err(|error| BuildError::Digest(error.to_string()))?;
    copies::replace(path, &text)
}

fn state(watched: &[PathBuf]) -> Result<BTreeMap<PathBuf, FileState>, BuildError> {
    let mut files = Vec::new();
    for path in watched {
        identity::collect(path, &mut files)?;
    }
    files
        .into_iter()
        .map(|path| {
            let metadata = std::fs::metadata(&path).map_err(BuildError::io(&path))?;
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            Ok((path, FileState { size: metadata.len(), modified, inode: metadata.ino() }))
        })
        .collect()
}

/// What cargo reports of what it built.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    filenames: Option<Vec<PathBuf>>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// Builds packages of a workspace: manifest to library. Cargo's own progress and errors go to the terminal as they are.
fn cargo_build(
    workspace: &Path,
    packages: &[&str],
    target: Option<&Path>,
) -> Result<BTreeMap<PathBuf, PathBuf>, BuildError> {
    let manifest = workspace.join("Cargo.toml");
    let mut child = identity::cargo(workspace)
        .args(["build", "--release", "--lib", "--locked", "--message-format=json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(&manifest)
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(target.iter().flat_map(|target| [OsStr::new("--target-dir"), target.as_os_str()]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BuildError::NoCargo)?;
    let mut libraries = BTreeMap::new();
    for line in child.stdout.take().map(|stdout| io::BufReader::new(stdout).lines()).into_iter().flatten() {
        let line = line.map_err(BuildError::io(&manifest))?;
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        let is_plugin = message.reason == "compiler-artifact"
            && message.target.is_some_and(|target| target.crate_types.iter().any(|kind| kind == "cdylib"));
        let is_library = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "so");
        let library = message.filenames.into_iter().flatten().find(is_library);
        if let (true, Some(manifest), Some(library)) = (is_plugin, message.manifest_path, library) {
            libraries.insert(manifest, library);
        }
    }
    let status = child.wait().map_err(BuildError::NoCargo)?;
    if !status.success() {
        return Err(BuildError::Cargo { path: manifest, output: "its messages are above".to_owned() });
    }
    Ok(libraries)
}
