//! Child processes, which the tests kill or take the disk from, and what must be right afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Files, key, publish, record, staged};
use restage_cache::{Error, GcOptions, Lookup, MissReason, Store, Verdict, VerifyOptions, tree_digest};

/// Where the child works; set only for the child.
const ROOT: &str = "RESTAGE_CACHE_TEST_ROOT";
/// What it does there: see [`child`].
const WORK: &str = "RESTAGE_CACHE_TEST_WORK";
/// What the child adds to its outputs, so that children may disagree.
const SALT: &str = "RESTAGE_CACHE_TEST_SALT";
/// What the child says when it begins.
const BEGINS: &str = "at work";
/// And when it has recorded an action; its number follows.
pub(crate) const DONE: &str = "recorded ";
/// How long a child works that nobody kills, as who should is dead.
const ORPHAN: Duration = Duration::from_secs(60);

/// How many actions there are to do.
const ACTIONS: usize = 150;
/// And how many where that is not said.
const MOST: usize = 400;

pub(crate) fn action(number: usize) -> String {
    format!("action {number}")
}

/// A dozen files, most of them shared with other actions.
pub(crate) fn outputs(number: usize, salt: &str) -> Files {
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
    let steps = (0..).take_while(|_| begin.elapsed() < ORPHAN);
    match work.as_str() {
        "once" => (0..ACTIONS).for_each(|number| {
            once(&store, number, &salt);
        }),
        "tell" => steps.for_each(|number| tell(&store, number, &salt)),
        "write" => steps.for_each(|step| write(&store, step, &salt)),
        "sweep" => steps.for_each(|_| sweep(&store)),
        _ => steps.for_each(|_| flush(Path::new(&root))),
    }
}

/// Does an action if it is not done: false if it was. Nobody sweeps meanwhile, so what has a record is there.
pub(crate) fn once(store: &Store, number: usize, salt: &str) -> bool {
    match store.lookup(&key(&action(number))).unwrap() {
        Lookup::Hit(_) => return false,
        Lookup::Miss(reason) => assert_eq!(reason, MissReason::Never),
    }
    let digest = publish(store, &outputs(number, salt)).digest;
    store.record(&key(&action(number)), &record(&[("out", digest)])).unwrap();
    true
}

/// Does an action, and says so when it is recorded. Not more of them than a small disk has room for.
fn tell(store: &Store, number: usize, salt: &str) {
    if number >= MOST {
        std::thread::sleep(Duration::from_millis(1));
    } else if once(store, number, salt) {
        println!("{DONE}{number}");
    }
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

/// Another program: what it flushes takes along the names that others have given, and not their bytes.
fn flush(folder: &Path) {
    let mut file = File::create(folder.join("other")).unwrap();
    file.write_all(b"other").unwrap();
    file.sync_all().unwrap();
    std::thread::sleep(Duration::from_millis(1));
}

pub(crate) fn spawn(root: &Path, work: &str, salt: &str) -> Child {
    command(root, work, salt).spawn().unwrap()
}

pub(crate) fn command(root: &Path, work: &str, salt: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child::child", "--exact", "--nocapture"])
        .envs([(ROOT, root.as_os_str()), (WORK, work.as_ref()), (SALT, salt.as_ref())])
        .stdout(Stdio::piped());
    command
}

/// Waits until the child has opened the store.
pub(crate) fn await_work(child: &mut Child) {
    // One by one: what it says next is for others. If it fails first, there is no next byte.
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(BEGINS.as_bytes()) {
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
}

/// How many actions are done. Each is either never done or right.
pub(crate) fn check(root: &Path, actions: usize) -> usize {
    let store = Store::open(root).unwrap();
    assert_eq!(staged(&store), 0, "staging was not swept");
    let done = (0..actions).filter(|number| match store.lookup(&key(&action(*number))).unwrap() {
        Lookup::Miss(reason) => {
            assert_eq!(reason, MissReason::Never, "action {number}");
            false
        }
        Lookup::Hit(_) => true,
    });
    done.count()
}

/// Reads every byte: each artifact is what its name says, also those without a record.
pub(crate) fn check_all(root: &Path, actions: usize) -> usize {
    let store = Store::open(root).unwrap();
    let report = store.verify(&VerifyOptions::default(), &|_, _| {}).unwrap();
    assert!(report.bad_records.is_empty(), "{:?}", report.bad_records);
    let stored = report.artifacts.iter().chain(&report.files);
    let bad: Vec<_> = stored.filter(|stored| stored.verdict != Verdict::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    for number in 0..actions {
        if let Lookup::Hit(record) = store.lookup(&key(&action(number))).unwrap() {
            let digest = record.outputs["out"];
            assert_eq!(tree_digest(&store.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
        }
    }
    check(root, actions)
}
