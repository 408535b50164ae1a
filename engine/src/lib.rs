//! The engine of `restage`: a workflow is loaded, planned and run; see `ARCHITECTURE.md`.

mod cache;
pub mod cli;
mod conformance;
mod executor;
mod export;
mod fuzz;
mod last_use;
mod lock;
mod machine;
mod plan;
mod plugin;
mod report;
mod run;
mod serve;
mod share;
mod site;
mod workflow;

#[doc(hidden)]
pub use fuzz::fuzz_workflow;

/// Milliseconds since 1970.
fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// An error and its causes, outermost first; a cause that the one before it quotes already is left out.
fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let cause = cause.to_string();
        if !told.last().is_some_and(|last| last.contains(&cause)) {
            told.push(cause);
        }
    }
    told
}
