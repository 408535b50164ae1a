//! What a user of the store may rely on: sharing, refusals, records, tampering, permissions, many at once.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::common::{files, key, publish, record, staged, write};
use restage_cache::{Error, Lookup, MissReason, Recorded, Refusal, Store, tree_digest};
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    (temp, store)
}

#[test]
fn an_artifact_is_a_plain_read_only_folder() {
    let (_temp, store) = store();
    let published = publish(&store, &files(&[("zarr.json", "{}"), ("c/0", "four")]));
    assert_eq!((published.bytes, published.files, published.existed), (6, 2, false));
    let folder = store.artifact(&published.digest).unwrap().unwrap();
    assert_eq!(fs::read(folder.join("c/0")).unwrap(), b"four");
    for (path, mode) in [("zarr.json", 0o444), ("c/0", 0o444), ("c", 0o755), ("", 0o755)] {
        assert_eq!(fs::metadata(folder.join(path)).unwrap().mode() & 0o777, mode, "{path}");
    }
    assert_eq!(staged(&store), 0);
    fs::remove_dir_all(folder).unwrap(); // its owner can always free the space
}

#[test]
fn the_same_content_is_kept_once() {
    let (_temp, store) = store();
    let first = publish(&store, &files(&[("a", "shared"), ("b", "first")]));
    let again = publish(&store, &files(&[("a", "shared"), ("b", "first")]));
    assert!(again.existed && again.digest == first.digest);
    let second = publish(&store, &files(&[("x/y", "shared"), ("b", "second")]));
    let inode = |published: &restage_cache::Published, path| {
        let folder = store.artifact(&published.digest).unwrap().unwrap();
        fs::metadata(folder.join(path)).unwrap().ino()
    };
    assert_eq!(inode(&first, "a"), inode(&second, "x/y"));
    assert_ne!(inode(&first, "b"), inode(&second, "b"));
}

#[test]
fn empty_folders_are_no_part_of_an_artifact() {
    let (_temp, store) = store();
    let staging = store.staging().unwrap();
    write(staging.path(), &files(&[("a/b", "x")]));
    fs::create_dir_all(staging.path().join("a/e/f")).unwrap();
    let published = store.publish(staging.path()).unwrap();
    let folder = store.artifact(&published.digest).unwrap().unwrap();
    assert!(folder.join("a/b").exists() && !folder.join("a/e").exists());
    let nothing = publish(&store, &files(&[]));
    assert!(store.artifact(&nothing.digest).unwrap().unwrap().is_dir());
}

#[test]
fn what_is_no_plain_tree_is_refused() {
    let (temp, store) = store();
    write(&temp.path().join("elsewhere"), &files(&[("f", "outside")]));
    let outside = temp.path().join("elsewhere/f");
    fs::set_permissions(&outside, Permissions::from_mode(0o644)).unwrap();
    type Prepare<'a> = &'a dyn Fn(&Path);
    let cases: [(Prepare<'_>, Refusal); 5] = [
        (&|top| symlink(&outside, top.join("x")).unwrap(), Refusal::Link),
        (&|top| symlink(".", top.join("x")).unwrap(), Refusal::Link),
        (&|top| fs::hard_link(&outside, top.join("x")).unwrap(), Refusal::HardLinks(2)),
        (&|top| fs::write(top.join("a\nb"), "").unwrap(), Refusal::OddName),
        (&|top| drop(std::os::unix::net::UnixListener::bind(top.join("x")).unwrap()), Refusal::Special),
    ];
    for (prepare, expected) in cases {
        let staging = store.staging().unwrap();
        write(staging.path(), &files(&[("fine", "x")]));
        prepare(staging.path());
        match store.publish(staging.path()) {
            Err(Error::Refused { path, why }) => {
                assert_eq!(why, expected);
                assert!(path.starts_with(staging.path()));
            }
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o644, "a refused file is not changed");
    assert_eq!(fs::read_dir(store.root().join("v1/artifacts")).unwrap().count(), 0);
}

#[test]
fn only_staged_folders_are_published() {
    let (temp, store) = store();
    let elsewhere = temp.path().join("elsewhere");
    write(&elsewhere, &files(&[("f", "x")]));
    for folder in [elsewhere.clone(), store.root().join("v1/staging"), store.root().join("v1/files")] {
        assert!(matches!(store.publish(&folder), Err(Error::NotStaged(path)) if path == folder));
    }
    let staging = store.staging().unwrap();
    symlink(&elsewhere, staging.path().join("link")).unwrap();
    write(staging.path(), &files(&[("file", "x")]));
    for (name, expected) in [("link", Refusal::Link), ("file", Refusal::NotAFolder)] {
        let refused = store.publish(&staging.path().join(name));
        assert!(matches!(refused, Err(Error::Refused { why, .. }) if why == expected), "{name}");
    }
}

#[test]
fn the_first_record_stays() {
    let (_temp, store) = store();
    let one = publish(&store, &files(&[("a", "1")])).digest;
    let two = publish(&store, &files(&[("a", "2")])).digest;
    let (first, other) = (record(&[("out", one)]), record(&[("out", two)]));
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Miss(MissReason::Never));
    assert_eq!(store.record(&key("k"), &first).unwrap(), Recorded::First);
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Hit(first.clone()));
    let mut later = first.clone();
    later.provenance = serde_json::json!("another host");
    assert_eq!(store.record(&key("k"), &later).unwrap(), Recorded::Same);
    assert_eq!(store.record(&key("k"), &other).unwrap(), Recorded::Different(Box::new(first.clone())));
    assert_eq!(store.record(&key("k"), &other).unwrap(), Recorded::Different(Box::new(first.clone())));
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Hit(first));
    let hex = key("k").to_string();
    let seen = store.root().join("v1/actions").join(&hex[..2]).join(&hex[2..]).join("seen");
    assert_eq!(fs::read_dir(seen).unwrap().count(), 1);
}

