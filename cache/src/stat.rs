//! What the operating system says of a file without its being read.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Size, times and identity of a file. Two that are equal are of the same bytes, unless the file was changed in the very
/// moment of the first: see [`Stat::is_older_than`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stat {
    size: u64,
    /// When the content changed, in seconds and nanoseconds since 1970. Programs can set it.
    modified: (i64, i64),
    /// When anything about the file changed. Programs cannot set it.
    changed: (i64, i64),
    inode: u64,
    device: u64,
}

impl Stat {
    /// Of the file that `path` leads to; links are followed.
    ///
    /// The file is opened: then a network file system asks its server, where otherwise it may tell what it heard a minute
    /// ago.
    pub(crate) fn of(path: &Path) -> io::Result<Stat> {
        File::open(path)?.metadata().map(|meta| Stat::from(&meta))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether all that happened to the file happened before `moment`.
    pub(crate) fn is_older_than(&self, moment: SystemTime) -> bool {
        // A clock before 1970 makes nothing old.
        let Ok(since) = moment.duration_since(UNIX_EPOCH) else { return false };
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        self.modified.max(self.changed) < (seconds, since.subsec_nanos().into())
    }
}

impl From<&Metadata> for Stat {
    fn from(meta: &Metadata) -> Stat {
        Stat {
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_is_as_old_as_its_latest_change() {
        let stat = |modified, changed| Stat { size: 1, modified, changed, inode: 1, device: 1 };
        let moment = UNIX_EPOCH + Duration::new(10, 500);
        assert!(stat((10, 499), (9, 999)).is_older_than(moment));
        assert!(!stat((10, 500), (9, 999)).is_older_than(moment));
        assert!(!stat((1, 0), (10, 500)).is_older_than(moment), "a time set back hides nothing");
        assert!(!stat((99, 0), (1, 0)).is_older_than(moment), "a time in the future is not old");
        assert!(!stat((1, 0), (1, 0)).is_older_than(UNIX_EPOCH - Duration::from_secs(1)));
    }
}
