//! What a hit, data outside the store and its upkeep cost: `cargo bench -p restage-cache`. Writes about 3 GiB to a
//! temporary folder.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made says so by panicking")]
#![expect(clippy::disallowed_methods, reason = "it makes the files that it measures with")]

#[path = "../tests/cache/common.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Files, key, publish, record};
use restage_cache::{GcOptions, Lookup, Store, VerifyOptions, tree_digest};
use tempfile::TempDir;

/// The median of several runs, in milliseconds.
fn measure<T>(what: &str, runs: usize, mut act: impl FnMut() -> T) {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            act();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what}: {:.3} ms (from {:.3} to {:.3})", times[runs / 2], times[0], times[runs - 1]);
}

fn a_hit() {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let content: Files = (0..4_096).map(|i| (format!("c/{}/{i}", i % 16), vec![7; 9])).collect();
    let digest = publish(&store, &content).digest;
    store.record(&key("k"), &record(&[("out", digest)])).unwrap();
    let is_hit = |store: &Store| assert!(matches!(store.lookup(&key("k")).unwrap(), Lookup::Hit(_)));
    measure("opening and a hit of 4,096 files", 50, || is_hit(&Store::open(temp.path()).unwrap()));
    measure("the hit again in that process", 50, || is_hit(&store));
}

fn data_outside() {
    let temp = TempDir::new().unwrap();
    let store = Store::open(&temp.path().join("cache")).unwrap();
    let (image, tiles) = (temp.path().join("image"), temp.path().join("tiles"));
    fs::write(&image, vec![7; 1 << 30]).unwrap();
    fs::create_dir(&tiles).unwrap();
    (0..4_096).for_each(|i| fs::write(tiles.join(i.to_string()), vec![7; 10_000]).unwrap());
    std::thread::sleep(Duration::from_millis(2_100));
    for (what, path) in [("1 GiB", &image), ("4,096 files of 10 kB", &tiles)] {
        measure(&format!("{what}, read"), 5, || tree_digest(path).unwrap());
        measure(&format!("{what}, the first time"), 1, || store.digest_outside(path).unwrap());
        measure(&format!("{what}, again"), 20, || store.digest_outside(path).unwrap());
    }
}

fn keeping_a_store() {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    for number in 0..20 {
        let own = |i| format!("{number} {i}").repeat(2_000).into_bytes();
        let content: Files = (0..1_000).map(|i| (format!("c/{i}"), own(i))).collect();
        let digest = publish(&store, &content).digest;
        store.record(&key(&number.to_string()), &record(&[("out", digest)])).unwrap();
    }
    let large: Files = [("large".to_owned(), vec![7; 1 << 30])].into();
    publish(&store, &large);
    let everything = VerifyOptions::default();
    measure("a plan for 20,000 files", 5, || store.plan_gc(&GcOptions::default()).unwrap());
    measure("usage", 5, || store.usage().unwrap());
    measure("verify, 20,000 files and 1 GiB", 3, || store.verify(&everything, &|_, _| {}).unwrap());
}

fn main() {
    a_hit();
    data_outside();
    keeping_a_store();
}
