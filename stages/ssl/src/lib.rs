//! Self-supervised pretraining of encoders for spots, and their embeddings: the stage types of plugin `ssl`.

mod architecture;
mod augment;
mod checkpoint;
mod collapse;
mod embed;
mod encoder;
mod expression;
mod gene_mask;
mod optical_density;
mod params;
mod pretrain;
#[cfg(test)]
mod tests;
mod train;
mod vicreg;

pub use embed::Embed;
pub use params::{Objective, PretrainParams};
pub use pretrain::Pretrain;

restage_stage::export!("ssl"; Pretrain, Embed);
