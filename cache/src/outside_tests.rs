//! Digests of data outside the store: right after every kind of edit, and no file is read that did not change.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::durable::Disk;
use crate::faults::{Fault, Faults};
use crate::tree::hash_file;
use crate::{Error, Store, tree_digest};

/// Longer than the slowest clock of a local file system ticks, and than a busy machine puts a test aside; yet tests need not wait for
/// two seconds.
const TICK: Duration = Duration::from_millis(60);

struct Bench {
    temp: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        let temp = TempDir::new().unwrap();
        fs::create_dir(temp.path().join("data")).unwrap();
        let store = Store::open(&temp.path().join("cache")).unwrap();
        Bench { temp, store }
    }

    fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    /// Writes a file of the data.
    fn write(&self, path: &str, content: &str) -> PathBuf {
        let path = self.data().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// How many files of `path` are read. The digest must be right.
    fn reads(&self, path: &Path) -> usize {
        let count = AtomicUsize::new(0);
        let hash = |path: &Path| {
            count.fetch_add(1, Ordering::Relaxed);
            hash_file(path)
        };
        let digest = self.store.digest_with(path, TICK, &hash).unwrap();
        assert_eq!(digest, tree_digest(path).unwrap());
        count.into_inner()
    }

    /// Reads the data when nothing in it is young, so that all of it is known.
    fn learn(&self) {
        sleep(TICK * 2);
        self.reads(&self.data());
        assert_eq!(self.reads(&self.data()), 0);
    }

    /// The only file that says what is known.
    fn hint(&self) -> PathBuf {
        let mut hints = fs::read_dir(self.store.layout().outsides()).unwrap();
        hints.next().unwrap().unwrap().path()
    }
}

/// Writes other bytes of the same number and sets the time of the content back.
fn forge(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 1);
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn it_is_the_digest_of_the_tree() {
    let bench = Bench::new();
    assert_eq!(bench.reads(&bench.data()), 0, "an empty folder");
    let empty = bench.write("empty", "");
    let nested = bench.write("a/b/c", "nested");
    symlink(&nested, bench.data().join("link")).unwrap();
    symlink(bench.data(), bench.temp.path().join("top")).unwrap();
    for path in [&bench.data(), &empty, &nested, &bench.data().join("link"), &bench.temp.path().join("top")] {
        assert_eq!(bench.store.digest_outside(path).unwrap(), tree_digest(path).unwrap());
    }
    let missing = bench.store.digest_outside(&bench.data().join("missing"));
    assert!(matches!(missing, Err(Error::Io { path, .. }) if path.ends_with("missing")));
}

#[test]
fn only_what_changed_is_read_again() {
    let bench = Bench::new();
    bench.write("a", "1");
    bench.write("d/b", "2");
    bench.learn();
    let reopened = Bench { store: Store::open(bench.store.root()).unwrap(), ..bench };
    assert_eq!(reopened.reads(&reopened.data()), 0, "in the next process");
    symlink(reopened.data(), reopened.temp.path().join("link")).unwrap();
    assert_eq!(reopened.reads(&reopened.temp.path().join("link")), 0, "by another name of the folder");
    reopened.write("d/b", "3");
    assert_eq!(reopened.reads(&reopened.data()), 1);
    reopened.write("c", "new");
    fs::remove_file(reopened.data().join("a")).unwrap();
    sleep(TICK * 2);
    assert_eq!(reopened.reads(&reopened.data()), 2, "one is new, and one was too young before");
    assert_eq!(reopened.reads(&reopened.data()), 0);
    assert!(!fs::read_to_string(reopened.hint()).unwrap().contains("\"a\""), "what is gone is forgotten");
}

#[test]
fn what_is_known_is_written_only_if_it_changed() {
    let bench = Bench::new();
    bench.write("a", "1");
    bench.learn();
    let written = crate::stat::Stat::of(&bench.hint()).unwrap();
    bench.reads(&bench.data());
    assert_eq!(crate::stat::Stat::of(&bench.hint()).unwrap(), written);
}

#[test]
fn a_change_that_hides_is_noticed() {
    let bench = Bench::new();
    let path = bench.write("a", "1");
    bench.learn();
    forge(&path);
    assert_eq!(bench.reads(&bench.data()), 1, "the size and the time of the content are as before");
    bench.learn();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let other = bench.temp.path().join("other");
    fs::write(&other, "2").unwrap();
    File::options().append(true).open(&other).unwrap().set_modified(modified).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(bench.reads(&bench.data()), 1, "another file took its name");
}

#[test]
fn a_young_file_is_not_believed() {
    let bench = Bench::new();
    bench.write("a", "1");
    for _ in 0..3 {
        let count = AtomicUsize::new(0);
        let hash = |path: &Path| {
            count.fetch_add(1, Ordering::Relaxed);
            hash_file(path)
        };
        bench.store.digest_with(&bench.data(), Duration::from_secs(3_600), &hash).unwrap();
        assert_eq!(count.into_inner(), 1);
    }
    assert!(!bench.store.layout().outsides().exists(), "nothing is known, so nothing is written");
}

