//! Sweeps: what goes first, what others do meanwhile, and every operation failing in turn. Random stores are in
//! `gc_oracle.rs`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use serde_json::json;

use crate::area::Area;
use crate::crash::{temp, write};
use crate::durable::{Disk, Op};
use crate::faults::{Fault, Faults, walk};
use crate::tree::hash_file;
use crate::{
    ActionKey, Claiming, Digest, Error, GcOptions, GcPlan, GcReport, Lookup, Record, Store, tree_digest,
};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn key(number: usize) -> ActionKey {
    ActionKey::derive("restage test v1", &number.to_le_bytes())
}

/// An artifact of these files; each has the size of its number times 100.
pub(crate) fn publish(store: &Store, files: &BTreeSet<u8>) -> Digest {
    let staging = store.staging().unwrap();
    let contents: Vec<_> = files
        .iter()
        .map(|n| (format!("c/{n}"), format!("{n:0>size$}", size = usize::from(*n) * 100)))
        .collect();
    let contents: Vec<_> = contents.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    write(&staging.path().join("out"), &contents);
    fs::create_dir_all(staging.path().join("out")).unwrap();
    store.publish(&staging.path().join("out")).unwrap().digest
}

pub(crate) fn record(store: &Store, number: usize, outputs: &[Digest], milliseconds: u64) {
    let outputs = outputs.iter().enumerate().map(|(port, digest)| (port.to_string(), *digest)).collect();
    store
        .record(&key(number), &Record { outputs, provenance: json!({ "milliseconds": milliseconds }) })
        .unwrap();
}

pub(crate) fn age(path: &Path, now: SystemTime, days: u32) {
    File::open(path).unwrap().set_modified(now - DAY * days).unwrap();
}

pub(crate) fn age_record(store: &Store, number: usize, now: SystemTime, days: u32) {
    age(&store.layout().action(&key(number)).join("record.json"), now, days);
}

pub(crate) fn age_artifact(store: &Store, digest: &Digest, now: SystemTime, days: u32) {
    age(&store.layout().artifact(digest), now, days);
    walk(&store.layout().artifact(digest)).iter().filter(|path| path.is_file()).for_each(|path| {
        age(path, now, days);
    });
}

pub(crate) fn sweep_at(store: &Store, options: &GcOptions, now: SystemTime) -> (GcPlan, GcReport) {
    let plan = store.plan_gc_at(options, now).unwrap();
    let report = store.run_gc(&plan, &|_, _| {}).unwrap();
    assert!(report.refused.is_empty(), "{report:?}");
    (plan, report)
}

pub(crate) fn is_hit(store: &Store, number: usize) -> bool {
    let Lookup::Hit(record) = store.lookup(&key(number)).unwrap() else { return false };
    for digest in record.outputs.values() {
        assert_eq!(tree_digest(&store.layout().artifact(digest).join("tree")).unwrap(), *digest);
    }
    true
}

/// Three actions: one kept by its age, one by a pin, one that goes; they share files. And an artifact that nobody has.
fn a_store_to_sweep(root: &Path) -> GcOptions {
    let store = Store::open(root).unwrap();
    let now = SystemTime::now();
    let sets = [vec![1, 2, 3], vec![2, 3, 4], vec![3, 4, 5], vec![6]];
    let digests = sets.map(|files| publish(&store, &files.into_iter().collect()));
    (0..3).for_each(|number| record(&store, number, &[digests[number]], 1));
    store.pin("mine", &[digests[1]].into()).unwrap();
    digests.iter().for_each(|digest| age_artifact(&store, digest, now, 50));
    age_record(&store, 1, now, 40);
    age_record(&store, 2, now, 40);
    let old = store.layout().trash().join("1000-old");
    write(&old, &[("artifacts/x/tree/a", "a"), ("files/y", "y")]);
    GcOptions::default()
}

