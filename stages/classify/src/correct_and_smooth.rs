//! `classify/correct-and-smooth`: what a classifier gets wrong on labelled spots tells about their neighbours.

use std::collections::BTreeSet;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Csr, Embedding, Graph, Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    features::Features,
    graph::{Spread, Weights, between_known, of_features, product, settle, spread, symmetric},
    knn::Metric,
    training::{Training, predictions, told},
};

/// Error correlation and prediction correlation on a graph.
pub enum CorrectAndSmooth {}

/// What `classify/correct-and-smooth` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How much of a spot's error comes from its neighbours'; the rest is its own, where it is known. 0: nothing is corrected. Default 0.8.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub correct_alpha: f64,
    /// How much of a spot's prediction comes from its neighbours' afterwards. 0: nothing is smoothed. Default 0.8.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub smooth_alpha: f64,
    /// How large corrections are. `auto` (default): as large as errors on labelled spots are in the mean. A number: errors of labelled
    /// spots stay as they are while they spread as means of neighbours, whatever `correct_alpha` above 0, and are multiplied with it.
    pub scale: Scale,
    /// With `features`: how many nearest spots a spot is connected with. Default 15.
    #[schemars(range(min = 1))]
    pub k: usize,
    /// With `features`: what is near. Default `cosine`.
    pub metric: Metric,
    /// Rounds of each of both before it gives up with a warning. Default 1000.
    #[schemars(range(min = 1))]
    pub max_iter: u32,
    /// Converged when a round moves less than this in all, over spots and regions. Default 1e-6.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tolerance: f64,
}

/// How large corrections are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number above 0, or `auto`")]
pub enum Scale {
    /// As told: FDiff-scale.
    Fixed(f64),
    /// As errors are on labelled spots: Autoscale.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// `auto`
    Auto,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            correct_alpha: 0.8,
            smooth_alpha: 0.8,
            scale: Scale::Auto(Auto::Auto),
            k: 15,
            metric: Metric::Cosine,
            max_iter: 1000,
            tolerance: 1e-6,
        }
    }
}

/// Errors that would be enlarged so often by `scale: auto` stay as they are, as PyTorch Geometric has it: they come from so far
/// away that they say nothing.
const MOST: f64 = 1000.0;
/// Errors on labelled spots below this tell nothing about others.
const SURE: f64 = 0.02;

impl Stage for CorrectAndSmooth {
    const NAME: &'static str = "correct-and-smooth";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Corrects a classifier's predictions by its errors on labelled spots, which spread along a graph, and smooths what comes \
             out along it (Huang et al. 2021, C&S): over all spots, those tested on too, of which it sees the edges and never the \
             labels. Its results are transductive. A graph of neighbours on the slide ends at the section: to reach others, connect \
             `features`, of which a graph of nearest spots is made. Spots that are not in the graph keep their predictions.",
        )
        .input::<Predictions>("predictions", "probabilities by any classifier")
        .input::<TrainLabels>("train", "regions of the spots that it was trained on, or of others that are not tested on")
        .optional::<Graph>("graph", "who is a neighbour; `features` are not needed then")
        .optional_many::<Embedding>("features", "one or several blocks of features, to make a graph of")
        .either(&["graph", "features"])
        .output::<Predictions>("predictions", "region and shares of every spot; a labelled spot counts as what its label says")
        .output::<Metrics>("training", "rounds, the mean error on labelled spots, how many spots were reached, how many changed")
    }

    fn validate(params: &Params) -> Result<()> {
        for (name, alpha) in [("correct_alpha", params.correct_alpha), ("smooth_alpha", params.smooth_alpha)]
        {
            if !(0.0..1.0).contains(&alpha) {
                return Err(Error::invalid(format!("`{name}` is {alpha}: it must be from 0 to below 1")));
            }
        }
        if let Scale::Fixed(scale) = params.scale {
            check::above_zero("scale", scale)?;
        }
        check::one_or_more(&[("k", params.k), ("max_iter", params.max_iter as usize)])?;
        check::above_zero("tolerance", params.tolerance)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let given: Predictions = ctx.read("predictions")?;
        let TrainLabels(labels) = ctx.read("train")?;
        let training = Training::of(given.spots.iter().map(String::as_str), &labels, "predictions")?;
        let (graph, input) = match (
            ctx.read_optional::<Graph>("graph")?,
            ctx.read_all::<Embedding>("features")?,
        ) {
            (Some(graph), blocks) if blocks.is_empty() => (graph, "graph"),
            (None, blocks) if !blocks.is_empty() => {
                let features = Features::join(blocks)?;
                let among = Training::of(features.spots(), &labels, "features")?;
                let edges = of_features(&features, &among, params.k, params.metric)?;
                (Graph { spots: features.spots().map(str::to_owned).collect(), edges }, "features")
            }
            _ => {
                return Err(Error::invalid(
                    "connect either `graph` or `features`: errors spread along the one, or along a graph of the other",
                ));
            }
        };
        let (edges, unknown) = between_known(&graph, given.spots.iter().map(String::as_str))?;
        if unknown.len() == given.spots.len() {
            return Err(Error::invalid(format!(
                "no spot of `predictions` is in `{input}`: make both of the same sections"
            )));
        }
        if !unknown.is_empty() {
            tracing::warn!(
                "{} of {} spots of `predictions` are not in `{input}` and keep their predictions",
                unknown.len(),
                given.spots.len()
            );
        }
        let base = Base::of(&given, &training)?;
        let outcome = base.improve(&edges, &params, ctx)?;
        let found = predictions(given.spots.iter().map(String::as_str), &base.classes, |spot, to| {
            to.copy_from_slice(&outcome.shares[spot * base.classes.len()..][..base.classes.len()]);
        });
        let training = outcome.tell(&given, &found, &base, &edges, unknown.len());
        ctx.transductive(
            "classify/correct-and-smooth: errors and predictions are spread over all spots",
            given.spots.iter().map(String::as_str),
        );
        ctx.write("predictions", &found)?;
        ctx.write("training", &training)
    }
}

