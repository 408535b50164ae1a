//! `classify/prototype`: the region whose mean is nearest.

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
    neighbours::{normalise, squared_distance},
    training::{Training, predictions, told},
};

/// The nearest mean of a region.
pub enum Prototype {}

/// What `classify/prototype` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Whether vectors, once centred on the training spots' mean, are brought to length 1: SimpleShot's CL2N. Default true.
    pub normalize: bool,
    /// Whether each dimension is brought to variance 1 over the training spots first. Default false.
    pub standardize: bool,
    /// Probabilities are the softmax of -d² / temperature; regions do not depend on it. Default 0.1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { normalize: true, standardize: false, temperature: 0.1 }
    }
}

impl Stage for Prototype {
    const NAME: &'static str = "prototype";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "The region whose training spots' mean is nearest, on frozen features that are centred and brought to length 1: \
             SimpleShot (Wang et al. 2019), for few labels. The smaller a region, the more its mean is one spot's.",
        )
        .many::<Embedding>("features", "one or several blocks of features")
        .input::<TrainLabels>("train", "regions of the spots to take means of")
        .output::<Predictions>("predictions", "region and probabilities of every spot that has features")
        .output::<Metrics>("training", "train_accuracy, spots, training spots, dimensions")
    }

    fn validate(params: &Params) -> Result<()> {
        check::above_zero("temperature", params.temperature)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        let TrainLabels(labels) = ctx.read("train")?;
        let training = Training::of(features.spots(), &labels, "features")?;
        let scaling = match params.standardize {
            true => Scaling::standard(&features, &training.spots),
            false => Scaling::centred(&features, &training.spots),
        };
        let dims = features.dims();
        let mut rows = features.all(&scaling);
        if params.normalize {
            normalise(dims, &mut rows);
        }
        let row = |spot: usize| &rows[spot * dims..(spot + 1) * dims];
        let mut means = vec![vec![0.0; dims]; training.classes.len()];
        let mut counts = vec![0_u32; training.classes.len()];
        for (&spot, &class) in training.spots.iter().zip(&training.targets) {
            counts[class] += 1;
            means[class].iter_mut().zip(row(spot)).for_each(|(sum, x)| *sum += x);
        }
        for (mean, count) in means.iter_mut().zip(&counts) {
            mean.iter_mut().for_each(|sum| *sum /= f64::from(*count));
        }
        let predictions = predictions(features.spots(), &training.classes, |spot, to| {
            let squares: Vec<f64> = means.iter().map(|mean| squared_distance(mean, row(spot))).collect();
            let nearest = squares.iter().copied().fold(f64::INFINITY, f64::min);
            to.iter_mut()
                .zip(squares)
                .for_each(|(to, square)| *to = ((nearest - square) / params.temperature).exp());
            let sum: f64 = to.iter().sum();
            to.iter_mut().for_each(|to| *to /= sum);
        });
        let values = [
            ("train_accuracy", training.accuracy(&predictions)),
            ("train_spots", training.len() as f64),
            ("spots", features.len() as f64),
            ("dims", dims as f64),
        ];
        ctx.write("predictions", &predictions)?;
        ctx.write(
            "training",
            &told(values, json!({ "classes": training.classes, "spots_per_class": counts })),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, close, overlapping};

    const REGIONS: &str = "acaccaaaaccabaaccaaaabccaacaccaaaaccabaa";
    const PROBABILITIES: [f64; 6] = [
        0.9534582618834823,
        0.041715265379559476,
        0.004826472736958254,
        0.0002578747083031446,
        0.04213988422595913,
        0.9576022410657377,
    ];

    /// scikit-learn 1.9.1 and NumPy, of the spots and regions of `testing::overlapping`:
    /// ```python
    /// Z = normalize(X - X[:80].mean(0))
    /// m = NearestCentroid().fit(Z[:80], y[:80]); m.predict(Z[80:])
    /// scipy.special.softmax(-pairwise_distances(Z[80:], m.centroids_) ** 2 / .1, axis=1)[[0, 15]]
    /// ```
    #[test]
    fn regions_are_those_of_scikit_learn() {
        let (features, train) = overlapping(&["A"], 80);
        let bench = Bench::new().input("features", &features).input("train", &train);
        let found: Predictions = bench.run::<Prototype>(json!({})).unwrap().output("predictions");
        let regions: String = (80..120).map(|spot| found.predicted(spot)).collect();
        assert_eq!(regions, REGIONS);
        close(found.row(80), &PROBABILITIES[..3], 1e-6);
        close(found.row(95), &PROBABILITIES[3..], 1e-6);
    }

    #[test]
    fn temperature_moves_no_region() {
        let (features, train) = overlapping(&["A"], 80);
        let with = |temperature: f64| {
            let bench = Bench::new().input("features", &features).input("train", &train);
            let found: Predictions =
                bench.run::<Prototype>(json!({ "temperature": temperature })).unwrap().output("predictions");
            (0..120).map(|spot| found.predicted_class(spot)).collect::<Vec<_>>()
        };
        assert_eq!(with(0.01), with(2.0));
        let bench = Bench::new().input("features", &features).input("train", &train);
        let error = bench.run::<Prototype>(json!({ "temperature": 0.0 })).err().unwrap().to_string();
        assert_eq!(error, "`temperature` is 0: it must be a number above 0");
    }
}
