//! Reading everything again, and repairing what is damaged.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{files, key, publish, record, within};
use restage_cache::{
    Damage, Digest, Lookup, MissReason, Repair, Store, Verdict, Verification, VerifyOptions, tree_digest,
};
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    (temp, store)
}

/// Changes a file's bytes in place and sets its time back, as a bad disk would: by all its names at once.
fn rot(path: &Path, content: &str) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

fn verify(store: &Store, repair: bool) -> Verification {
    store.verify(&VerifyOptions { repair, ..VerifyOptions::default() }, &|_, _| {}).unwrap()
}

/// The artifacts or files that are not as they were, and what was done.
fn bad(report: &Verification) -> Vec<(Digest, Option<Repair>)> {
    let all = report.artifacts.iter().chain(&report.files);
    let bad = all.filter(|verified| verified.verdict != Verdict::Ok);
    bad.map(|verified| (verified.digest, verified.repair.clone())).collect()
}

fn quarantined(store: &Store) -> usize {
    fs::read_dir(store.root().join("v1/quarantine")).map_or(0, Iterator::count)
}

#[test]
fn everything_is_read_and_nothing_is_wrong() {
    let (_temp, store) = store();
    let long = "x".repeat(2_000_000);
    let one = publish(&store, &files(&[("a", "shared"), ("b", &long)])).digest;
    publish(&store, &files(&[("c", "shared")]));
    store.record(&key("k"), &record(&[("out", one)])).unwrap();
    let (most, all) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = store.verify(&VerifyOptions::default(), &|done, total| {
        most.fetch_max(done, Ordering::Relaxed);
        all.store(total, Ordering::Relaxed);
    });
    let report = report.unwrap();
    assert!(report.is_sound() && bad(&report).is_empty());
    assert_eq!((report.artifacts.len(), report.files.len(), report.records), (2, 2, 1));
    assert_eq!((report.bytes, most.into_inner(), all.into_inner()), (2_000_006, 2_000_006, 2_000_006));
}

#[test]
fn a_part_is_chosen_by_the_seed() {
    let (_temp, store) = store();
    for n in 0..200 {
        publish(&store, &files(&[("a", &n.to_string())]));
    }
    let chosen = |fraction, seed| {
        let options = VerifyOptions { fraction, seed, repair: false };
        let report = store.verify(&options, &|_, _| {}).unwrap();
        report.artifacts.iter().map(|verified| verified.digest).collect::<Vec<_>>()
    };
    let half = chosen(0.5, 1);
    assert!((60..140).contains(&half.len()), "{}", half.len());
    assert_eq!(chosen(0.5, 1), half);
    assert_ne!(chosen(0.5, 2), half);
    assert!(chosen(0.1, 1).iter().all(|digest| half.contains(digest)));
    assert!(chosen(0.0, 1).is_empty());
}

#[test]
fn bytes_that_rot_are_found_and_made_again() {
    let (_temp, store) = store();
    let content = files(&[("zarr.json", "{}"), ("c/0", "four")]);
    let digest = publish(&store, &content).digest;
    let other = publish(&store, &files(&[("x", "four")])).digest;
    let whole = publish(&store, &files(&[("y", "five")])).digest;
    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
    store.record(&key("w"), &record(&[("out", whole)])).unwrap();
    rot(&within(&store, "artifacts", &digest).join("tree/c/0"), "fore");
    let next = Store::open(store.root()).unwrap();
    assert!(matches!(next.lookup(&key("k")).unwrap(), Lookup::Hit(_)), "nothing shows from outside");

    let report = verify(&store, false);
    let (expected, found) = (Digest::of(b"four"), Some(Digest::of(b"fore")));
    let damage = |file: PathBuf| Verdict::Damaged(vec![Damage { file, expected, found }]);
    let verdict = |digest| report.artifacts.iter().find(|one| one.digest == digest).unwrap().verdict.clone();
    assert_eq!(verdict(digest), damage("tree/c/0".into()));
    assert_eq!(verdict(other), damage("tree/x".into()));
    assert_eq!(verdict(whole), Verdict::Ok);
    let file = report.files.iter().find(|one| one.digest == expected).unwrap();
    assert_eq!(file.verdict, damage(within(&store, "files", &expected)));
    assert!(!report.is_sound());
    assert_eq!(quarantined(&store), 0);

    let repaired = verify(&store, true);
    assert!(repaired.is_sound());
    assert!(bad(&repaired).iter().all(|(_, repair)| *repair == Some(Repair::Quarantined)));
    assert_eq!((bad(&repaired).len(), quarantined(&store)), (3, 3));
    let miss = MissReason::Gone { port: "out".into(), digest };
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Miss(miss));
    assert!(matches!(store.lookup(&key("w")).unwrap(), Lookup::Hit(_)));
    assert!(bad(&verify(&store, true)).is_empty());
    assert_eq!(publish(&store, &content).digest, digest);
    assert!(matches!(store.lookup(&key("k")).unwrap(), Lookup::Hit(_)));
    assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
}

