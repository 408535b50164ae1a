//! `ssl/finetune` from artifacts to artifacts, and its loss.

use std::sync::atomic::AtomicUsize;

use restage_nn::dfdx::prelude::AsArray;
use restage_stage::{
    artifact::{Artifact, Csr, Embedding, Labels},
    context::{Listener, Silence, rng},
};
use serde_json::Value;

use super::*;
use crate::tests::{
    Bench, StopAfter,
    graph::{grid, tissue},
    ids, patches, table,
};

/// Spots with two independent traits, each of which half of the genes show. Their region is whether they have just one of both: a sum
/// of genes does not tell it.
fn crossed(spots: usize) -> Table {
    let mut rng = rng(4, "crossed");
    let row = |spot: usize| {
        let traits = [spot % 2, spot / 2 % 2];
        let level = |gene: usize| if traits[gene / 6] == 1 { 2.0 } else { 0.5 };
        (0..12).map(|gene| (gene as i32, level(gene) + rng.random_range(0.0..0.5))).collect()
    };
    let rows: Vec<_> = (0..spots).map(row).collect();
    Table { x: Csr::from_rows(12, rows), ..table(spots, 12) }
}

fn region_of(spot: usize) -> &'static str {
    ["same", "other"][(spot % 2 + spot / 2) % 2]
}

/// The regions of the first spots, one in five of them unknown.
fn labels(spots: usize, region: impl Fn(usize) -> &'static str) -> TrainLabels {
    let one = |spot: usize| (spot % 5 != 4).then(|| region(spot).to_owned());
    TrainLabels(Labels {
        spots: ids(spots),
        sections: vec!["a".into(); spots],
        patients: vec!["p".into(); spots],
        regions: (0..spots).map(one).collect(),
    })
}

/// An encoder as it was initialised.
fn untrained(bench: &Bench, params: Value) -> Model {
    let mut params = params;
    params["epochs"] = json!(0);
    bench.pretrain(params).0
}

fn of_genes() -> Value {
    json!({ "objective": "gene_mask", "encoder": { "kind": "mlp", "hidden": [32] }, "dim": 2 })
}

fn finetuned(bench: &Bench, params: Value) -> (Predictions, Model, Metrics) {
    let results = bench.run::<Finetune>(params, &bench.new_scratch(), Box::new(Silence)).unwrap();
    read(&results)
}

fn read(results: &std::path::Path) -> (Predictions, Model, Metrics) {
    (
        Predictions::read(&results.join("predictions")).unwrap(),
        Model::read(&results.join("model")).unwrap(),
        Metrics::read(&results.join("training")).unwrap(),
    )
}

/// Share of spots from the 80th on, which have no labels in training.
fn accuracy(predictions: &Predictions) -> f64 {
    let spots = 80..predictions.spots.len();
    let count = spots.len() as f64;
    spots.filter(|spot| predictions.predicted(*spot) == region_of(*spot)).count() as f64 / count
}

#[test]
fn what_no_linear_classifier_finds_is_found() {
    let bench = Bench::new().with("table", &crossed(160)).with("train", &labels(80, region_of));
    let model = untrained(&bench, of_genes());
    let bench = bench.with("model", &model);
    let (probed, same, _) = finetuned(&bench, json!({ "epochs": 60, "freeze": "all" }));
    let params = json!({ "epochs": 60, "encoder_lr": 0.01, "lr": 0.01, "batch_size": 16 });
    let (tuned, other, training) = finetuned(&bench, params);
    let (probed, tuned_share) = (accuracy(&probed), accuracy(&tuned));
    println!("right: {probed:.3} of the frozen encoder, {tuned_share:.3} fine-tuned");
    assert!(probed < 0.8 && tuned_share > 0.95, "{probed} {tuned_share}");
    assert_eq!(tuned.classes, ["other", "same"]);
    assert!(tuned.probabilities.chunks_exact(2).all(|row| (row[0] + row[1] - 1.0).abs() < 1e-6));

    // A frozen encoder is as it came; the other embeds in another way, and says how it was trained.
    assert_eq!(same.weights, model.weights);
    assert_ne!(other.weights["encoder.0.weight"], model.weights["encoder.0.weight"]);
    assert!(other.weights.keys().eq(model.weights.keys()), "the classifier is left behind");
    assert_eq!(other.architecture["provenance"]["finetuned"]["params"]["encoder_lr"], 0.01);
    let embed = |model: &Model| -> Embedding { Bench::new().with("table", &crossed(160)).embed(model) };
    assert_ne!(embed(&other).values, embed(&model).values);

    let curve = &training.curves["loss"];
    assert_eq!((curve.len(), training.values["epochs"]), (90, 90.0));
    assert!(curve[..3].iter().sum::<f64>() > curve[87..].iter().sum());
    assert!(training.curves["encoder_lr"][..30].iter().all(|rate| *rate == 0.0));
    assert!(training.curves["encoder_lr"][30] > training.curves["encoder_lr"][89]);
    assert_eq!(training.values["train_spots"], 64.0);
    assert!(training.values["train_accuracy"] > 0.95);
}

