//! Tests of the cache through its public surface.

mod common;
mod kill;
mod store;
mod tree;
