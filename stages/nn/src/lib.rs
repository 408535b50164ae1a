//! The networks of restage's plugins: ops with run-time sizes on dfdx's tensors and tape.
//!
//! dfdx 0.13 gives tensors, autodiff and elementwise ops. It has no convolution on stable Rust, sizes its
//! parameters at compile time and keeps Adam's state to itself; this crate brings those, written against dfdx's
//! public API only. Every op splits its work in chunks of fixed size and adds partial results in their order, so
//! results are the same bytes for any number of threads.
//!
//! ```
//! use rand::SeedableRng;
//! use restage_nn::{AdamW, Linear, Params, Source, dfdx::prelude::*, gelu, tensor};
//!
//! let mut params = Params::default();
//! let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
//! let hidden = Linear::new(&mut params, "0", 3, 8, &mut rng);
//! let output = Linear::new(&mut params, "2", 8, 1, &mut rng);
//! let mut optimizer = AdamW::new(&params, 0.01);
//!
//! let x = tensor(vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6], (2, 3)).leaky_traced();
//! let y = output.forward(&params, gelu(hidden.forward(&params, x, Source::Data)), Source::Op);
//! let gradients = params.gradients(y.square().mean())?;
//! optimizer.step(&mut params, &gradients, 1e-3);
//! # Ok::<(), CpuError>(())
//! ```

mod activation;
mod adamw;
mod attention;
mod batch_norm;
mod blend;
mod block;
mod conv;
mod gemm;
#[cfg(test)]
mod gradcheck;
mod graph_attention;
mod graph_conv;
mod layer_norm;
mod linear;
mod loss;
mod neighbour_attention;
mod network;
mod norm;
mod op;
mod params;
mod patch_embed;
mod pool;
mod project;
mod prototypes;
mod resident;
mod schedule;
mod scratch;
mod sgd;
mod sparse;
mod tensor;
#[cfg(test)]
mod threads;
mod token;
mod weights;
mod wide;

pub use dfdx;

pub use activation::{gelu, relu, sigmoid};
pub use adamw::AdamW;
pub use attention::Attention;
pub use batch_norm::batch_norm;
pub use blend::blend;
pub use conv::Conv2d;
pub use graph_attention::GraphAttention;
pub use graph_conv::GraphConv;
pub use linear::Linear;
pub use loss::{
    Barlow, Centre, VicReg, VicRegWeights, barlow, clip, info_nce, infomax, masked_mse, negative_cosine,
    nt_xent, scaled_cosine_error, sinkhorn, soft_clip, soft_cross_entropy, vicreg,
};
pub use neighbour_attention::NeighbourAttention;
pub use network::{Layer, Network, Value};
pub use norm::{GroupNorm, LayerNorm, Norm};
pub use params::{Mismatch, Param, ParamGradients, ParamId, Params};
pub use patch_embed::{PatchEmbed, positions};
pub use pool::global_average_pool;
pub use project::Projection;
pub use prototypes::Prototypes;
pub use resident::{Backward, Device, Dims, Kind, Pass, Resident, Update};
pub use schedule::{ema_cosine, warmup_cosine};
pub use sgd::Sgd;
pub use sparse::{Lists, Sparse};
pub use tensor::{Images, Matrix, Recording, Scalar, Source, tensor, values};
pub use token::{MaskToken, pick};
