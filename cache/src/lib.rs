//! The cache: artifacts by the digest of their content, and records of which action gave which. Knows no workflow.
//!
//! ```text
//! <root>/
//!   FORMAT                        `restage-cache 1`; a store with a later number is refused
//!   CACHEDIR.TAG                  tells backups to leave this out
//!   v1/
//!     files/ab/cdef…              a file by the digest of its content, 0444: what artifacts share
//!     artifacts/ab/cdef…/
//!       tree/…                    a plain folder, hard links to files/ where possible: what readers open
//!       manifest                  path, size and digest of each file; its digest is the artifact's
//!     actions/ab/cdef…/
//!       record.json               the result of an action: output port -> artifact, and where it came from
//!       seen/<digest>.json        results that disagree with it
//!     outside/<digest of a path>    digests of files that are not in the store: a hint, any of it may go
//!     staging/<host>.<boot>.<ns>.<pid>.<nonce>/   work of a living process, or swept
//!     claims/<action key>         who computes it now: others wait; a hint that a dead owner leaves to be taken over
//!     scratch/<action key>.<owner>/  checkpoints of an action that is not done
//!     pins/<name>.json            names that keep artifacts from every sweep
//!     trash/<seconds>-<owner>/    what a sweep moved away; deleted by one that comes later
//!     quarantine/                 what was found damaged, by one rename; never deleted by the store
//!   <bucket>/                     folders of the caller's own: see `Store::folder`
//! ```
//!
//! **The promise.** Whatever has a final name is complete and on disk, and was before its name: files, then the artifact
//! (tree and manifest by one rename), then the record. A process that dies or a machine that loses power at any instant
//! leaves only `staging`, and the next [`Store::open`] needs no repair. Nobody takes a lock; two who publish or record the
//! same thing are both right. The reasons are in the crate's README.
//!
//! **Others**: [`Remote`] with [`Store::push`] and [`Store::pull`]; [`Store::export`] and [`Store::import`] for one file.
//! [`Store::claim`] says who computes what.
//!
//! **Upkeep**: [`Store::plan_gc`] and [`Store::run_gc`] with [`Store::pin`], [`Store::verify`], [`Store::usage`], [`doctor`]. They
//! give data; who prints it decides how.

#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests spoil files; what is no test is linted without them")
)]

mod action;
mod area;
mod artifact;
mod assemble;
mod bundle;
mod claim;
mod digest;
mod doctor;
mod durable;
mod error;
mod gc;
mod inventory;
mod lately;
mod layout;
mod leftovers;
mod listing;
mod manifest;
mod member;
mod mend;
mod outside;
mod owner;
mod pin;
mod reach;
mod remote;
mod repair;
mod stat;
mod store;
mod sweep;
mod together;
mod tree;
mod usage;
mod verify;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod gc_oracle;
#[cfg(test)]
mod gc_tests;
#[cfg(test)]
mod outside_tests;

pub use action::{Lookup, MissReason, Outputs, Record, Recorded};
pub use area::Area;
pub use artifact::Published;
pub use bundle::Bundled;
pub use claim::{BEAT, Claim, Claiming, Holder};
pub use digest::{ActionKey, Digest, ParseDigestError};
pub use doctor::{Examples, Finding, doctor};
pub use error::{Error, Fault, Refusal, Result};
pub use gc::{Amount, GcOptions, GcPlan, KeptBy, Removal};
pub use member::{Hashed, damage, plain_header};
pub use pin::Pin;
pub use remote::{Progress, Remote, Transfer};
pub use repair::Repair;
pub use store::{Staging, Store};
pub use sweep::{GcReport, Refused};
pub use tree::tree_digest;
pub use usage::{AreaUsage, ArtifactUsage, Share, Usage};
pub use verify::{BadRecord, Damage, Verdict, Verification, Verified, VerifyOptions};
