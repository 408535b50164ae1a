//! The engine of `restage`: a workflow is loaded, planned and run; see `ARCHITECTURE.md`.

pub mod cli;
mod executor;
mod plan;
mod plugin;
mod report;
mod run;
mod workflow;
