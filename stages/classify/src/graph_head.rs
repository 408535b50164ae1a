//! `classify/graph-head`: a classifier that also sees a spot's neighbours.

use std::sync::Arc;

use restage_nn::{GraphConv, Params as Weights, Source, Sparse, dfdx::prelude::*, pick, relu, tensor};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Csr, Embedding, Graph, Metrics, Predictions, Role, Split, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    features::{Features, Scaling},
    graph::{between, product, symmetric, within_roles},
    lbfgs::{Outcome, Stop},
    logistic::Problem,
    mlp::tell,
    network::{Network, Plan, drop_out, train},
    training::{ClassWeight, Training, predictions, refuse_test_spots, told},
};

/// A classifier on features and the graph.
pub enum GraphHead {}

/// What `classify/graph-head` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// `sgc` (default): features are averaged along the graph, then logistic regression. `gcn`: a network of two layers.
    pub kind: Kind,
    /// Of `sgc`: how often features are averaged. Default 2.
    #[schemars(range(min = 1))]
    pub hops: usize,
    /// Of `sgc`: inverse strength of the L2 penalty, scikit-learn's `C`. Default 1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub c: f64,
    /// Of `gcn`: units of the hidden layer. Default 64.
    #[schemars(range(min = 1))]
    pub hidden: usize,
    /// Of `gcn`: share of features and of hidden units that each training step leaves out. Default 0.5.
    pub dropout: f64,
    /// Of `gcn`: epochs at most, each of one step. Default 200.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Of `gcn`: when it is over, as of `classify/mlp`. Default 20.
    pub patience: Option<usize>,
    /// Of `gcn`: step size of AdamW. Default 0.01.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Of `gcn`: decay of weights, as AdamW has it. Default 0.01.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// How much a spot of each region counts. Default `balanced`.
    pub class_weight: ClassWeight,
}

/// Which classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Simple graph convolution (Wu et al. 2019).
    Sgc,
    /// Graph convolutional network (Kipf & Welling 2017).
    Gcn,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            kind: Kind::Sgc,
            hops: 2,
            c: 1.0,
            hidden: 64,
            dropout: 0.5,
            epochs: 200,
            patience: Some(20),
            learning_rate: 0.01,
            weight_decay: 0.01,
            class_weight: ClassWeight::Balanced,
        }
    }
}

impl Params {
    fn plan(&self) -> Plan {
        Plan {
            epochs: self.epochs,
            patience: self.patience,
            batch: usize::MAX,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            class_weight: self.class_weight,
        }
    }
}

impl Stage for GraphHead {
    const NAME: &'static str = "graph-head";
    const STREAMS: &'static [&'static str] = &["init", "batches"];
    const SEEDED_IF: &'static [(&'static str, Option<&'static str>)] = &[("kind", Some("gcn"))];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "A classifier on frozen features that sees a spot's neighbours too. Edges between spots that train, spots that test \
             and spots that do neither are dropped and counted, so that no way leads from one side of the split to the \
             other. What edges weigh is normalised here: give a graph with `normalise: none`.",
        )
        .many::<Embedding>("features", "one or several blocks of features")
        .input::<TrainLabels>("train", "regions of the spots to train on")
        .input::<Graph>("graph", "who is a neighbour")
        .input::<Split>("split", "which spots train and which test")
        .output::<Predictions>("predictions", "region and probabilities of every spot that has features")
        .output::<Metrics>("training", "edges_dropped, train_accuracy, …")
    }

    fn validate(params: &Params) -> Result<()> {
        check::one_or_more(&[("hops", params.hops), ("hidden", params.hidden)])?;
        check::above_zero("c", params.c)?;
        params.plan().check(params.dropout)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        let TrainLabels(labels) = ctx.read("train")?;
        let split: Split = ctx.read("split")?;
        refuse_test_spots(&labels, &split)?;
        let training = Training::of(features.spots(), &labels, "features")?;
        let roles = split.roles();
        let roles: Vec<Option<Role>> = features.spots().map(|spot| roles.get(spot).copied()).collect();
        if roles.iter().all(Option::is_none) {
            return Err(Error::invalid(
                "no spot of `features` is in `split`: make both of the same sections",
            ));
        }
        let edges = between(&ctx.read("graph")?, features.spots(), "features")?;
        let (edges, dropped) = within_roles(&edges, &roles);
        tracing::info!("{} edges are used; {dropped} that cross the split are dropped", edges.data.len());
        let (predictions, mut told) = match params.kind {
            Kind::Sgc => simple(&features, &training, &edges, &params, ctx)?,
            Kind::Gcn => network(&features, &training, &edges, &params, ctx)?,
        };
        told.values.insert("edges".into(), edges.data.len() as f64);
        told.values.insert("edges_dropped".into(), dropped as f64);
        ctx.write("predictions", &predictions)?;
        ctx.write("training", &told)
    }
}

