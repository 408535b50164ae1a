//! What is wrong with a store that people share, and what to do about it. Looks at permissions and at the file system;
//! contents are `verify.rs`'s.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access, statfs, statvfs};
use serde::Serialize;

use crate::durable::{Disk, is_shared};
use crate::error::{Error, Result};
use crate::inventory;
use crate::layout::Layout;
use crate::owner::Owner;
use crate::store::has_known_format;

/// From this difference on a file system's clock is another one than ours: it may tick once in two seconds.
const SKEW: Duration = Duration::from_secs(3);

/// Less free space than this is soon none.
const FEW_BYTES: u64 = 5 << 30;

/// An artifact may have thousands of files.
const FEW_INODES: u64 = 50_000;

/// Network file systems by the number that `statfs` says.
const NETWORK: [(u32, &str); 10] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
];

/// Something worth knowing about a store. What it says is in words with `Display`; what to do is [`Finding::advice`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// There is no such folder.
    Missing,
    /// There is a folder, but it is no store, or one of a version that we do not know.
    Format {
        /// What is wrong with it.
        why: String,
    },
    /// We cannot write to the root folder.
    NotWritable,
    /// Things of several users are in it, but its root does not say that they share it.
    NotShared {
        /// How many users.
        users: usize,
    },
    /// Folders that the group cannot write to, or whose new things do not get the group.
    Folders(Examples),
    /// Files that somebody can write to, or not everybody can read.
    Files(Examples),
    /// Things of another group than the root's.
    Groups(Examples),
    /// What cannot be looked at.
    Unreadable(Examples),
    /// It is on a network file system.
    Network {
        /// Which kind.
        kind: String,
    },
    /// The file system has another time than this machine.
    Clock {
        /// By how many seconds the file system is ahead.
        ahead: i64,
    },
    /// Users cannot make hard links to each other's files, so what they share is stored once for each.
    ProtectedHardlinks,
    /// There is hardly any space left.
    Space {
        /// Bytes that are free for us.
        free: u64,
    },
    /// There are hardly any files left that can be made.
    Inodes {
        /// How many are free for us.
        free: u64,
    },
}

/// How many things have one fault, and one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examples {
    /// How many.
    pub count: u64,
    /// The first that was found.
    pub example: PathBuf,
}

impl Finding {
    /// Whether something will not work; all else is good to know.
    pub fn is_problem(&self) -> bool {
        !matches!(self, Finding::Network { .. } | Finding::ProtectedHardlinks)
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            Finding::Missing => "any command that needs it creates it",
            Finding::Format { .. } => "name another folder as the cache, or update restage",
            Finding::NotWritable => "ask its owner: the group needs `chmod 2775` on the root folder",
            Finding::NotShared { .. } => {
                "`chgrp -R GROUP` it, then `chmod 2775` on the root folder and on all folders but those in `v1/artifacts`"
            }
            Finding::Folders(_) => {
                "their owners run `chmod 2775` on them; or set a default ACL on the root: `setfacl -d -m g::rwx`"
            }
            Finding::Files(_) => {
                "their owners run `chmod 0444` on them; check what is in them with `restage cache verify`"
            }
            Finding::Groups(_) => "their owners run `chgrp` on them, with the group of the root folder",
            Finding::Unreadable(_) => "ask their owners, or the administrator",
            Finding::Network { .. } => {
                "nothing: it works there. Keep `plugins` and temporary data on a local disk if starting is slow"
            }
            Finding::Clock { .. } => {
                "have both machines use one time server: what is young or old is judged by these times"
            }
            Finding::ProtectedHardlinks => {
                "nothing, or use a file system with reflinks (XFS, btrfs): there a copy takes no space"
            }
            Finding::Space { .. } => "`restage cache gc`, or more space",
            Finding::Inodes { .. } => "`restage cache gc`, or ask for a larger quota of files",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing => write!(f, "there is no such folder"),
            Finding::Format { why } => write!(f, "{why}"),
            Finding::NotWritable => write!(f, "you cannot write to it"),
            Finding::NotShared { users } => {
                write!(f, "{users} users have things in it, but its root is not set up for a group")
            }
            Finding::Folders(these) => {
                write!(f, "{these} that the group cannot write to, or without the setgid bit")
            }
            Finding::Files(these) => write!(f, "{these} with another mode than 0444"),
            Finding::Groups(these) => write!(f, "{these} of another group than the root"),
            Finding::Unreadable(these) => write!(f, "{these} that you cannot look at"),
            Finding::Network { kind } => write!(f, "it is on a network file system: {kind}"),
            Finding::Clock { ahead } => {
                let way = if *ahead > 0 { "ahead of" } else { "behind" };
                write!(f, "its file system's clock is {} s {way} this machine's", ahead.unsigned_abs())
            }
            Finding::ProtectedHardlinks => write!(
                f,
                "`fs.protected_hardlinks` is on: files that several users publish are stored once for each user"
            ),
            Finding::Space { free } => write!(f, "only {} MiB are free", free >> 20),
            Finding::Inodes { free } => write!(f, "only {free} more files can be made"),
        }
    }
}