#[test]
fn an_unpublished_artifact_is_not_recorded() {
    let (_temp, store) = store();
    let nowhere = restage_cache::Digest::of(b"nowhere");
    let refused = store.record(&key("k"), &record(&[("out", nowhere)]));
    assert!(
        matches!(refused, Err(Error::Unpublished { port, digest }) if port == "out" && digest == nowhere)
    );
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Miss(MissReason::Never));
}

#[test]
fn a_changed_artifact_is_a_miss_until_it_is_published_again() {
    let content = files(&[("zarr.json", "{}"), ("c/0", "four"), ("c/1", "five")]);
    type Tamper<'a> = &'a dyn Fn(&Path);
    let rewrite = |tree: &Path, content: &str| {
        let path = tree.join("c/0");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, content).unwrap();
        // A clock may tick as slowly as this between the manifest's time and now.
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(1))
            .unwrap();
    };
    let tampers: [(&str, Option<&str>, Tamper<'_>); 8] = [
        ("a file deleted", Some("tree/c/0"), &|tree| fs::remove_file(tree.join("c/0")).unwrap()),
        ("the tree deleted", Some("tree"), &|tree| fs::remove_dir_all(tree).unwrap()),
        ("the manifest deleted", Some("manifest"), &|tree| {
            fs::remove_file(tree.with_file_name("manifest")).unwrap()
        }),
        ("all deleted", None, &|tree| fs::remove_dir_all(tree.parent().unwrap()).unwrap()),
        ("the manifest torn", Some("manifest"), &|tree| {
            let path = tree.with_file_name("manifest");
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a file emptied", Some("tree/c/0"), &|tree| rewrite(tree, "")),
        ("a file of the same size", Some("tree/c/0"), &|tree| rewrite(tree, "fore")),
        ("all of it but the folders", Some("tree/c/0"), &|tree| {
            ["c/0", "c/1", "zarr.json"].iter().for_each(|path| fs::remove_file(tree.join(path)).unwrap());
        }),
    ];
    for (what, file, tamper) in tampers {
        let (_temp, store) = store();
        let digest = publish(&store, &content).digest;
        let result = record(&[("out", digest)]);
        store.record(&key("k"), &result).unwrap();
        tamper(&store.artifact(&digest).unwrap().unwrap());
        let next = Store::open(store.root()).unwrap(); // another process: this one just found it whole
        let port = "out".to_owned();
        let miss = match file {
            None => MissReason::Gone { port, digest },
            Some(file) => MissReason::Damaged { port, digest, file: file.into() },
        };
        let told = file.map_or("is no longer in the cache".into(), |file| {
            format!("its `{file}` is missing or was changed")
        });
        assert!(miss.to_string().contains(&told), "{miss}");
        assert_eq!(next.lookup(&key("k")).unwrap(), Lookup::Miss(miss), "{what}");
        assert_eq!(next.artifact(&digest).unwrap(), None, "{what}");
        let again = publish(&store, &content);
        assert!(again.digest == digest && !again.existed, "{what}");
        assert_eq!(store.record(&key("k"), &result).unwrap(), Recorded::Same, "{what}");
        assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Hit(result), "{what}");
        assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest, "{what}");
    }
}

