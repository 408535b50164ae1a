//! Self-supervised pretraining of encoders for spots, and their embeddings, on the CPU: plugin `ssl`. Its stage types are those of
//! `restage-ssl-core`.

use restage_ssl_core::{Embed, Export, Finetune, Import, Pretrain};

restage_stage::export!("ssl"; Pretrain, Embed, Finetune, Export, Import);
