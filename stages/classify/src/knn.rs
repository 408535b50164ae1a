//! `classify/knn`: the regions of the nearest training spots.

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
    neighbours::{nearest, normalise},
    training::{Training, predictions, told},
};

/// Votes of the nearest training spots.
pub enum Knn {}

/// What `classify/knn` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How many training spots vote; where fewer train, as in a small budget, all do. Default 20.
    #[schemars(range(min = 1))]
    pub k: usize,
    /// What is near. Default `cosine`.
    pub metric: Metric,
    /// What a vote weighs. Default `uniform`.
    pub weights: Weights,
    /// Whether each dimension is brought to variance 1 over the training spots. Default false: features are centred on
    /// the training spots' mean only, and several blocks brought to equal mean squared norm.
    pub standardize: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self { k: 20, metric: Metric::Cosine, weights: Weights::Uniform, standardize: false }
    }
}

/// What is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Vectors of about the same direction from the training spots' mean.
    Cosine,
    /// Vectors that differ by little.
    Euclidean,
}

/// What a vote weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// 1.
    Uniform,
    /// 1 / distance (1 - cosine, or Euclidean); where there are spots at distance 0, only these vote.
    Distance,
}

impl Stage for Knn {
    const NAME: &'static str = "knn";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Votes of the nearest training spots on frozen features, which are centred and, for the cosine, brought to length 1. \
             Shares of votes are the probabilities; a training spot is among its own neighbours.",
        )
        .many::<Embedding>("features", "one or several blocks of features")
        .input::<TrainLabels>("train", "regions of the spots that vote")
        .output::<Predictions>("predictions", "region and probabilities of every spot that has features")
        .output::<Metrics>("training", "spots, training spots, dimensions, k")
    }

    fn validate(params: &Params) -> Result<()> {
        check::one_or_more(&[("k", params.k)])
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        let TrainLabels(labels) = ctx.read("train")?;
        let training = Training::of(features.spots(), &labels, "features")?;
        let k = params.k.min(training.len());
        if k < params.k {
            tracing::warn!(
                "`k` is {}, but only {k} spots train: all of them vote, everywhere, so lower it for budgets as small as this",
                params.k
            );
        }
        let scaling = match params.standardize {
            true => Scaling::standard(&features, &training.spots),
            false => Scaling::centred(&features, &training.spots),
        };
        let dims = features.dims();
        let mut rows = features.all(&scaling);
        if params.metric == Metric::Cosine {
            normalise(dims, &mut rows);
        }
        let points: Vec<f64> =
            training.spots.iter().flat_map(|spot| &rows[spot * dims..(spot + 1) * dims]).copied().collect();
        ctx.check_cancelled()?;
        let found = nearest(dims, &points, &rows, k, false);
        let predictions = predictions(features.spots(), &training.classes, |spot, to| {
            vote(&found[spot], &training.targets, &params, to);
        });
        let values =
            [("k", k), ("train_spots", training.len()), ("spots", features.len()), ("dims", features.dims())];
        ctx.write("predictions", &predictions)?;
        ctx.write(
            "training",
            &told(
                values.map(|(name, value)| (name, value as f64)),
                json!({ "classes": training.classes, "metric": params.metric, "weights": params.weights }),
            ),
        )
    }
}

