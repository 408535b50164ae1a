//! What a run means: the ablation table. What two have in common: the comparison. What a workflow is: its graph.

mod diff;
mod graph;
mod table;

pub(crate) use diff::{Comparison, Entry, Side};
pub(crate) use graph::{Edge, Graph, Node, State};
pub(crate) use table::{Series, Table};
