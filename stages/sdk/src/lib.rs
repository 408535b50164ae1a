//! What a stage author needs: the [`Stage`] trait, [`export!`], typed artifacts, and the C ABI underneath.
//!
//! An author writes a params struct, implements [`Stage`] and lists the type in [`export!`]. Ports are declared by
//! artifact types ([`Table`](artifact::Table), [`Embedding`](artifact::Embedding), …), which read and write
//! themselves as Zarr groups. See `CONTRIBUTING.md`, "Add a stage in ten minutes".

pub mod abi;
pub mod catalogue;
pub mod task;

#[cfg(feature = "zarr")]
pub mod artifact;
#[cfg(feature = "author")]
pub mod context;
#[cfg(feature = "author")]
mod error;
#[cfg(feature = "author")]
pub mod export;
#[cfg(feature = "author")]
mod forward;
#[cfg(feature = "author")]
pub mod marks;
#[cfg(feature = "author")]
pub mod params;
#[cfg(feature = "author")]
pub mod stage;

#[cfg(feature = "author")]
pub use {
    catalogue::Tolerance,
    context::{Context, Device},
    error::{Error, Result},
    params::{CodePath, InputPath, ToolPath},
    stage::{Artifact, Ports, Stage},
};
