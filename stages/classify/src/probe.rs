//! `classify/probe`: a linear classifier on frozen features, which says how much of the regions they hold.

mod choice;

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::choice::Choice;
use crate::{
    check,
    features::{Features, Scaling},
    lbfgs::{Outcome, Stop},
    logistic::Problem,
    training::{ClassWeight, Training, predictions},
};

/// Multinomial logistic regression on frozen features.
pub enum Probe {}

/// What `classify/probe` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Inverse strength of the L2 penalty, scikit-learn's `C`: the smaller, the simpler the classifier. A list, or `auto`, is
    /// chosen from by cross-validation among the training spots: up to 5 folds that keep patients whole (of one patient
    /// sections, of one section nothing); the best mean macro F1 wins, of equal ones the smallest. Default 1.
    pub c: Strength,
    /// How much a spot of each region counts. Default `balanced`.
    pub class_weight: ClassWeight,
    /// Whether each dimension is brought to mean 0 and variance 1 over the training spots, and several blocks of
    /// features to equal weight. Default true.
    pub standardize: bool,
    /// Steps of the optimiser before it gives up with a warning. Default 1000.
    #[schemars(range(min = 1))]
    pub max_iter: u32,
    /// Converged when no component of the gradient of the mean loss (with penalty) is larger. Default 1e-6.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tolerance: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            c: Strength::Fixed(1.0),
            class_weight: ClassWeight::Balanced,
            standardize: true,
            max_iter: 1000,
            tolerance: 1e-6,
        }
    }
}

/// The strength of the penalty, or where to look for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number above 0, a list of them to choose from, or `auto`")]
pub enum Strength {
    /// This one.
    Fixed(#[schemars(extend("exclusiveMinimum" = 0))] f64),
    /// The best of these, by inner cross-validation.
    Candidates(Vec<f64>),
    /// The best of 0.0001, 0.001, 0.01, 0.1, 1 and 10.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// `auto`
    Auto,
}

impl Strength {
    /// What there is to choose from, the strongest penalty first.
    fn candidates(&self) -> Vec<f64> {
        let mut candidates = match self {
            Self::Fixed(c) => vec![*c],
            Self::Candidates(list) => list.clone(),
            Self::Auto(Auto::Auto) => vec![1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0],
        };
        candidates.sort_by(f64::total_cmp);
        candidates.dedup();
        candidates
    }
}

impl Stage for Probe {
    const NAME: &'static str = "probe";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Multinomial logistic regression on frozen features: the linear probe. Several blocks of features \
             (expression, image, …) are placed side by side, over the spots that all of them have.",
        )
        .many::<Embedding>("features", "one or several blocks of features")
        .input::<TrainLabels>("train", "regions of the spots to train on")
        .output::<Predictions>("predictions", "region and probabilities of every spot that has features")
        .output::<Metrics>("training", "how the fit went: objective, iterations, train_accuracy, c and how it was chosen, …")
    }

    fn validate(params: &Params) -> Result<()> {
        let candidates = params.c.candidates();
        if candidates.is_empty() {
            return Err(Error::invalid("`c` is an empty list: name candidates, or say `auto`"));
        }
        candidates.into_iter().try_for_each(|c| check::above_zero("c", c))?;
        check::above_zero("tolerance", params.tolerance)?;
        check::one_or_more(&[("max_iter", params.max_iter as usize)])
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        let TrainLabels(labels) = ctx.read("train")?;
        let training = Training::of(features.spots(), &labels, "features")?;
        let stop = Stop { gradient: params.tolerance, iterations: params.max_iter as usize };
        let candidates = params.c.candidates();
        let choice = (candidates.len() > 1)
            .then(|| Choice::of(&features, &training, &candidates, &params, stop, ctx))
            .transpose()?
            .flatten();
        let c = match &choice {
            Some(choice) => choice.c,
            None if candidates.len() == 1 => candidates[0],
            None => {
                tracing::warn!(
                    "no region has two training spots, so nothing can be held back to choose `c` on: it is 1"
                );
                1.0
            }
        };
        let scaling = scaling(&features, &training.spots, params.standardize);
        let rows = features.matrix(&training.spots, &scaling);
        let problem = Problem {
            dims: features.dims(),
            rows: &rows,
            targets: &training.targets,
            class_weights: &params.class_weight.of(&training.targets, training.classes.len()),
            c,
        };
        let mut objective = Vec::new();
        let (model, minimum) = problem.fit(stop, |step, value| {
            ctx.check_cancelled()?;
            ctx.progress(step as u64, params.max_iter.into(), "iterations");
            ctx.metric("objective", step as u64, value);
            objective.push(value);
            Ok(())
        })?;
        match minimum.outcome {
            Outcome::Converged => tracing::info!("converged after {} iterations", minimum.iterations),
            Outcome::OutOfIterations => tracing::warn!(
                "not converged after {} iterations (gradient {:.1e}): standardize, raise `max_iter`, or lower `c`",
                minimum.iterations,
                minimum.gradient,
            ),
            Outcome::Stalled => tracing::warn!(
                "no further progress after {} iterations at gradient {:.1e}: raise `tolerance`, or lower `c`",
                minimum.iterations,
                minimum.gradient,
            ),
        }

        let predictions = predictions(features.spots(), &training.classes, |spot, to| {
            let mut row = vec![0.0; features.dims()];
            features.write(spot, &scaling, &mut row);
            model.probabilities(&row, to);
        });
        let values = [
            ("objective", minimum.value),
            ("gradient", minimum.gradient),
            ("iterations", minimum.iterations as f64),
            ("converged", f64::from(u8::from(minimum.outcome == Outcome::Converged))),
            ("c", c),
            ("train_accuracy", training.accuracy(&predictions)),
            ("train_spots", training.len() as f64),
            ("spots", features.len() as f64),
            ("dims", features.dims() as f64),
        ];
        let mut training = Metrics {
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
            groups: BTreeMap::new(),
            curves: BTreeMap::from([("objective".to_owned(), objective)]),
            details: json!({
                "classes": training.classes,
                "objective": "weighted mean cross entropy + ‖W‖² / (2 · c · sum of weights)",
            }),
        };
        if let Some(choice) = choice {
            choice.tell(&mut training);
        }
        ctx.write("predictions", &predictions)?;
        ctx.write("training", &training)
    }
}

/// What is done to features, by what some of the spots say of them.
fn scaling(features: &Features, spots: &[usize], standardize: bool) -> Scaling {
    match standardize {
        true => Scaling::standard(features, spots),
        false => Scaling::none(features.dims()),
    }
}

#[cfg(test)]
mod tests;
