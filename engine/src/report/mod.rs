//! What a run means: the ablation table.

mod table;

pub(crate) use table::Table;