#[test]
fn every_fault_leaves_what_is_kept_a_hit() {
    for fault in Fault::ALL {
        let mut number = 0;
        loop {
            let temp = temp();
            let options = a_store_to_sweep(temp.path());
            let faults = Faults::at(number, fault);
            faults.trust(temp.path());
            let failed = match Store::open_on(Disk::with(faults), temp.path()) {
                Err(_) => true,
                Ok(store) => {
                    let report = store.plan_gc(&options).and_then(|plan| store.run_gc(&plan, &|_, _| {}));
                    let untroubled = report.is_ok_and(|report| report.refused.is_empty());
                    assert!(untroubled || !fault.is_interruption(), "operation {number}");
                    store.disk().faults.failed().is_some()
                }
            };
            let store = Store::open(temp.path()).unwrap();
            assert!(is_hit(&store, 0) && is_hit(&store, 1), "operation {number}, {fault:?}");
            // A record that is still there points at something.
            let record = store.layout().action(&key(2)).join("record.json");
            let exists = record.exists();
            assert_eq!(is_hit(&store, 2), exists, "operation {number}, {fault:?}");
            if exists {
                age_record(&store, 2, SystemTime::now(), 40);
            }
            let later = SystemTime::now() + DAY * 4;
            sweep_at(&store, &options, SystemTime::now());
            sweep_at(&store, &options, later);
            sweep_at(&store, &options, later);
            assert!(is_hit(&store, 0) && is_hit(&store, 1));
            let files = walk(&store.layout().files()).iter().filter(|path| path.is_file()).count();
            assert_eq!(
                (files, store.usage().unwrap().artifacts.len()),
                (4, 2),
                "operation {number}, {fault:?}"
            );
            if !failed {
                break;
            }
            number += 1;
        }
        assert!(number >= 12 || fault.is_rare(), "{fault:?}: only {number} operations were seen");
    }
}

#[test]
fn what_is_used_after_the_plan_is_spared() {
    let temp = temp();
    let options = a_store_to_sweep(temp.path());
    let store = Store::open(temp.path()).unwrap();
    let plan = store.plan_gc(&options).unwrap();
    assert_eq!(plan.removable[&Area::Records].count, 1);
    assert_eq!(plan.removable[&Area::Artifacts].count, 2);
    assert!(is_hit(&store, 2)); // which touches the record
    publish(&store, &[6].into()); // which touches the artifact
    let report = store.run_gc(&plan, &|_, _| {}).unwrap();
    assert_eq!(report.spared, 3, "{report:?}");
    assert_eq!(report.swept.keys().collect::<Vec<_>>(), [&Area::Trash]);
    assert!(is_hit(&store, 2));

    let plan = store.plan_gc_at(&options, SystemTime::now() + DAY * 10).unwrap();
    let orphan = plan.removals.iter().find(|removal| removal.area == Area::Artifacts).unwrap();
    record(&store, 3, &[orphan.name.parse().unwrap()], 1);
    let report = store.run_gc(&plan, &|_, _| {}).unwrap();
    assert!(report.spared == 1 && is_hit(&store, 3), "a record since then keeps it: {report:?}");
}

#[test]
fn what_is_computed_now_stays_with_what_it_reads() {
    let temp = temp();
    let store = Store::open(temp.path()).unwrap();
    let now = SystemTime::now() + DAY * 365;
    let [read, unread] = [1, 2].map(|file| publish(&store, &[file].into()));
    record(&store, 0, &[read], 1);
    record(&store, 1, &[unread], 1);
    record(&store, 2, &[unread, read], 1);
    let none = BTreeSet::new();
    let plan = store.plan_gc_at(&GcOptions::default(), now).unwrap();
    let Claiming::Ours(claim) = store.claim(&key(9), &[read].into()) else { panic!("nobody else is there") };
    let report = store.run_gc(&plan, &|_, _| {}).unwrap();
    assert_eq!(report.spared, 1, "claimed since the plan: {report:?}");
    record(&store, 0, &[read], 1);

    let (plan, _) = sweep_at(&store, &GcOptions::default(), now);
    assert_eq!((plan.kept_by.claims, plan.kept[&Area::Artifacts].count), (1, 1));
    assert!(is_hit(&store, 0) && !is_hit(&store, 2), "the record of what is read stays with it");
    let Claiming::Ours(again) = store.claim(&key(0), &none) else { panic!("nobody else is there") };
    drop(claim);
    sweep_at(&store, &GcOptions::default(), now);
    assert!(is_hit(&store, 0), "a result that is being computed once more");
    drop(again);
    sweep_at(&store, &GcOptions::default(), now);
    assert!(!is_hit(&store, 0));
}

