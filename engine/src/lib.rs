//! The engine of `restage`: a workflow is loaded, planned and run; see `ARCHITECTURE.md`.

pub mod workflow;
pub mod plan { /*! stub */ }