#[test]
fn an_artifact_is_rebuilt_where_there_are_good_copies() {
    let (_temp, store) = store();
    let digest = publish(&store, &files(&[("zarr.json", "{}"), ("c/d/0", "four"), ("c/1", "five")])).digest;
    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
    let tree = within(&store, "artifacts", &digest).join("tree");
    fs::remove_dir_all(tree.join("c/d")).unwrap();
    fs::remove_file(tree.join("c/1")).unwrap(); // another file of that name: `files/` has the good one
    fs::write(tree.join("c/1"), "fife").unwrap();
    let report = verify(&store, true);
    assert_eq!(bad(&report), [(digest, Some(Repair::Rebuilt))]);
    assert_eq!(quarantined(&store), 1, "what was there is not lost");
    assert_eq!(tree_digest(&tree).unwrap(), digest);
    assert!(matches!(Store::open(store.root()).unwrap().lookup(&key("k")).unwrap(), Lookup::Hit(_)));
    assert!(bad(&verify(&store, false)).is_empty());
}

#[test]
fn a_manifest_and_a_record_that_are_torn_are_moved_away() {
    let (_temp, store) = store();
    let digest = publish(&store, &files(&[("a", "1")])).digest;
    let fine = publish(&store, &files(&[("a", "2")])).digest;
    let [one, two] = [("k", digest), ("l", fine)].map(|(name, digest)| {
        store.record(&key(name), &record(&[("out", digest)])).unwrap();
        within(&store, "actions", key(name).as_digest()).join("record.json")
    });
    rot(&within(&store, "artifacts", &digest).join("manifest"), "x");
    rot(&two, "{");
    let found = verify(&store, false);
    assert!(found.bad_records.iter().map(|bad| &bad.file).eq([&two]) && one.exists());
    assert!(!found.is_sound());
    let report = verify(&store, true);
    assert_eq!(bad(&report), [(digest, Some(Repair::Quarantined))]);
    assert_eq!(report.bad_records[0].repair, Some(Repair::Quarantined));
    assert_eq!(store.lookup(&key("l")).unwrap(), Lookup::Miss(MissReason::Never));
    assert!(report.is_sound() && verify(&store, false).is_sound());
    assert_eq!(quarantined(&store), 2);
}

#[test]
fn a_damaged_stored_file_is_shared_with_nobody() {
    for (what, content) in [("another size", "four and more"), ("the same size", "fore")] {
        let (_temp, store) = store();
        publish(&store, &files(&[("a", "four")]));
        let stored = within(&store, "files", &Digest::of(b"four"));
        rot(&stored, content);
        let digest = publish(&store, &files(&[("b", "four"), ("c", "other")])).digest;
        let tree = store.artifact(&digest).unwrap().unwrap();
        assert_eq!(tree_digest(&tree).unwrap(), digest, "{what}");
        assert_eq!(fs::read(&stored).unwrap(), b"four", "{what}: ours has the name now");
        let ours = fs::metadata(tree.join("b")).unwrap().ino();
        assert_eq!(fs::metadata(&stored).unwrap().ino(), ours, "{what}");
        assert_eq!(quarantined(&store), 1, "{what}");
    }
}
