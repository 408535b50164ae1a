//! Real processes: killed at any instant, while others write to and sweep the same store, and several at once on the same
//! keys.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::common::{Files, key, publish, record, within};
use restage_cache::{
    Digest, Error, GcOptions, Lookup, MissReason, Store, Verdict, VerifyOptions, tree_digest,
};
use tempfile::TempDir;

/// Where the child works; set only for the child.
const ROOT: &str = "RESTAGE_CACHE_TEST_ROOT";
/// What it does there: `once`, `write` or `sweep`.
const WORK: &str = "RESTAGE_CACHE_TEST_WORK";
/// What the child adds to its outputs, so that children may disagree.
const SALT: &str = "RESTAGE_CACHE_TEST_SALT";
/// What the child says when it begins.
const BEGINS: &str = "at work";
/// How long a child works that nobody kills, as who should is dead.
const ORPHAN: Duration = Duration::from_secs(60);

const ACTIONS: usize = 150;
/// Of how many children each round kills all.
const CHILDREN: usize = 3;
const KILLS: usize = 201;

fn action(number: usize) -> String {
    format!("action {number}")
}

/// A dozen files, most of them shared with other actions.
fn outputs(number: usize, salt: &str) -> Files {
    let shared = (0..8).map(|i| (format!("c/{i}"), vec![i as u8; 5_000]));
    let own = (0..4).map(|i| (format!("d/{i}"), format!("{number} {i} {salt}").repeat(50).into_bytes()));
    shared.chain(own).collect()
}

/// Not a test: what a child process runs.
#[test]
fn child() {
    let [Ok(root), Ok(work), Ok(salt)] = [ROOT, WORK, SALT].map(std::env::var) else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    println!("{BEGINS}");
    let begin = Instant::now();
    match work.as_str() {
        "once" => (0..ACTIONS).for_each(|number| once(&store, number, &salt)),
        "write" => (0..).take_while(|_| begin.elapsed() < ORPHAN).for_each(|step| write(&store, step, &salt)),
        _ => (0..).take_while(|_| begin.elapsed() < ORPHAN).for_each(|_: usize| sweep(&store)),
    }
}

/// Does an action if it is not done. Nobody sweeps meanwhile, so what has a record is there.
fn once(store: &Store, number: usize, salt: &str) {
    match store.lookup(&key(&action(number))).unwrap() {
        Lookup::Hit(_) => return,
        Lookup::Miss(reason) => assert_eq!(reason, MissReason::Never),
    }
    let digest = publish(store, &outputs(number, salt)).digest;
    store.record(&key(&action(number)), &record(&[("out", digest)])).unwrap();
}

/// Does some action, if it is not done, while others do that and sweep. They disagree about a few.
fn write(store: &Store, step: usize, salt: &str) {
    let number = (std::process::id() as usize + step * 7) % ACTIONS;
    if let Lookup::Hit(_) = store.lookup(&key(&action(number))).unwrap() {
        // Not all of them at once, or nothing is left for the sweep: a hit keeps what it hits.
        return std::thread::sleep(Duration::from_micros(500));
    }
    let salt = if number.is_multiple_of(5) { salt } else { "" };
    let digest = publish(store, &outputs(number, salt)).digest;
    match store.record(&key(&action(number)), &record(&[("out", digest)])) {
        // A sweep has it in hand, and puts it back as it is young again.
        Err(Error::Unpublished { .. }) => {}
        other => drop(other.unwrap()),
    }
}

fn sweep(store: &Store) {
    let plan = store.plan_gc(&GcOptions::default()).unwrap();
    let report = store.run_gc(&plan, &|_, _| {}).unwrap();
    assert!(report.refused.is_empty(), "{report:?}");
}

pub(crate) fn spawn(root: &Path, work: &str, salt: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture"])
        .envs([(ROOT, root.as_os_str()), (WORK, work.as_ref()), (SALT, salt.as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child has opened the store.
fn await_work(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(BEGINS)), "a child failed");
}

/// How many actions are done. Each is either never done or right.
fn check(root: &Path) -> usize {
    let store = Store::open(root).unwrap();
    assert_eq!(fs::read_dir(root.join("v1/staging")).unwrap().count(), 0, "staging was not swept");
    let done = (0..ACTIONS).filter(|number| match store.lookup(&key(&action(*number))).unwrap() {
        Lookup::Miss(reason) => {
            assert_eq!(reason, MissReason::Never, "action {number}");
            false
        }
        Lookup::Hit(_) => true,
    });
    done.count()
}

/// Reads every byte: each artifact is what its name says, also those without a record.
fn check_all(root: &Path) -> usize {
    let store = Store::open(root).unwrap();
    let report = store.verify(&VerifyOptions::default(), &|_, _| {}).unwrap();
    assert!(report.bad_records.is_empty(), "{report:?}");
    let mut stored = report.artifacts.iter().chain(&report.files);
    assert!(stored.all(|stored| stored.verdict == Verdict::Ok), "{report:?}");
    for number in 0..ACTIONS {
        if let Lookup::Hit(record) = store.lookup(&key(&action(number))).unwrap() {
            let digest = record.outputs["out"];
            assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
        }
    }
    check(root)
}

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
fn temp() -> TempDir {
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
            check_all(root)
        } else {
            check(root)
        };
        taken += age(root, round);
    }
    assert!(killed >= 150, "only {killed} were killed at work");
    assert!(taken > 0, "no sweep got as far as an artifact");
    assert!(spawn(root, "once", "").wait().unwrap().success());
    assert_eq!(check_all(root), ACTIONS);
}

#[test]
fn four_processes_at_once_are_all_right() {
    let temp = TempDir::new().unwrap();
    let children: Vec<_> = ["a", "a", "b", "c"].map(|salt| spawn(temp.path(), "once", salt)).into();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(check_all(temp.path()), ACTIONS);
}