#[test]
fn a_file_with_a_time_in_the_future_is_not_believed() {
    let bench = Bench::new();
    let path = bench.write("a", "1");
    let future = std::time::SystemTime::now() + Duration::from_secs(3_600);
    File::options().append(true).open(path).unwrap().set_modified(future).unwrap();
    sleep(TICK * 2);
    assert_eq!((bench.reads(&bench.data()), bench.reads(&bench.data())), (1, 1));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_a_few_times() {
    for (changes, is_read) in [(0, true), (1, true), (3, true), (usize::MAX, false)] {
        let bench = Bench::new();
        let file = bench.write("d/a", "1");
        let count = AtomicUsize::new(0);
        let hash = |path: &Path| {
            let hashed = hash_file(path)?;
            if count.fetch_add(1, Ordering::Relaxed) < changes {
                File::options().append(true).open(path)?.write_all(b"more")?;
            }
            Ok(hashed)
        };
        match bench.store.digest_with(&bench.data(), TICK, &hash) {
            Ok(digest) => assert!(is_read && digest == tree_digest(&bench.data()).unwrap()),
            Err(Error::Changing(path)) => assert!(!is_read && path == file),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_file_that_is_cut_short_while_it_is_read_is_no_reason_to_die() {
    let bench = Bench::new();
    let path = bench.write("large", &"x".repeat(64 << 20));
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) == 0 {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_len(0).unwrap();
                file.set_len(64 << 20).unwrap();
            }
        });
        let digest = bench.store.digest_outside(&bench.data());
        done.store(1, Ordering::Relaxed);
        assert!(matches!(digest, Ok(_) | Err(Error::Changing(_))), "{digest:?}");
    });
}

#[test]
fn a_hint_that_is_not_whole_is_ignored() {
    let bench = Bench::new();
    bench.write("a", "1");
    bench.learn();
    let hint = bench.hint();
    let good = fs::read(&hint).unwrap();
    let put = |bytes: &[u8]| {
        fs::remove_file(&hint).unwrap();
        fs::write(&hint, bytes).unwrap();
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        put(&bad);
        assert_eq!(bench.reads(&bench.data()), 1, "bit of byte {at}");
        put(&good[..at]);
        assert_eq!(bench.reads(&bench.data()), 1, "cut at {at}");
    }
    let rest = String::from_utf8(good[64..].to_vec()).unwrap().replace("\"version\":1", "\"version\":2");
    put(format!("{}{rest}", crate::Digest::of(rest.as_bytes())).as_bytes());
    assert_eq!(bench.reads(&bench.data()), 1, "another version");
    assert_eq!(bench.reads(&bench.data()), 0, "what was of no use is replaced");
}

#[test]
fn a_hint_that_cannot_be_written_is_no_error() {
    for fault in Fault::ALL {
        let mut operations = 0;
        loop {
            let bench = Bench::new();
            bench.write("a", "1");
            sleep(TICK * 2);
            let disk = Disk::with(Faults::at(operations, fault));
            let Ok(store) = Store::open_on(disk, bench.store.root()) else { panic!("it is open already") };
            let failing = Bench { store, ..bench };
            failing.reads(&failing.data());
            failing.reads(&failing.data());
            if failing.store.disk().faults.failed().is_none() {
                break;
            }
            operations += 1;
        }
        assert!(operations >= 4 || fault.is_rare(), "{fault:?}: only {operations} operations were seen");
    }
    let bench = Bench::new();
    bench.write("a", "1");
    fs::write(bench.store.layout().outsides(), "a file in the way").unwrap();
    sleep(TICK * 2);
    assert_eq!((bench.reads(&bench.data()), bench.reads(&bench.data())), (1, 1));
}

/// Something that people do to their data.
#[derive(Debug, Clone)]
enum Edit {
    Write(&'static str, String),
    Forge(&'static str),
    Touch(&'static str),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    Wait,
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let path = || prop::sample::select(vec!["a", "b", "d/a", "d/b", "d/e/a"]);
    prop_oneof![
        (path(), "[xy]{0,2}").prop_map(|(path, content)| Edit::Write(path, content)),
        path().prop_map(Edit::Forge),
        path().prop_map(Edit::Touch),
        (path(), path()).prop_map(|(from, to)| Edit::Rename(from, to)),
        path().prop_map(Edit::Remove),
        Just(Edit::Wait),
    ]
}

fn apply(bench: &Bench, edit: &Edit) {
    let at = |path: &str| Some(bench.data().join(path)).filter(|path| path.exists());
    match edit {
        Edit::Write(path, content) => drop(bench.write(path, content)),
        Edit::Forge(path) => at(path).iter().for_each(|path| forge(path)),
        Edit::Touch(path) => at(path).iter().for_each(|path| {
            File::options().append(true).open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        Edit::Rename(from, to) => at(from).iter().for_each(|from| {
            let to = bench.data().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(from, to).unwrap();
        }),
        Edit::Remove(path) => at(path).iter().for_each(|path| fs::remove_file(path).unwrap()),
        Edit::Wait => bench.learn(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_edit_is_missed(edits in prop::collection::vec(any_edit(), 1..20)) {
        let bench = Bench::new();
        for edit in edits {
            apply(&bench, &edit);
            bench.reads(&bench.data()); // compares with what reading everything gives
        }
    }
}
