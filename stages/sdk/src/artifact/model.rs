//! Weights with the architecture that they belong to.

use std::{collections::BTreeMap, path::Path};

use super::{
    Artifact, anndata,
    zarr::{Attributes, Reader, Writer},
};
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

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        let group = root.group("weights")?;
        let read = |name: String| {
            let (shape, values) = group.array_of_any_shape(&name)?;
            Ok((name, Weight { shape, values }))
        };
        let weights = group.children()?.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Self { architecture: root.attribute("architecture")?, weights })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let architecture = ("architecture".into(), self.architecture.clone());
        let root = Writer::create(path, [architecture].into_iter().collect())?;
        let group = root.group("weights", Attributes::new())?;
        let mut weights = self.weights.iter();
        weights.try_for_each(|(name, weight)| anndata::array(&group, name, &weight.shape, &weight.values))
    }
}