#[test]
fn a_record_that_is_not_ours_to_touch_is_replaced_by_a_copy() {
    let temp = temp();
    a_store_to_sweep(temp.path());
    let store = Store::open_on(Disk::with(Faults::at(0, Fault::Undone(Errno::PERM))), temp.path()).unwrap();
    let place = store.layout().action(&key(2)).join("record.json");
    let (before, since) = (fs::read(&place).unwrap(), SystemTime::now() - Duration::from_secs(60));
    assert!(is_hit(&store, 2));
    assert_eq!(store.disk().faults.failed(), Some(Op::Touch));
    assert_eq!(fs::read(&place).unwrap(), before);
    assert!(fs::metadata(&place).unwrap().modified().unwrap() > since);
    assert_eq!(fs::read_dir(store.layout().stagings()).unwrap().count(), 0);
}

#[test]
fn a_root_that_cannot_be_read_stops_the_sweep() {
    let temp = temp();
    let options = a_store_to_sweep(temp.path());
    let store = Store::open(temp.path()).unwrap();
    let before = walk(&store.layout().artifacts());
    let pin = store.layout().pins().join("torn.json");
    let plan = store.plan_gc(&options).unwrap();
    fs::write(&pin, "{\"version\":1").unwrap();
    assert!(matches!(store.plan_gc(&options), Err(Error::Pin { path, .. }) if path == pin));
    assert!(store.run_gc(&plan, &|_, _| {}).is_err(), "nor what was planned before");
    assert_eq!(walk(&store.layout().artifacts()), before);
    fs::remove_file(&pin).unwrap();

    let home = store.layout().action(&key(9));
    write(&home, &[("record.json", "{\"version\": 2}")]);
    assert!(matches!(store.plan_gc(&options), Err(Error::NewerRecord { found: 2, .. })));
    fs::remove_dir_all(&home).unwrap();
    fs::remove_dir_all(store.layout().actions()).unwrap();
    assert!(matches!(store.plan_gc(&options), Err(Error::Io { .. })));
    assert_eq!(walk(&store.layout().artifacts()), before);
}

#[test]
fn what_is_cheap_to_compute_again_goes_first() {
    let temp = temp();
    let store = Store::open(temp.path()).unwrap();
    let now = SystemTime::now();
    // Large and quick, large and slow, small and quick; one of no bytes; one as the first, but younger.
    let sets = [vec![10], vec![11], vec![1], vec![], vec![12]];
    let digests = sets.map(|files| publish(&store, &files.into_iter().collect()));
    for (number, (milliseconds, days)) in
        [(10, 9), (100_000, 9), (10, 9), (0, 9), (12, 8)].into_iter().enumerate()
    {
        record(&store, number, &[digests[number]], milliseconds);
        age_record(&store, number, now, days);
        age_artifact(&store, &digests[number], now, 9);
    }
    let plan = |max_bytes| {
        let options = GcOptions { max_bytes: Some(max_bytes), ..GcOptions::default() };
        let plan = store.plan_gc_at(&options, now).unwrap();
        let gone = (0..5).filter(|n| plan.removals.iter().any(|removal| removal.name == key(*n).to_string()));
        (gone.collect::<Vec<_>>(), plan.over)
    };
    assert_eq!(plan(3_400), (vec![], 0));
    assert_eq!(plan(3_399), (vec![0], 0), "of two that are worth the same the older one");
    assert_eq!(plan(2_000), (vec![0, 4], 0));
    assert_eq!(plan(1_100), (vec![0, 2, 4], 0));
    assert_eq!(plan(0), (vec![0, 1, 2, 4], 0), "what takes nothing stays");
    store.pin("slow", &[digests[1]].into()).unwrap();
    assert_eq!(plan(0), (vec![0, 2, 4], 1_100), "a pin is not given up for that");
    age_record(&store, 0, now, 1);
    assert_eq!(plan(0), (vec![2, 4], 2_100), "nor what is young");
}

