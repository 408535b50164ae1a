//! Real processes: killed at any instant, and several at once on the same keys.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Files, key, publish, record};
use restage_cache::{Lookup, MissReason, Store, tree_digest};
use tempfile::TempDir;

/// Where the child works; set only for the child.
const ROOT: &str = "RESTAGE_CACHE_TEST_ROOT";
/// What the child adds to its outputs, so that children may disagree.
const SALT: &str = "RESTAGE_CACHE_TEST_SALT";
const ACTIONS: usize = 150;

fn action(number: usize) -> String {
    format!("action {number}")
}

/// A dozen files, most of them shared with other actions.
fn outputs(number: usize, salt: &str) -> Files {
    let shared = (0..8).map(|i| (format!("c/{i}"), vec![i as u8; 5_000]));
    let own = (0..4).map(|i| (format!("d/{i}"), format!("{number} {i} {salt}").repeat(50).into_bytes()));
    shared.chain(own).collect()
}

/// Not a test: what a child process runs. Does each action that is not done.
#[test]
fn child() {
    let (Ok(root), Ok(salt)) = (std::env::var(ROOT), std::env::var(SALT)) else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    for number in 0..ACTIONS {
        match store.lookup(&key(&action(number))).unwrap() {
            Lookup::Hit(_) => continue,
            Lookup::Miss(reason) => assert_eq!(reason, MissReason::Never),
        }
        let digest = publish(&store, &outputs(number, &salt)).digest;
        store.record(&key(&action(number)), &record(&[("out", digest)])).unwrap();
    }
}

fn spawn(root: &Path, salt: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture"])
        .env(ROOT, root)
        .env(SALT, salt)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// How many actions are done. Each is either never done or right.
fn check(root: &Path) -> usize {
    let store = Store::open(root).unwrap();
    assert_eq!(fs::read_dir(store.root().join("v1/staging")).unwrap().count(), 0, "staging was not swept");
    let done = (0..ACTIONS).filter(|number| match store.lookup(&key(&action(*number))).unwrap() {
        Lookup::Miss(reason) => {
            assert_eq!(reason, MissReason::Never, "action {number}");
            false
        }
        Lookup::Hit(record) => {
            let digest = record.outputs["out"];
            assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
            true
        }
    });
    done.count()
}

#[test]
fn thirty_kills_leave_hits_and_misses_only() {
    let temp = TempDir::new().unwrap();
    let mut kills = 0;
    for round in 0..30u64 {
        let mut child = spawn(temp.path(), "");
        std::thread::sleep(Duration::from_micros(8_000 + round * 7_919 % 41_000));
        child.kill().unwrap();
        kills += usize::from(child.wait().unwrap().code().is_none());
        check(temp.path());
    }
    assert!(kills > 0, "every child was done before it was killed");
    assert!(spawn(temp.path(), "").wait().unwrap().success());
    assert_eq!(check(temp.path()), ACTIONS);
}

#[test]
fn four_processes_at_once_are_all_right() {
    let temp = TempDir::new().unwrap();
    let children: Vec<_> = ["a", "a", "b", "c"].map(|salt| spawn(temp.path(), salt)).into();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(check(temp.path()), ACTIONS);
}
