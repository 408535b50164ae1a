//! Seconds of each step from counts on disk to components, in memory, in a process's first call and in its second, and the
//! most memory of the first: `cargo run --release -p restage-visium --example preprocess -- COUNTS`, COUNTS an HDF5 file or the
//! folder of a triple; or from the image of an `outs` folder to stained patches: `… -- OUTS --patches SIZE`. One line of JSON,
//! which `tests/bench/preprocess.py` reads.

#![expect(clippy::unwrap_used, reason = "a measurement ends with what went wrong")]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use restage_visium::steps;
use serde_json::{Map, Value, json};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().unwrap());
    let size = match arguments.next().as_deref() {
        Some("--patches") => Some(arguments.next().unwrap().parse().unwrap()),
        _ => None,
    };
    let first = call(&path, size);
    let peak: u64 = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    let again = call(&path, size);
    let total = |laps: &Map<String, Value>| laps.values().filter_map(Value::as_f64).sum::<f64>();
    println!(
        "{}",
        json!({ "seconds": total(&first), "again": total(&again), "steps": first, "memory": peak * 1024 })
    );
}

/// Seconds of each step.
fn call(path: &Path, size: Option<usize>) -> Map<String, Value> {
    let mut last = Instant::now();
    let mut laps = Map::new();
    let mut lap = |name: &str| {
        laps.insert(name.to_owned(), json!(last.elapsed().as_secs_f64()));
        last = Instant::now();
    };
    if let Some(size) = size {
        let (table, images) = steps::image(path).unwrap();
        lap("read");
        let mut patches = steps::cut(&table, images, size).unwrap();
        lap("cut");
        steps::stain(&mut patches, &table).unwrap();
        lap("stain");
    } else {
        let table = steps::read(path).unwrap();
        lap("read");
        let table = steps::clean(table).unwrap();
        lap("clean");
        let table = steps::normalize(table).unwrap();
        lap("normalize");
        steps::components(&table).unwrap();
        lap("components");
    }
    laps
}
