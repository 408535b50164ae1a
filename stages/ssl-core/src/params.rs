//! Params of `ssl/pretrain`.

use restage_stage::{Error, InputPath, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    device::Choice,
    encoder::{Encoder, Encodes, Fusion, LARGEST, vit},
    mae::MaeDecoder,
    optical_density::Sees,
    optimizer::Optimizer,
};

/// What the encoder learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Predict hidden genes from the others: an MLP on input `table`.
    GeneMask,
    /// A spot's patch and its genes should find each other among all spots (CLIP): a CNN on input `patches` and an MLP on input
    /// `table`, both in one model.
    CrossModal,
    /// Tell spots from spots with other spots' genes by a summary of where they are (Veličković et al. 2019): a GCN or GAT on
    /// inputs `table` and `graph`.
    Dgi,
    /// Give a spot its genes from the embeddings of itself and its neighbours (Dong & Zhang 2022): the same.
    GraphAe,
    /// Give spots whose genes are hidden theirs, from the others around them (Hou et al. 2022): the same.
    GraphMask,
    /// Two disturbed views of a spot's genes should agree, those of different spots should not, by the loss `contrast`: an MLP
    /// on input `table`.
    GeneContrast,
    /// Two disturbed views of a spot, of its patch and its genes as one, should agree, those of different spots should not, by the loss
    /// `contrast`: the encoders of `cross_modal`, and what makes their embeddings one.
    FusedContrast,
    /// Predict a segment of a patch from the rest: a CNN on input `patches`.
    Inpaint,
    /// Predict a patch's colours from what `sees` leaves of them: a CNN on input `patches`.
    Colorize,
    /// Predict most squares of a patch from the few that are left: a ViT on input `patches` (He et al. 2022).
    Mae,
    /// Two views of a patch should agree; statistics of the batch keep patches apart (Bardes et al. 2022).
    Vicreg,
    /// The same; dimensions should not repeat each other (Zbontar et al. 2021).
    Barlow,
    /// The same; all other patches of the batch are negatives (Chen et al. 2020).
    Simclr,
    /// The same; keys of former batches are negatives too (He et al. 2020).
    Moco,
    /// A view predicts what a running mean of the encoder says of the other (Grill et al. 2020).
    Byol,
    /// A view predicts the other, which stands still (Chen & He 2021).
    Simsiam,
    /// Two views should be of one mixture of prototypes, all of which are used (Caron et al. 2020).
    Swav,
    /// A view's mixture of prototypes should be that which a running mean of the encoder sees in the other (Caron et al. 2021).
    Dino,
}

/// What the two modalities of `cross_modal` should find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// The other modality of the same spot, and no other spot's (Radford et al. 2021).
    #[default]
    Hard,
    /// Other spots' as well, as much as their own modalities are alike (Xie et al. 2023).
    Soft,
}

/// Whose errors `gene_mask` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorOf {
    /// Those of hidden genes.
    #[default]
    Hidden,
    /// Those of all genes, as of a denoising autoencoder.
    All,
}

/// What the summary of `dgi` is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readout {
    /// The whole section (Veličković et al. 2019).
    #[default]
    Section,
    /// A spot and its neighbours (GraphST; Long et al. 2023).
    Neighbours,
}

/// What `gene_contrast` and `fused_contrast` tell spots apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Contrast {
    /// As objective `vicreg`.
    Vicreg,
    /// As objective `barlow`.
    Barlow,
    /// As objective `simclr`.
    #[default]
    Simclr,
    /// As objective `moco`.
    Moco,
    /// As objective `byol`.
    Byol,
    /// As objective `simsiam`.
    Simsiam,
    /// As objective `swav`.
    Swav,
    /// As objective `dino`.
    Dino,
}

impl Objective {
    /// What `encoder` encodes.
    pub(crate) fn encodes(self) -> Encodes {
        match self {
            Self::GeneMask | Self::GeneContrast => Encodes::Genes,
            Self::Dgi | Self::GraphAe | Self::GraphMask => Encodes::Graph,
            _ => Encodes::Patches,
        }
    }

