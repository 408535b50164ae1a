//! Tests of the cache through its public surface.

#![expect(clippy::unwrap_used, reason = "helpers of tests may, as tests may")]
#![expect(clippy::disallowed_methods, reason = "tests make and spoil files")]

mod bundle;
mod child;
mod common;
mod kill;
mod power;
mod remote;
mod sharing;
mod store;
mod tree;
mod upkeep;
mod verify;
