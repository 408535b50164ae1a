//! A stage that tells what it computes on.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use restage_stage::{Context, Error, Ports, Result, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// Tells what it computes on.
pub(crate) struct Device;

/// Params of `test/device`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeviceParams {
    /// What tells it from its like. Default empty.
    name: String,
    /// A folder in which it marks its GPUs as taken while it runs; it fails if one is. Default none.
    taken: Option<PathBuf>,
    /// Whether it names its thread as CUDA does; it fails if it may not. Default no.
    names: bool,
    /// How long it takes, in milliseconds. Default 0.
    sleep: u64,
}

impl Stage for Device {
    const NAME: &'static str = "device";
    type Params = DeviceParams;

    fn ports() -> Ports {
        Ports::new("Tells what it computes on.").output::<Text>("text", "The device, and which GPUs it sees.")
    }

    fn run(params: DeviceParams, ctx: &Context) -> Result<()> {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "all".into());
        let gpus = visible.split(',').filter(|gpu| !gpu.is_empty());
        let marks: Vec<PathBuf> =
            params.taken.iter().flat_map(|taken| gpus.clone().map(|gpu| taken.join(gpu))).collect();
        for (mark, gpu) in marks.iter().zip(gpus) {
            match std::fs::create_dir(mark) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Err(Error::invalid(format!("somebody else has {gpu}")));
                }
                made => made.map_err(Error::io(mark))?,
            }
        }
        if params.names {
            let thread = Path::new("/proc/thread-self/comm");
            std::fs::write(thread, "cuda").map_err(Error::io(thread))?;
        }
        std::thread::sleep(Duration::from_millis(params.sleep));
        for mark in &marks {
            std::fs::remove_dir(mark).map_err(Error::io(mark))?;
        }
        ctx.write("text", &Text(format!("{:?} {visible}", ctx.device())))
    }
}
