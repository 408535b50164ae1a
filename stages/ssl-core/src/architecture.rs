//! An encoder as a `model` artifact: what is written beside its weights, and how it is built from that again.

use rand::Rng;
use restage_nn::Params;
use restage_stage::{
    Context, Error, Result,
    artifact::{Model, Patches, Weight},
};
use serde::{Deserialize, Serialize};

use crate::{
    encoder::{Encoder, Encodes, Fuse, Fusion, GeneNet, GraphNet, Net},
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
    Genes(OfGenes),
    /// On genes of spots on a graph.
    Graph(OfGenes),
    /// On patches.
    Patches(OfPatches),
    /// One of each, whose embeddings find each other, or are made one.
    Pair {
        patches: OfPatches,
        genes: OfGenes,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fusion: Option<Fusion>,
    },
}

/// An encoder of genes, but for its weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OfGenes {
    #[serde(flatten)]
    pub(crate) scaler: Scaler,
    pub(crate) encoder: Encoder,
    /// Length of an embedding.
    pub(crate) dim: usize,
}

/// An encoder of patches, but for its weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OfPatches {
    #[serde(flatten)]
    pub(crate) colours: Colours,
    /// What it sees of them.
    #[serde(default)]
    pub(crate) sees: Sees,
    /// Side of a patch in pixels.
    pub(crate) size: usize,
    pub(crate) encoder: Encoder,
    /// Length of an embedding.
    pub(crate) dim: usize,
}

/// What the parameters of an encoder are called: of one that is alone, and of a pair.
pub(crate) const ALONE: &str = "encoder";
pub(crate) const OF_PATCHES: &str = "encoder.patches";
pub(crate) const OF_GENES: &str = "encoder.genes";
/// What the parameters that make a pair's embeddings one are called.
pub(crate) const FUSION: &str = "encoder.fusion";

impl OfGenes {
    /// Adds its parameters under this name.
    ///
    /// # Errors
    /// If it is of a kind for patches, or its lists of genes differ in length.
    pub(crate) fn net(&self, params: &mut Params, name: &str, rng: &mut impl Rng) -> Result<GeneNet> {
        if self.encoder.encodes() == Encodes::Graph {
            return self.graph_net(params, name, rng).map(GeneNet::Graph);
        }
        self.scaler.check()?;
        Net::of_genes(params, name, &self.encoder, (self.scaler.genes.len(), self.dim), rng)
            .map(GeneNet::Alone)
    }

    /// The same for an objective on a graph.
    pub(crate) fn graph_net(&self, params: &mut Params, name: &str, rng: &mut impl Rng) -> Result<GraphNet> {
        self.scaler.check()?;
        GraphNet::new(params, name, &self.encoder, (self.scaler.genes.len(), self.dim), rng)
    }
}

impl OfPatches {
    /// Refuses patches of another size.
    pub(crate) fn check(&self, patches: &Patches) -> Result<()> {
        if patches.size != self.size {
            return Err(Error::invalid(format!(
                "the model was trained on patches of {} pixels, these have {}: make them of one size",
                self.size, patches.size
            )));
        }
        Ok(())
    }

    /// As [`OfGenes::net`].
    pub(crate) fn net(&self, params: &mut Params, name: &str, rng: &mut impl Rng) -> Result<Net> {
        Net::of_patches(params, name, &self.encoder, self.dim, rng)
    }
}

/// How a model was trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Provenance {
    /// The params of `ssl/pretrain`.
    pub(crate) params: serde_json::Value,
    pub(crate) seed: u64,
    /// Epochs asked for; `patience` may have ended it before.
    pub(crate) epochs: usize,
    /// Spots trained on.
    pub(crate) training_spots: usize,
    /// The device that its networks ran on, if not the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// BLAKE3 of the file of gene sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gene_sets: Option<String>,
    /// Of what was trained on a graph: the edges that it saw, each of them between two training spots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) training_edges: Option<usize>,
    /// How `ssl/finetune` trained it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finetuned: Option<serde_json::Value>,
}

/// Encoders that were read back: one, or one of each.
pub(crate) struct Encoders {
    pub(crate) patches: Option<(Net, OfPatches)>,
    pub(crate) genes: Option<(GeneNet, OfGenes)>,
    /// What makes the embeddings of a pair one.
    pub(crate) fuse: Option<Fuse>,
}

