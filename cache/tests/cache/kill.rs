//! Real processes: killed at any instant, while others write to and sweep the same store, and several at once on the same
//! keys.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::child::{action, await_work, check, check_all, outputs, spawn};
use crate::common::{key, within};
use restage_cache::{Digest, Store};
use tempfile::TempDir;

const ACTIONS: usize = 150;
/// Each round kills all of so many children.
const CHILDREN: usize = 3;
const KILLS: usize = 201;

/// Time passes for every other action, so that the next sweep takes what nobody uses meanwhile, and for the trash, which
/// it deletes. How many artifacts were in that.
fn age(root: &Path, round: usize) -> usize {
    let store = Store::open(root).unwrap();
    for number in (round % 2..ACTIONS).step_by(2) {
        let key = key(&action(number));
        let Some(record) = store.recorded(&key).unwrap() else { continue };
        set_old(&within(&store, "actions", key.as_digest()).join("record.json"));
        let artifact = within(&store, "artifacts", &record.outputs["out"]);
        set_old(&artifact);
        for (path, bytes) in outputs(number, "") {
            set_old(&artifact.join("tree").join(path));
            set_old(&within(&store, "files", &Digest::of(&bytes)));
        }
    }
    let trash: Vec<PathBuf> = list(&root.join("v1/trash"));
    trash.into_iter().map(|folder| swept(&folder, root)).sum()
}

/// Long ago. What is not there needs no time.
fn set_old(path: &Path) {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    if let Ok(file) = File::open(path) {
        file.set_modified(old).unwrap();
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// When old trash was swept.
const OLD: &str = "1000";

/// Gives what one sweep took an old name. How many artifacts these were.
fn swept(folder: &Path, root: &Path) -> usize {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let (seconds, owner) = name.split_once('-').unwrap();
    if seconds == OLD {
        return 0;
    }
    let artifacts = list(&folder.join("artifacts")).len();
    fs::rename(folder, root.join(format!("v1/trash/{OLD}-{owner}"))).unwrap();
    artifacts
}

/// In memory where there is such a place: whether something is on disk is another test's matter.
pub(crate) fn temp() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// Two write and one sweeps, and one after the other is killed, each in turn as the first. What a killed sweep or writer
/// leaves is promised in the README under "Upkeep"; nothing is asked of what is younger than the grace period.
#[test]
fn two_hundred_kills_leave_hits_and_misses_only() {
    let temp = temp();
    let root = temp.path();
    let (mut killed, mut taken) = (0, 0);
    for round in 0..KILLS / CHILDREN {
        let mut children =
            [("write", "a"), ("sweep", ""), ("write", "b")].map(|(work, salt)| spawn(root, work, salt));
        // Some are killed while they start and open the store.
        let at_work = round % 8 > 0;
        if at_work {
            children.iter_mut().for_each(await_work);
        }
        children.rotate_left(round % CHILDREN);
        for (turn, child) in children.iter_mut().enumerate() {
            std::thread::sleep(Duration::from_micros((round * 7_919 + turn * 3_571) as u64 % 43_000));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert!(status.signal().is_some(), "a child failed: {status}");
            killed += usize::from(at_work);
        }
        if round % 10 == 0 {
            check_all(root, ACTIONS)
        } else {
            check(root, ACTIONS)
        };
        taken += age(root, round);
    }
    assert!(killed >= 150, "only {killed} were killed at work");
    assert!(taken > 0, "no sweep got as far as an artifact");
    assert!(spawn(root, "once", "").wait().unwrap().success());
    assert_eq!(check_all(root, ACTIONS), ACTIONS);
}

#[test]
fn four_processes_at_once_are_all_right() {
    let temp = TempDir::new().unwrap();
    let children: Vec<_> = ["a", "a", "b", "c"].map(|salt| spawn(temp.path(), "once", salt)).into();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(check_all(temp.path(), ACTIONS), ACTIONS);
}
