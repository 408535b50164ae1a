//! A store that several users share, and what is wrong with one.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::common::{files, key, publish, record, within};
use restage_cache::{Digest, Finding, Remote, Store, doctor};
use tempfile::TempDir;

#[test]
fn a_shared_store_is_open_to_its_group_whatever_the_umask() {
    let temp = TempDir::new().unwrap();
    let root = temp.path().join("cache");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o2775)).unwrap();
    let store = Store::open(&root).unwrap();
    let digest = publish(&store, &files(&[("a", "1")])).digest;
    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
    store.pin("mine", &[digest].into()).unwrap();
    store.scratch(&key("k")).unwrap();
    store.folder("runs").unwrap();
    let place = within(&store, "artifacts", &digest);
    let home = within(&store, "actions", key("k").as_digest());
    let shard = within(&store, "files", &Digest::of(b"1")).parent().unwrap().to_path_buf();
    for folder in
        [&root.join("v1"), &root.join("v1/pins"), &root.join("runs"), &home, &shard, place.parent().unwrap()]
            .map(AsRef::<Path>::as_ref)
    {
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o7777, 0o2775, "{}", folder.display());
    }
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o755, "what was published is its owner's");
    let findings = |root: &Path| {
        let mut found = doctor(root).unwrap();
        found.retain(|finding| {
            // Of the machine, not of the store.
            let machine = [Finding::ProtectedHardlinks];
            !machine.contains(finding)
                && !matches!(
                    finding,
                    Finding::Space { .. } | Finding::Inodes { .. } | Finding::Network { .. }
                )
        });
        found
    };
    assert_eq!(findings(&root), []);

    fs::set_permissions(&shard, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(place.join("tree/a"), Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(root.join("FORMAT")).unwrap();
    let found = findings(&root);
    assert!(matches!(&found[0], Finding::Format { why } if why.contains("FORMAT")), "{found:?}");
    assert!(
        matches!(&found[1], Finding::Folders(these) if these.count == 1 && these.example == shard.canonicalize().unwrap()),
        "{found:?}"
    );
    assert!(matches!(&found[2], Finding::Files(these) if these.count == 2), "by both its names: {found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|finding| finding.is_problem() && !finding.advice().is_empty()));
    assert_eq!(doctor(&temp.path().join("nowhere")).unwrap(), [Finding::Missing]);
}

#[test]
fn a_groups_folder_is_a_remote_open_to_the_group() {
    let temp = TempDir::new().unwrap();
    let remote = temp.path().join("remote");
    fs::create_dir(&remote).unwrap();
    fs::set_permissions(&remote, Permissions::from_mode(0o2770)).unwrap();
    let store = Store::open(&temp.path().join("cache")).unwrap();
    let large = "x".repeat(9 << 20);
    let digest = publish(&store, &files(&[("a", "1"), ("large", &large)])).digest;
    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
    let there = Remote::open(&format!("file://{}", remote.display())).unwrap();
    let pushed = store.push(&there, &[key("k")].into(), &[].into(), &|_, _| {}).unwrap();
    assert_eq!((pushed.records, pushed.files), (1, 2));
    let (mut folders, mut seen) = (vec![remote.join("v1")], 0);
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o2775, "{}", folder.display());
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o444, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 4, "two files, a manifest, a record");
}