impl fmt::Display for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, such as `{}`,", self.count, self.example.display())
    }
}

/// Looks at the store at `root`, which need not be one, and says what is worth knowing. Changes nothing but that it writes
/// one small file and removes it.
pub fn doctor(root: &Path) -> Result<Vec<Finding>> {
    let Ok(meta) = fs::metadata(root) else { return Ok(vec![Finding::Missing]) };
    let layout = Layout::new(fs::canonicalize(root).map_err(Error::io("find the folder", root))?);
    let mut findings = Vec::new();
    match has_known_format(&layout) {
        Ok(true) => {}
        Ok(false) => {
            let why =
                format!("`{}` is missing: it is no cache, or an unfinished one", layout.format().display());
            findings.push(Finding::Format { why });
        }
        Err(error) => findings.push(Finding::Format { why: error.to_string() }),
    }
    let seen = permissions(&layout, &meta);
    findings.extend(seen.findings());
    if access(layout.root(), Access::WRITE_OK | Access::EXEC_OK).is_err() {
        findings.push(Finding::NotWritable);
    } else if let Some(ahead) = clock_ahead(&layout) {
        findings.push(Finding::Clock { ahead });
    }
    let protected = fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap_or_default();
    if protected.trim() == "1" && (seen.shared || seen.users.len() > 1) {
        findings.push(Finding::ProtectedHardlinks);
    }
    let kind = statfs(layout.root()).ok().and_then(|stat| network(stat.f_type as u32));
    findings.extend(kind.map(|kind| Finding::Network { kind: kind.to_owned() }));
    if let Ok(stat) = statvfs(layout.root()) {
        findings.extend(room(stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_favail, stat.f_files));
    }
    Ok(findings)
}

fn network(magic: u32) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind)
}

/// Some file systems count no inodes.
fn room(bytes: u64, inodes: u64, all_inodes: u64) -> Vec<Finding> {
    let space = (bytes < FEW_BYTES).then_some(Finding::Space { free: bytes });
    let files = (all_inodes > 0 && inodes < FEW_INODES).then_some(Finding::Inodes { free: inodes });
    space.into_iter().chain(files).collect()
}

/// By how many seconds the file system is ahead, if that is much. Nothing can be said where no file can be written.
fn clock_ahead(layout: &Layout) -> Option<i64> {
    let folder = layout.stagings();
    let disk = Disk::default();
    let own = folder.is_dir().then(|| folder.join(Owner::current().fresh_name()))?;
    disk.create_folder(&own).ok()?;
    let before = SystemTime::now();
    let written = disk.write_unsynced(&own.join("file"), b"").and_then(|file| {
        file.metadata().and_then(|meta| meta.modified()).map_err(Error::io("look at", &own))
    });
    let after = SystemTime::now();
    drop(disk.remove(&own));
    skew(before, written.ok()?, after)
}

fn skew(before: SystemTime, written: SystemTime, after: SystemTime) -> Option<i64> {
    let seconds = |by: Duration| i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    let ahead = written.duration_since(after).ok().filter(|by| *by >= SKEW).map(seconds);
    let behind = before.duration_since(written).ok().filter(|by| *by >= SKEW).map(|by| -seconds(by));
    ahead.or(behind)
}

/// What a walk over the store has seen of permissions.
#[derive(Debug, Default)]
struct Seen {
    shared: bool,
    group: u32,
    users: BTreeSet<u32>,
    folders: Option<Examples>,
    files: Option<Examples>,
    groups: Option<Examples>,
    unreadable: Option<Examples>,
}

