//! `classify/fuse`: several blocks of features as one.

mod attention;
mod cca;

use std::collections::HashSet;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Labels, Metrics, Split, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    features::{Features, Scaling},
    network::Plan,
    training::{ClassWeight, Training, refuse_test_spots, told},
};

/// Dimensions of a result, where nobody says how many.
const DIMS: usize = 64;

/// One embedding of several.
pub enum Fuse {}

/// What `classify/fuse` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// `concat` (default), `sum`, `cca` or `attention`.
    pub kind: Kind,
    /// Of `sum`: what every block but the first is multiplied with. Default 0.1, as in ConGI, whose first block is expression.
    pub weight: f64,
    /// Of `cca` and `attention`: dimensions of the result. Default null: 64, or of `cca` as many as the narrower block has, if fewer.
    #[schemars(range(min = 1))]
    pub dims: Option<usize>,
    /// Of `cca`: what is added to the variance of each dimension, which is 1. The smaller, the more correlated both blocks seem on the
    /// spots that it is fitted on, whatever they are elsewhere. Default 0.1.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ridge: f64,
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
    /// Of two blocks, what they have in common: the mean of both in each pair of canonical variables, the most correlated first.
    Cca,
    /// Of two blocks, brought to `dims`: their mean by shares that each spot's own scores say, learnt from training labels.
    Attention,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            kind: Kind::Concat,
            weight: 0.1,
            dims: None,
            ridge: 0.1,
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
             transductive and said so. What `attention` makes has seen the training labels; `cca` is fitted on the same spots as z-scores, and \
             needs no label.",
        )
        .many::<Embedding>("features", "two or more blocks of features")
        .optional::<Split>("split", "which spots z-scores and `cca` are fitted on: those that train")
        .optional::<TrainLabels>("train", "for `kind: attention`: regions of the training spots")
        .needed_if("kind", &["attention"])
        .output::<Embedding>("embedding", "one vector per spot that all blocks have")
        .output::<Metrics>("summary", "spots, dimensions; of `cca` correlations where it is fitted and where not; of `attention` the share of the first block, \
             and how training went")
    }

    fn validate(params: &Params) -> Result<()> {
        if !params.weight.is_finite() {
            return Err(Error::invalid("`weight` must be a finite number"));
        }
        check::one_or_more(&[("dims", params.dims.unwrap_or(DIMS))])?;
        check::above_zero("ridge", params.ridge)?;
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
        let fitted = fitted_on(&features, split.as_ref(), labels.as_ref())?;
        let transductive = split.is_none() && labels.is_none();
        let scaling = Scaling::standard(&features, &fitted);

        let mut summary = told(
            [("spots", features.len() as f64), ("fitted_on", fitted.len() as f64)],
            json!({ "kind": params.kind, "blocks": widths }),
        );
        let embedding = match (params.kind, labels) {
            (Kind::Concat, _) => concat(&features, &scaling),
            (Kind::Sum, _) => sum(&features, &scaling, params.weight)?,
            (Kind::Cca, _) => {
                let held_out = held_out(&features, split.as_ref(), &fitted);
                cca::fuse(&features, &scaling, &fitted, &held_out, &params, &mut summary)?
            }
            (Kind::Attention, Some(labels)) => {
                let training = Training::of(features.spots(), &labels, "features")?;
                attention::fuse(&features, &scaling, &training, &params, ctx, &mut summary)?
            }
            (Kind::Attention, None) => {
                return Err(Error::invalid("`kind: attention` is learnt from labels: connect `train`"));
            }
        };
        summary.values.insert("dims".into(), embedding.dims as f64);
        if transductive {
            let what = match params.kind {
                Kind::Cca => "z-scores and canonical directions are of all spots",
                _ => "z-scores are of all spots",
            };
            ctx.transductive(&format!("classify/fuse: {what}"), features.spots());
            tracing::warn!("{what}, those tested on too: connect `split` to fit on training spots only");
        }
        ctx.write("embedding", &embedding)?;
        ctx.write("summary", &summary)
    }
}

/// The spots that z-scores are of: those that train, else those with a label, else all.
fn fitted_on(features: &Features, split: Option<&Split>, labels: Option<&Labels>) -> Result<Vec<usize>> {
    let (known, problem): (HashSet<&str>, _) = match (split, labels) {
        (Some(split), _) => (
            split.train(),
            "no spot of `features` is one that `split` trains on: make both of the same sections",
        ),
        (None, Some(labels)) => {
            let labelled = labels.spots.iter().zip(&labels.regions);
            (
                labelled.filter(|(_, region)| region.is_some()).map(|(spot, _)| spot.as_str()).collect(),
                "no training spot is in `features`: are `features` and `train` of the same sections?",
            )
        }
        (None, None) => return Ok(features.every()),
    };
    let spots: Vec<usize> =
        (0..).zip(features.spots()).filter(|(_, spot)| known.contains(spot)).map(|(at, _)| at).collect();
    if spots.is_empty() { Err(Error::invalid(problem)) } else { Ok(spots) }
}

/// The spots that what is fitted can be tried on: those that test, without a split all others.
fn held_out(features: &Features, split: Option<&Split>, fitted: &[usize]) -> Vec<usize> {
    let tested = split.map(Split::test);
    let fitted: HashSet<usize> = fitted.iter().copied().collect();
    let is_held =
        |at: usize, spot: &str| tested.as_ref().map_or(!fitted.contains(&at), |tested| tested.contains(spot));
    (0..).zip(features.spots()).filter(|(at, spot)| is_held(*at, spot)).map(|(at, _)| at).collect()
}

/// Z-scored blocks side by side, each divided by the root of its width.
fn concat(features: &Features, scaling: &Scaling) -> Embedding {
    // `Scaling::standard` gives blocks equal weight, with a squared norm of `dims` in all: here it is one a block.
    let scale = (features.widths().len() as f64 / features.dims() as f64).sqrt();
    let rows = features.all(scaling);
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
    let rows = features.all(scaling);
    let sums = rows.chunks_exact(features.dims()).flat_map(|row| {
        let (first, others) = row.split_at(dims);
        (0..dims).map(move |dim| {
            let rest: f64 = others.iter().skip(dim).step_by(dims).sum();
            first[dim] + weight * rest
        })
    });
    Ok(embedding(features, dims, sums))
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
