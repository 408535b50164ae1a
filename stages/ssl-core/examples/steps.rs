//! Seconds of one step (forward, backward, AdamW) of an encoder, on random data of fixed sizes, and the most memory that the
//! process had: `cargo run --release -p restage-ssl-core --example steps -- mlp|cnn|resnet|vit [steps]`. One line of JSON, which
//! `tests/bench/train.py` sets beside PyTorch's.

#![expect(clippy::unwrap_used, reason = "a measurement ends with what went wrong")]

use std::time::Instant;

use restage_ssl_core::bench::{Task, step};

/// In a pool of threads, as a host runs a stage.
fn main() {
    rayon::ThreadPoolBuilder::new().build().unwrap().install(measure);
}

fn measure() {
    let mut arguments = std::env::args().skip(1);
    let net: Task = serde_json::from_value(arguments.next().unwrap().into()).unwrap();
    let steps: usize = arguments.next().map_or(10, |steps| steps.parse().unwrap());
    let mut step = step(net, None).unwrap();
    step();
    let mut seconds: Vec<f64> = (0..steps)
        .map(|_| {
            let start = Instant::now();
            step();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let peak: u64 = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    println!("{}", serde_json::json!({ "seconds": seconds[0], "memory": peak * 1024 }));
}
