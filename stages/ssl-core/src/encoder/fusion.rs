//! The embeddings of a spot's patch and of its genes become one.

use rand::Rng;
use restage_nn::{Linear, Matrix, Params, Projection, Source, blend, dfdx::prelude::*};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How two embeddings of `dim` values become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// A linear layer of both, one after the other.
    #[default]
    Concat,
    /// Their sum.
    Sum,
    /// Their mean, weighted by the softmax of a score of each: q · tanh(W z + b).
    Attention,
}

/// What fuses.
pub(crate) enum Fuse {
    /// Of a linear layer on both its two halves, the bias in the first.
    Concat {
        patches: Linear,
        genes: Projection,
    },
    Sum,
    Attention {
        hidden: Linear,
        score: Projection,
    },
}

impl Fuse {
    /// Adds its parameters under this name.
    pub(crate) fn new(params: &mut Params, name: &str, kind: Fusion, dim: usize, rng: &mut impl Rng) -> Self {
        let at = |part: &str| format!("{name}.{part}");
        match kind {
            Fusion::Concat => Self::Concat {
                patches: Linear::new(params, &at("patches"), dim, dim, rng),
                genes: Projection::new(params, &at("genes"), dim, dim, rng),
            },
            Fusion::Sum => Self::Sum,
            Fusion::Attention => Self::Attention {
                hidden: Linear::new(params, &at("hidden"), dim, dim, rng),
                score: Projection::new(params, &at("score"), dim, 1, rng),
            },
        }
    }

    /// Spots x dim of both to spots x dim.
    pub(crate) fn forward<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        of_patches: Matrix<T>,
        of_genes: Matrix<T>,
    ) -> Matrix<T> {
        match self {
            Self::Concat { patches, genes } => {
                patches.forward(params, of_patches, Source::Op) + genes.forward(params, of_genes, Source::Op)
            }
            Self::Sum => of_patches + of_genes,
            Self::Attention { hidden, score } => {
                let of = |z: &Matrix<T>| {
                    let hidden = hidden.forward(params, z.with_empty_tape(), Source::Op).tanh();
                    score.forward(params, hidden, Source::Op)
                };
                let scores = of(&of_patches) - of(&of_genes);
                blend(of_patches, of_genes, scores)
            }
        }
    }
}
