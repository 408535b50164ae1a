//! What a run means: the ablation table. What two have in common: the comparison. Whether a result comes
//! out again: the audit. What a workflow is: its graph. What a store holds, and for whom.

mod audit;
mod compare;
mod diff;
mod graph;
mod grid;
mod holding;
mod outcome;
pub(crate) mod page;
mod statistics;
mod table;

pub(crate) use audit::{Audited, Ended, judge, sample};
pub(crate) use compare::{Verdict, compare};
pub(crate) use diff::{Comparison, Entry, Side};
pub(crate) use graph::{Edge, Graph, Node, State};
pub(crate) use grid::{grid, size};
pub(crate) use holding::{Holding, Origins};
pub(crate) use outcome::{ActionOutcome, Done, Outcome, Scores, State as ActionState};
pub(crate) use table::{Format, Series, Table};