/// The shares of votes.
fn vote(neighbours: &[(usize, f64)], targets: &[usize], params: &Params, shares: &mut [f64]) {
    let distance = |square: f64| match params.metric {
        // Of vectors of length 1.
        Metric::Cosine => square / 2.0,
        Metric::Euclidean => square.sqrt(),
    };
    let meets = neighbours.iter().any(|neighbour| neighbour.1 == 0.0);
    for &(point, square) in neighbours {
        shares[targets[point]] += match params.weights {
            Weights::Uniform => 1.0,
            Weights::Distance if meets => f64::from(u8::from(square == 0.0)),
            Weights::Distance => 1.0 / distance(square),
        };
    }
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{Bench, close, overlapping, train_labels};

    const COSINE: [f64; 9] = [
        1.0,
        0.0,
        0.0,
        0.14285714285714285,
        0.14285714285714285,
        0.7142857142857143,
        0.2857142857142857,
        0.5714285714285714,
        0.14285714285714285,
    ];
    const COSINE_WEIGHTED: [f64; 9] = [
        1.0,
        0.0,
        0.0,
        0.03089510814809443,
        0.03294014169115323,
        0.9361647501607524,
        0.025349716300873567,
        0.9574743867207336,
        0.01717589697839287,
    ];
    const EUCLIDEAN_WEIGHTED: [f64; 9] = [
        1.0,
        0.0,
        0.0,
        0.0,
        0.19985952410784127,
        0.8001404758921586,
        0.11805381008194775,
        0.8183154321573313,
        0.06363075776072101,
    ];
    const STANDARD: [f64; 9] = [
        1.0,
        0.0,
        0.0,
        0.19249297862370604,
        0.11089307208736897,
        0.6966139492889251,
        0.11594951633110433,
        0.8207164888591815,
        0.06333399480971423,
    ];

    fn knn(params: Value) -> Result<Predictions> {
        let (features, train) = overlapping(&["A"], 80);
        let bench = Bench::new().input("features", &features).input("train", &train);
        Ok(bench.run::<Knn>(params)?.output("predictions"))
    }

    /// scikit-learn 1.9.1, of the spots and regions of `testing::overlapping`:
    /// ```python
    /// Z = X - X[:80].mean(0)     # standardize: StandardScaler().fit(X[:80]).transform(X)
    /// m = KNeighborsClassifier(7, metric="cosine", weights="distance").fit(Z[:80], y[:80])
    /// m.predict_proba(Z[[80, 95, 119]])
    /// ```
    #[test]
    fn votes_are_those_of_scikit_learn() {
        let cases = [
            (json!({ "k": 7 }), COSINE),
            (json!({ "k": 7, "weights": "distance" }), COSINE_WEIGHTED),
            (json!({ "k": 7, "metric": "euclidean", "weights": "distance" }), EUCLIDEAN_WEIGHTED),
            (json!({ "k": 7, "metric": "euclidean", "weights": "distance", "standardize": true }), STANDARD),
        ];
        for (params, expected) in cases {
            let found = knn(params).unwrap();
            let rows: Vec<f32> = [80, 95, 119].iter().flat_map(|&spot| found.row(spot)).copied().collect();
            close(&rows, &expected, 1e-6);
        }
    }

    #[test]
    fn a_spot_where_a_training_spot_is_has_its_region() {
        let found = knn(json!({ "k": 7, "weights": "distance" })).unwrap();
        let region = |i: usize| ["a", "b", "c"][i * i % 11 % 3];
        assert!((0..80).all(|spot| found.predicted(spot) == region(spot)));
        assert!(found.probabilities.iter().all(|p| p.is_finite()));
    }

    #[test]
    fn of_fewer_spots_than_neighbours_all_vote() {
        let (features, train) = overlapping(&["A"], 80);
        let bench = Bench::new().input("features", &features).input("train", &train);
        let done = bench.run::<Knn>(json!({ "k": 1000 })).unwrap();
        assert_eq!(done.output::<Metrics>("training").values["k"], 80.0);
        let (all, found) = (knn(json!({ "k": 80 })).unwrap(), done.output::<Predictions>("predictions"));
        assert_eq!(found.probabilities, all.probabilities);
        assert!(
            found.probabilities.chunks_exact(3).all(|row| row == &found.probabilities[..3]),
            "the shares of regions"
        );
        assert!(knn(json!({ "k": 0 })).is_err());
    }

    #[test]
    fn values_that_are_no_numbers_are_refused() {
        let (mut features, _) = overlapping(&["A"], 80);
        features.values[3] = f32::NAN;
        let train = train_labels([("S_0", "A", "a"), ("S_1", "A", "b")]);
        let bench = Bench::new().input("features", &features).input("train", &train);
        let error = bench.run::<Knn>(json!({ "k": 1 })).err().unwrap().to_string();
        assert!(error.contains("holds NaN at spot `S_0`, dimension 3"), "{error}");
    }
}
