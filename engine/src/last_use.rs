//! When something in the store that can be made again was last of use: by the time of a file of it, noted once a day.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Notes that it is of use. Where that cannot be noted, in a group's store or on a full disk, it may have to be made again
/// one day.
pub(crate) fn note(file: &Path) {
    if age(file).is_some_and(|age| age > DAY) {
        let _ = std::fs::File::options()
            .append(true)
            .open(file)
            .and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// How long ago it was of use; `None` if there is no such file.
pub(crate) fn age(file: &Path) -> Option<Duration> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()?.elapsed().ok()
}