    /// All of them.
    const ALL: [Self; 18] = [
        Self::GeneMask,
        Self::CrossModal,
        Self::Dgi,
        Self::GraphAe,
        Self::GraphMask,
        Self::GeneContrast,
        Self::FusedContrast,
        Self::Inpaint,
        Self::Colorize,
        Self::Mae,
        Self::Vicreg,
        Self::Barlow,
        Self::Simclr,
        Self::Moco,
        Self::Byol,
        Self::Simsiam,
        Self::Swav,
        Self::Dino,
    ];

    /// The inputs that it reads, whatever its encoders are.
    pub(crate) fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::GeneMask | Self::GeneContrast => &["table"],
            Self::Dgi | Self::GraphAe | Self::GraphMask => &["table", "graph"],
            Self::CrossModal | Self::FusedContrast => &["patches", "table"],
            _ => &["patches"],
        }
    }

    /// Names of those that read an input.
    pub(crate) fn that_read(input: &str) -> Vec<&'static str> {
        Self::ALL.into_iter().filter(|one| one.inputs().contains(&input)).map(Self::name).collect()
    }

    /// Its name in workflows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GeneMask => "gene_mask",
            Self::GeneContrast => "gene_contrast",
            Self::CrossModal => "cross_modal",
            Self::FusedContrast => "fused_contrast",
            Self::Dgi => "dgi",
            Self::GraphAe => "graph_ae",
            Self::GraphMask => "graph_mask",
            Self::Inpaint => "inpaint",
            Self::Colorize => "colorize",
            Self::Mae => "mae",
            Self::Vicreg => "vicreg",
            Self::Barlow => "barlow",
            Self::Simclr => "simclr",
            Self::Moco => "moco",
            Self::Byol => "byol",
            Self::Simsiam => "simsiam",
            Self::Swav => "swav",
            Self::Dino => "dino",
        }
    }
}