/// Logistic regression on S^hops X, standardised on the training spots.
fn simple(
    features: &Features,
    training: &Training,
    edges: &Csr,
    params: &Params,
    ctx: &Context,
) -> Result<(Predictions, Metrics)> {
    let weights = symmetric(edges, 1.0);
    let averaged = features
        .map(|dims, values| (0..params.hops).fold(values, |values, _| product(&weights, dims, &values)));
    let scaling = Scaling::standard(&averaged, &training.spots);
    let rows = averaged.matrix(&training.spots, &scaling);
    let problem = Problem {
        dims: averaged.dims(),
        rows: &rows,
        targets: &training.targets,
        class_weights: &params.class_weight.of(&training.targets, training.classes.len()),
        c: params.c,
    };
    let stop = Stop { gradient: 1e-6, iterations: 1000 };
    let (model, minimum) = problem.fit(stop, |step, value| {
        ctx.metric("objective", step as u64, value);
        ctx.check_cancelled()
    })?;
    if minimum.outcome != Outcome::Converged {
        tracing::warn!("not converged after {} iterations: lower `c`", minimum.iterations);
    }
    let predictions = predictions(averaged.spots(), &training.classes, |spot, to| {
        let mut row = vec![0.0; averaged.dims()];
        averaged.write(spot, &scaling, &mut row);
        model.probabilities(&row, to);
    });
    let values = [
        ("objective", minimum.value),
        ("iterations", minimum.iterations as f64),
        ("converged", f64::from(u8::from(minimum.outcome == Outcome::Converged))),
        ("train_accuracy", training.accuracy(&predictions)),
        ("train_spots", training.len() as f64),
        ("spots", features.len() as f64),
        ("dims", features.dims() as f64),
    ];
    let told = told(values, json!({ "classes": training.classes }));
    Ok((predictions, told))
}

