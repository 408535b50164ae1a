//! Seconds of each step from counts on disk to components, in memory, and the most memory that the process ever had:
//! `cargo run --release -p restage-visium --example preprocess -- COUNTS [THREADS]`, COUNTS an HDF5 file or the folder of a
//! triple. One line of JSON, which `tests/bench/preprocess.py` reads.

#![expect(clippy::unwrap_used, reason = "a measurement ends with what went wrong")]

use std::{path::PathBuf, time::Instant};

use restage_visium::steps;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let counts = PathBuf::from(arguments.next().unwrap());
    let threads = arguments.next().map_or(0, |threads| threads.parse().unwrap());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut last = Instant::now();
        let mut lap = |name: &str| {
            let seconds = last.elapsed().as_secs_f64();
            last = Instant::now();
            (name.to_owned(), serde_json::json!(seconds))
        };
        let mut laps = serde_json::Map::new();
        let table = steps::read(&counts).unwrap();
        laps.extend([lap("read")]);
        let table = steps::clean(table).unwrap();
        laps.extend([lap("clean")]);
        let table = steps::normalize(table).unwrap();
        laps.extend([lap("normalize")]);
        let scores = steps::components(&table).unwrap();
        laps.extend([lap("components")]);
        let peak: u64 = std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap();
        let total: f64 = laps.values().filter_map(serde_json::Value::as_f64).sum();
        let told = serde_json::json!({
            "seconds": total, "steps": laps, "memory": peak * 1024, "scores": scores.len(), "values": table.x.data.len(),
        });
        println!("{told}");
    });
}
