//! Encoders: their kinds and sizes, and the networks that these make.

mod cnn;
mod fusion;
mod genes;
mod graph;
mod mlp;
mod resnet;
pub(crate) mod vit;

use rand::Rng;
use restage_nn::{
    Images, Layer, Linear, Matrix, Network, ParamId, Params, Recording, Source, Value, dfdx::prelude::*,
    global_average_pool, pick,
};
use restage_stage::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use fusion::Fuse;
pub use fusion::Fusion;
pub(crate) use genes::{Around, GeneEncoder, GeneNet};
pub(crate) use graph::{GraphLayer, GraphNet};
pub(crate) use mlp::{HeadNorm, Projector};

/// No layer of a network is wider: what is meant to be a number of values, and is not.
pub(crate) const LARGEST: usize = 1 << 14;

/// A kind of encoder, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoder {
    /// Of genes: linear layers with layer norm and GELU.
    Mlp {
        /// Sizes of the hidden layers. Default `[256]`.
        #[serde(default = "hidden")]
        hidden: Vec<usize>,
    },
    /// Of genes on a graph: the same, but a layer sees the sum over a spot and its neighbours (GCN; Kipf & Welling 2017).
    Gcn {
        /// Sizes of the hidden layers; each reaches one ring further. Default `[64]`.
        #[serde(default = "graph_hidden")]
        hidden: Vec<usize>,
    },
    /// Of genes on a graph: the same, but what a neighbour weighs is learned (GAT; Veličković et al. 2018).
    Gat {
        /// Sizes of the hidden layers, of all heads together. Default `[64]`.
        #[serde(default = "graph_hidden")]
        hidden: Vec<usize>,
        /// Heads of attention. Default 4.
        #[serde(default = "heads")]
        heads: usize,
    },
    /// Of genes on a graph: spots are tokens, each of which attends to itself and its neighbours.
    Transformer {
        /// Length of a token: a multiple of `heads`. Default 64.
        #[serde(default = "token")]
        width: usize,
        /// Number of blocks; each reaches one ring further. Default 2.
        #[serde(default = "blocks")]
        depth: usize,
        /// Heads of each block's attention. Default 4.
        #[serde(default = "heads")]
        heads: usize,
    },
    /// Of patches: 3 x 3 convolutions with stride 2, group norm and ReLU.
    Cnn {
        /// Channels of each; each halves the image. Default `[16, 32, 64]`.
        #[serde(default = "channels")]
        channels: Vec<usize>,
    },
    /// Of patches: a ResNet with group norm, and a stem for small images.
    Resnet {
        /// 10 or 18. Default 10.
        #[serde(default)]
        depth: Depth,
        /// Channels of its first stage; the others have 2, 4 and 8 times as many. Default 32.
        #[serde(default = "width")]
        width: usize,
    },
    /// Of patches: a ViT, with fixed positions and the mean of its tokens.
    Vit {
        /// Side in pixels of the squares that become tokens; the side of a patch must be a multiple of it. Default 8.
        #[serde(default = "vit::patch")]
        patch: usize,
        /// Length of a token: a multiple of 4 and of `heads`. Default 192.
        #[serde(default = "vit::width")]
        width: usize,
        /// Number of blocks. Default 6.
        #[serde(default = "vit::depth")]
        depth: usize,
        /// Heads of each block's attention. Default 3.
        #[serde(default = "vit::heads")]
        heads: usize,
    },
}

/// What an encoder encodes, or an objective trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encodes {
    Genes,
    Patches,
    /// Genes, of spots on a graph.
    Graph,
}

impl Encodes {
    /// Whether what trains on this may have an encoder of that: genes may be seen together with neighbours'.
    pub(crate) fn allows(self, other: Self) -> bool {
        self == other || (self, other) == (Self::Genes, Self::Graph)
    }

    /// What it is called in messages, and the kinds of encoders for it.
    pub(crate) fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Genes => ("genes", "`mlp`, or with input `graph` `gcn`, `gat` or `transformer`"),
            Self::Patches => ("patches", "`cnn`, `resnet` or `vit`"),
            Self::Graph => ("genes on a graph", "`gcn`, `gat` or `transformer`"),
        }
    }
}

