//! What a stage author needs: the [`Stage`] trait, [`export!`], typed artifacts, and the C ABI underneath.
//!
//! An author writes a params struct, implements [`Stage`] and lists the type in [`export!`]. Ports are declared by
//! artifact types ([`Table`](artifact::Table), [`Embedding`](artifact::Embedding), …), which read and write
//! themselves as Zarr groups. See `CONTRIBUTING.md`, "Add a stage in ten minutes".

pub mod abi;
pub mod artifact;
pub mod catalogue;
pub mod context;
mod error;
pub mod export;
mod forward;
pub mod params;
pub mod stage;
pub mod task;

pub use context::Context;
pub use error::{Error, Result};
pub use params::InputPath;
pub use stage::{Ports, Stage};