/// Which encoders are used, as their inputs are connected.
pub(crate) struct Used {
    pub(crate) patches: bool,
    pub(crate) genes: bool,
}

impl Encoders {
    /// Those whose inputs are connected.
    ///
    /// # Errors
    /// If one is needed that is not.
    pub(crate) fn used(&self, ctx: &Context) -> Result<Used> {
        let is_connected = |port: &str| !ctx.inputs(port).is_empty();
        let needs = |port: &str, of: &str| match (is_connected(port), self.is_pair()) {
            (false, true) if self.fuse.is_some() => Err(Error::invalid(format!(
                "the model makes one embedding of patches and genes: connect input `{port}` as well"
            ))),
            (false, false) => {
                Err(Error::invalid(format!("the model is an encoder of {of}: connect input `{port}`")))
            }
            (is_connected, _) => Ok(is_connected),
        };
        let patches = self.patches.is_some() && needs("patches", "patches")?;
        let genes = match &self.genes {
            None => false,
            Some((GeneNet::Alone(_), _)) => needs("table", "genes")?,
            Some((GeneNet::Graph(_), _)) => {
                let of = "genes on a graph";
                let is_used = needs("table", of)?;
                if is_used && !is_connected("graph") {
                    return Err(Error::invalid(format!(
                        "the model is an encoder of {of}: connect input `graph`"
                    )));
                }
                is_used
            }
        };
        if !patches && !genes {
            return Err(Error::invalid(
                "the model has encoders of patches and genes: connect input `patches`, `table` or both",
            ));
        }
        Ok(Used { patches, genes })
    }

    fn is_pair(&self) -> bool {
        self.patches.is_some() && self.genes.is_some()
    }
}

impl Architecture {
    /// The architecture of an encoder that is to be trained with these params.
    pub(crate) fn new(kind: Kind, params: &PretrainParams, seed: u64, training_spots: usize) -> Result<Self> {
        let provenance = Provenance {
            params: params.provenance()?,
            seed,
            epochs: params.epochs,
            training_spots,
            device: None,
            gene_sets: None,
            training_edges: None,
            finetuned: None,
        };
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

    /// Reads it back from the artifact.
    ///
    /// # Errors
    /// If it is no model of `ssl/pretrain`.
    pub(crate) fn read(model: &Model) -> Result<Self> {
        serde_json::from_value(model.architecture.clone()).map_err(Error::other(
            "the model is none of `ssl/pretrain`'s: connect that stage's output `model`",
        ))
    }

    /// Reads encoders back from the artifact, with their parameters.
    ///
    /// # Errors
    /// If it is no model of `ssl/pretrain`, or its weights do not fit its architecture.
    pub(crate) fn restore(model: &Model) -> Result<(Encoders, Params)> {
        let architecture = Self::read(model)?;
        let mut params = Params::default();
        // The initial values do not matter: all are read.
        let mut rng = restage_stage::context::rng(0, "restore");
        let encoders = match architecture.kind {
            Kind::Genes(of) | Kind::Graph(of) => {
                let net = of.net(&mut params, ALONE, &mut rng)?;
                Encoders { patches: None, genes: Some((net, of)), fuse: None }
            }
            Kind::Patches(of) => {
                let net = of.net(&mut params, ALONE, &mut rng)?;
                Encoders { patches: Some((net, of)), genes: None, fuse: None }
            }
            Kind::Pair { patches, genes, fusion } => {
                let net = patches.net(&mut params, OF_PATCHES, &mut rng)?;
                let gene_net = genes.net(&mut params, OF_GENES, &mut rng)?;
                let fuse = fusion.map(|kind| Fuse::new(&mut params, FUSION, kind, genes.dim, &mut rng));
                Encoders { patches: Some((net, patches)), genes: Some((gene_net, genes)), fuse }
            }
        };
        params
            .load(|name| model.weights.get(name).map(|weight| (&weight.shape[..], &weight.values[..])))
            .map_err(Error::other("the weights do not fit the architecture"))?;
        Ok((encoders, params))
    }
}