/// Inputs and pretraining of every kind of encoder.
fn every_encoder() -> Vec<(Bench, Value)> {
    let (tissue, graph, images) = (tissue(1, 12), grid(1), patches(64, 8));
    let region = |spot: usize| if spot % 8 < 4 { "left" } else { "right" };
    let cnn = json!({ "kind": "cnn", "channels": [4] });
    let gcn = json!({ "kind": "gcn", "hidden": [8] });
    let vit = json!({ "kind": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2 });
    [
        json!({ "objective": "gene_mask", "encoder": { "kind": "mlp", "hidden": [8] } }),
        json!({ "objective": "dgi", "encoder": { "kind": "transformer", "width": 8, "depth": 1, "heads": 2 } }),
        json!({ "objective": "mae", "encoder": vit }),
        json!({ "objective": "cross_modal", "encoder": cnn, "gene_encoder": gcn }),
        json!({ "objective": "fused_contrast", "encoder": cnn, "fusion": "attention" }),
    ]
    .map(|mut params| {
        params["dim"] = json!(4);
        let bench = Bench::new().with("table", &tissue).with("graph", &graph).with("patches", &images);
        let bench = bench.with("train", &labels(50, region));
        let model = untrained(&bench, params.clone());
        (bench.with("model", &model), params)
    })
    .into()
}

fn tuning() -> Value {
    json!({ "head_epochs": 3, "epochs": 4, "batch_size": 12, "dropout": 0.2, "freeze": 1, "checkpoint_every": 2 })
}

