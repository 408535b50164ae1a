//! What a stage may touch: reads its declared inputs, writes its outputs and its scratch folder; kept by the kernel's
//! Landlock where it is there.
//!
//! A rule holds for a thread and for what it starts, and can never be taken back. So each task has a thread of its own in
//! the host, which is confined before the plugin is called. A thread that a plugin keeps beyond a task stays with that
//! task's rights.
//!
//! What every stage may read is the machine, not data: system folders, and what lies on `PATH` (an environment of Python
//! with its libraries).

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use serde::{Deserialize, Serialize};

use crate::machine;

/// Set to `off`, stages are not confined, e.g. to find out whether that is why one fails.
pub(crate) const SWITCH: &str = "RESTAGE_SANDBOX";

/// The version that the rules are written for; older kernels keep what they know of it.
const RULES: ABI = ABI::V6;

/// Folders of the machine that everybody may read, and run programs of.
const SYSTEM: &[&str] = &[
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys", "/run", "/nix",
    "/gnu", "/var/lib",
];

/// Devices, and memory that the processes of a program share.
const DEVICES: &str = "/dev";

/// Where a process names its threads. CUDA does, and says that the system failed where it may not. Whose threads is not ours to
/// say, as a stage starts processes; what else can be written there is kept by the kernel: of processes of the same user, and of
/// those that Landlock lets it trace, which are its own.
const PROCESSES: &str = "/proc";

/// What one task may touch. Folders stand for all that is below them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    /// What it may read: artifacts, data files that its params name.
    pub(crate) read: Vec<PathBuf>,
    /// Folders of which it may see what is in them, but not read it: where Python looks for modules.
    pub(crate) list: Vec<PathBuf>,
    /// Programs that it may start, with what lies beside them.
    pub(crate) tools: Vec<PathBuf>,
    /// Folders that it may write: staging and scratch.
    pub(crate) write: Vec<PathBuf>,
}

/// What kept a task to its [`Access`]. Recorded with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sandbox {
    /// Landlock, all of the rules.
    Landlock,
    /// Landlock, as far as this kernel knows the rules.
    LandlockInPart,
    /// Nothing: the kernel has no Landlock.
    Unavailable,
    /// Nothing: it was switched off.
    Off,
}

impl std::fmt::Display for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Landlock => "landlock",
            Self::LandlockInPart => "landlock, in part",
            Self::Unavailable => "none: the kernel has no Landlock",
            Self::Off => "none: switched off",
        })
    }
}

impl Sandbox {
    /// Whether a stage is kept from reading what it did not declare.
    pub(crate) fn confines(self) -> bool {
        matches!(self, Self::Landlock | Self::LandlockInPart)
    }
}

/// Confines the thread that calls it, for good.
///
/// # Errors
/// If the kernel has Landlock and refuses all the same.
pub(crate) fn confine(access: &Access) -> Result<Sandbox, RulesetError> {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
        return Ok(Sandbox::Off);
    }
    let (read, all) = (AccessFs::from_read(RULES), AccessFs::from_all(RULES));
    let mut rules =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    for (there, access) in machine() {
        rules = rules.add_rule(PathBeneath::new(there, *access))?;
    }
    let tools = access.tools.iter().flat_map(|tool| prefix(tool));
    let paths = access.read.iter().cloned().chain(tools).map(|path| (path, read));
    let lists = access.list.iter().map(|path| (path.clone(), AccessFs::ReadDir.into()));
    for (path, access) in paths.chain(lists).chain(access.write.iter().cloned().map(|path| (path, all))) {
        if let Some((there, access)) = opened(&path, access) {
            rules = rules.add_rule(PathBeneath::new(there, access))?;
        }
    }
    let status = rules.restrict_self()?;
    Ok(match (status.landlock, status.ruleset) {
        (LandlockStatus::Available { .. }, RulesetStatus::FullyEnforced) => Sandbox::Landlock,
        (LandlockStatus::Available { .. }, RulesetStatus::PartiallyEnforced) => Sandbox::LandlockInPart,
        _ => Sandbox::Unavailable,
    })
}

/// A path that is allowed, held open, and how.
type Rule = (PathFd, BitFlags<AccessFs>);

/// What every stage may touch: the same for all tasks of a host, so opened once.
fn machine() -> &'static [Rule] {
    static MACHINE: OnceLock<Vec<Rule>> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let read = SYSTEM.iter().map(PathBuf::from).chain(environment());
        let rules = read.map(|path| (path, AccessFs::from_read(RULES)));
        let devices = (PathBuf::from(DEVICES), AccessFs::from_all(RULES));
        let has_gpu = std::env::var_os(machine::VISIBLE).is_some_and(|gpus| !gpus.is_empty());
        let threads =
            (PathBuf::from(PROCESSES), AccessFs::from_read(RULES) | AccessFs::WriteFile | AccessFs::Truncate);
        rules
            .chain([devices])
            .chain(has_gpu.then_some(threads))
            .filter_map(|(path, access)| opened(&path, access))
            .collect()
    })
}

/// The rule for a path, if it is there.
fn opened(path: &Path, access: BitFlags<AccessFs>) -> Option<Rule> {
    // A rule for a file must not speak of what only folders have.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(RULES) };
    Some((PathFd::new(path).ok()?, access))
}

/// What lies on the search paths of programs and libraries, and where CUDA is.
fn environment() -> impl Iterator<Item = PathBuf> {
    let list = |name| std::env::var_os(name).map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>());
    let libraries = list("LD_LIBRARY_PATH").unwrap_or_default();
    let programs = list("PATH").unwrap_or_default();
    let cuda = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(list).flatten();
    libraries.into_iter().chain(cuda).chain(programs.into_iter().flat_map(|folder| installation(&folder)))
}

/// A program given by its path, with what was installed beside it: for `env/bin/python` the whole of `env`, and of the
/// Python that it was made from.
fn prefix(program: &Path) -> Vec<PathBuf> {
    let mut found = vec![program.to_owned()];
    let own = program.parent().map(installation).unwrap_or_default();
    found.extend(own);
    if let Some(target) = std::fs::canonicalize(program).ok().as_deref().and_then(Path::parent) {
        found.extend(installation(target));
    }
    found
}

/// A folder of programs; with the folder that it belongs to, where that is an installation and not somebody's home.
fn installation(programs: &Path) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let is_programs = programs.file_name().is_some_and(|name| name == "bin" || name == "shims");
    let whole = programs.parent().filter(|whole| {
        is_programs && whole.parent().is_some() && home.as_ref().is_none_or(|home| !home.starts_with(whole))
    });
    [Some(programs), whole]
        .into_iter()
        .flatten()
        .filter(|path| path.is_absolute())
        .map(Path::to_owned)
        .collect()
}