#[test]
fn an_artifact_is_looked_at_closely_once_in_a_while() {
    let content = files(&[("zarr.json", "{}"), ("c/0", "four")]);
    let (_temp, store) = store();
    let digest = publish(&store, &content).digest;
    let result = record(&[("out", digest)]);
    store.record(&key("k"), &result).unwrap();
    let tree = store.artifact(&digest).unwrap().unwrap();
    fs::remove_file(tree.join("c/0")).unwrap();
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Hit(result.clone()), "it was whole a moment ago");
    let refused = store.record(&key("other"), &result);
    assert!(matches!(refused, Err(Error::Unpublished { .. })), "who writes does not believe it");
    assert!(matches!(store.lookup(&key("k")).unwrap(), Lookup::Miss(_)), "and says so to who reads");

    assert!(!publish(&store, &content).existed);
    assert!(store.artifact(&digest).unwrap().is_some());
    fs::remove_file(tree.join("c/0")).unwrap();
    assert!(!publish(&store, &content).existed, "who publishes does not believe it");
    assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest);

    let clone = store.clone();
    fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    assert_eq!(clone.artifact(&digest).unwrap(), None, "what is gone is noticed at once");
}

#[test]
fn a_touched_artifact_is_a_hit() {
    let (_temp, store) = store();
    let digest = publish(&store, &files(&[("a", "1")])).digest;
    let path = store.artifact(&digest).unwrap().unwrap().join("a");
    File::open(path).unwrap().set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
    assert!(store.artifact(&digest).unwrap().is_some());
}

#[test]
fn an_unreadable_record_is_a_miss_and_is_replaced() {
    let (_temp, store) = store();
    let digest = publish(&store, &files(&[("a", "1")])).digest;
    let result = record(&[("out", digest)]);
    store.record(&key("k"), &result).unwrap();
    let hex = key("k").to_string();
    let path = store.root().join("v1/actions").join(&hex[..2]).join(&hex[2..]).join("record.json");
    let good = fs::read_to_string(&path).unwrap();
    let other = key("other").to_string();
    let bad = [
        (String::new(), "EOF"),
        (good[..good.len() / 2].to_owned(), "EOF"),
        (good.replace("\"version\": 1", "\"version\": 2"), "version 2"),
        (good.replace(&hex, &other), other.as_str()),
        (good.replace(&digest.to_string(), "../../../../etc"), "not a digest"),
    ];
    for (bytes, expected) in bad {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        match store.lookup(&key("k")).unwrap() {
            Lookup::Miss(MissReason::Unreadable(why)) => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.record(&key("k"), &result).unwrap(), Recorded::First);
        assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Hit(result.clone()));
    }
}

#[test]
fn a_record_whose_artifact_is_gone_makes_way_for_another_result() {
    let (_temp, store) = store();
    let gone = publish(&store, &files(&[("a", "1")])).digest;
    store.record(&key("k"), &record(&[("out", gone)])).unwrap();
    fs::remove_dir_all(store.artifact(&gone).unwrap().unwrap()).unwrap();
    let new = record(&[("out", publish(&store, &files(&[("a", "2")])).digest)]);
    assert_eq!(store.record(&key("k"), &new).unwrap(), Recorded::First);
    assert_eq!(store.lookup(&key("k")).unwrap(), Lookup::Hit(new));
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("FORMAT"), "restage-cache 2\n").unwrap();
    let refused = Store::open(temp.path()).unwrap_err();
    assert!(matches!(refused, Error::NewerFormat { found: 2, known: 1, .. }), "{refused}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    fs::write(temp.path().join("FORMAT"), "something else").unwrap();
    assert!(
        matches!(Store::open(temp.path()), Err(Error::NotAFormat { found, .. }) if found == "something else")
    );
}

