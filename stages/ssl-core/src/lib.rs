//! Self-supervised pretraining of encoders for spots, and their embeddings: what the plugins `ssl`, on the CPU, and `ssl-cuda`, on
//! a GPU, are made of.

mod architecture;
mod augment;
#[doc(hidden)]
pub mod bench;
mod checkpoint;
mod collapse;
mod cross_modal;
mod device;
mod dgi;
mod embed;
mod encoder;
mod exchange;
mod expression;
mod finetune;
mod gene_mask;
mod gene_sets;
mod graph_autoencoder;
mod joint;
mod mae;
mod optical_density;
mod optimizer;
mod params;
mod pretext;
mod pretrain;
mod safetensors;
mod sections;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod torch_test;
mod train;
mod unread;
mod views;

pub use device::Choice;
pub use embed::{Embed, EmbedParams, embed};
pub use encoder::{Depth, Encoder, Fusion};
pub use exchange::{Export, Import};
pub use finetune::{ClassWeight, Finetune, FinetuneParams, Freeze, Whole, finetune};
pub use mae::MaeDecoder;
pub use optical_density::Sees;
pub use optimizer::Optimizer;
pub use params::{Contrast, ErrorOf, Objective, PretrainParams, Readout, Targets};
pub use pretrain::{Pretrain, pretrain};
