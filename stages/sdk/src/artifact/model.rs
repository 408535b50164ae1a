//! Weights with the architecture that they belong to.

use std::{collections::BTreeMap, path::Path};

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

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

impl Artifact for Model {
    const PORT: PortType = PortType::Model;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