/// What is given: spots x classes.
struct Base {
    /// Those of the predictions and those of the labels.
    classes: Vec<String>,
    values: Vec<f64>,
    /// The class of each labelled spot.
    targets: Vec<Option<usize>>,
}

/// What comes of it.
struct Outcome {
    /// Spots x classes.
    shares: Vec<f64>,
    /// The mean over labelled spots of how much is wrong, over classes.
    error: f64,
    /// Spots without a label that a labelled one's error came to.
    reached: usize,
    /// Of correcting and of smoothing.
    rounds: [u32; 2],
}

impl Base {
    fn of(given: &Predictions, training: &Training) -> Result<Self> {
        if let Some(at) = given.probabilities.iter().position(|p| !(p.is_finite() && *p >= 0.0)) {
            return Err(Error::invalid(format!(
                "`predictions` give spot `{}` a probability of {}: it should be from 0 to 1",
                given.spots[at / given.classes.len()],
                given.probabilities[at]
            )));
        }
        for (spot, row) in given.probabilities.chunks_exact(given.classes.len().max(1)).enumerate() {
            if row.iter().sum::<f32>() <= 0.0 {
                let spot = &given.spots[spot];
                return Err(Error::invalid(format!(
                    "`predictions` give spot `{spot}` no region: its probabilities are 0"
                )));
            }
        }
        let classes: BTreeSet<&String> = given.classes.iter().chain(&training.classes).collect();
        let classes: Vec<String> = classes.into_iter().cloned().collect();
        let place = |class: &String| classes.binary_search(class).unwrap_or_default();
        let mut values = vec![0.0; given.spots.len() * classes.len()];
        let places: Vec<usize> = given.classes.iter().map(place).collect();
        for (spot, row) in values.chunks_exact_mut(classes.len()).enumerate() {
            places.iter().zip(given.row(spot)).for_each(|(&class, &p)| row[class] = f64::from(p));
        }
        let mut targets = vec![None; given.spots.len()];
        for (&spot, &class) in training.spots.iter().zip(&training.targets) {
            targets[spot] = Some(place(&training.classes[class]));
        }
        Ok(Self { classes, values, targets })
    }

    /// Of a labelled spot, what its label says; of others what `values` do.
    fn with_labels(&self, mut values: Vec<f64>) -> Vec<f64> {
        for (row, target) in values.chunks_exact_mut(self.classes.len()).zip(&self.targets) {
            if let Some(class) = target {
                row.fill(0.0);
                row[*class] = 1.0;
            }
        }
        values
    }