#[test]
fn a_new_store_says_what_it_is() {
    let (_temp, store) = store();
    assert_eq!(fs::read_to_string(store.root().join("FORMAT")).unwrap(), "restage-cache 1\n");
    let tag = fs::read_to_string(store.root().join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    Store::open(store.root()).unwrap();
}

/// A scratch folder as a process with this number would have left it.
fn leave_scratch(store: &Store, name: &str, pid: u32) -> PathBuf {
    let ours = store.scratch(&key(name)).unwrap();
    fs::write(ours.join("epoch"), "3").unwrap();
    let owner = format!(".{}.", std::process::id());
    let theirs = ours.to_str().unwrap().replace(&owner, &format!(".{pid}."));
    fs::rename(&ours, &theirs).unwrap();
    theirs.into()
}

#[test]
fn scratch_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_not() {
    let (_temp, store) = store();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let dead = leave_scratch(&store, "dead", child.id());
    let taken = store.scratch(&key("dead")).unwrap();
    assert_eq!(fs::read_to_string(taken.join("epoch")).unwrap(), "3");
    assert!(!dead.exists());

    let living = leave_scratch(&store, "living", std::os::unix::process::parent_id());
    let fresh = store.scratch(&key("living")).unwrap();
    assert_ne!(fresh, living);
    assert_eq!(fs::read_dir(&fresh).unwrap().count(), 0);
    store.discard_scratch(&key("living")).unwrap();
    assert!(living.join("epoch").exists() && !fresh.exists());
}

#[test]
fn who_asks_whether_checkpoints_got_further_takes_nothing_over() {
    let (_temp, store) = store();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let since = |seconds: u64| std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    assert!(!store.is_checkpointed_since(&key("k"), since(0)), "nobody has any");
    let left = leave_scratch(&store, "k", child.id());
    write(&left, &files(&[("weights/4", "heavy")]));
    for (file, seconds) in [("epoch", 1_000), ("weights/4", 2_000)] {
        let file = fs::File::options().write(true).open(left.join(file)).unwrap();
        file.set_modified(since(seconds)).unwrap();
    }
    assert!(store.is_checkpointed_since(&key("k"), since(2_000)), "in a folder of it");
    assert!(!store.is_checkpointed_since(&key("k"), since(2_001)));
    assert!(!store.is_checkpointed_since(&key("other"), since(0)));
    assert!(left.exists(), "it is whose it was");
}

#[test]
fn scratch_stays_until_it_is_discarded() {
    let (_temp, store) = store();
    let path = store.scratch(&key("k")).unwrap();
    write(&path, &files(&[("epoch/3", "weights")]));
    assert_eq!(Store::open(store.root()).unwrap().scratch(&key("k")).unwrap(), path);
    assert!(path.join("epoch/3").exists());
    store.discard_scratch(&key("k")).unwrap();
    assert!(!path.exists());
    store.discard_scratch(&key("k")).unwrap();
    assert_eq!(staged(&store), 0);
    assert!(store.folder("runs").unwrap().is_dir());
}

#[test]
fn many_threads_publish_and_record_the_same() {
    let (_temp, store) = store();
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = |i: usize| {
            let store = store.clone();
            move || {
                let digest =
                    publish(&store, &files(&[("same", "x"), ("c/0", ["even", "odd"][i % 2])])).digest;
                (digest, store.record(&key("k"), &record(&[("out", digest)])).unwrap())
            }
        };
        let threads: Vec<_> = (0..16).map(|i| scope.spawn(run(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let Lookup::Hit(kept) = store.lookup(&key("k")).unwrap() else { panic!("a miss") };
    assert_eq!(results.iter().filter(|(_, recorded)| *recorded == Recorded::First).count(), 1);
    for (digest, recorded) in results {
        assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
        match recorded {
            Recorded::Different(first) => assert!(*first == kept && kept.outputs["out"] != digest),
            Recorded::First | Recorded::Same => assert_eq!(kept.outputs["out"], digest),
        }
    }
}

#[test]
fn many_threads_repair_the_same() {
    let (_temp, store) = store();
    let content = files(&[("a", "1"), ("b", "2")]);
    for _ in 0..10 {
        let digest = publish(&store, &content).digest;
        fs::remove_file(store.artifact(&digest).unwrap().unwrap().join("a")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let digest = publish(&store, &content).digest;
                    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
                });
            }
        });
        assert!(matches!(store.lookup(&key("k")).unwrap(), Lookup::Hit(_)));
    }
}