/// Layers of a ResNet that have weights, as it is called by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "usize", into = "usize")]
#[schemars(with = "usize")]
pub enum Depth {
    /// One block a stage.
    #[default]
    Ten,
    /// Two blocks a stage.
    Eighteen,
}

impl TryFrom<usize> for Depth {
    type Error = String;

    fn try_from(depth: usize) -> std::result::Result<Self, String> {
        match depth {
            10 => Ok(Self::Ten),
            18 => Ok(Self::Eighteen),
            _ => Err(format!("the depth of a ResNet is 10 or 18, not {depth}")),
        }
    }
}

impl From<Depth> for usize {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Ten => 10,
            Depth::Eighteen => 18,
        }
    }
}

fn hidden() -> Vec<usize> {
    vec![256]
}

fn graph_hidden() -> Vec<usize> {
    vec![64]
}

fn heads() -> usize {
    4
}

fn token() -> usize {
    64
}

fn blocks() -> usize {
    2
}

fn channels() -> Vec<usize> {
    vec![16, 32, 64]
}

fn width() -> usize {
    32
}

impl Encoder {
    /// Kinds that see neighbours.
    pub(crate) const ON_GRAPHS: [&str; 3] = ["gcn", "gat", "transformer"];

    /// What genes are encoded with where nothing is said.
    pub(crate) fn of_genes() -> Self {
        Self::Mlp { hidden: hidden() }
    }

    /// What genes on a graph are encoded with where nothing is said.
    pub(crate) fn of_graph() -> Self {
        Self::Gcn { hidden: graph_hidden() }
    }

    /// What patches are encoded with where nothing is said.
    pub(crate) fn of_patches() -> Self {
        Self::Cnn { channels: channels() }
    }

    /// The same where tokens are to be left out.
    pub(crate) fn of_tokens() -> Self {
        Self::Vit { patch: vit::patch(), width: vit::width(), depth: vit::depth(), heads: vit::heads() }
    }

