//! The plugin `classify`: who trains and who tests, classifiers over frozen features, and their scores.
//!
//! Test labels meet predictions in [`Evaluate`] only: no other stage type here has a port that takes them, so a
//! workflow that trains on them is refused before it runs.

mod budget;
mod calibrate;
mod calibration;
mod check;
mod cluster;
mod conformal;
mod coordinates;
mod correct_and_smooth;
mod draw;
mod evaluate;
mod evaluate_clusters;
mod features;
mod folds;
mod fuse;
mod fuse_late;
mod graph;
mod graph_head;
mod guard;
mod knn;
mod lbfgs;
mod logistic;
mod majority;
mod matrix;
mod mlp;
mod neighbours;
mod network;
mod partition;
mod probe;
mod propagate;
mod prototype;
mod pseudo_label;
mod refine;
mod scores;
mod spatial;
mod spatial_knn;
mod split;
#[cfg(test)]
mod testing;
mod training;

pub use budget::Budget;
pub use calibrate::Calibrate;
pub use cluster::Cluster;
pub use coordinates::Coordinates;
pub use correct_and_smooth::CorrectAndSmooth;
pub use evaluate::Evaluate;
pub use evaluate_clusters::EvaluateClusters;
pub use fuse::Fuse;
pub use fuse_late::FuseLate;
pub use graph_head::GraphHead;
pub use guard::Guard;
pub use knn::Knn;
pub use majority::Majority;
pub use mlp::Mlp;
pub use probe::Probe;
pub use propagate::Propagate;
pub use prototype::Prototype;
pub use pseudo_label::PseudoLabel;
pub use refine::Refine;
pub use spatial_knn::SpatialKnn;
pub use split::Split;

restage_stage::export!("classify";
    Split, Budget, Guard,
    Evaluate, EvaluateClusters, Calibrate,
    Probe, Knn, Prototype, Mlp, GraphHead, Propagate, CorrectAndSmooth, PseudoLabel,
    Majority, Coordinates, SpatialKnn,
    Cluster, Refine,
    Fuse, FuseLate,
);
