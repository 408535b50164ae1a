//! Stages that give something else each time they run, on purpose.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use restage_stage::{Artifact, Context, Error, Ports, Result, Stage, Tolerance, catalogue::PortType};

use crate::{text::Text, typed::NoParams};

/// Nanoseconds since 1970.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

/// Writes the time.
pub(crate) struct Clock;

impl Stage for Clock {
    const NAME: &'static str = "clock";
    type Params = NoParams;

    fn ports() -> Ports {
        Ports::new("Writes the time, which is another one each time.")
            .optional::<Text>("text", "Not read.")
            .output::<Text>("text", "The time.")
    }

    fn run(_: NoParams, ctx: &Context) -> Result<()> {
        ctx.write("text", &Text(format!("{:020}", now())))
    }
}

/// Writes numbers that are hardly the same each time.
pub(crate) struct Noise;

impl Stage for Noise {
    const NAME: &'static str = "noise";
    const TOLERANCE: Option<Tolerance> = Some(Tolerance { absolute: 1e-6, relative: 0.0 });
    type Params = NoParams;

    fn ports() -> Ports {
        Ports::new("Writes numbers that are hardly the same each time.").output::<Numbers>("numbers", "They.")
    }

    fn run(_: NoParams, ctx: &Context) -> Result<()> {
        // Below 1e-7, and in another digit of 1.0 each nanosecond or two.
        let noise = (now() % 1_000_000_000) as f64 * 1e-16;
        ctx.write("numbers", &Numbers([1.0, 2.0, 3.0 + noise, 1.0 + noise]))
    }
}

/// Numbers as a Zarr array, and the last of them as a metric; written by hand, so that the tests' plugin needs no Zarr.
struct Numbers([f64; 4]);

impl Artifact for Numbers {
    const PORT: PortType = PortType::Metrics;

    fn read(path: &Path) -> Result<Self> {
        Err(Error::invalid(format!("nobody reads {}", path.display())))
    }

    fn write(&self, path: &Path) -> Result<()> {
        let group = serde_json::json!({
            "zarr_format": 3, "node_type": "group", "attributes": { "metrics": { "last": self.0[3] } },
        });
        let array = serde_json::json!({
            "zarr_format": 3, "node_type": "array", "shape": [4], "data_type": "float64", "fill_value": 0.0,
            "chunk_grid": { "name": "regular", "configuration": { "chunk_shape": [4] } },
            "chunk_key_encoding": { "name": "default", "configuration": { "separator": "/" } },
            "codecs": [{ "name": "bytes", "configuration": { "endian": "little" } }],
        });
        let chunk: Vec<u8> = self.0.iter().flat_map(|number| number.to_le_bytes()).collect();
        let files = [
            ("zarr.json", group.to_string().into_bytes()),
            ("values/zarr.json", array.to_string().into_bytes()),
            ("values/c/0", chunk),
        ];
        std::fs::create_dir_all(path.join("values/c")).map_err(Error::io(path))?;
        for (name, bytes) in files {
            let file = path.join(name);
            std::fs::write(&file, bytes).map_err(Error::io(&file))?;
        }
        Ok(())
    }
}
