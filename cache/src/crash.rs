//! Every operation on the disk fails once, in each of the ways that [`Fault`] lists, in each of several situations: what
//! the user is told, what a reader sees, what a power cut would spare, and whether the next attempt succeeds.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;
use serde_json::json;
use tempfile::TempDir;

use crate::durable::{Disk, is_shared};
use crate::faults::{Fault, Faults, walk};
use crate::{ActionKey, Error, Lookup, Record, Recorded, Result, Store, tree_digest};

fn key() -> ActionKey {
    ActionKey::derive("restage test v1", b"an action")
}

/// In memory where there is such a place: hundreds of stores are made and flushed.
pub(crate) fn temp() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

pub(crate) fn write(top: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Publishes `files` and records them; if that fails and they are still there, publishes them once more.
fn publish(store: &Store, files: &[(&str, &str)], fault: Option<Fault>) -> Result<Recorded> {
    let staging = store.staging()?;
    let folder = staging.path().join("out");
    write(&folder, files);
    fs::create_dir_all(folder.join("empty/in/empty")).unwrap();
    let published = match store.publish(&folder) {
        Err(error) if folder.exists() => {
            assert_told(&error, store.root(), fault);
            store.publish(&folder)
        }
        other => other,
    }?;
    let outputs = [("out".to_owned(), published.digest)].into();
    store.record(&key(), &Record { outputs, provenance: json!({ "who": "test" }) })
}

/// What is told says what was wrong, with what, and what to do. Of an interruption nothing is told.
fn assert_told(error: &Error, root: &Path, fault: Option<Fault>) {
    let text = error.to_string();
    let Error::Io { path, .. } = error else { panic!("{text}") };
    assert!(path.starts_with(root) && text.contains(path.to_str().unwrap()), "{text}");
    let words = match fault.map(Fault::errno) {
        Some(Errno::NOSPC) => ["No space left on device", "free some space"],
        Some(Errno::DQUOT) => ["Disk quota exceeded", "free some space"],
        Some(Errno::IO) => ["Input/output error", "the system's log"],
        _ => panic!("{fault:?}, and yet: {text}"),
    };
    assert!(words.iter().all(|words| text.contains(words)), "{fault:?}: {text}");
}

const FEW: &[(&str, &str)] =
    &[("zarr.json", "{}"), ("c/0/0", "first"), ("c/0/1", "second"), ("c/1/0", "first")];

/// Enough for one flush of the file system instead of one per file.
const MANY: &[(&str, &str)] = &[
    ("0", "a"),
    ("1", "b"),
    ("2", "c"),
    ("3", "d"),
    ("4", "e"),
    ("5", "f"),
    ("6", "g"),
    ("7", "h"),
    ("8", "i"),
    ("9", "j"),
    ("a", "k"),
    ("b", "l"),
    ("c", "m"),
    ("d", "n"),
    ("e", "o"),
    ("f/g", "p"),
];

fn artifacts(root: &Path) -> Vec<std::path::PathBuf> {
    let below = root.join("v1/artifacts");
    let deep = |path: &Path| path.strip_prefix(&below).is_ok_and(|rest| rest.components().count() == 2);
    walk(&below).into_iter().filter(|path| deep(path)).collect()
}

/// What is there before the action runs.
fn nothing(_: &Path) {}

fn some_of_the_files(root: &Path) {
    let store = Store::open(root).unwrap();
    let staging = store.staging().unwrap();
    write(staging.path(), &[("other", "first")]);
    store.publish(staging.path()).unwrap();
}

fn the_same_artifact(root: &Path) {
    let store = Store::open(root).unwrap();
    let staging = store.staging().unwrap();
    write(staging.path(), FEW);
    store.publish(staging.path()).unwrap();
}

fn a_damaged_artifact(root: &Path) {
    publish(&Store::open(root).unwrap(), FEW, None).unwrap();
    let artifact = artifacts(root).pop().unwrap();
    fs::remove_file(artifact.join("tree/zarr.json")).unwrap();
}

fn another_result(root: &Path) {
    publish(&Store::open(root).unwrap(), &[("zarr.json", "other")], None).unwrap();
}

fn an_unreadable_record(root: &Path) {
    another_result(root);
    let record =
        walk(&root.join("v1/actions")).into_iter().find(|path| path.ends_with("record.json")).unwrap();
    fs::remove_file(&record).unwrap();
    fs::write(&record, "{\"version\": 1, \"acti").unwrap();
}

/// A store of several users.
fn a_shared_root(root: &Path) {
    fs::create_dir_all(root.join("v1")).unwrap();
    for folder in [root, &root.join("v1")] {
        fs::set_permissions(folder, Permissions::from_mode(0o2775)).unwrap();
    }
}

/// Where several users share the store, each can add to the folders that another has made.
fn assert_open_to_the_group(root: &Path) {
    if !is_shared(fs::metadata(root).unwrap().mode()) {
        return;
    }
    let stagings = fs::read_dir(root.join("v1/staging")).unwrap().map(|entry| entry.unwrap().path());
    let their_owners: Vec<_> = artifacts(root).into_iter().chain(stagings).collect();
    let folders = walk(&root.join("v1")).into_iter().filter(|path| path.is_dir());
    for folder in folders.filter(|folder| !their_owners.iter().any(|theirs| folder.starts_with(theirs))) {
        if folder.parent().is_some_and(|parent| parent.ends_with("v1/files")) {
            continue; // It is opened when something goes into it.
        }
        let mode = fs::metadata(&folder).unwrap().mode();
        assert!(is_shared(mode), "{} has mode {mode:o}", folder.display());
    }
}

/// A visible record's artifacts are whole, and hold the bytes that their name says.
fn assert_no_wrong_hit(root: &Path) {
    let store = Store::open(root).unwrap();
    if let Lookup::Hit(record) = store.lookup(&key()).unwrap() {
        for digest in record.outputs.values() {
            assert_eq!(tree_digest(&store.artifact(digest).unwrap().unwrap()).unwrap(), *digest);
        }
    }
}

/// Nothing under a final name would be lost or emptied by a power cut now.
fn assert_spared(root: &Path, faults: &Faults, older: &Option<Vec<u8>>) {
    let v1 = root.join("v1");
    for path in ["files", "artifacts", "actions"].iter().flat_map(|name| walk(&v1.join(name))) {
        assert!(path.is_dir() || faults.is_durable(&path), "bytes not flushed: {}", path.display());
    }
    for path in artifacts(root).iter().flat_map(|artifact| walk(artifact)) {
        assert!(faults.is_durable(&path), "not flushed: {}", path.display());
    }
    // An older record may name what is being repaired: it is a miss until that is on disk.
    let Some(bytes) = record(root).filter(|bytes| Some(bytes) != older.as_ref()) else { return };
    let record: Record = serde_json::from_slice(&bytes).unwrap();
    for digest in record.outputs.values() {
        let shard = digest.within(&v1.join("artifacts")).parent().unwrap().to_path_buf();
        assert!(faults.is_durable(&shard), "a record, but the name of its artifact is not flushed");
        assert!(faults.is_durable(shard.parent().unwrap()), "a record, but the shard's name is not flushed");
    }
}

/// The action's record as it is on disk.
fn record(root: &Path) -> Option<Vec<u8>> {
    let place = walk(&root.join("v1")).into_iter().find(|path| path.ends_with("record.json"))?;
    Some(fs::read(place).unwrap())
}

/// Fails the `number`-th operation. False if there are not that many.
fn attempt(before: fn(&Path), files: &[(&str, &str)], number: usize, fault: Fault) -> bool {
    let temp = temp();
    let root = temp.path();
    before(root);
    fs::create_dir_all(root.join("v1")).unwrap();
    let older = record(root);
    let faults = Faults::at(number, fault);
    faults.trust(root);
    let opened = Store::open_on(Disk::with(faults), root);
    let failed = match &opened {
        Ok(store) => {
            let result = publish(store, files, Some(fault));
            let failed = store.disk().faults.failed();
            match &result {
                Ok(_) => assert!(matches!(store.lookup(&key()), Ok(Lookup::Hit(_)))),
                Err(error) => assert_told(error, root, Some(fault)),
            }
            assert!(result.is_ok() || failed.is_some());
            assert_spared(root, &store.disk().faults, &older);
            failed.is_some()
        }
        Err(error) => {
            assert_told(error, root, Some(fault));
            true
        }
    };
    drop(opened);
    assert_no_wrong_hit(root);
    let store = Store::open(root).unwrap();
    let again = publish(&store, files, None).unwrap();
    assert!(matches!(store.lookup(&key()), Ok(Lookup::Hit(_))), "{again:?}");
    assert_no_wrong_hit(root);
    assert_open_to_the_group(root);
    failed
}

fn sweep(before: fn(&Path), files: &[(&str, &str)], at_least: usize, faults: &[Fault]) {
    for fault in faults.iter().copied() {
        let operations = (0..).take_while(|number| attempt(before, files, *number, fault)).count();
        assert!(
            operations >= at_least || fault.is_rare() && operations > 0,
            "{fault:?}: only {operations} operations"
        );
    }
}

#[test]
fn a_first_publication_survives_each_fault() {
    sweep(nothing, FEW, 40, &Fault::ALL);
}

#[test]
fn a_publication_for_several_users_survives_each_fault() {
    sweep(a_shared_root, FEW, 60, Fault::EACH_KIND);
}

#[test]
fn a_publication_with_one_flush_survives_each_fault() {
    sweep(nothing, MANY, 60, Fault::EACH_KIND);
}

#[test]
fn sharing_survives_each_fault() {
    sweep(some_of_the_files, FEW, 30, Fault::EACH_KIND);
}

#[test]
fn publishing_what_is_there_survives_each_fault() {
    sweep(the_same_artifact, FEW, 15, Fault::EACH_KIND);
}

#[test]
fn a_repair_survives_each_fault() {
    sweep(a_damaged_artifact, FEW, 20, &Fault::ALL);
}

#[test]
fn a_disagreement_survives_each_fault() {
    sweep(another_result, FEW, 30, &Fault::ALL);
}

#[test]
fn replacing_a_record_survives_each_fault() {
    sweep(an_unreadable_record, FEW, 30, Fault::EACH_KIND);
}

#[test]
fn what_a_dead_process_left_is_swept() {
    let temp = temp();
    let root = temp.path();
    drop(Store::open(root).unwrap());
    let stagings = root.join("v1/staging");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let ours = Store::open(root).unwrap().staging().unwrap();
    let name = ours.path().file_name().unwrap().to_str().unwrap().to_owned();
    let us = format!(".{}.", std::process::id());
    let dead = name.replace(&us, &format!(".{}.", child.id()));
    let elsewhere = format!("x{dead}");
    for left in [&dead, &elsewhere] {
        write(&stagings.join(left), &[("out/half", "x")]);
    }
    let store = Store::open(root).unwrap();
    assert!(!stagings.join(&dead).exists());
    assert!(stagings.join(&elsewhere).exists(), "another host's must be left alone");
    assert!(ours.path().exists(), "a living process's must be left alone");
    drop((store, ours));
    assert!(!stagings.join(&name).exists());
}
