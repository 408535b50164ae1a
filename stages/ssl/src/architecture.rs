//! An encoder as a `model` artifact: what is written beside its weights, and how it is built from that again.

use restage_nn::Params;
use restage_stage::{
    Error, Result,
    artifact::{Model, Weight},
};
use serde::{Deserialize, Serialize};

use crate::{
    encoder::{Cnn, Mlp},
    expression::Scaler,
    optical_density::{Colours, Sees},
    params::{Objective, PretrainParams},
};

/// Everything but the weights that an embedding needs, and where the weights come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Architecture {
    /// Its kind, with sizes and the scaling of inputs.
    #[serde(flatten)]
    pub(crate) kind: Kind,
    /// What it was trained for.
    pub(crate) objective: Objective,
    /// How.
    pub(crate) provenance: Provenance,
}

/// An encoder's kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Kind {
    /// On genes.
    Mlp {
        #[serde(flatten)]
        scaler: Scaler,
        /// Sizes of its hidden layers.
        hidden: Vec<usize>,
        /// Length of an embedding.
        dim: usize,
    },
    /// On patches.
    Cnn {
        #[serde(flatten)]
        colours: Colours,
        /// What it sees of them.
        #[serde(default)]
        sees: Sees,
        /// Side of a patch in pixels.
        size: usize,
        /// Channels of its convolutions.
        channels: Vec<usize>,
        /// Length of an embedding.
        dim: usize,
    },
}

/// How a model was trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Provenance {
    /// The params of `ssl/pretrain`.
    pub(crate) params: serde_json::Value,
    pub(crate) seed: u64,
    /// Epochs trained.
    pub(crate) epochs: usize,
    /// Spots trained on.
    pub(crate) training_spots: usize,
}

/// An encoder that was read back, with its parameters and the scaling of its inputs.
pub(crate) enum Encoder {
    Mlp { net: Mlp, scaler: Scaler },
    Cnn { net: Cnn, colours: Colours, sees: Sees, size: usize },
}

impl Architecture {
    /// The architecture of an encoder that is to be trained with these params.
    pub(crate) fn new(kind: Kind, params: &PretrainParams, seed: u64, training_spots: usize) -> Result<Self> {
        let provenance =
            Provenance { params: params.provenance()?, seed, epochs: params.epochs, training_spots };
        Ok(Self { kind, objective: params.objective, provenance })
    }

    /// The artifact: this, and those weights that belong to the encoder.
    pub(crate) fn model(&self, params: &Params) -> Result<Model> {
        let architecture =
            serde_json::to_value(self).map_err(Error::other("cannot write the model's architecture"))?;
        let weights = params
            .iter()
            .filter(|param| param.name.starts_with("encoder."))
            .map(|param| (param.name.clone(), Weight { shape: param.shape.clone(), values: param.values() }))
            .collect();
        Ok(Model { architecture, weights })
    }

    /// Reads an encoder back from the artifact, with the length of its embeddings.
    ///
    /// # Errors
    /// If it is no model of `ssl/pretrain`, or its weights do not fit its architecture.
    pub(crate) fn restore(model: &Model) -> Result<(Encoder, Params, usize)> {
        let architecture: Self = serde_json::from_value(model.architecture.clone()).map_err(Error::other(
            "the model is none of `ssl/pretrain`'s: connect that stage's output `model`",
        ))?;
        let mut params = Params::default();
        // The initial values do not matter: all are read.
        let mut rng = restage_stage::context::rng(0, "restore");
        let (encoder, dim) = match architecture.kind {
            Kind::Mlp { scaler, hidden, dim } => {
                scaler.check()?;
                let net = Mlp::new(&mut params, scaler.genes.len(), &hidden, dim, &mut rng);
                (Encoder::Mlp { net, scaler }, dim)
            }
            Kind::Cnn { colours, sees, size, channels, dim } => {
                let net = Cnn::new(&mut params, &channels, dim, &mut rng);
                (Encoder::Cnn { net, colours, sees, size }, dim)
            }
        };
        params
            .load(|name| model.weights.get(name).map(|weight| (&weight.shape[..], &weight.values[..])))
            .map_err(Error::other("the model's weights do not fit its architecture: train it again"))?;
        Ok((encoder, params, dim))
    }
}
