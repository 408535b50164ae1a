//! The plugin `classify`: who trains and who tests, classifiers over frozen features, and their scores.
//!
//! Test labels meet predictions in [`Evaluate`] only: no other stage type here has a port that takes them, so a
//! workflow that trains on them is refused before it runs.

mod evaluate;
mod features;
mod folds;
mod lbfgs;
mod logistic;
mod majority;
mod probe;
mod scores;
mod split;
#[cfg(test)]
mod testing;
mod training;

pub use evaluate::Evaluate;
pub use majority::Majority;
pub use probe::Probe;
pub use split::Split;

restage_stage::export!("classify"; Split, Probe, Majority, Evaluate);
