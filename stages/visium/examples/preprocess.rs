//! Seconds of each step from counts on disk to components, in memory, and the most memory that the process ever had:
//! `cargo run --release -p restage-visium --example preprocess -- COUNTS`, COUNTS an HDF5 file or the folder of a
//! triple; or from the image of an `outs` folder to stained patches: `… -- OUTS --patches SIZE`. One line of JSON, which `tests/bench/preprocess.py` reads.

#![expect(clippy::unwrap_used, reason = "a measurement ends with what went wrong")]

use std::{path::PathBuf, time::Instant};

use restage_visium::steps;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().unwrap());
    let size = match arguments.next().as_deref() {
        Some("--patches") => Some(arguments.next().unwrap().parse().unwrap()),
        _ => None,
    };
    let mut last = Instant::now();
    let mut laps = serde_json::Map::new();
    let mut lap = |name: &str| {
        laps.insert(name.to_owned(), serde_json::json!(last.elapsed().as_secs_f64()));
        last = Instant::now();
    };
    if let Some(size) = size {
        let (table, images) = steps::image(&path).unwrap();
        lap("read");
        let mut patches = steps::cut(&table, images, size).unwrap();
        lap("cut");
        steps::stain(&mut patches, &table).unwrap();
        lap("stain");
    } else {
        let table = steps::read(&path).unwrap();
        lap("read");
        let table = steps::clean(table).unwrap();
        lap("clean");
        let table = steps::normalize(table).unwrap();
        lap("normalize");
        steps::components(&table).unwrap();
        lap("components");
    }
    let peak: u64 = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    let total: f64 = laps.values().filter_map(serde_json::Value::as_f64).sum();
    println!("{}", serde_json::json!({ "seconds": total, "steps": laps, "memory": peak * 1024 }));
}
