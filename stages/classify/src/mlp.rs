//! `classify/mlp`: a small network on frozen features.

use restage_nn::{Linear, Params as Weights, Source, dfdx::prelude::*, relu, tensor};
use restage_stage::{
    Context, Ports, Result, Stage,
    artifact::{Embedding, Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    features::{Features, Scaling},
    network::{Network, Plan, Trained, drop_out, train},
    training::{ClassWeight, Training, predictions, told},
};

/// A hidden layer on frozen features.
pub enum Mlp {}

/// What `classify/mlp` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Units of the hidden layer. Default 128.
    #[schemars(range(min = 1))]
    pub hidden: usize,
    /// Share of hidden units that each training step leaves out. Default 0.3.
    pub dropout: f64,
    /// Epochs at most. Default 200.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// A fifth of the training labels (whole patients or sections where there are two) is held back first, to see after which
    /// epoch its loss is lowest; it is over after so many without a better one. Then all labels train, for as many epochs.
    /// Null: nothing is held back, and all epochs are trained. Default 20.
    pub patience: Option<usize>,
    /// Spots of a step. Default 256.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Step size of AdamW. Default 0.001.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decay of weights, as AdamW has it. Default 0.01.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// How much a spot of each region counts. Default `balanced`.
    pub class_weight: ClassWeight,
    /// Whether each dimension is brought to mean 0 and variance 1 over the training spots, and several blocks of
    /// features to equal weight. Default true.
    pub standardize: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            hidden: 128,
            dropout: 0.3,
            epochs: 200,
            patience: Some(20),
            batch_size: 256,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            class_weight: ClassWeight::Balanced,
            standardize: true,
        }
    }
}

impl Params {
    fn plan(&self) -> Plan {
        Plan {
            epochs: self.epochs,
            patience: self.patience,
            batch: self.batch_size,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            class_weight: self.class_weight,
        }
    }
}

impl Stage for Mlp {
    const NAME: &'static str = "mlp";
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = &["init", "batches"];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "A network with one hidden layer (ReLU, dropout) on frozen features, trained by AdamW. How long is told by a part \
             of the training labels, never by test spots.",
        )
        .many::<Embedding>("features", "one or several blocks of features")
        .input::<TrainLabels>("train", "regions of the spots to train on")
        .output::<Predictions>("predictions", "region and probabilities of every spot that has features")
        .output::<Metrics>("training", "epochs, losses, train_accuracy, …")
    }

    fn validate(params: &Params) -> Result<()> {
        check::one_or_more(&[("hidden", params.hidden)])?;
        params.plan().check(params.dropout)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        let TrainLabels(labels) = ctx.read("train")?;
        let training = Training::of(features.spots(), &labels, "features")?;
        let scaling = match params.standardize {
            true => Scaling::standard(&features, &training.spots),
            false => Scaling::none(features.dims()),
        };
        let (dims, classes) = (features.dims(), training.classes.len());
        let rows = features.all(&scaling);
        let begin = || {
            let (mut weights, mut rng) = (Weights::default(), ctx.rng("init"));
            let hidden = Linear::new(&mut weights, "0", dims, params.hidden, &mut rng);
            let output = Linear::new(&mut weights, "3", params.hidden, classes, &mut rng);
            let (rows, dropout) = (&rows, params.dropout);
            let scores = move |weights: &Weights, spots: &[usize], rng: Option<&mut _>| {
                let values = spots.iter().flat_map(|spot| &rows[spot * dims..(spot + 1) * dims]);
                let x = tensor(values.map(|&x| x as f32).collect(), (spots.len(), dims)).leaky_traced();
                let hidden = relu(hidden.forward(weights, x, Source::Data));
                output.forward(weights, drop_out(hidden, dropout, rng), Source::Op)
            };
            Network { params: weights, scores }
        };
        let trained = train(ctx, &params.plan(), &training, begin)?;
        let shares = trained.network.probabilities(&features.every());
        let predictions = predictions(features.spots(), &training.classes, |spot, to| {
            to.copy_from_slice(&shares[spot * classes..(spot + 1) * classes]);
        });
        let told = tell(trained, &training, &predictions, &features);
        ctx.write("predictions", &predictions)?;
        ctx.write("training", &told)
    }
}

