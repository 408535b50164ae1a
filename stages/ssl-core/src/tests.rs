//! Both stage types from artifacts to artifacts.

mod encoders;
mod fusion;
mod gene_sets;
pub(crate) mod graph;
mod refused;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rand::Rng;
use restage_stage::{
    Context, Error, Result, Stage,
    artifact::{Artifact, Csr, Embedding, Frame, Metrics, Model, Patches, Role, Split, Table},
    context::{Listener, Silence, rng},
    task::{Event, Task},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Embed, Export, Import, Pretrain};

/// Asks to stop at the n-th question.
pub(crate) struct StopAfter(pub(crate) AtomicUsize);

impl Listener for StopAfter {
    fn emit(&self, _: &Event) {}
    fn cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

/// A folder with input artifacts, where stages run.
pub(crate) struct Bench {
    folder: TempDir,
    inputs: BTreeMap<String, Vec<PathBuf>>,
    runs: AtomicUsize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), inputs: BTreeMap::new(), runs: AtomicUsize::new(0) }
    }

    /// The same inputs, beside others.
    pub(crate) fn clone_inputs(&self) -> Self {
        Self { inputs: self.inputs.clone(), ..Self::new() }
    }

    /// The same, but for one.
    pub(crate) fn without(&self, port: &str) -> Self {
        let mut other = self.clone_inputs();
        other.inputs.remove(port);
        other
    }

    /// Where an input lies.
    pub(crate) fn path(&self, port: &str) -> PathBuf {
        self.inputs[port][0].clone()
    }

    /// The name of a scratch folder that nobody had.
    pub(crate) fn new_scratch(&self) -> String {
        format!("scratch-{}", self.runs.load(Ordering::Relaxed))
    }

    pub(crate) fn with<A: Artifact>(mut self, port: &str, artifact: &A) -> Self {
        let path = self.folder.path().join(format!("input-{port}"));
        artifact.write(&path).unwrap();
        self.inputs.insert(port.into(), vec![path]);
        self
    }

    /// Runs a stage with the scratch folder of that name; returns the folder of its outputs.
    pub(crate) fn run<S: Stage>(
        &self,
        params: Value,
        scratch: &str,
        listener: Box<dyn Listener>,
    ) -> Result<PathBuf> {
        let (results, ctx) = self.context(S::NAME, params.clone(), scratch, listener);
        let params: S::Params = serde_json::from_value(params).unwrap();
        S::validate(&params)?;
        S::run(params, &ctx).map(|()| results)
    }

    /// What a stage runs in, and the folder of its outputs.
    pub(crate) fn context(
        &self,
        stage: &str,
        params: Value,
        scratch: &str,
        listener: Box<dyn Listener>,
    ) -> (PathBuf, Context) {
        let scratch = self.folder.path().join(scratch);
        std::fs::create_dir_all(&scratch).unwrap();
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let results = self.folder.path().join(format!("run-{run}"));
        std::fs::create_dir(&results).unwrap();
        let outputs = ["model", "training", "embedding", "files", "predictions"]
            .map(|port| (port.to_owned(), results.join(port)));
        let task = Task {
            stage: stage.into(),
            params,
            inputs: self.inputs.clone(),
            outputs: outputs.into(),
            seed: 3,
            streams: Default::default(),
            threads: 1,
            gpus: 0,
            scratch,
        };
        (results, Context::new(task, listener))
    }

    pub(crate) fn pretrain(&self, params: Value) -> (Model, Metrics) {
        trained(&self.run::<Pretrain>(params, &self.new_scratch(), Box::new(Silence)).unwrap())
    }

    /// Runs `ssl/embed` with this model on the same inputs.
    pub(crate) fn embed(&self, model: &Model) -> Embedding {
        let bench = self.clone_inputs().with("model", model);
        let results = bench.run::<Embed>(json!({}), "embed", Box::new(Silence)).unwrap();
        Embedding::read(&results.join("embedding")).unwrap()
    }
}

fn trained(results: &Path) -> (Model, Metrics) {
    (Model::read(&results.join("model")).unwrap(), Metrics::read(&results.join("training")).unwrap())
}

