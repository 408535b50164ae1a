//! Params of `ssl/pretrain`.

use restage_stage::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the encoder learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Predict hidden genes from the others: an MLP on input `table`.
    GeneMask,
    /// Two views of a patch should look alike, different patches should not (VICReg): a CNN on input `patches`.
    Vicreg,
}

/// What `with:` of `ssl/pretrain` holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainParams {
    /// `gene_mask` trains an MLP on the input `table`, `vicreg` a CNN on the input `patches`.
    pub objective: Objective,
    /// Length of an embedding. Default 64.
    #[serde(default = "default::dim")]
    pub dim: usize,
    /// Passes over the training spots; 0 leaves the encoder as it was initialised, the "no pretraining" of an
    /// ablation. Default 30.
    #[serde(default = "default::epochs")]
    pub epochs: usize,
    /// Spots per step, at most. Default 256 for `gene_mask`, 128 for `vicreg`.
    #[serde(default)]
    pub batch_size: Option<usize>,
    /// Learning rate after the warm-up, from where it falls to 0 as half a cosine. Default 0.001.
    #[serde(default = "default::learning_rate")]
    pub learning_rate: f64,
    /// Epochs over which the learning rate rises to its full value. Default 2.
    #[serde(default = "default::warmup_epochs")]
    pub warmup_epochs: usize,
    /// Weight decay of AdamW; biases and norms are left out. Default 0.0001.
    #[serde(default = "default::weight_decay")]
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; a longer one is scaled down. 0 turns it off. Default 5.
    #[serde(default = "default::grad_clip")]
    pub grad_clip: f64,
    /// Epochs between checkpoints, from which a killed run goes on. Changes no result. Default 5.
    #[serde(default = "default::checkpoint_every")]
    #[schemars(extend("x-restage-unkeyed" = true))]
    pub checkpoint_every: usize,

    /// `gene_mask`: sizes of the MLP's hidden layers. Default `[256]`.
    #[serde(default = "default::hidden")]
    pub hidden: Vec<usize>,
    /// `gene_mask`: share of genes hidden per spot, drawn anew for every spot and epoch. Default 0.5.
    #[serde(default = "default::mask_rate")]
    pub mask_rate: f64,

    /// `vicreg`: channels of the CNN's convolutions; each halves the image. Default `[16, 32, 64]`.
    #[serde(default = "default::channels")]
    pub channels: Vec<usize>,
    /// `vicreg`: sizes of the projector's layers, which sit on the embedding during training only. Default `[128, 128]`.
    #[serde(default = "default::projector")]
    pub projector: Vec<usize>,
    /// `vicreg`: weight of the distance between two views of a patch. Default 25.
    #[serde(default = "default::invariance")]
    pub invariance: f64,
    /// `vicreg`: weight of the term that keeps the dimensions spread. Default 25.
    #[serde(default = "default::variance")]
    pub variance: f64,
    /// `vicreg`: weight of the term that keeps the dimensions different. Default 1.
    #[serde(default = "default::covariance")]
    pub covariance: f64,
    /// `vicreg`: smallest side of a random crop, as a share of the patch's; 1 turns cropping off. Default 0.6.
    #[serde(default = "default::min_crop")]
    pub min_crop: f64,
    /// `vicreg`: how far the amounts of haematoxylin and eosin vary, as a share; 0 turns it off. Default 0.1.
    #[serde(default = "default::stain_jitter")]
    pub stain_jitter: f64,
    /// `vicreg`: how far brightness and contrast vary, as a share; 0 turns it off. Default 0.2.
    #[serde(default = "default::colour_jitter")]
    pub colour_jitter: f64,
}

macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)+) => {
        mod default {
            $(pub(super) fn $name() -> $type {
                $value
            })+
        }
    };
}

defaults! {
    dim: usize = 64;
    epochs: usize = 30;
    learning_rate: f64 = 1e-3;
    warmup_epochs: usize = 2;
    weight_decay: f64 = 1e-4;
    grad_clip: f64 = 5.0;
    checkpoint_every: usize = 5;
    hidden: Vec<usize> = vec![256];
    mask_rate: f64 = 0.5;
    channels: Vec<usize> = vec![16, 32, 64];
    projector: Vec<usize> = vec![128, 128];
    invariance: f64 = 25.0;
    variance: f64 = 25.0;
    covariance: f64 = 1.0;
    min_crop: f64 = 0.6;
    stain_jitter: f64 = 0.1;
    colour_jitter: f64 = 0.2;
}

impl PretrainParams {
    /// Spots per step, at most.
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size.unwrap_or(match self.objective {
            Objective::GeneMask => 256,
            Objective::Vicreg => 128,
        })
    }

    /// What the result depends on, as plain data: everything but how often to save.
    pub(crate) fn provenance(&self) -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(self).map_err(Error::other("cannot write the params"))?;
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("checkpoint_every");
        }
        Ok(value)
    }

    /// Refuses values that no training can use.
    pub(crate) fn validate(&self) -> Result<()> {
        let at_least = |name: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{name}` must be {least} or more, not {value}"))),
        };
        let within = |name: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{name}` must lie between {low} and {high}, not {value}"))),
        };
        at_least("dim", self.dim, 1)?;
        at_least("batch_size", self.batch_size(), 2)?;
        at_least("checkpoint_every", self.checkpoint_every, 1)?;
        for (name, sizes) in
            [("hidden", &self.hidden), ("channels", &self.channels), ("projector", &self.projector)]
        {
            sizes.iter().try_for_each(|size| at_least(name, *size, 1))?;
        }
        at_least("channels: number of convolutions", self.channels.len(), 1)?;
        within("learning_rate", self.learning_rate, 1e-9, 10.0)?;
        within("weight_decay", self.weight_decay, 0.0, 10.0)?;
        within("grad_clip", self.grad_clip, 0.0, 1e9)?;
        within("mask_rate", self.mask_rate, 0.01, 0.99)?;
        for (name, weight) in
            [("invariance", self.invariance), ("variance", self.variance), ("covariance", self.covariance)]
        {
            within(name, weight, 0.0, 1e6)?;
        }
        within("min_crop", self.min_crop, 0.1, 1.0)?;
        within("stain_jitter", self.stain_jitter, 0.0, 1.0)?;
        within("colour_jitter", self.colour_jitter, 0.0, 1.0)
    }
}