/// What `with:` of `ssl/pretrain` holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainParams {
    /// What the encoder learns from: `gene_mask` and `gene_contrast` train an MLP on the input `table`, `cross_modal` and `fused_contrast`
    /// that and a CNN on the input `patches`, `dgi`, `graph_ae` and `graph_mask` a GCN on the inputs `table` and `graph`, all others a CNN.
    pub objective: Objective,
    /// Length of an embedding. Default 64.
    #[serde(default = "default::dim")]
    pub dim: usize,
    /// Passes over the training spots; 0 leaves the encoder as it was initialised, the "no pretraining" of an
    /// ablation. Default 30.
    #[serde(default = "default::epochs")]
    pub epochs: usize,
    /// Spots per step, at most; one more where one would be left alone. On a graph a step is of whole sections, as many as this
    /// allows, one at least. Default 256 of genes, 128 of patches, one section of graphs.
    #[serde(default)]
    pub batch_size: Option<usize>,
    /// Batches whose gradients are gathered for one step. Default 1.
    #[serde(default = "default::accumulate")]
    pub accumulate: usize,
    /// Which way parameters step, e.g. `{ kind: lars, eta: 0.001 }`. Default `{ kind: adamw }`.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Learning rate after the warm-up, from where it falls to 0 as half a cosine. Default 0.001 of `adamw`, 0.03 of `sgd`, 3 of `lars`,
    /// whose steps are that share of `eta` of the weights.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Epochs over which the learning rate rises to its full value. Default 2.
    #[serde(default = "default::warmup_epochs")]
    pub warmup_epochs: usize,
    /// Weight decay; biases and norms are left out. Default 0.0001.
    #[serde(default = "default::weight_decay")]
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; a longer one is scaled down. 0 turns it off. Default 5.
    #[serde(default = "default::grad_clip")]
    pub grad_clip: f64,
    /// Epochs between checkpoints, from which a killed run goes on. Changes no result. Default 5.
    #[serde(default = "default::checkpoint_every")]
    #[schemars(extend("x-restage-unkeyed" = true))]
    pub checkpoint_every: usize,

    /// Where it computes: `auto`, `cpu`, or `cuda:0` of plugin `ssl-cuda`. Default `auto`: a GPU if the plugin is for GPUs and there
    /// is one.
    #[serde(default)]
    #[schemars(extend("x-restage-unkeyed" = true))]
    pub device: Choice,

    /// Stops when the loss has not fallen for so many epochs; the first does not count, in which queues are not full yet. Nothing else
    /// is looked at, so no label can have a part in it. Not for `dino`, whose loss rises as its targets sharpen. Default: never.
    #[serde(default)]
    pub patience: Option<usize>,

    /// What encodes, e.g. `{ kind: resnet, depth: 10, width: 32 }`: of genes an `mlp`, of patches (of `cross_modal` as well) a `cnn`,
    /// a `resnet` or a `vit`, of genes on a graph a `gcn`, a `gat` or a `transformer`, which `gene_mask` and `gene_contrast` may have as
    /// well where input `graph` is connected. Default: `{ kind: mlp, hidden: [256] }`,
    /// `{ kind: cnn, channels: [16, 32, 64] }`, of `mae` `{ kind: vit, patch: 8, width: 192, depth: 6, heads: 3 }`,
    /// `{ kind: gcn, hidden: [64] }`.
    #[serde(default)]
    pub encoder: Option<Encoder>,
    /// `cross_modal`, `fused_contrast`: what encodes the genes; where input `graph` is connected, it may be a `gcn`, a `gat` or a
    /// `transformer`. Default `{ kind: mlp, hidden: [256] }`.
    #[serde(default)]
    pub gene_encoder: Option<Encoder>,

    /// `gene_mask`: share of genes hidden per spot, drawn anew for every spot and epoch. `graph_mask`: share of a section's spots
    /// whose genes are hidden. Default 0.5.
    #[serde(default = "default::mask_rate")]
    pub mask_rate: f64,
    /// `gene_mask`: a GMT file of gene sets, as MSigDB has them. They are hidden as wholes, in random order, until `mask_rate` of the
    /// genes that are in any set is reached; genes that are in none are never hidden. Default: single genes are hidden.
    #[serde(default)]
    pub gene_sets: Option<InputPath>,
    /// `gene_mask`: whose errors count. Default `hidden`.
    #[serde(default)]
    pub error_of: ErrorOf,

    /// `dgi`: what the summary is of. Default `section`.
    #[serde(default)]
    pub readout: Readout,
    /// `graph_mask`: the power of 1 - cos in its loss; the higher, the less do spots count that are nearly right. Default 3.
    #[serde(default = "default::gamma")]
    pub gamma: f64,

    /// `cross_modal`: what each modality should find. Default `hard`.
    #[serde(default)]
    pub targets: Targets,
    /// `cross_modal`: weight of each modality's own contrast of two views; ConGI has 0.1. Default 0.
    #[serde(default)]
    pub intra: f64,
    /// `fused_contrast`: how the embeddings of a patch and of genes become one. Default `concat`.
    #[serde(default)]
    pub fusion: Fusion,
    /// `gene_contrast`, `fused_contrast`: what spots are told apart by. Default `simclr`.
    #[serde(default)]
    pub contrast: Contrast,
    /// `gene_contrast`, `cross_modal`, `fused_contrast`: share of genes hidden in a view, of every other view by chance. Default 0.2.
    #[serde(default = "default::view_mask")]
    pub view_mask: f64,
    /// `gene_contrast`, `cross_modal`, `fused_contrast`: standard deviation, in those of each gene, of the noise on four genes of five, in every
    /// other view by chance. Default 0.5.
    #[serde(default = "default::view_noise")]
    pub view_noise: f64,
    /// `gene_contrast`, `cross_modal`, `fused_contrast`: share of genes whose values change places, in every other view by chance.
    /// Default 0.1.
    #[serde(default = "default::view_swap")]
    pub view_swap: f64,

    /// `inpaint`: share of a patch that the hidden square has. Default 0.25.
    #[serde(default = "default::segment")]
    pub segment: f64,
    /// `colorize`: what the encoder sees, in training and when it embeds: `grey`, to predict the colours, or `haematoxylin`, to
    /// predict eosin. Default `grey`.
    #[serde(default = "default::sees")]
    pub sees: Sees,
    /// `mae`: share of a patch's squares that the encoder does not see, drawn anew for every spot and epoch. Default 0.75.
    #[serde(default = "default::mask_ratio")]
    pub mask_ratio: f64,
    /// `mae`: whether pixels are predicted about the mean of their square, in units of their spread there. Default true.
    #[serde(default = "default::norm_pixels")]
    pub norm_pixels: bool,
    /// `mae`: the transformer that predicts pixels, in training only. Default `{ width: 96, depth: 2, heads: 3 }`.
    #[serde(default)]
    pub decoder: MaeDecoder,
    /// With two views: sizes of the projector's layers, which sit on the embedding during training only. Default
    /// `[128, 128]`.
    #[serde(default = "default::projector")]
    pub projector: Vec<usize>,
    /// `byol`, `simsiam`: width of the predictor's hidden layer. Default 64.
    #[serde(default = "default::predictor")]
    pub predictor: usize,
    /// `simclr`, `moco`, `swav`, `dino`, `cross_modal`: what cosines are divided by. Default 0.2 for the first two, 0.1 for the
    /// others.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Spots of former batches that are kept, at most half as many as there are to train on. `moco`: their keys are negatives; default
    /// 4096. `swav`: they share the prototypes with the batch's, once there are so many, for batches that are small beside the number
    /// of prototypes; default none.
    #[serde(default)]
    pub queue: Option<usize>,
    /// `moco`, `byol`, `dino`: how much of the running mean of the encoder stays in the first step; it rises to 1 as half a
    /// cosine. Default 0.99.
    #[serde(default = "default::momentum")]
    pub momentum: f64,
    /// `swav`, `dino`: number of prototypes. Default 100.
    #[serde(default = "default::prototypes")]
    pub prototypes: usize,
    /// `barlow`: weight of the correlations of different dimensions. Default 0.005.
    #[serde(default = "default::off_weight")]
    pub off_weight: f64,
    /// `vicreg`: weight of the distance between two views of a patch. Default 25.
    #[serde(default = "default::invariance")]
    pub invariance: f64,
    /// `vicreg`: weight of the term that keeps the dimensions spread. Default 25.
    #[serde(default = "default::variance")]
    pub variance: f64,
    /// `vicreg`: weight of the term that keeps the dimensions different. Default 1.
    #[serde(default = "default::covariance")]
    pub covariance: f64,
    /// Of patches: smallest side of a random crop, as a share of the patch's; 1 turns cropping off. Default 0.6.
    #[serde(default = "default::min_crop")]
    pub min_crop: f64,
    /// `swav`, `dino`, of patches: small crops beside the two views; the two say what all should be like (multi-crop, Caron et al.
    /// 2020). DINO's authors take 8. Default 0.
    #[serde(default)]
    pub local_crops: usize,
    /// `swav`, `dino`: smallest and largest side of small crops, as shares of the patch's. Default `[0.25, 0.6]`.
    #[serde(default = "default::local_share")]
    pub local_share: [f64; 2],
    /// `swav`, `dino`: side of small crops in pixels, once they are scaled; no more than the patch's. Default: half the patch's, up to a multiple of a ViT's `patch`.
    #[serde(default)]
    pub local_pixels: Option<usize>,
    /// Of patches: how far the amounts of haematoxylin and eosin vary, as a share; 0 turns it off. Default 0.1.
    #[serde(default = "default::stain_jitter")]
    pub stain_jitter: f64,
    /// Of patches: how far brightness and contrast vary, as a share; 0 turns it off. Default 0.2.
    #[serde(default = "default::colour_jitter")]
    pub colour_jitter: f64,
}

macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)+) => {
        mod default {
            use super::Sees;

            $(pub(super) fn $name() -> $type {
                $value
            })+
        }
    };
}

defaults! {
    dim: usize = 64;
    epochs: usize = 30;
    accumulate: usize = 1;
    warmup_epochs: usize = 2;
    weight_decay: f64 = 1e-4;
    grad_clip: f64 = 5.0;
    checkpoint_every: usize = 5;
    mask_rate: f64 = 0.5;
    gamma: f64 = 3.0;
    view_mask: f64 = 0.2;
    view_noise: f64 = 0.5;
    view_swap: f64 = 0.1;
    segment: f64 = 0.25;
    mask_ratio: f64 = 0.75;
    norm_pixels: bool = true;
    sees: Sees = Sees::Grey;
    predictor: usize = 64;
    momentum: f64 = 0.99;
    prototypes: usize = 100;
    off_weight: f64 = 0.005;
    projector: Vec<usize> = vec![128, 128];
    invariance: f64 = 25.0;
    variance: f64 = 25.0;
    covariance: f64 = 1.0;
    min_crop: f64 = 0.6;
    local_share: [f64; 2] = [0.25, 0.6];
    stain_jitter: f64 = 0.1;
    colour_jitter: f64 = 0.2;
}

impl PretrainParams {
    /// Spots per step, at most.
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size.unwrap_or(match self.objective.encodes() {
            Encodes::Genes => 256,
            Encodes::Patches => 128,
            // One section.
            Encodes::Graph => 2,
        })
    }

    /// The highest learning rate. Of each optimiser's default, one with which small encoders learn on hundreds of spots.
    pub(crate) fn learning_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(match self.optimizer {
            Optimizer::Adamw => 1e-3,
            Optimizer::Sgd { .. } => 0.03,
            Optimizer::Lars { .. } => 3.0,
        })
    }

    /// What keeps the embeddings of two views apart; nothing of objectives that have no two views.
    pub(crate) fn two_views(&self) -> Option<Contrast> {
        Some(match self.objective {
            Objective::GeneContrast | Objective::FusedContrast => self.contrast,
            Objective::Vicreg => Contrast::Vicreg,
            Objective::Barlow => Contrast::Barlow,
            Objective::Simclr => Contrast::Simclr,
            Objective::Moco => Contrast::Moco,
            Objective::Byol => Contrast::Byol,
            Objective::Simsiam => Contrast::Simsiam,
            Objective::Swav => Contrast::Swav,
            Objective::Dino => Contrast::Dino,
            Objective::GeneMask
            | Objective::CrossModal
            | Objective::Dgi
            | Objective::GraphAe
            | Objective::GraphMask
            | Objective::Inpaint
            | Objective::Colorize
            | Objective::Mae => return None,
        })
    }

    /// What encodes patches.
    pub(crate) fn of_patches(&self) -> Encoder {
        let default = match self.objective {
            Objective::Mae => Encoder::of_tokens,
            _ => Encoder::of_patches,
        };
        self.encoder.clone().unwrap_or_else(default)
    }

    /// Refuses encoders of the other modality, and sizes that no network has.
    fn validate_encoders(&self) -> Result<()> {
        let objective = self.objective.name();
        for (name, encoder, encodes) in [
            ("encoder", &self.encoder, self.objective.encodes()),
            ("gene_encoder", &self.gene_encoder, Encodes::Genes),
        ] {
            let Some(encoder) = encoder else { continue };
            encoder.validate(name)?;
            if !encodes.allows(encoder.encodes()) {
                let (what, kinds) = encodes.told();
                return Err(Error::invalid(format!(
                    "`{name}` of `{objective}` encodes {what}: its kind must be {kinds}, not `{}`",
                    encoder.name()
                )));
            }
        }
        if self.objective == Objective::Mae && !matches!(self.of_patches(), Encoder::Vit { .. }) {
            return Err(Error::invalid(format!(
                "`encoder` of `mae` must be a `vit`, which can leave tokens out, not `{}`",
                self.of_patches().name()
            )));
        }
        let of_both = matches!(self.objective, Objective::CrossModal | Objective::FusedContrast);
        if self.gene_encoder.is_some() && !of_both {
            return Err(Error::invalid(format!(
                "`gene_encoder` is for `cross_modal` and `fused_contrast`, not `{objective}`: say `encoder`"
            )));
        }
        Ok(())
    }

    /// What the result depends on, as plain data: everything but how often to save, and where.
    pub(crate) fn provenance(&self) -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(self).map_err(Error::other("cannot write the params"))?;
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("checkpoint_every");
            fields.shift_remove("device");
            // Where the file lies; what is in it is told beside.
            fields.shift_remove("gene_sets");
        }
        Ok(value)
    }

    /// Refuses values that no training can use.
    pub(crate) fn validate(&self) -> Result<()> {
        let at_least = |name: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{name}` must be {least} or more, not {value}"))),
        };
        let at_most = |name: &str, value: usize, most: usize| match value <= most {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{name}` must be {most} or less, not {value}"))),
        };
        let within = |name: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{name}` must lie between {low} and {high}, not {value}"))),
        };
        let sizes = [("dim", self.dim), ("predictor", self.predictor), ("prototypes", self.prototypes)];
        for (name, size) in sizes.into_iter().chain(self.projector.iter().map(|size| ("projector", *size))) {
            at_least(name, size, 1)?;
            at_most(name, size, LARGEST)?;
        }
        // Embeddings are compared by where they point.
        at_least("dim", self.dim, 2)?;
        at_least("batch_size", self.batch_size(), 2)?;
        at_least("accumulate", self.accumulate, 1)?;
        at_least("checkpoint_every", self.checkpoint_every, 1)?;
        at_least("patience", self.patience.unwrap_or(1), 1)?;
        if self.patience.is_some() && self.two_views() == Some(Contrast::Dino) {
            return Err(Error::invalid(
                "`patience` is not for `dino`: its loss rises as its targets sharpen, and tells nothing of what is learnt",
            ));
        }
        at_least("queue", self.queue.unwrap_or(1), 1)?;
        at_most("queue", self.queue.unwrap_or(1), 1 << 20)?;
        at_least("prototypes", self.prototypes, 2)?;
        if self.projector.is_empty() {
            return Err(Error::invalid("`projector` must list 1 or more layers"));
        }
        self.validate_encoders()?;
        within("learning_rate", self.learning_rate(), 1e-9, 10.0)?;
        if let Optimizer::Sgd { momentum } | Optimizer::Lars { momentum, .. } = self.optimizer {
            within("optimizer.momentum", momentum, 0.0, 0.9999)?;
        }
        if let Optimizer::Lars { eta, .. } = self.optimizer {
            within("optimizer.eta", eta, 1e-9, 1e3)?;
        }
        within("weight_decay", self.weight_decay, 0.0, 10.0)?;
        within("grad_clip", self.grad_clip, 0.0, 1e9)?;
        within("mask_rate", self.mask_rate, 0.01, 0.99)?;
        within("gamma", self.gamma, 1.0, 10.0)?;
        within("view_mask", self.view_mask, 0.0, 0.99)?;
        within("view_noise", self.view_noise, 0.0, 10.0)?;
        within("view_swap", self.view_swap, 0.0, 1.0)?;
        within("segment", self.segment, 0.001, 0.95)?;
        within("mask_ratio", self.mask_ratio, 0.01, 0.99)?;
        vit::validate("decoder", (self.decoder.width, self.decoder.depth, self.decoder.heads))?;
        within("intra", self.intra, 0.0, 1e6)?;
        within("temperature", self.temperature.unwrap_or(0.1), 0.001, 100.0)?;
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("off_weight", self.off_weight, 0.0, 1e6)?;
        if self.gene_sets.is_some() && self.objective != Objective::GeneMask {
            let objective = self.objective.name();
            return Err(Error::invalid(format!("`gene_sets` is for `gene_mask`, not `{objective}`")));
        }
        if self.objective == Objective::Colorize && self.sees == Sees::Colour {
            return Err(Error::invalid(
                "`sees` must be grey or haematoxylin for `colorize`: of colours, colours are no task",
            ));
        }
        for (name, weight) in
            [("invariance", self.invariance), ("variance", self.variance), ("covariance", self.covariance)]
        {
            within(name, weight, 0.0, 1e6)?;
        }
        within("min_crop", self.min_crop, 0.1, 1.0)?;
        let [smallest, largest] = self.local_share;
        within("local_share: the smallest", smallest, 0.05, 1.0)?;
        within("local_share: the largest", largest, smallest, 1.0)?;
        if self.local_crops > 0 && !matches!(self.objective, Objective::Swav | Objective::Dino) {
            return Err(Error::invalid(format!(
                "`local_crops` are for `swav` and `dino` on patches, not `{}`",
                self.objective.name()
            )));
        }
        at_most("local_crops", self.local_crops, 64)?;
        at_least("local_pixels", self.local_pixels.unwrap_or(1), 1)?;
        at_most("local_pixels", self.local_pixels.unwrap_or(1), 4096)?;
        within("stain_jitter", self.stain_jitter, 0.0, 1.0)?;
        within("colour_jitter", self.colour_jitter, 0.0, 1.0)
    }
}