pub(crate) fn ids(count: usize) -> Vec<String> {
    (0..count).map(|spot| format!("s_{spot}")).collect()
}

/// Spots of two kinds (even, odd): each has its own genes that are expressed together.
pub(crate) fn table(spots: usize, genes: usize) -> Table {
    let mut rng = rng(1, "table");
    let row = |spot: usize| {
        let level: f32 = rng.random_range(0.5..2.0);
        let value = |gene: usize| if gene % 2 == spot % 2 { level } else { 0.2 };
        (0..genes)
            .map(|gene| (gene as i32, value(gene) + rng.random_range(0.0..0.3)))
            .filter(|(_, value)| *value > 0.3)
            .collect()
    };
    let rows: Vec<_> = (0..spots).map(row).collect();
    Table {
        x: Csr::from_rows(genes, rows),
        obs: Frame { index: ids(spots), ..Frame::default() },
        var: Frame { index: (0..genes).map(|gene| format!("g{gene}")).collect(), ..Frame::default() },
        spatial: vec![[0.0; 2]; spots],
        ..Table::default()
    }
}

/// Patches of two kinds: six nuclei (even) or four (odd), in sections of which no two are stained and lit alike.
pub(crate) fn patches(count: usize, size: usize) -> Patches {
    let mut rng = rng(2, "patches");
    let mut pixels = Vec::with_capacity(count * size * size * 3);
    let side = size as f32;
    for patch in 0..count {
        let nuclei = if patch.is_multiple_of(2) { 6 } else { 4 };
        let [light, haematoxylin, eosin] = [0; 3].map(|_| rng.random_range(0.5..=1.0_f32));
        let centres: Vec<_> =
            (0..nuclei).map(|_| (rng.random_range(0.0..side), rng.random_range(0.0..side))).collect();
        for at in 0..size * size {
            let (y, x) = ((at / size) as f32 + 0.5, (at % size) as f32 + 0.5);
            let inside = centres.iter().any(|(cy, cx)| (y - cy).hypot(x - cx) < side / 14.0);
            let (colour, amount) =
                if inside { ([0.35_f32, 0.24, 0.55], haematoxylin) } else { ([0.88, 0.67, 0.78], eosin) };
            pixels.extend(colour.map(|passes| {
                let noise = rng.random_range(-12.0..=12.0);
                (255.0 * light * passes.powf(amount) + noise) as u8
            }));
        }
    }
    Patches { spots: ids(count), size, pixels }
}

fn genes_params(epochs: usize) -> Value {
    json!({ "objective": "gene_mask", "encoder": { "kind": "mlp", "hidden": [16] }, "dim": 8, "epochs": epochs, "batch_size": 32,
            "checkpoint_every": 2, "learning_rate": 0.01 })
}

fn patches_params(epochs: usize) -> Value {
    json!({ "objective": "vicreg", "encoder": { "kind": "cnn", "channels": [8, 16] }, "dim": 8, "projector": [16, 16], "epochs": epochs,
            "batch_size": 16, "checkpoint_every": 2 })
}