    /// Z + Ê where E = Y - Z of labelled spots spread, then G of that and the labels.
    fn improve(&self, edges: &Csr, params: &Params, ctx: &Context) -> Result<Outcome> {
        let classes = self.classes.len();
        let weights = symmetric(edges, 0.0);
        let truth = self.with_labels(self.values.clone());
        let mut errors: Vec<f64> = truth.iter().zip(&self.values).map(|(y, z)| y - z).collect();
        let norm = |row: &[f64]| row.iter().map(|x| x.abs()).sum::<f64>();
        let labelled = self.targets.iter().flatten().count();
        let error = norm(&errors) / labelled as f64;
        if error < SURE {
            tracing::warn!(
                "`predictions` are right, and sure, on labelled spots already (mean error {error:.4} of at most 2): there is nothing to \
                 correct. A classifier that learns its labels by heart hides its errors: take a simpler one, or labels that it has not seen"
            );
        }
        let plan = |alpha| Spread { alpha, max_iter: params.max_iter, tolerance: params.tolerance };
        let mut correcting = 0;
        if params.correct_alpha > 0.0 {
            let (plan, moved) = (plan(params.correct_alpha), "moved_correct");
            (errors, correcting) = match params.scale {
                Scale::Auto(_) => spread(&weights, classes, &errors, plan, moved, ctx)?,
                Scale::Fixed(_) => self.diffuse(edges, errors, plan, moved, ctx)?,
            };
        }
        let mut reached = 0;
        let mut values = self.values.clone();
        for ((row, change), target) in
            values.chunks_exact_mut(classes).zip(errors.chunks_exact(classes)).zip(&self.targets)
        {
            let size = norm(change);
            if target.is_some() || size == 0.0 {
                continue;
            }
            reached += 1;
            let scale = match params.scale {
                Scale::Fixed(scale) => scale,
                Scale::Auto(_) if error > MOST * size => 1.0,
                Scale::Auto(_) => error / size,
            };
            row.iter_mut().zip(change).for_each(|(z, e)| *z += scale * e);
        }
        let (mut shares, smoothing) = match params.smooth_alpha {
            0.0 => (self.with_labels(values), 0),
            alpha => spread(&weights, classes, &self.with_labels(values), plan(alpha), "moved_smooth", ctx)?,
        };
        for row in shares.chunks_exact_mut(classes) {
            // A correction may take more than there was.
            row.iter_mut().for_each(|share| *share = share.max(0.0));
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|share| *share /= sum);
        }
        Ok(Outcome { shares, error, reached, rounds: [correcting, smoothing] })
    }

    /// E = D⁻¹ A E at spots without a label, until it stays; how many rounds that took.
    fn diffuse(
        &self,
        edges: &Csr,
        errors: Vec<f64>,
        plan: Spread,
        moved: &str,
        ctx: &Context,
    ) -> Result<(Vec<f64>, u32)> {
        let classes = self.classes.len();
        let row = |row: usize| {
            let sum: f64 = edges.row(row).1.iter().map(|&weight| f64::from(weight)).sum();
            edges.entries(row).map(|(other, weight)| (other, f64::from(weight) / sum)).collect()
        };
        let weights: Weights = (0..edges.n_rows()).map(row).collect();
        settle(errors, plan, moved, ctx, |errors| {
            let mut next = product(&weights, classes, errors);
            let rows = next.chunks_exact_mut(classes).zip(errors.chunks_exact(classes)).zip(&self.targets);
            for ((next, last), _) in rows.filter(|(_, target)| target.is_some()) {
                next.copy_from_slice(last);
            }
            next
        })
    }
}

impl Outcome {
    fn tell(
        self,
        given: &Predictions,
        found: &Predictions,
        base: &Base,
        edges: &Csr,
        unknown: usize,
    ) -> Metrics {
        let unlabelled: Vec<usize> =
            (0..given.spots.len()).filter(|&spot| base.targets[spot].is_none()).collect();
        let labelled = given.spots.len() - unlabelled.len();
        let changed =
            unlabelled.iter().filter(|&&spot| given.predicted(spot) != found.predicted(spot)).count();
        let right = (0..given.spots.len()).filter(|&spot| {
            base.targets[spot].is_some_and(|class| base.classes[class] == given.predicted(spot))
        });
        let missed = unlabelled.len() - self.reached;
        if self.reached == 0 && missed > 0 {
            tracing::warn!(
                "no error of a labelled spot reaches one of the {missed} without a label: nothing is corrected"
            );
        } else if missed > 0 {
            tracing::info!(
                "no error of a labelled spot reaches {missed} of {} without a label: they are not corrected",
                unlabelled.len()
            );
        }
        let values = [
            ("rounds_correct", f64::from(self.rounds[0])),
            ("rounds_smooth", f64::from(self.rounds[1])),
            ("edges", edges.data.len() as f64),
            ("error", self.error),
            ("train_accuracy_before", right.count() as f64 / labelled as f64),
            ("train_spots", labelled as f64),
            ("spots_reached", self.reached as f64),
            ("spots_not_reached", missed as f64),
            ("spots_changed", changed as f64),
            ("spots_not_in_graph", unknown as f64),
        ];
        told(values, json!({ "classes": base.classes }))
    }
}

#[cfg(test)]
mod tests;
