//! `classify/propagate`: regions spread from labelled spots along a graph.

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Graph, Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    features::Features,
    graph::{Spread, between, of_features, spread, symmetric},
    knn::Metric,
    training::{Training, predictions, told},
};

/// Label propagation.
pub enum Propagate {}

/// What `classify/propagate` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How much of what a spot has comes from its neighbours; the rest is its own label. Default 0.9.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub alpha: f64,
    /// With `features`: how many nearest spots a spot is connected with. Default 15.
    #[schemars(range(min = 1))]
    pub k: usize,
    /// With `features`: what is near. Default `cosine`.
    pub metric: Metric,
    /// Rounds before it gives up with a warning. Default 1000.
    #[schemars(range(min = 1))]
    pub max_iter: u32,
    /// Converged when a round moves less than this in all, over spots and regions. Default 1e-6.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tolerance: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { alpha: 0.9, k: 15, metric: Metric::Cosine, max_iter: 1000, tolerance: 1e-6 }
    }
}

impl Stage for Propagate {
    const NAME: &'static str = "propagate";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Spreads regions from training spots along a graph (Zhou et al. 2004): over all spots, those tested on too, of which it \
             sees the edges and never the labels. Its results are transductive. A graph of neighbours on the slide ends at \
             the section: to reach others, connect `features`, of which a graph of nearest spots is made.",
        )
        .input::<TrainLabels>("train", "regions of the training spots")
        .optional::<Graph>("graph", "who is a neighbour; `features` are not needed then")
        .optional_many::<Embedding>("features", "one or several blocks of features, to make a graph of")
        .either(&["graph", "features"])
        .output::<Predictions>("predictions", "region and shares of every spot of the graph")
        .output::<Metrics>("training", "rounds, spots that were reached, spots that were not")
    }

    fn validate(params: &Params) -> Result<()> {
        if !(params.alpha > 0.0 && params.alpha < 1.0) {
            return Err(Error::invalid(format!(
                "`alpha` is {}: it must be between 0 and 1, without the ends",
                params.alpha
            )));
        }
        check::one_or_more(&[("k", params.k), ("max_iter", params.max_iter as usize)])?;
        check::above_zero("tolerance", params.tolerance)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let TrainLabels(labels) = ctx.read("train")?;
        let graph: Option<Graph> = ctx.read_optional("graph")?;
        let blocks = ctx.read_all::<Embedding>("features")?;
        let (spots, edges, training) = match (graph, blocks.is_empty()) {
            (Some(graph), true) => {
                let edges = between(&graph, graph.spots.iter().map(String::as_str), "graph")?;
                let training = Training::of(graph.spots.iter().map(String::as_str), &labels, "graph")?;
                (graph.spots, edges, training)
            }
            (None, false) => {
                let features = Features::join(blocks)?;
                let training = Training::of(features.spots(), &labels, "features")?;
                let edges = of_features(&features, &training, params.k, params.metric)?;
                (features.spots().map(str::to_owned).collect(), edges, training)
            }
            _ => {
                return Err(Error::invalid(
                    "connect either `graph` or `features`: regions spread along the one, or along a graph of the other",
                ));
            }
        };
        let classes = training.classes.len();
        let mut labels = vec![0.0; spots.len() * classes];
        for (&spot, &class) in training.spots.iter().zip(&training.targets) {
            labels[spot * classes + class] = 1.0;
        }
        let plan = Spread { alpha: params.alpha, max_iter: params.max_iter, tolerance: params.tolerance };
        let (values, rounds) = spread(&symmetric(&edges, 0.0), classes, &labels, plan, "moved", ctx)?;

        let sum = |spot: usize| values[spot * classes..(spot + 1) * classes].iter().sum::<f64>();
        let missed = (0..spots.len()).filter(|&spot| sum(spot) <= 0.0).count();
        if missed > 0 {
            tracing::warn!(
                "no way leads from a labelled spot to {missed} of {} spots: they get the most frequent region",
                spots.len()
            );
        }
        let mut majority = vec![0.0; classes];
        training.targets.iter().for_each(|&class| majority[class] += 1.0 / training.len() as f64);
        let predictions = predictions(spots.iter().map(String::as_str), &training.classes, |spot, to| {
            let sum = sum(spot);
            if sum > 0.0 {
                let row = &values[spot * classes..(spot + 1) * classes];
                to.iter_mut().zip(row).for_each(|(to, value)| *to = value / sum);
            } else {
                to.copy_from_slice(&majority);
            }
        });
        let values = [
            ("rounds", rounds as f64),
            ("edges", edges.data.len() as f64),
            ("spots_reached", (spots.len() - missed) as f64),
            ("spots_by_majority", missed as f64),
            ("train_accuracy", training.accuracy(&predictions)),
            ("train_spots", training.len() as f64),
        ];
        ctx.transductive(
            "classify/propagate: regions are spread over all spots",
            spots.iter().map(String::as_str),
        );
        ctx.write("predictions", &predictions)?;
        ctx.write("training", &told(values, json!({ "classes": training.classes })))
    }
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Csr;
    use serde_json::Value;

    use super::*;
    use crate::testing::{Bench, close, overlapping};

    const SHARES: [f64; 12] = [
        0.6734509110093237,
        0.2634192164167539,
        0.06312987257392245,
        0.5231325825590392,
        0.35035908771799595,
        0.12650832972296475,
        0.36822371469859194,
        0.3440514434043731,
        0.28772484189703496,
        0.5222140530175045,
        0.36649806341208213,
        0.11128788357041329,
    ];

    /// scikit-learn 1.9.1, of the spots and regions of `testing::overlapping`:
    /// ```python
    /// Z = normalize(X - X[:80].mean(0)); A = kneighbors_graph(Z, 15).toarray(); A = np.maximum(A, A.T)
    /// m = LabelSpreading(kernel=lambda x, y: A, alpha=.9, max_iter=10000, tol=1e-12)
    /// m.fit(X, np.where(i < 80, y, -1)).label_distributions_[[0, 80, 95, 119]]
    /// ```
    #[test]
    fn shares_are_those_of_scikit_learn() {
        let (features, train) = overlapping(&["A"], 80);
        let bench = Bench::new().input("features", &features).input("train", &train);
        let done = bench.run::<Propagate>(json!({ "tolerance": 1e-12 })).unwrap();
        let found: Predictions = done.output("predictions");
        let rows: Vec<f32> = [0, 80, 95, 119].iter().flat_map(|&spot| found.row(spot)).copied().collect();
        close(&rows, &SHARES, 1e-6);
        let training: Metrics = done.output("training");
        assert_eq!(training.values["spots_by_majority"], 0.0);
        assert_eq!(done.marks("predictions"), ["classify/propagate: regions are spread over all spots"]);
    }

    /// Two rows of spots, the second without a label.
    #[test]
    fn what_is_not_reached_gets_the_majority() {
        let (_, train) = overlapping(&["A"], 40);
        let row = |i: i32| {
            let near = [i - 1, i + 1].into_iter().filter(|&o| (0..120).contains(&o) && (o < 60) == (i < 60));
            near.map(|other| (other, 1.0)).collect()
        };
        let edges = Csr::from_rows(120, (0..120).map(row).collect::<Vec<Vec<_>>>());
        let graph = Graph { spots: (0..120).map(|i| format!("S_{i}")).collect(), edges };
        let bench = Bench::new().input("graph", &graph).input("train", &train);
        let done = bench.run::<Propagate>(json!({})).unwrap();
        let found: Predictions = done.output("predictions");
        let training: Metrics = done.output("training");
        assert_eq!((training.values["spots_reached"], training.values["spots_by_majority"]), (60.0, 60.0));
        assert_eq!(found.row(60), found.row(119));
        assert!(found.probabilities.iter().all(|p| p.is_finite()));
        assert_eq!(found.predicted(40), found.predicted(39), "the nearest labelled spot says the most");
    }

    #[test]
    fn what_cannot_be_spread_is_said() {
        let (features, train) = overlapping(&["A"], 80);
        let refused = |bench: Bench, params: Value| {
            bench.input("train", &train).run::<Propagate>(params).err().unwrap().to_string()
        };
        assert!(refused(Bench::new(), json!({})).starts_with("connect either `graph` or `features`"));
        let bench = || Bench::new().input("features", &features);
        assert!(refused(bench(), json!({ "k": 120 })).contains("there are only 120 spots"));
        assert!(refused(bench(), json!({ "alpha": 1.0 })).starts_with("`alpha` is 1"));
        let graph = Graph { spots: vec!["X".into()], edges: Csr::from_rows(1, [vec![]]) };
        let error = refused(Bench::new().input("graph", &graph), json!({}));
        assert!(error.starts_with("no training spot is in `graph`"), "{error}");
    }
}
