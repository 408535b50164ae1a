//! How long pretraining takes here: `cargo run --release -p restage-ssl --example speed`.

use std::{collections::BTreeMap, path::Path, time::Instant};

use rand::Rng;
use restage_ssl::{Pretrain, PretrainParams};
use restage_stage::{
    Context, Result, Stage,
    artifact::{Artifact, Csr, Frame, Patches, Table},
    context::{Silence, rng},
    task::Task,
};
use serde_json::{Value, json};

const GENES: usize = 2000;
const SPOTS: usize = 3000;
const SIZE: usize = 32;

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("restage-speed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(restage_stage::Error::io(&folder))?;
    table().write(&folder.join("table"))?;
    patches().write(&folder.join("patches"))?;
    time(&folder, json!({ "objective": "gene_mask" }))?;
    time(&folder, json!({ "objective": "vicreg", "epochs": 5 }))?;
    std::fs::remove_dir_all(&folder).map_err(restage_stage::Error::io(&folder))
}

/// Trains once; prints seconds and spots per second.
fn time(folder: &Path, params: Value) -> Result<()> {
    let params: PretrainParams =
        serde_json::from_value(params).map_err(restage_stage::Error::other("cannot read the params"))?;
    let (objective, epochs) = (params.objective, params.epochs);
    let path = |name: &str| folder.join(name);
    let outputs = ["model", "training"].map(|port| (port.to_owned(), path(&format!("{port}-{objective:?}"))));
    let task = Task {
        stage: Pretrain::NAME.into(),
        params: Value::Null,
        inputs: BTreeMap::from(["table", "patches"].map(|port| (port.to_owned(), vec![path(port)]))),
        outputs: outputs.into(),
        seed: 1,
        threads: rayon::current_num_threads(),
        gpus: 0,
        scratch: folder.to_owned(),
    };
    let start = Instant::now();
    Pretrain::run(params, &Context::new(task, Box::new(Silence)))?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{objective:?}: {epochs} epochs in {seconds:.1} s, {:.0} spots/s",
        (epochs * SPOTS) as f64 / seconds
    );
    Ok(())
}

fn ids() -> Vec<String> {
    (0..SPOTS).map(|spot| format!("s_{spot}")).collect()
}

/// A third of the genes of a spot expressed, as after the selection of variable ones.
fn table() -> Table {
    let mut rng = rng(0, "table");
    let rows: Vec<Vec<(i32, f32)>> = (0..SPOTS)
        .map(|_| (0..GENES as i32).filter_map(|gene| rng.random_bool(0.3).then_some((gene, 1.0))).collect())
        .collect();
    let genes = (0..GENES).map(|gene| format!("g{gene}")).collect();
    Table {
        x: Csr::from_rows(GENES, rows),
        obs: Frame { index: ids(), ..Frame::default() },
        var: Frame { index: genes, ..Frame::default() },
        spatial: vec![[0.0; 2]; SPOTS],
        ..Table::default()
    }
}

fn patches() -> Patches {
    let mut rng = rng(0, "patches");
    let pixels = (0..SPOTS * SIZE * SIZE * 3).map(|_| rng.random()).collect();
    Patches { spots: ids(), size: SIZE, pixels }
}
