//! How fast results get into the store, beside what the machine can do at best: `cargo bench -p restage-cache --bench
//! publish`. Writes about 10 GiB to a temporary folder (`TMPDIR`), which should be on the disk that is to be measured.
//!
//! The last lines are ratios, each of two medians of one run.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made says so by panicking")]
#![expect(clippy::disallowed_methods, reason = "it makes the files that it measures with")]

#[path = "../tests/cache/common.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod common;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::{key, record};
use divan::Bencher;
use rayon::prelude::*;
use restage_cache::{Lookup, Staging, Store};
use tempfile::TempDir;

/// 1 GiB in 4,096 files.
const FILES: usize = 4_096;
const BYTES: usize = 1 << 18;

/// How many small artifacts.
const SMALL: usize = 1_000;

/// Seconds by what was measured.
static SEEN: Mutex<Vec<(&str, f64)>> = Mutex::new(Vec::new());

fn timed<T>(what: &'static str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = act();
    SEEN.lock().unwrap().push((what, start.elapsed().as_secs_f64()));
    result
}

fn median(what: &str) -> Option<f64> {
    let seen = SEEN.lock().unwrap();
    let mut times: Vec<f64> = seen.iter().filter(|(name, _)| *name == what).map(|(_, time)| *time).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Bytes that no two files share.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut content = vec![0; bytes];
    reader.fill(&mut content);
    content
}

/// A different number each time, so that nothing is stored already.
fn fresh() -> u64 {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1 << 20, Ordering::Relaxed) as u64
}

fn write_gibibyte(folder: &Path) {
    let seed = fresh();
    for shard in 0..16 {
        fs::create_dir(folder.join(shard.to_string())).unwrap();
    }
    (0..FILES).into_par_iter().for_each(|i| {
        fs::write(folder.join((i % 16).to_string()).join(i.to_string()), content(seed + i as u64, BYTES))
            .unwrap();
    });
}

fn sync(folder: &Path) {
    rustix::fs::syncfs(File::open(folder).unwrap()).unwrap();
}

/// What `publish` cannot be faster than: each file hashed by blake3's own threads, and one flush.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn gibibyte_hashed_and_flushed(bencher: Bencher<'_, '_>) {
    let temp = TempDir::new().unwrap();
    let folder = temp.path().join("tree");
    let input = || {
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).unwrap();
        sync(temp.path());
        write_gibibyte(&folder);
    };
    bencher.with_inputs(input).bench_local_values(|()| {
        timed("hash and flush", || {
            for i in 0..FILES {
                let path = folder.join((i % 16).to_string()).join(i.to_string());
                divan::black_box(blake3::Hasher::new().update_mmap_rayon(path).unwrap().finalize());
            }
            sync(&folder);
        });
    });
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn gibibyte_published(bencher: Bencher<'_, '_>) {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let input = || -> Staging {
        for kind in ["artifacts", "files"] {
            fs::remove_dir_all(temp.path().join("v1").join(kind)).unwrap();
            fs::create_dir(temp.path().join("v1").join(kind)).unwrap();
        }
        sync(temp.path());
        let staging = store.staging().unwrap();
        fs::create_dir(staging.path().join("out")).unwrap();
        write_gibibyte(&staging.path().join("out"));
        staging
    };
    bencher.with_inputs(input).bench_local_values(|staging| {
        timed("publish", || store.publish(&staging.path().join("out")).unwrap());
        staging
    });
}

/// The whole answer to "did anything change?", in the process that has just published.
#[divan::bench(sample_count = 20)]
fn nothing_changed(bencher: Bencher<'_, '_>) {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let staging = store.staging().unwrap();
    fs::create_dir(staging.path().join("out")).unwrap();
    write_gibibyte(&staging.path().join("out"));
    let digest = store.publish(&staging.path().join("out")).unwrap().digest;
    store.record(&key("a"), &record(&[("out", digest)])).unwrap();
    bencher.bench_local(|| {
        timed("no change", || assert!(matches!(store.lookup(&key("a")), Ok(Lookup::Hit(_)))))
    });
}

/// An artifact of two small files.
fn write_small(folder: &Path, seed: u64) {
    fs::create_dir_all(folder.join("c")).unwrap();
    fs::write(folder.join("zarr.json"), content(seed, 300)).unwrap();
    fs::write(folder.join("c/0"), content(seed + 1, 900)).unwrap();
}

/// What the file system takes: the same files, folders, links and renames in as many threads, and three flushes in all.
#[divan::bench(args = [1, 8, 64], sample_count = 3, sample_size = 1)]
fn small_ones_by_hand(bencher: Bencher<'_, '_>, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    bencher.with_inputs(|| TempDir::new().unwrap()).bench_local_values(|temp| {
        let name = match threads {
            1 => "by hand, 1",
            8 => "by hand, 8",
            _ => "by hand, 64",
        };
        timed(name, || {
            let top = temp.path();
            let seed = fresh();
            pool.install(|| {
                (0..SMALL).into_par_iter().with_max_len(1).for_each(|i| {
                    let work = top.join(format!("work{i}"));
                    write_small(&work.join("tree"), seed + 2 * i as u64);
                    fs::write(work.join("manifest"), content(0, 200)).unwrap();
                    fs::rename(&work, top.join(i.to_string())).unwrap();
                    fs::hard_link(top.join(format!("{i}/tree/c/0")), top.join(format!("f{i}"))).unwrap();
                    fs::hard_link(top.join(format!("{i}/tree/zarr.json")), top.join(format!("g{i}")))
                        .unwrap();
                    fs::create_dir(top.join(format!("a{i}"))).unwrap();
                    fs::write(top.join(format!("a{i}/record")), content(0, 500)).unwrap();
                })
            });
            (0..3).for_each(|_| sync(top));
        });
        temp
    });
}

/// Published and recorded, each on disk before the next step of its own.
#[divan::bench(args = [1, 8, 64], sample_count = 3, sample_size = 1)]
fn small_ones_published(bencher: Bencher<'_, '_>, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    bencher.with_inputs(|| TempDir::new().unwrap()).bench_local_values(|temp| {
        let name = match threads {
            1 => "published, 1",
            8 => "published, 8",
            _ => "published, 64",
        };
        timed(name, || {
            let store = Store::open(temp.path()).unwrap();
            let seed = fresh();
            pool.install(|| {
                (0..SMALL).into_par_iter().with_max_len(1).for_each(|i| {
                    let staging = store.staging().unwrap();
                    write_small(&staging.path().join("out"), seed + 2 * i as u64);
                    let digest = store.publish(&staging.path().join("out")).unwrap().digest;
                    store.record(&key(&format!("{seed} {i}")), &record(&[("out", digest)])).unwrap();
                })
            });
        });
        temp
    });
}

fn main() {
    divan::main();
    let ratio = |what: &str, to: &str| {
        if let (Some(a), Some(b)) = (median(what), median(to)) {
            println!("{what} / {to}: {:.2} ({a:.3} s / {b:.3} s)", a / b);
        }
    };
    ratio("publish", "hash and flush");
    for threads in ["1", "8", "64"] {
        ratio(&format!("published, {threads}"), &format!("by hand, {threads}"));
    }
    if let Some(seconds) = median("no change") {
        println!("no change: {:.3} ms", seconds * 1e3);
    }
}
