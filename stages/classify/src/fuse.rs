//! `classify/fuse`: several blocks of features as one.

mod attention;

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Metrics, Role, Split, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    features::{Features, Scaling},
    network::Plan,
    training::{ClassWeight, Training, refuse_test_spots},
};

/// One embedding of several.
pub enum Fuse {}

/// What `classify/fuse` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// `concat` (default), `sum` or `attention`.
    pub kind: Kind,
    /// Of `sum`: what every block but the first is multiplied with. Default 0.1, as in ConGI, whose first block is expression.
    pub weight: f64,
    /// Of `attention`: dimensions of the result. Default 64.
    #[schemars(range(min = 1))]
    pub dims: usize,
    /// Of `attention`: share of the result's dimensions that each training step leaves out. Default 0.3.
    pub dropout: f64,
    /// Of `attention`: epochs at most. Default 200.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Of `attention`: when it is over, as of `classify/mlp`. Default 20.
    pub patience: Option<usize>,
    /// Of `attention`: spots of a step. Default 256.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Of `attention`: step size of AdamW. Default 0.001.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Of `attention`: decay of weights, as AdamW has it. Default 0.01.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Of `attention`: how much a spot of each region counts. Default `balanced`.
    pub class_weight: ClassWeight,
}

/// How blocks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Side by side, each block divided by the root of its width: all weigh the same.
    Concat,
    /// The first block plus `weight` times the others, which are as wide.
    Sum,
    /// Of two blocks, brought to `dims`: their mean by shares that each spot's own scores say, learnt from training labels.
    Attention,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            kind: Kind::Concat,
            weight: 0.1,
            dims: 64,
            dropout: 0.3,
            epochs: 200,
            patience: Some(20),
            batch_size: 256,
            learning_rate: 1e-3,
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
            batch: self.batch_size,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            class_weight: self.class_weight,
        }
    }
}

impl Stage for Fuse {
    const NAME: &'static str = "fuse";
    const STREAMS: &'static [&'static str] = &["init", "batches"];
    const SEEDED_IF: &'static [(&'static str, Option<&'static str>)] = &[("kind", Some("attention"))];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Makes one embedding of several blocks of features (expression, image, …), over the spots that all of them have. Each \
             dimension is z-scored: on the split's training spots, else on the labelled ones, else on all, which is \
             transductive and said so. What `attention` makes has seen the training labels.",
        )
        .many::<Embedding>("features", "two or more blocks of features")
        .optional::<Split>("split", "which spots z-scores are of: those that train")
        .optional::<TrainLabels>("train", "for `kind: attention`: regions of the training spots")
        .output::<Embedding>("embedding", "one vector per spot that all blocks have")
        .output::<Metrics>("summary", "spots, dimensions; of `attention` the share of the first block, and how training went")
    }

    fn validate(params: &Params) -> Result<()> {
        if !params.weight.is_finite() {
            return Err(Error::invalid("`weight` must be a finite number"));
        }
        if params.dims == 0 {
            return Err(Error::invalid("`dims` is 0: it must be 1 or more"));
        }
        params.plan().check(params.dropout)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(ctx.read_all::<Embedding>("features")?)?;
        let widths = features.widths();
        if widths.len() < 2 {
            return Err(Error::invalid("`features` is one block: connect two or more to be fused"));
        }
        let split: Option<Split> = ctx.read_optional("split")?;
        let labels = ctx.read_optional::<TrainLabels>("train")?.map(|TrainLabels(labels)| labels);
        if let (Some(labels), Some(split)) = (&labels, &split) {
            refuse_test_spots(labels, split)?;
        }
        let training = match &labels {
            Some(labels) => Some(Training::of(features.spots(), labels, "features")?),
            None => None,
        };
        let fitted = fitted_on(&features, split.as_ref(), training.as_ref())?;
        let transductive = split.is_none() && training.is_none();
        let scaling = Scaling::standard(&features, &fitted);

        let mut summary = Metrics {
            values: [("spots", features.len() as f64), ("fitted_on", fitted.len() as f64)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            groups: BTreeMap::new(),
            curves: BTreeMap::new(),
            details: json!({ "kind": params.kind, "blocks": widths }),
        };
        let embedding = match (params.kind, training) {
            (Kind::Concat, _) => concat(&features, &scaling),
            (Kind::Sum, _) => sum(&features, &scaling, params.weight)?,
            (Kind::Attention, Some(training)) => {
                attention::fuse(&features, &scaling, &training, &params, ctx, &mut summary)?
            }
            (Kind::Attention, None) => {
                return Err(Error::invalid("`kind: attention` is learnt from labels: connect `train`"));
            }
        };
        summary.values.insert("dims".into(), embedding.dims as f64);
        if transductive {
            ctx.transductive("classify/fuse: z-scores are of all spots", features.spots());
            tracing::warn!(
                "z-scores are of all spots, those tested on too: connect `split` to fit on training spots only"
            );
        }
        ctx.write("embedding", &embedding)?;
        ctx.write("summary", &summary)
    }
}

/// The spots that z-scores are of.
fn fitted_on(features: &Features, split: Option<&Split>, training: Option<&Training>) -> Result<Vec<usize>> {
    let Some(split) = split else {
        return Ok(training.map_or_else(|| (0..features.len()).collect(), |training| training.spots.clone()));
    };
    let roles = split.roles();
    let spots: Vec<usize> = features
        .spots()
        .enumerate()
        .filter(|(_, spot)| roles.get(spot) == Some(&Role::Train))
        .map(|(place, _)| place)
        .collect();
    if spots.is_empty() {
        return Err(Error::invalid(
            "no spot of `features` is one that `split` trains on: make both of the same sections",
        ));
    }
    Ok(spots)
}

/// Z-scored blocks side by side, each divided by the root of its width.
fn concat(features: &Features, scaling: &Scaling) -> Embedding {
    // `Scaling::standard` gives blocks equal weight, with a squared norm of `dims` in all: here it is one a block.
    let scale = (features.widths().len() as f64 / features.dims() as f64).sqrt();
    let rows = features.matrix(&every(features), scaling);
    embedding(features, features.dims(), rows.into_iter().map(|x| x * scale))
}

/// The first z-scored block plus the others' part.
fn sum(features: &Features, scaling: &Scaling, weight: f64) -> Result<Embedding> {
    let widths = features.widths();
    let dims = widths[0];
    if let Some(other) = widths.iter().position(|&width| width != dims) {
        return Err(Error::invalid(format!(
            "`kind: sum` needs blocks of one width: block 1 has {dims} dimensions, block {} has {}; cut or project them to the \
             same, or take `concat`",
            other + 1,
            widths[other]
        )));
    }
    let rows = features.matrix(&every(features), scaling);
    let sums = rows.chunks_exact(features.dims()).flat_map(|row| {
        let (first, others) = row.split_at(dims);
        (0..dims).map(move |dim| {
            let rest: f64 = others.iter().skip(dim).step_by(dims).sum();
            first[dim] + weight * rest
        })
    });
    Ok(embedding(features, dims, sums))
}

fn every(features: &Features) -> Vec<usize> {
    (0..features.len()).collect()
}

fn embedding(features: &Features, dims: usize, values: impl Iterator<Item = f64>) -> Embedding {
    Embedding {
        spots: features.spots().map(str::to_owned).collect(),
        dims,
        values: values.map(|x| x as f32).collect(),
    }
}

#[cfg(test)]
mod tests;