#[test]
fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let temp = temp();
    let store = Store::open(temp.path()).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let ours = store.scratch(&key(0)).unwrap();
    write(&ours, &[("epoch", "3")]);
    let us = format!(".{}.", std::process::id());
    let dead = ours.to_str().unwrap().replace(&us, &format!(".{}.", child.id()));
    let name = ours.file_name().unwrap().to_str().unwrap().split_once('.').unwrap();
    let elsewhere = ours.with_file_name(format!("{}.x{}", name.0, name.1));
    write(Path::new(&dead), &[("epoch", "2")]);
    write(&elsewhere, &[("epoch", "1")]);
    let staged = store.layout().stagings().join(format!("x{}", name.1));
    write(&staged, &[("half", "x")]);
    let data = temp.path().join("data");
    let lasting = temp.path().join("lasting");
    [&data, &lasting].iter().for_each(|path| fs::write(path, "x").unwrap());
    [&data, &lasting].iter().for_each(|path| age(path, SystemTime::now(), 1));
    for path in [&data, &lasting] {
        std::thread::sleep(Duration::from_millis(20)); // longer than a clock ticks
        store.digest_with(path, Duration::from_millis(10), &hash_file).unwrap();
    }
    fs::remove_file(&data).unwrap();

    let options = GcOptions::default();
    let now = SystemTime::now();
    assert!(sweep_at(&store, &options, now + DAY).0.removals.is_empty(), "all of it is young");
    sweep_at(&store, &options, now + DAY * 4);
    assert!(!Path::new(&dead).exists() && ours.exists() && elsewhere.exists() && staged.exists());
    assert_eq!(fs::read_dir(store.layout().outsides()).unwrap().count(), 1);
    sweep_at(&store, &options, now + DAY * 31);
    assert!(!elsewhere.exists() && !staged.exists() && ours.join("epoch").exists());
    assert!(store.layout().outside(&fs::canonicalize(&lasting).unwrap()).exists());
}

#[test]
fn a_result_that_disagrees_is_swept_by_its_own_age() {
    let temp = temp();
    let store = Store::open(temp.path()).unwrap();
    let now = SystemTime::now();
    let [first, other] = [1, 2].map(|file| publish(&store, &[file].into()));
    record(&store, 0, &[first], 1);
    record(&store, 0, &[other], 1);
    [first, other].iter().for_each(|digest| age_artifact(&store, digest, now, 50));
    assert!(sweep_at(&store, &GcOptions::default(), now).0.removals.is_empty());
    let seen = store.layout().action(&key(0)).join("seen");
    fs::read_dir(&seen).unwrap().for_each(|entry| age(&entry.unwrap().path(), now, 40));
    sweep_at(&store, &GcOptions::default(), now);
    assert!(is_hit(&store, 0) && store.artifact(&other).unwrap().is_none());
    sweep_at(&store, &GcOptions::default(), now + DAY * 40);
    sweep_at(&store, &GcOptions::default(), now + DAY * 80);
    assert!(!seen.exists() && !seen.parent().unwrap().exists(), "empty folders of old actions go");
    record(&store, 0, &[publish(&store, &[1].into())], 1);
    assert!(is_hit(&store, 0));
}

#[test]
fn many_sweeps_and_publications_at_once_are_all_right() {
    let temp = temp();
    let store = Store::open(temp.path()).unwrap();
    let options = GcOptions::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..30 {
                    let plan = store.plan_gc(&options).unwrap();
                    let report = store.run_gc(&plan, &|_, _| {}).unwrap();
                    assert!(report.refused.is_empty(), "{report:?}");
                }
            });
        }
        for number in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..40u8 {
                    let digest = publish(store, &[round % 8, number + 10].into());
                    let outputs = [("0".to_owned(), digest)].into();
                    let recorded = Record { outputs, provenance: json!({ "milliseconds": 1 }) };
                    match store.record(&key(usize::from(round)), &recorded) {
                        // A sweep has it in hand, and puts it back as it is young again.
                        Err(Error::Unpublished { .. }) => {}
                        other => drop(other.unwrap()),
                    }
                    // For the sweeps there is always something old. One of them may have taken it by now.
                    let record = store.layout().action(&key(usize::from(round))).join("record.json");
                    for path in [record, store.layout().artifact(&digest)] {
                        match File::open(path) {
                            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => {}
                            file => file.unwrap().set_modified(SystemTime::now() - DAY * 40).unwrap(),
                        }
                    }
                }
            });
        }
    });
    let digest = publish(&store, &[7, 1].into());
    record(&store, 99, &[digest], 1);
    assert!(is_hit(&store, 99));
}