#[test]
fn a_killed_finetuning_ends_with_the_same_bytes_and_so_do_two_threads() {
    for (number, (bench, params)) in every_encoder().into_iter().enumerate() {
        let undisturbed = finetuned(&bench, tuning());
        let scratch = format!("killed-{number}");
        let mut stopped = 0;
        for steps in [1, 8, 14, 100] {
            let listener: Box<dyn Listener> = Box::new(StopAfter(AtomicUsize::new(steps)));
            match bench.run::<Finetune>(tuning(), &scratch, listener) {
                Err(Error::Cancelled) => stopped += 1,
                Err(error) => panic!("{params}: {error}"),
                Ok(results) => assert!(undisturbed == read(&results), "{params}"),
            }
        }
        assert_eq!(stopped, 3, "{params}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        assert!(undisturbed == pool.install(|| finetuned(&bench, tuning())), "{params}");
        assert_eq!(undisturbed.0.spots.len(), 64);

        // What a pair's second encoder, and what is frozen, were is what they are.
        let (_, model, training) = undisturbed;
        let came: Model = Model::read(&bench.path("model")).unwrap();
        let changed: Vec<&String> = model
            .weights
            .iter()
            .filter(|(name, weight)| came.weights[*name] != **weight)
            .map(|(name, _)| name)
            .collect();
        let is_first = |name: &str| {
            ["0.", "1.", "embed.", "patch_embed.", "genes.0.", "genes.1.", "patches.0.", "patches.1."]
                .iter()
                .any(|layer| name["encoder.".len()..].starts_with(layer))
        };
        assert!(!changed.is_empty() && changed.iter().all(|name| !is_first(name)), "{params}: {changed:?}");
        let all = training.values["parameters"];
        assert!(training.values["learning_parameters"] < all, "{params}");
    }
}

/// Of a pair, an encoder whose input is not connected has no part.
#[test]
fn one_of_a_pair_learns_alone() {
    let (bench, _) = every_encoder().swap_remove(3);
    let came = Model::read(&bench.path("model")).unwrap();
    let (predictions, model, _) = finetuned(&bench.without("table"), tuning());
    assert_eq!(predictions.spots.len(), 64);
    for (name, weight) in &model.weights {
        let is_same = came.weights[name] == *weight;
        assert!(is_same || name.starts_with("encoder.patches."), "{name}");
    }
}

/// The loss is the weighted mean cross-entropy of its definition, and its gradients are its finite differences.
#[test]
fn the_loss_is_its_definition_and_has_its_gradients() {
    for (bench, name) in every_encoder() {
        let options: FinetuneParams = serde_json::from_value(json!({ "dropout": 0.3 })).unwrap();
        let (_, ctx) = bench.context(Finetune::NAME, json!({}), &bench.new_scratch(), Box::new(Silence));
        let (encoders, mut params) = Architecture::restore(&ctx.read::<Model>("model").unwrap()).unwrap();
        let spots = Spots::new(&ctx, encoders).unwrap();
        // Regions of different sizes.
        let TrainLabels(mut labels) = ctx.read("train").unwrap();
        labels.regions[..12].iter_mut().for_each(|region| *region = Some("right".into()));
        let labelled = Labelled::of(spots.ids(), &labels, ClassWeight::Balanced).unwrap();
        let head = Head::new(&mut params, spots.dims(), 2, &mut ctx.rng("init"));
        let came = spots.embeddings(&ctx, &params, &labelled.spots).unwrap();
        let scales = came.as_ref().zip(spots.dims()).map(|(values, dims)| Scale::fit(values, dims));
        let still = HashSet::new();
        let tuning =
            Tuning { options: &options, spots: &spots, labelled: &labelled, head, still, came, scales };
        let members: Vec<usize> = (0..labelled.spots.len()).collect();
        let dropped = tuning.drop(&ctx, 2, &members);
        let hidden =
            |dropped: &Dropped| dropped.iter().flat_map(|row| &row.first).filter(|drop| **drop).count();
        let share =
            dropped.as_ref().map(hidden).unwrap() as f64 / (members.len() * spots.dims().first) as f64;
        assert!((0.2..0.4).contains(&share), "{share}");

        let scores = |params: &Params| {
            let parts = tuning.spots.forward::<Recording>(params, &labelled.spots);
            values(&tuning.scores(params, parts, dropped.as_ref()))
        };
        // In f64: a difference of two sums in f32 would be noise.
        let defined = |params: &Params| -> f64 {
            let of = |(row, class): (&[f32], &usize)| {
                let sum: f64 = row.iter().map(|score| f64::from(*score).exp()).sum();
                f64::from(labelled.weights[*class]) * (sum.ln() - f64::from(row[*class]))
            };
            let rows = scores(params);
            rows.chunks_exact(2).zip(&labelled.targets).map(of).sum::<f64>() / members.len() as f64
        };
        let counted: f64 = labelled.targets.iter().map(|class| f64::from(labelled.weights[*class])).sum();
        assert!((counted - members.len() as f64).abs() < 1e-4, "{counted}");
        let parts = spots.forward::<Recording>(&params, &labelled.spots);
        let (loss, _) = tuning.loss(&params, parts, &members, dropped.as_ref());
        assert!((f64::from(loss.array()) - defined(&params)).abs() < 1e-5);

        // Along the gradient the loss rises by its length, squared.
        let mut gradients = params.gradients(loss).unwrap();
        let length = f64::from(gradients.clip(f32::INFINITY));
        let along = |step: f32| {
            let mut moved = params.clone();
            restage_nn::Sgd::new(&moved, 0.0, 0.0, None).step(&mut moved, &gradients, step);
            defined(&moved)
        };
        let step = (2e-3 / length) as f32;
        let slope = (along(-step) - along(step)) / (2.0 * f64::from(step));
        assert!((slope / length.powi(2) - 1.0).abs() < 1e-2, "{name}: {slope} {}", length.powi(2));
    }
}

#[test]
fn bad_inputs_are_named() {
    let told = |bench: &Bench, params: Value| {
        bench.run::<Finetune>(params, &bench.new_scratch(), Box::new(Silence)).unwrap_err().to_string()
    };
    let bench = Bench::new().with("table", &crossed(40)).with("train", &labels(20, region_of));
    let model = untrained(&bench, of_genes());
    let bench = bench.with("model", &model);

    let mut others = labels(20, region_of);
    others.0.spots.iter_mut().for_each(|spot| spot.push('x'));
    assert_eq!(
        told(&bench.clone_inputs().with("train", &others), json!({})),
        "none of the 16 labelled spots on input `train` is among the 40 that have inputs: are they of the same sections?"
    );
    assert_eq!(
        told(&bench.clone_inputs().with("train", &labels(20, |_| "stroma")), json!({})),
        "all 16 labelled spots are of region `stroma`: a classifier needs two"
    );
    let mut unknown = model.clone();
    unknown.architecture["kind"] = json!("mamba");
    assert_eq!(
        told(&bench.clone_inputs().with("model", &unknown), json!({})),
        "the model is none of `ssl/pretrain`'s: connect that stage's output `model`"
    );
    assert_eq!(
        told(&bench.without("table"), json!({})),
        "the model is an encoder of genes: connect input `table`"
    );
    assert!(told(&bench, json!({ "freeze": 3 })).starts_with("`freeze`: 3 layers are to stay as they are"));
    let problem = told(&bench, json!({ "head_epochs": 0, "epochs": 0 }));
    assert!(problem.starts_with("`head_epochs` and `epochs` are 0"), "{problem}");
    assert_eq!(told(&bench, json!({ "dropout": 1.0 })), "`dropout` must lie between 0 and 0.95, not 1");
    assert_eq!(told(&bench, json!({ "batch_size": 0 })), "`batch_size` must be 1 or more, not 0");

    let patched = Bench::new().with("patches", &patches(40, 16)).with("train", &labels(20, region_of));
    let model = untrained(&patched, json!({ "objective": "vicreg" }));
    let patched = patched.with("model", &model);
    let wrong = patched.clone_inputs().with("patches", &patches(40, 32));
    assert!(
        told(&wrong, json!({})).starts_with("the model was trained on patches of 16 pixels, these have 32")
    );
}
