//! Seconds of one step (forward, backward, AdamW) of an encoder on the first GPU, and its loss before the last:
//! `cargo run --release -p restage-ssl-cuda --example steps_cuda -- mlp|cnn|resnet|vit [steps]`. One line of JSON, which
//! `tests/bench/train.py --cuda` sets beside PyTorch's.

#![expect(clippy::unwrap_used, reason = "a measurement ends with what went wrong")]

use std::time::Instant;

use restage_nn::Device;
use restage_ssl_core::bench::{Task, step};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let task: Task = serde_json::from_value(arguments.next().unwrap().into()).unwrap();
    let steps: usize = arguments.next().map_or(10, |steps| steps.parse().unwrap());
    let device = restage_ssl_cuda::cuda(0).unwrap();
    let [mut here, mut there] =
        [None, Some(&device as &dyn Device)].map(|device| step(task, device).unwrap());
    // Ten steps on both: losses of the same weights on the same data.
    let losses: Vec<[f32; 2]> = (0..10).map(|_| [here(), there()]).collect();
    let far = losses.iter().map(|[a, b]| (a - b).abs() / a.abs()).fold(0.0, f32::max);
    let mut seconds: Vec<f64> = (0..steps)
        .map(|_| {
            let start = Instant::now();
            there();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let device = device.name();
    println!(
        "{}",
        serde_json::json!({ "seconds": seconds[steps / 2], "least": seconds[0], "far": far, "loss": losses[9][1], "device": device })
    );
}