/// Every objective on genes or patches, small.
fn every_objective(epochs: usize) -> Vec<(&'static str, Value)> {
    let image =
        ["inpaint", "colorize", "vicreg", "barlow", "simclr", "moco", "byol", "simsiam", "swav", "dino"];
    let contrast = ["vicreg", "barlow", "simclr", "moco", "byol", "simsiam", "swav", "dino"];
    let of_patches = image.into_iter().map(|objective| {
        let mut params = patches_params(epochs);
        params["objective"] = json!(objective);
        params["prototypes"] = json!(12);
        params["queue"] = json!(24);
        ("patches", params)
    });
    let vit = json!({ "kind": "vit", "patch": 4, "width": 16, "depth": 2, "heads": 2 });
    let of_tokens = ["mae", "simclr", "inpaint"].map(|objective| {
        let mut params = patches_params(epochs);
        (params["objective"], params["encoder"]) = (json!(objective), vit.clone());
        params["decoder"] = json!({ "width": 12, "depth": 1 });
        ("patches", params)
    });
    let with_crops = ["swav", "dino"].map(|objective| {
        let mut params = patches_params(epochs);
        (params["objective"], params["prototypes"]) = (json!(objective), json!(12));
        // Crops of such small patches say little if they are as small as of large ones.
        (params["local_crops"], params["local_share"], params["local_pixels"]) =
            (json!(2), json!([0.5, 0.8]), json!(12));
        ("patches", params)
    });
    let of_genes = contrast.into_iter().map(|contrast| {
        let mut params = genes_params(epochs);
        params["objective"] = json!("gene_contrast");
        params["contrast"] = json!(contrast);
        params["prototypes"] = json!(12);
        params["projector"] = json!([16, 16]);
        ("table", params)
    });
    let across = [("hard", 0.0), ("soft", 0.0), ("hard", 0.1)].into_iter().map(|(targets, intra)| {
        let mut params = patches_params(epochs);
        params["objective"] = json!("cross_modal");
        (params["targets"], params["intra"]) = (json!(targets), json!(intra));
        ("both", params)
    });
    let stepped = [json!({ "kind": "sgd" }), json!({ "kind": "lars", "eta": 0.02 })].map(|optimizer| {
        let mut params = genes_params(epochs);
        // Two batches a step, the last of an epoch alone.
        (params["optimizer"], params["accumulate"], params["batch_size"]) = (optimizer, json!(2), json!(24));
        ("table", params)
    });
    let plain = [("table", genes_params(epochs))];
    of_patches
        .chain(of_tokens)
        .chain(with_crops)
        .chain(of_genes)
        .chain(across)
        .chain(stepped)
        .chain(plain)
        .collect()
}

#[test]
fn gene_mask_learns_to_predict_hidden_genes() {
    let (model, training) = Bench::new().with("table", &table(120, 30)).pretrain(genes_params(20));
    let loss = &training.curves["loss"];
    // Genes are standardised: predicting the mean gives 1.
    assert!(loss[0] > 0.8 && training.values["loss"] < 0.5, "{loss:?}");
    assert_eq!(loss.len(), 20);
    let names: Vec<&str> = model.weights.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "encoder.0.bias",
            "encoder.0.weight",
            "encoder.1.bias",
            "encoder.1.weight",
            "encoder.3.bias",
            "encoder.3.weight"
        ]
    );
    assert_eq!(model.weights["encoder.0.weight"].shape, [16, 30]);
    assert_eq!(
        (&model.architecture["kind"], &model.architecture["genes"][29]),
        (&json!("genes"), &json!("g29"))
    );
}

#[test]
fn a_killed_training_goes_on_and_ends_with_the_same_model() {
    let bench = Bench::new().with("table", &table(70, 12)).with("patches", &patches(40, 16));
    for (number, (_, params)) in every_objective(6).into_iter().enumerate() {
        killed_and_resumed(&bench, params, &format!("killed-{number}"));
    }
}

/// Asserts that a training that is stopped three times ends as one that is not.
fn killed_and_resumed(bench: &Bench, params: Value, scratch: &str) {
    let undisturbed = bench.pretrain(params.clone());
    let mut stopped = 0;
    for steps in [1, 7, 4, 100] {
        let listener = Box::new(StopAfter(AtomicUsize::new(steps)));
        match bench.run::<Pretrain>(params.clone(), scratch, listener) {
            Err(Error::Cancelled) => stopped += 1,
            Err(error) => panic!("{params}: {error}"),
            Ok(results) => assert!(undisturbed == trained(&results), "{params}"),
        }
    }
    assert_eq!(stopped, 3, "{params}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let bench = Bench::new().with("table", &table(70, 12)).with("patches", &patches(40, 16));
    for (_, params) in every_objective(3) {
        same_with_two_threads(&bench, params);
    }
}

fn same_with_two_threads(bench: &Bench, params: Value) {
    let [one, two] = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bench.pretrain(params.clone()))
    });
    assert!(one == two, "{params}");
}

