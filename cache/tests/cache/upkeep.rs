//! Keeping a store: pins, when a record was last of use, sweeps, who holds the space.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::{files, key, publish, record, within};
use restage_cache::{Area, Digest, Error, GcOptions, Lookup, Store};
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    (temp, store)
}

#[test]
fn a_pin_is_kept_until_it_is_removed() {
    let (_temp, store) = store();
    let [one, two] = ["1", "2"].map(|content| publish(&store, &files(&[("a", content)])).digest);
    assert_eq!(store.pins().unwrap(), []);
    assert_eq!(store.pin("paper-2.v1", &[one].into()).unwrap().artifacts, [one].into());
    let pin = store.pin("paper-2.v1", &[one, two].into()).unwrap();
    assert_eq!(Store::open(store.root()).unwrap().pins().unwrap(), std::slice::from_ref(&pin));
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(pin.created);
    assert!(SystemTime::now().duration_since(since).unwrap() < Duration::from_secs(60));
    for bad in ["", ".", "..", ".a", "a/b", "../a", "a b", "ä", "-a", "a\0", &"a".repeat(101)] {
        assert!(matches!(store.pin(bad, &[one].into()), Err(Error::PinName(name)) if name == bad));
        assert!(matches!(store.unpin(bad), Err(Error::PinName(_))));
    }
    let nowhere = Digest::of(b"nowhere");
    let refused = store.pin("b", &[one, nowhere].into());
    assert!(matches!(refused, Err(Error::NothingToPin { digest, .. }) if digest == nowhere));
    assert!(store.unpin("paper-2.v1").unwrap() && !store.unpin("paper-2.v1").unwrap());
    assert_eq!(store.pins().unwrap(), []);
}

#[test]
fn a_hit_is_noted_once_a_day() {
    let (_temp, store) = store();
    let digest = publish(&store, &files(&[("a", "1")])).digest;
    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
    let path = within(&store, "actions", key("k").as_digest()).join("record.json");
    let now = SystemTime::now();
    for (hours, noted) in [(1, false), (23, false), (25, true), (9_999, true)] {
        let then = now - Duration::from_secs(hours * 3_600);
        File::open(&path).unwrap().set_modified(then).unwrap();
        assert!(matches!(store.lookup(&key("k")).unwrap(), Lookup::Hit(_)));
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(modified != then, noted, "{hours} hours");
        assert!(!noted || modified > now - Duration::from_secs(60));
    }
}

#[test]
fn it_is_known_who_holds_the_space() {
    let (_temp, store) = store();
    let [a, b, c] = [("x", "y"), ("x", "z"), ("w", "w")].map(|(first, second)| {
        let content = files(&[("1", &first.repeat(1_000)), ("2", &second.repeat(300))]);
        publish(&store, &content).digest
    });
    store.record(&key("k"), &record(&[("out", a)])).unwrap();
    let staging = store.staging().unwrap();
    fs::write(staging.path().join("half"), "1234567").unwrap();
    fs::write(store.folder("runs").unwrap().join("log"), "12345").unwrap();
    let usage = store.usage().unwrap();
    let of = |digest| usage.artifacts.iter().find(|one| one.digest == digest).unwrap();
    assert_eq!((of(a).files, of(a).bytes, of(a).own), (Some(2), 1_300, 300));
    assert_eq!((of(b).bytes, of(b).own, of(c).own), (1_300, 300, 1_300));
    let area = |area| usage.areas[&area];
    assert_eq!((area(Area::Files).files, area(Area::Files).bytes, area(Area::Files).alone), (5, 2_900, 0));
    let manifests = area(Area::Artifacts).alone;
    assert_eq!(area(Area::Artifacts).bytes, 2_900 + manifests);
    assert_eq!((area(Area::Staging).bytes, area(Area::Records).files), (7, 1));
    let format =
        "restage-cache 1\n".len() as u64 + fs::metadata(store.root().join("CACHEDIR.TAG")).unwrap().len();
    assert_eq!(area(Area::Other).bytes, 5 + format);
    let alone: u64 = usage.areas.values().map(|area| area.alone).sum();
    assert_eq!(usage.bytes, alone + 2_900);

    let gone = Digest::of(b"gone");
    let labels: BTreeMap<&str, BTreeSet<Digest>> =
        [("one", [a].into()), ("two", [a, b].into()), ("three", [b, c, gone].into()), ("none", [].into())]
            .into();
    let shares = usage.by_label(&labels);
    let share = |label| (shares[label].bytes, shares[label].only, shares[label].missing);
    assert_eq!([share("one"), share("two")], [(1_300, 0, 0), (1_600, 0, 0)]);
    assert_eq!([share("three"), share("none")], [(2_600, 1_300, 1), (0, 0, 0)]);
}

#[test]
fn a_sweep_says_what_it_does_and_frees_it_later() {
    let (_temp, store) = store();
    let digest = publish(&store, &files(&[("a", "four")])).digest;
    let place = within(&store, "artifacts", &digest);
    let old = SystemTime::now() - Duration::from_secs(100 * 3_600);
    let age = |path: &Path| File::open(path).unwrap().set_modified(old).unwrap();
    [place.join("tree/a"), place.clone()].iter().for_each(|path| age(path));
    let plan = store.plan_gc(&GcOptions::default()).unwrap();
    assert_eq!(plan.removals.len(), 2, "{plan:?}");
    assert!(place.exists(), "a plan removes nothing");
    let (steps, last) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = store.run_gc(&plan, &|done, total| {
        steps.fetch_add(1, Ordering::Relaxed);
        last.store(total - done, Ordering::Relaxed);
    });
    assert_eq!((steps.into_inner(), last.into_inner()), (2, 0));
    assert_eq!(report.unwrap().swept, plan.removable);
    assert_eq!(store.artifact(&digest).unwrap(), None);
    assert_eq!(store.usage().unwrap().areas[&Area::Trash].files, 3);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["removable"]["artifacts"]["count"], 1);
}