/// Two graph convolutions; every step sees all spots, and the labels of those that train.
fn network(
    features: &Features,
    training: &Training,
    edges: &Csr,
    params: &Params,
    ctx: &Context,
) -> Result<(Predictions, Metrics)> {
    let scaling = Scaling::standard(features, &training.spots);
    let (spots, dims, classes) = (features.len(), features.dims(), training.classes.len());
    let every: Vec<usize> = (0..spots).collect();
    let rows: Vec<f32> = features.matrix(&every, &scaling).into_iter().map(|x| x as f32).collect();
    let weights = symmetric(edges, 1.0)
        .into_iter()
        .map(|row| row.into_iter().map(|(other, weight)| (other, weight as f32)).collect());
    let edges: &Arc<Sparse> = &Sparse::from_rows(spots, weights);
    let begin = || {
        let (mut weights, mut rng) = (Weights::default(), ctx.rng("init"));
        let first = GraphConv::new(&mut weights, "conv1", dims, params.hidden, &mut rng);
        let second = GraphConv::new(&mut weights, "conv2", params.hidden, classes, &mut rng);
        let (rows, dropout) = (&rows, params.dropout);
        let scores = move |weights: &Weights, picked: &[usize], mut rng: Option<&mut _>| {
            let x = tensor(rows.clone(), (spots, dims)).leaky_traced();
            let x = drop_out(x, dropout, rng.as_deref_mut());
            let hidden = relu(first.forward(weights, edges, x, Source::Data));
            let scores = second.forward(weights, edges, drop_out(hidden, dropout, rng), Source::Op);
            pick(scores, picked)
        };
        Network { params: weights, scores }
    };
    let trained = train(ctx, &params.plan(), training, begin)?;
    let shares = trained.network.probabilities(&every);
    let predictions = predictions(features.spots(), &training.classes, |spot, to| {
        to.copy_from_slice(&shares[spot * classes..(spot + 1) * classes]);
    });
    let told = tell(trained, training, &predictions, features);
    Ok((predictions, told))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{Bench, close, overlapping};

    const SGC: [f64; 12] = [
        0.3454852680144419,
        0.6545146880440113,
        4.394154682170823e-08,
        0.2717466551166664,
        0.7282531637460108,
        1.8113732290944497e-07,
        4.4720150647809e-05,
        8.343020644724791e-07,
        0.9999544455472876,
        0.8854121966434578,
        0.003865643239186624,
        0.11072216011735554,
    ];

    /// Spots in a row, each with the next; the first 80 train, 40 test.
    fn bench() -> Bench {
        let (features, train) = overlapping(&["A"], 80);
        let row =
            |i: i32| [i - 1, i + 1].into_iter().filter(|o| (0..120).contains(o)).map(|o| (o, 1.0)).collect();
        let edges = Csr::from_rows(120, (0..120).map(row).collect::<Vec<Vec<_>>>());
        let roles = (0..120).map(|i| if i < 80 { Role::Train } else { Role::Test }).collect();
        Bench::new()
            .input("graph", &Graph { spots: features.spots.clone(), edges })
            .input("split", &Split { spots: features.spots.clone(), roles })
            .input("features", &features)
            .input("train", &train)
    }

    /// scikit-learn 1.9.1, of the spots and regions of `testing::overlapping`:
    /// ```python
    /// A = np.eye(120) + np.eye(120, k=1) + np.eye(120, k=-1); A[79, 80] = A[80, 79] = 0
    /// S = A / np.sqrt(np.outer(A.sum(1), A.sum(1))); Z = (S @ S @ X).astype(np.float32)
    /// m = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10000))
    /// m.fit(Z[:80], y[:80]).predict_proba(Z[[0, 79, 80, 119]])
    /// ```
    #[test]
    fn sgc_is_logistic_regression_on_averages() {
        let done = bench().run::<GraphHead>(json!({})).unwrap();
        let found: Predictions = done.output("predictions");
        let rows: Vec<f32> = [0, 79, 80, 119].iter().flat_map(|&spot| found.row(spot)).copied().collect();
        close(&rows, &SGC, 2e-5);
        let training: Metrics = done.output("training");
        assert_eq!((training.values["edges"], training.values["edges_dropped"]), (236.0, 2.0));
    }

    #[test]
    fn test_spots_have_no_say_in_what_train_spots_get() {
        for kind in ["sgc", "gcn"] {
            let params = json!({ "kind": kind, "epochs": 5 });
            let found: Predictions = bench().run::<GraphHead>(params.clone()).unwrap().output("predictions");
            let (mut features, _) = overlapping(&["A"], 80);
            features.values[80 * 4..].iter_mut().for_each(|x| *x = *x * 3.0 + 1.0);
            let other = bench().replace("features", &features).run::<GraphHead>(params).unwrap();
            let other: Predictions = other.output("predictions");
            assert_eq!(found.probabilities[..80 * 3], other.probabilities[..80 * 3], "{kind}");
            assert_ne!(found.probabilities[80 * 3..], other.probabilities[80 * 3..], "{kind}");
        }
    }

    /// Regions come in runs along the row, with features too noisy to tell them apart one by one.
    #[test]
    fn neighbours_help_a_gcn() {
        let region = |i: usize| i / 20 % 2;
        let features = crate::testing::embedding((0..120).map(|i| {
            let noise = |frequency: f64| (frequency * i as f64).sin() * 2.0;
            (format!("S_{i}"), vec![region(i) as f32 + noise(2.4) as f32, noise(3.3) as f32])
        }));
        let labels = (0..80).map(|i| (format!("S_{i}"), "A", ["a", "b"][region(i)]));
        let bench = bench().replace("features", &features);
        let bench = bench.replace("train", &crate::testing::train_labels(labels));
        let done = bench.run::<GraphHead>(json!({ "kind": "gcn", "dropout": 0.1 })).unwrap();
        let found: Predictions = done.output("predictions");
        let right = (80..120).filter(|&i| found.predicted(i) == ["a", "b"][region(i)]).count();
        assert!(right >= 32, "{right} of 40 unseen spots");
        let training: Metrics = done.output("training");
        assert_eq!(training.values["edges_dropped"], 2.0);
        assert!(training.curves.contains_key("loss_held_back"));
    }

    #[test]
    fn threads_change_no_byte() {
        for kind in ["sgc", "gcn"] {
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let run = || bench().run::<GraphHead>(json!({ "kind": kind, "epochs": 5 })).unwrap();
                pool.install(run).output::<Predictions>("predictions").probabilities
            };
            assert_eq!(with(1), with(2), "{kind}");
        }
    }

    #[test]
    fn what_is_of_other_spots_is_said() {
        let refused = |bench: Bench| bench.run::<GraphHead>(json!({})).err().unwrap().to_string();
        let spots = vec!["X_0".to_owned()];
        let graph = Graph { spots: spots.clone(), edges: Csr::from_rows(1, [vec![]]) };
        let error = refused(bench().replace("graph", &graph));
        assert!(error.starts_with("spot `S_0` of `features` is not in `graph`"), "{error}");
        let split = Split { spots, roles: vec![Role::Train] };
        let error = refused(bench().replace("split", &split));
        assert!(error.starts_with("no spot of `features` is in `split`"), "{error}");
        let split = Split { spots: vec!["S_0".into()], roles: vec![Role::Test] };
        assert!(refused(bench().replace("split", &split)).contains("`split` tests on"));
        let invalid = |params: Value| GraphHead::validate(&serde_json::from_value(params).unwrap()).is_err();
        assert!(
            invalid(json!({ "hops": 0 })) && invalid(json!({ "c": 0 })) && invalid(json!({ "dropout": 1 }))
        );
    }
}