/// Of every objective the loss falls, embeddings stay apart, and the model embeds.
#[test]
fn every_objective_learns() {
    let bench = Bench::new().with("table", &table(120, 24)).with("patches", &patches(96, 16));
    for (port, mut params) in every_objective(25) {
        params["learning_rate"] = json!(if params.get("optimizer").is_some() { 0.1 } else { 0.003 });
        let has = |name: &str| [&params["objective"], &params["contrast"]].into_iter().any(|one| one == name);
        let (model, training) = bench.pretrain(params.clone());
        let loss = &training.curves["loss"];
        let early: f64 = loss[..3].iter().sum::<f64>() / 3.0;
        let late: f64 = loss[22..].iter().sum::<f64>() / 3.0;
        let told = |name: &str| training.values.get(name).copied().unwrap_or(f64::NAN);
        println!(
            "{} {}: {early:.4} -> {late:.4}, std {:.3}, rank {:.2}, alignment {:.3}, uniformity {:.3}, compared {:.3}",
            params["objective"],
            params["contrast"],
            told("embedding_std"),
            told("effective_rank"),
            told("alignment"),
            told("uniformity"),
            told("compared_std")
        );
        // DINO's targets sharpen as the teacher does, and its loss rises with them: it learns where it is below that of equal
        // shares. So does SwAV, which begins with chance's.
        let equal = 12.0_f64.ln();
        let most = if has("dino") {
            equal - 0.05
        } else if has("swav") {
            equal - 0.03
        } else {
            early
        };
        assert!(late < most, "{params}: {loss:?}");
        let stds: Vec<f64> =
            serde_json::from_value(training.details["dimensions"]["embedding_std"].clone()).unwrap();
        assert_eq!(stds.len(), 8);
        assert!((stds.iter().sum::<f64>() / 8.0 - told("embedding_std")).abs() < 1e-9, "{params}: {stds:?}");
        let whole = bench.embed(&model);
        assert_eq!(whole.dims, if port == "both" { 16 } else { 8 });
        assert_eq!(whole.spots.len(), if port == "table" { 120 } else { 96 });
        assert!(whole.values.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn inpainting_and_colouring_beat_the_mean() {
    let bench = Bench::new().with("patches", &patches(200, 16));
    for objective in ["inpaint", "colorize"] {
        let (model, training) = bench.pretrain(json!({
            "objective": objective, "encoder": { "kind": "cnn", "channels": [16, 32] }, "dim": 16, "epochs": 30, "batch_size": 25,
            "learning_rate": 0.003, "stain_jitter": 0.0, "colour_jitter": 0.0, "min_crop": 1.0
        }));
        // Pixels are standardised: predicting the mean gives 1.
        let loss = training.values["loss"];
        println!("{objective}: {loss:.3}");
        assert!(loss < 0.8, "{objective}: {loss}");
        let sees = if objective == "colorize" { "grey" } else { "colour" };
        assert_eq!(model.architecture["sees"], sees);
    }
}

/// Of a pair, each encoder embeds its own, and both both.
#[test]
fn a_pair_embeds_what_is_connected() {
    let (table, patches) = (table(30, 12), patches(20, 16));
    let both = Bench::new().with("table", &table).with("patches", &patches);
    let mut params = patches_params(3);
    params["objective"] = json!("cross_modal");
    let (model, training) = both.pretrain(params.clone());
    // Ten spots have no patch.
    assert_eq!(training.values["training_spots"], 20.0);
    let genes = Bench::new().with("table", &table).embed(&model);
    let image = Bench::new().with("patches", &patches).embed(&model);
    let joined = both.embed(&model);
    assert_eq!((genes.spots.len(), image.spots.len(), joined.spots.len()), (30, 20, 20));
    assert_eq!((genes.dims, image.dims, joined.dims), (8, 8, 16));
    let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
    for spot in 0..20 {
        let (left, right) = joined.row(spot).split_at(8);
        let parts =
            [(left, image.row(spot)), (right, genes.row(genes.positions()[joined.spots[spot].as_str()]))];
        for (part, alone) in parts {
            let length = length(alone);
            assert!(part.iter().zip(alone).all(|(part, alone)| (part - alone / length).abs() < 1e-6));
        }
    }
    let error = |bench: &Bench| {
        bench.run::<Pretrain>(params.clone(), "scratch", Box::new(Silence)).unwrap_err().to_string()
    };
    assert!(error(&Bench::new().with("patches", &patches)).contains("trains on input `table`"));
    let mut others = table.clone();
    others.obs.index.iter_mut().for_each(|spot| spot.push('x'));
    let told = error(&Bench::new().with("patches", &patches).with("table", &others));
    assert!(told.starts_with("0 of the 20 training spots with a patch are in the table"), "{told}");
}

/// Of a loss that is a mean over spots, two halves of a batch make its step.
#[test]
fn gathered_gradients_are_those_of_the_whole_batch() {
    let bench = Bench::new().with("table", &table(64, 12));
    let params = |batch: usize, accumulate: usize| {
        let mut params = genes_params(3);
        (params["batch_size"], params["accumulate"]) = (json!(batch), json!(accumulate));
        (params["optimizer"], params["learning_rate"]) =
            (json!({ "kind": "sgd", "momentum": 0.0 }), json!(0.1));
        params
    };
    let weights = |params: Value| {
        let (model, training) = bench.pretrain(params);
        (model.weights["encoder.0.weight"].values.clone(), training.curves["learning_rate"].clone())
    };
    let ((whole, rate), (halves, other_rate)) = (weights(params(64, 1)), weights(params(32, 2)));
    assert_eq!(rate, other_rate);
    let distance = |other: &[f32]| whole.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (twice, _) = weights(params(32, 1));
    // Halves hide different numbers of genes, and so weigh a little differently.
    assert!(distance(&halves) < 0.1 * distance(&twice), "{} {}", distance(&halves), distance(&twice));
}

#[test]
fn a_training_stops_when_its_loss_no_longer_falls() {
    let bench = Bench::new().with("table", &table(40, 12));
    let mut params = genes_params(200);
    params["patience"] = json!(3);
    // Too high a rate to get anywhere.
    params["learning_rate"] = json!(0.2);
    let (_, training) = bench.pretrain(params);
    let loss = &training.curves["loss"];
    assert!(loss.len() < 200, "{}", loss.len());
    assert_eq!(training.values["epochs"], loss.len() as f64);
    let lowest = loss.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(loss.iter().position(|value| *value == lowest) == Some(loss.len() - 4), "{loss:?}");
}

/// Hears what is told while a stage runs.
#[derive(Clone, Default)]
struct Hear(Arc<Mutex<Vec<(String, u64, f64)>>>);

impl Listener for Hear {
    fn emit(&self, event: &Event) {
        if let Event::Metric { name, step, value } = event {
            self.0.lock().unwrap().push((name.clone(), *step, value.unwrap()));
        }
    }
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn how_fast_it_goes_is_told_and_not_kept() {
    let bench = Bench::new().with("table", &table(40, 12));
    let told = Hear::default();
    let results = bench.run::<Pretrain>(genes_params(4), "scratch", Box::new(told.clone())).unwrap();
    let of = |name: &str| -> Vec<(u64, f64)> {
        let told = told.0.lock().unwrap();
        told.iter().filter(|(told, ..)| told == name).map(|(_, step, value)| (*step, *value)).collect()
    };
    let (speed, left) = (of("spots_per_second"), of("seconds_left"));
    assert_eq!(speed.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(speed.iter().all(|(_, speed)| *speed > 0.0));
    assert!(left[..3].iter().all(|(_, left)| *left > 0.0) && left[3] == (3, 0.0), "{left:?}");
    let (_, training) = trained(&results);
    assert_eq!(training.curves["loss"].len(), of("loss").len());
    let kept = training.curves.keys().chain(training.values.keys());
    assert!(kept.into_iter().all(|name| !name.contains("second")));
}

#[test]
fn spots_outside_the_training_split_have_no_part_in_the_model() {
    let split = Split { spots: ids(60), roles: [[Role::Train; 40].as_slice(), &[Role::Test; 20]].concat() };
    let whole = table(60, 12);
    let mut other = whole.clone();
    let start = other.x.indptr[40] as usize;
    other.x.data[start..].iter_mut().for_each(|value| *value *= 7.0);
    let [a, b] = [whole, other]
        .map(|table| Bench::new().with("table", &table).with("split", &split).pretrain(genes_params(3)));
    assert!(a == b);
    assert_eq!(a.1.values["training_spots"], 40.0);
}

#[test]
fn embeddings_belong_to_spots_and_genes_not_to_positions() {
    let table = table(40, 12);
    let bench = Bench::new().with("table", &table);
    let (model, _) = bench.pretrain(genes_params(2));
    let straight = bench.embed(&model);

    let mut turned = table.select_spots(&(0..40).rev().collect::<Vec<_>>());
    turned = turned.select_genes(&(0..12).rev().collect::<Vec<_>>());
    let embedding = Bench::new().with("table", &turned).embed(&model);
    for (position, spot) in straight.spots.iter().enumerate() {
        let other = embedding.row(embedding.positions()[spot.as_str()]);
        assert_eq!(straight.row(position), other, "{spot}");
    }
}

#[test]
fn no_epochs_give_the_encoder_as_it_was_initialised() {
    let bench = Bench::new().with("patches", &patches(10, 16));
    let (model, training) = bench.pretrain(patches_params(0));
    assert!(training.curves.is_empty());
    let embedding = bench.embed(&model);
    assert_eq!((embedding.spots.len(), embedding.dims), (10, 8));
    assert_ne!(embedding.row(0), embedding.row(1));
}

/// Share of the second half of spots that a ridge regression on the first half puts on the right side.
fn probe(embedding: &Embedding) -> f64 {
    let (half, dims) = (embedding.spots.len() / 2, embedding.dims + 1);
    let kind = |spot: usize| if spot.is_multiple_of(2) { 1.0 } else { -1.0 };
    let features =
        |spot: usize| embedding.row(spot).iter().map(|v| f64::from(*v)).chain([1.0]).collect::<Vec<_>>();
    let mut weights = vec![0.0; dims];
    let scale: f64 = (0..half).flat_map(features).map(|value| value * value).sum::<f64>() / half as f64;
    for _ in 0..2000 {
        let mut gradient = vec![0.0; dims];
        for spot in 0..half {
            let x = features(spot);
            let error = x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() - kind(spot);
            gradient.iter_mut().zip(&x).for_each(|(sum, x)| *sum += error * x / half as f64);
        }
        weights.iter_mut().zip(&gradient).for_each(|(weight, slope)| *weight -= slope / scale);
    }
    let right = |spot: &usize| {
        features(*spot).iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() * kind(*spot) > 0.0
    };
    (half..2 * half).filter(right).count() as f64 / half as f64
}

#[test]
fn vicreg_learns_to_see_density_through_differences_of_stain() {
    let bench = Bench::new().with("patches", &patches(400, 24));
    let [before, after] = [0, 20].map(|epochs| {
        let (model, _) = bench.pretrain(json!({
            "objective": "vicreg", "dim": 32, "encoder": { "kind": "cnn", "channels": [16, 32] }, "epochs": epochs, "batch_size": 50
        }));
        probe(&bench.embed(&model))
    });
    println!("right: {before:.3} untrained, {after:.3} trained");
    assert!(after > 0.7 && after > before + 0.05, "{before} untrained, {after} trained");
}

/// Three spots in batches of two: none is alone.
#[test]
fn no_batch_is_of_one_spot() {
    let bench = Bench::new().with("patches", &patches(3, 16));
    let mut params = patches_params(2);
    params["batch_size"] = json!(2);
    for objective in ["barlow", "simclr", "vicreg"] {
        params["objective"] = json!(objective);
        let (_, training) = bench.pretrain(params.clone());
        assert!(training.curves["loss"].iter().all(|loss| loss.is_finite()), "{objective}");
    }
}