/// What there is to tell of a network's training.
pub(crate) fn tell<F>(
    trained: Trained<F>,
    training: &Training,
    predictions: &Predictions,
    features: &Features,
) -> Metrics {
    let values = [
        ("epochs", trained.epochs as f64),
        ("parameters", trained.network.params.count() as f64),
        ("train_accuracy", training.accuracy(predictions)),
        ("train_spots", training.len() as f64),
        ("spots", features.len() as f64),
        ("dims", features.dims() as f64),
    ];
    let details = json!({ "classes": training.classes, "held_back_by": trained.held_back_by });
    Metrics { curves: trained.curves, ..told(values, details) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{Bench, overlapping, train_labels};

    fn run(bench: Bench, params: Value) -> (Predictions, Metrics) {
        let done = bench.run::<Mlp>(params).unwrap();
        (done.output("predictions"), done.output("training"))
    }

    /// A ring around a core, which no straight line parts.
    fn ring() -> (Embedding, TrainLabels) {
        let inside = |i: usize| i.is_multiple_of(2);
        let features = crate::testing::embedding((0..200).map(|i| {
            let (angle, radius) =
                (i as f32 * 2.4, if inside(i) { 0.5 } else { 2.0 } + (i as f32).sin() * 0.3);
            (format!("S_{i}"), vec![radius * angle.cos(), radius * angle.sin()])
        }));
        let region = |i: usize| if inside(i) { "core" } else { "ring" };
        (features, train_labels((0..120).map(|i| (format!("S_{i}"), ["A", "B"][i % 3 % 2], region(i)))))
    }

    #[test]
    fn it_finds_what_no_straight_line_parts() {
        let (features, train) = ring();
        let bench = Bench::new().input("features", &features).input("train", &train);
        let (found, training) = run(bench, json!({ "learning_rate": 0.01, "batch_size": 32 }));
        let right = (120..200).filter(|&spot| found.predicted(spot) == ["core", "ring"][spot % 2]).count();
        assert!(right >= 78, "{right} of 80 unseen spots");
        assert!(training.values["train_accuracy"] > 0.95);
        assert_eq!(training.curves["loss"].len() as f64, training.values["epochs"]);
        let held = &training.curves["loss_held_back"];
        let best = held.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(held[training.values["epochs"] as usize - 1], best);
        assert_eq!(training.details["held_back_by"], "patient");
    }

    #[test]
    fn it_stops_by_labels_that_are_held_back() {
        let (features, train) = overlapping(&["A"], 90);
        let bench = || Bench::new().input("features", &features).input("train", &train);
        let params = json!({ "learning_rate": 0.02, "patience": 5 });
        let (_, stopped) = run(bench(), params);
        assert!(stopped.curves["loss_held_back"].len() < 200, "regions that overlap are soon overfitted");
        let (_, full) = run(bench(), json!({ "epochs": 7, "patience": null }));
        assert_eq!((full.values["epochs"], full.curves.len()), (7.0, 1));
    }

    #[test]
    fn threads_change_no_byte_and_the_seed_does() {
        let (features, train) = overlapping(&["A", "B"], 90);
        let with = |threads: usize, seed: u64| {
            let bench = Bench::new().input("features", &features).input("train", &train).seed(seed);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(bench, json!({ "epochs": 5 }))).0.probabilities
        };
        assert_eq!(with(1, 0), with(2, 0));
        assert_ne!(with(1, 0), with(1, 1));
    }

    #[test]
    fn what_cannot_be_trained_with_is_said() {
        let refused = |params: Value| Mlp::validate(&serde_json::from_value(params).unwrap()).unwrap_err();
        for (params, expected) in [
            (json!({ "dropout": 1.0 }), "`dropout` is 1: it must be from 0 to below 1"),
            (json!({ "hidden": 0 }), "`hidden` is 0: it must be 1 or more"),
            (json!({ "learning_rate": -1 }), "`learning_rate` is -1: it must be a number above 0"),
            (json!({ "patience": 0 }), "`patience` is 0: it must be 1 or more"),
        ] {
            assert_eq!(refused(params).to_string(), expected);
        }
        let (features, train) = overlapping(&["A"], 90);
        let bench = Bench::new().input("features", &features).input("train", &train);
        let error = bench.run::<Mlp>(json!({ "learning_rate": 1e30 })).err().unwrap().to_string();
        assert!(error.contains("diverged in epoch"), "{error}");
    }
}
