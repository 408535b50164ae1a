//! What a run means: the ablation table. What two have in common: the comparison. What a workflow is: its graph. What a
//! store holds, and for whom.

mod diff;
mod graph;
mod grid;
mod holding;
mod table;

pub(crate) use diff::{Comparison, Entry, Side};
pub(crate) use graph::{Edge, Graph, Node, State};
pub(crate) use grid::{grid, size};
pub(crate) use holding::{Holding, Origins};
pub(crate) use table::{Series, Table};
