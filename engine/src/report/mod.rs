//! What a run means: the ablation table. What a workflow is: its graph.

#[expect(dead_code, reason = "the command that draws is not there yet")]
pub(crate) mod graph;
mod table;

pub(crate) use table::Table;