impl Seen {
    fn findings(&self) -> impl Iterator<Item = Finding> {
        let users = self.users.len();
        let alone = (!self.shared && users > 1).then_some(Finding::NotShared { users });
        let folders = self.folders.clone().filter(|_| self.shared).map(Finding::Folders);
        let groups = self.groups.clone().filter(|_| self.shared).map(Finding::Groups);
        let files = self.files.clone().map(Finding::Files);
        let unreadable = self.unreadable.clone().map(Finding::Unreadable);
        [alone, folders, files, groups, unreadable].into_iter().flatten()
    }

    fn look(&mut self, path: &Path) -> Option<Metadata> {
        let Ok(meta) = fs::symlink_metadata(path) else {
            note(&mut self.unreadable, path);
            return None;
        };
        self.users.insert(meta.uid());
        if meta.gid() != self.group {
            note(&mut self.groups, path);
        }
        Some(meta)
    }

    /// A folder of the store's own, which everybody must be able to add to; what is in it.
    fn folder(&mut self, path: &Path) -> Vec<PathBuf> {
        let Some(meta) = self.look(path).filter(Metadata::is_dir) else { return Vec::new() };
        if !is_shared(meta.mode()) {
            note(&mut self.folders, path);
        }
        self.list(path)
    }

    fn list(&mut self, path: &Path) -> Vec<PathBuf> {
        match inventory::unless_gone(inventory::list(path)) {
            Ok(found) => found.unwrap_or_default().into_iter().map(|(_, path)| path).collect(),
            Err(_) => {
                note(&mut self.unreadable, path);
                Vec::new()
            }
        }
    }

    /// What was published, at any depth: its folders are its owner's.
    fn sealed(&mut self, top: PathBuf) {
        let mut pending = vec![top];
        while let Some(path) = pending.pop() {
            let Some(meta) = self.look(&path) else { continue };
            if meta.is_dir() {
                pending.extend(self.list(&path));
            } else if meta.mode() & 0o7777 != 0o444 {
                note(&mut self.files, &path);
            }
        }
    }
}

fn note(examples: &mut Option<Examples>, path: &Path) {
    examples.get_or_insert_with(|| Examples { count: 0, example: path.to_path_buf() }).count += 1;
}

fn permissions(layout: &Layout, root: &Metadata) -> Seen {
    let mut seen = Seen { shared: is_shared(root.mode()), group: root.gid(), ..Seen::default() };
    for path in seen.folder(layout.root()) {
        // The caller's own folders: what is in them is the caller's business.
        if path.is_dir() && path != layout.current() {
            seen.folder(&path);
        }
    }
    seen.folder(layout.current());
    for base in
        [layout.stagings(), layout.scratches(), layout.outsides(), layout.trash(), layout.quarantine()]
    {
        if base.is_dir() {
            seen.folder(&base);
        }
    }
    for base in [layout.files(), layout.artifacts(), layout.actions()] {
        for shard in seen.folder(&base) {
            for thing in seen.folder(&shard) {
                // An action's folder is one that everybody adds to.
                let parts = if base == layout.actions() { seen.folder(&thing) } else { vec![thing] };
                parts.into_iter().for_each(|part| seen.sealed(part));
            }
        }
    }
    if layout.pins().is_dir() {
        seen.folder(&layout.pins()).into_iter().for_each(|pin| seen.sealed(pin));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_from_both_sides() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(skew(at(100), at(101), at(102)), None);
        assert_eq!(skew(at(100), at(98), at(100)), None, "a slow tick");
        assert_eq!(skew(at(100), at(40), at(101)), Some(-60));
        assert_eq!(skew(at(100), at(161), at(101)), Some(60));
    }

    #[test]
    fn network_file_systems_and_little_room_are_noted() {
        assert_eq!(network(0x6969), Some("NFS"));
        assert_eq!(network(0xef53), None); // ext4
        assert_eq!(room(1 << 40, 1 << 20, 1 << 30), []);
        assert_eq!(room(1 << 40, 0, 0), [], "btrfs counts none");
        assert_eq!(room(1, 2, 3), [Finding::Space { free: 1 }, Finding::Inodes { free: 2 }]);
    }
}
