//! `classify/probe`: a linear classifier on frozen features, which says how much of the regions they hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Labels, Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    features::{Features, Scaling},
    lbfgs::{Outcome, Stop},
    logistic::{Model, Problem},
};

/// Multinomial logistic regression on frozen features.
pub enum Probe {}

/// What `classify/probe` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Inverse strength of the L2 penalty, scikit-learn's `C`: the smaller, the simpler the classifier. Default 1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub c: f64,
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
            c: 1.0,
            class_weight: ClassWeight::Balanced,
            standardize: true,
            max_iter: 1000,
            tolerance: 1e-6,
        }
    }
}

/// How much a spot of each region counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// Every spot counts 1.
    None,
    /// Every region counts the same: a spot counts spots / (regions x spots of its region).
    Balanced,
}

impl ClassWeight {
    /// The weight of each class.
    fn of(self, targets: &[usize], classes: usize) -> Vec<f64> {
        let mut counts = vec![0_u32; classes];
        targets.iter().for_each(|&class| counts[class] += 1);
        let balanced = |count: u32| targets.len() as f64 / (classes as f64 * f64::from(count));
        counts.into_iter().map(|count| if self == Self::Balanced { balanced(count) } else { 1.0 }).collect()
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
        .output::<Metrics>("training", "how the fit went: objective, iterations, train_accuracy, …")
    }

    fn validate(params: &Params) -> Result<()> {
        for (name, value) in [("c", params.c), ("tolerance", params.tolerance)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::invalid(format!("`{name}` is {value}: it must be a number above 0")));
            }
        }
        if params.max_iter == 0 {
            return Err(Error::invalid("`max_iter` is 0: it must be 1 or more"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        if features.n_blocks() > 1 {
            tracing::info!(
                "{} blocks of features share {} spots (the largest has {})",
                features.n_blocks(),
                features.len(),
                features.largest_block(),
            );
        }
        let TrainLabels(labels) = ctx.read("train")?;
        let training = Training::of(&features, &labels)?;
        let scaling = match params.standardize {
            true => Scaling::standard(&features, &training.spots),
            false => Scaling::none(features.dims()),
        };

        let rows = features.matrix(&training.spots, &scaling);
        let problem = Problem {
            dims: features.dims(),
            rows: &rows,
            targets: &training.targets,
            class_weights: &params.class_weight.of(&training.targets, training.classes.len()),
            c: params.c,
        };
        let stop = Stop { gradient: params.tolerance, iterations: params.max_iter as usize };
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

        let predictions = predict(&features, &scaling, &model, &training.classes);
        let right = training
            .spots
            .iter()
            .zip(&training.targets)
            .filter(|&(&spot, &target)| predictions.predicted_class(spot) == target)
            .count();
        let values = [
            ("objective", minimum.value),
            ("gradient", minimum.gradient),
            ("iterations", minimum.iterations as f64),
            ("converged", f64::from(u8::from(minimum.outcome == Outcome::Converged))),
            ("train_accuracy", right as f64 / training.spots.len() as f64),
            ("train_spots", training.spots.len() as f64),
            ("spots", features.len() as f64),
            ("dims", features.dims() as f64),
        ];
        ctx.write("predictions", &predictions)?;
        ctx.write(
            "training",
            &Metrics {
                values: values.map(|(name, value)| (name.to_owned(), value)).into(),
                groups: BTreeMap::new(),
                curves: BTreeMap::from([("objective".to_owned(), objective)]),
                details: json!({
                    "classes": training.classes,
                    "objective": "weighted mean cross entropy + ‖W‖² / (2 · c · sum of weights)",
                }),
            },
        )
    }
}

/// The training spots that have features.
struct Training {
    /// The regions among them, sorted.
    classes: Vec<String>,
    /// Positions in the features, in the order of the labels.
    spots: Vec<usize>,
    /// Class per spot.
    targets: Vec<usize>,
}

impl Training {
    fn of(features: &Features, labels: &Labels) -> Result<Self> {
        let positions: HashMap<&str, usize> = features.spots().zip(0..).collect();
        let labelled = labels.spots.iter().zip(&labels.regions);
        let (spots, regions): (Vec<usize>, Vec<&str>) = labelled
            .clone()
            .filter_map(|(spot, region)| Some((*positions.get(spot.as_str())?, region.as_deref()?)))
            .unzip();
        let without = labelled.filter(|(spot, _)| !positions.contains_key(spot.as_str())).count();
        if without > 0 {
            tracing::warn!(
                "{without} of {} training spots have no features and are left out",
                labels.spots.len()
            );
        }
        let classes: BTreeSet<&str> = regions.iter().copied().collect();
        if classes.len() < 2 {
            return Err(Error::invalid(match classes.first() {
                None => "no training spot has features: are `features` and `train` of the same sections?"
                    .to_owned(),
                Some(only) => format!("all training spots are of region `{only}`: a classifier needs two"),
            }));
        }
        let codes: HashMap<&str, usize> = classes.iter().copied().zip(0..).collect();
        let targets = regions.iter().map(|region| codes[region]).collect();
        Ok(Self { classes: classes.into_iter().map(str::to_owned).collect(), spots, targets })
    }
}

/// Probabilities of every spot that has features.
fn predict(features: &Features, scaling: &Scaling, model: &Model, classes: &[String]) -> Predictions {
    let mut probabilities = vec![0.0_f32; features.len() * classes.len()];
    probabilities.par_chunks_mut(classes.len()).enumerate().for_each_init(
        || (vec![0.0; features.dims()], vec![0.0; classes.len()]),
        |(row, double), (spot, to)| {
            features.write(spot, scaling, row);
            model.probabilities(row, double);
            to.iter_mut().zip(double).for_each(|(to, p)| *to = *p as f32);
        },
    );
    Predictions {
        spots: features.spots().map(str::to_owned).collect(),
        classes: classes.to_vec(),
        probabilities,
    }
}

#[cfg(test)]
mod tests;