    /// Its name in workflows.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mlp { .. } => "mlp",
            Self::Gcn { .. } => "gcn",
            Self::Gat { .. } => "gat",
            Self::Transformer { .. } => "transformer",
            Self::Cnn { .. } => "cnn",
            Self::Resnet { .. } => "resnet",
            Self::Vit { .. } => "vit",
        }
    }

    /// Refuses sizes that no network has.
    pub(crate) fn validate(&self, name: &str) -> Result<()> {
        let (sizes, what) = match self {
            Self::Mlp { hidden } => (&hidden[..], "hidden"),
            Self::Gcn { hidden } | Self::Gat { hidden, .. } if hidden.is_empty() => {
                return Err(Error::invalid(format!(
                    "`{name}.hidden` must list 1 or more layers: only they see the graph"
                )));
            }
            Self::Gat { hidden, heads } if hidden.iter().any(|size| *heads == 0 || size % heads != 0) => {
                return Err(Error::invalid(format!(
                    "`{name}.hidden`: {hidden:?} cannot be shared out among {heads} `heads`: choose multiples of it"
                )));
            }
            Self::Gcn { hidden } | Self::Gat { hidden, .. } => (&hidden[..], "hidden"),
            Self::Transformer { width, depth, heads } => {
                vit::validate_blocks(name, *depth, *heads)?;
                if !width.is_multiple_of(*heads) {
                    return Err(Error::invalid(format!(
                        "`{name}.width`: {width} cannot be shared out among {heads} `heads`: choose a multiple of it"
                    )));
                }
                (std::slice::from_ref(width), "width")
            }
            Self::Cnn { channels } if channels.is_empty() => {
                return Err(Error::invalid(format!("`{name}.channels` must list 1 or more convolutions")));
            }
            Self::Cnn { channels } => (&channels[..], "channels"),
            Self::Resnet { width, .. } => (std::slice::from_ref(width), "width"),
            Self::Vit { patch, width, depth, heads } => {
                vit::validate(name, (*width, *depth, *heads))?;
                (std::slice::from_ref(patch), "patch")
            }
        };
        match sizes.iter().find(|size| !(1..=LARGEST).contains(*size)) {
            Some(size) => {
                Err(Error::invalid(format!("`{name}.{what}` must be from 1 to {LARGEST}, not {size}")))
            }
            None => Ok(()),
        }
    }

    /// What it encodes.
    pub(crate) fn encodes(&self) -> Encodes {
        match self {
            Self::Mlp { .. } => Encodes::Genes,
            Self::Gcn { .. } | Self::Gat { .. } | Self::Transformer { .. } => Encodes::Graph,
            Self::Cnn { .. } | Self::Resnet { .. } | Self::Vit { .. } => Encodes::Patches,
        }
    }

    /// Side in pixels of the square that a place of its last map stands for; nothing of one of genes.
    pub(crate) fn place(&self) -> Option<usize> {
        match self {
            Self::Mlp { .. } | Self::Gcn { .. } | Self::Gat { .. } | Self::Transformer { .. } => None,
            Self::Cnn { channels } => Some(1 << channels.len().min(30)),
            Self::Resnet { .. } => Some(1 << resnet::HALVINGS),
            Self::Vit { patch, .. } => Some(*patch),
        }
    }

    /// Refuses patches of so many pixels, or crops of them, that it would make nothing of.
    pub(crate) fn check_size(&self, what: &str, size: usize) -> Result<()> {
        let Some(place) = self.place() else { return Ok(()) };
        let told = match self {
            Self::Vit { .. } if !size.is_multiple_of(place) => {
                let (less, more) = (size / place * place, size.next_multiple_of(place));
                let fits = if less > 0 { format!("{less} or {more}") } else { more.to_string() };
                format!(
                    "cuts them into squares of {place} (`patch`): make them {fits}, or choose another `patch`"
                )
            }
            Self::Vit { .. } => return Ok(()),
            _ if size < place.max(8) => {
                let (halvings, least) = (place.ilog2(), place.max(8));
                format!(
                    "halves them {halvings} times: make them {least} or more, or choose another `encoder`"
                )
            }
            // Group norm of at most 8 channels has one in a group, and what is normalised alone is 0.
            Self::Cnn { channels } if size <= place && channels.last().is_some_and(|last| *last <= 8) => {
                format!(
                    "leaves one place of them, whose {} channels would be normalised one by one, so that all spots look the same: \
                     make them {} or more, or take a layer less or more than 8 channels in the last",
                    channels.last().copied().unwrap_or_default(),
                    place + 1
                )
            }
            Self::Resnet { width: 1, .. } if size <= place => {
                "leaves one place of them, whose channels would be normalised one by one, so that all spots look the same: make \
                 `width` 2 or more"
                    .to_owned()
            }
            _ => return Ok(()),
        };
        let pixels = if size == 1 { "pixel" } else { "pixels" };
        Err(Error::invalid(format!("{what} are {size} {pixels} wide, and the encoder {told}")))
    }
}

/// The network of an encoder: a body, and a linear layer to the embedding. Of patches, between the two stands the mean of the last
/// map's places.
pub(crate) struct Net {
    body: Network,
    output: Linear,
    of_patches: bool,
}

impl Net {
    /// Adds the parameters of an encoder of so many genes under this name; the last linear layer as the last of a `Sequential`.
    ///
    /// # Errors
    /// If it is a kind of encoder for patches.
    pub(crate) fn of_genes(
        params: &mut Params,
        name: &str,
        kind: &Encoder,
        (genes, dim): (usize, usize),
        rng: &mut impl Rng,
    ) -> Result<Self> {
        let Encoder::Mlp { hidden } = kind else {
            return Err(Error::invalid(format!("an encoder of genes cannot be a {}", kind.name())));
        };
        let body = Network(mlp::layers(params, name, genes, hidden, rng));
        let last = format!("{name}.{}", 3 * hidden.len());
        let width = hidden.last().copied().unwrap_or(genes);
        Ok(Self { body, output: Linear::new(params, &last, width, dim, rng), of_patches: false })
    }

