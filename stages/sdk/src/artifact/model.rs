//! Weights with the architecture that they belong to.

use std::collections::BTreeMap;

/// One weight tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weight {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// A trained model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Everything but the weights that is needed to build it, and how it was trained: plain data.
    pub architecture: serde_json::Value,
    /// Weights by name, as PyTorch would name them (`encoder.0.weight`).
    pub weights: BTreeMap<String, Weight>,
}