    /// The same of patches; the linear layer as the last of a `Sequential` after pooling and flattening, or as torchvision's `fc`,
    /// timm's `head`.
    ///
    /// # Errors
    /// If it is a kind of encoder for genes.
    pub(crate) fn of_patches(
        params: &mut Params,
        name: &str,
        kind: &Encoder,
        dim: usize,
        rng: &mut impl Rng,
    ) -> Result<Self> {
        let (body, last, channels) = match kind {
            Encoder::Mlp { .. } | Encoder::Gcn { .. } | Encoder::Gat { .. } | Encoder::Transformer { .. } => {
                return Err(Error::invalid(format!("an encoder of patches cannot be a {}", kind.name())));
            }
            Encoder::Cnn { channels } => {
                let last = format!("{name}.{}", 3 * channels.len() + 2);
                (cnn::layers(params, name, channels, rng), last, channels.last().copied().unwrap_or(3))
            }
            Encoder::Resnet { depth, width } => {
                let blocks = match depth {
                    Depth::Ten => 1,
                    Depth::Eighteen => 2,
                };
                (resnet::layers(params, name, blocks, *width, rng), format!("{name}.fc"), 8 * width)
            }
            Encoder::Vit { patch, width, depth, heads } => {
                let body = vit::layers(params, name, *patch, (*width, *depth, *heads), rng);
                (body, format!("{name}.head"), *width)
            }
        };
        let output = Linear::new(params, &last, channels, dim, rng);
        Ok(Self { body: Network(body), output, of_patches: true })
    }

    /// Parameters of what [`Net::forward`] runs.
    pub(crate) fn parameters(&self) -> Vec<ParamId> {
        self.whole().parameters()
    }

    /// Parameters of the network in what [`Net::forward_places`] runs.
    pub(crate) fn body_parameters(&self) -> Vec<ParamId> {
        self.body.parameters()
    }

    fn whole(&self) -> Network {
        let pool = self.of_patches.then_some(Layer::Pool);
        let after = pool.into_iter().chain([Layer::Linear(self.output)]);
        Network(self.body.0.iter().cloned().chain(after).collect())
    }

    /// Spots x genes, or patches x height x width x 3, to spots x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: impl Into<Value<T>>) -> Matrix<T> {
        self.whole().forward(params, x.into(), Source::Data).rows()
    }

    /// The embeddings, patches x dim, and what they are the means of: patches x height x width x dim, of places.
    pub(crate) fn forward_places(
        &self,
        params: &Params,
        x: Images<Recording>,
    ) -> (Matrix<Recording>, Images<Recording>) {
        let features = self.body.forward(params, x.into(), Source::Data).images();
        let pooled = self.output.forward(params, global_average_pool(features.with_empty_tape()), Source::Op);
        (pooled, self.places(params, features))
    }

    /// What the embedding is the mean of, for those of a ViT's tokens that `seen` lists, of each patch as many, and with none of the
    /// others: patches x 1 x tokens x dim.
    pub(crate) fn forward_seen(
        &self,
        params: &Params,
        x: Images<Recording>,
        seen: &[usize],
    ) -> Images<Recording> {
        let (embed, blocks) = self.body.0.split_at(1);
        let tokens = Network(embed.to_vec()).forward(params, x.into(), Source::Data).images();
        let (count, height, width, channels) = *tokens.shape();
        let kept = pick(tokens.reshape_like(&(count * height * width, channels)), seen);
        let kept = kept.reshape_like(&(count, 1, seen.len() / count, channels));
        self.places(params, Network(blocks.to_vec()).forward(params, kept.into(), Source::Op).images())
    }

    fn places(&self, params: &Params, features: Images<Recording>) -> Images<Recording> {
        Network(vec![Layer::Linear(self.output)]).forward(params, features.into(), Source::Op).images()
    }
}
