//! Named numbers. What the ablation table compares, what the report draws.

use std::{collections::BTreeMap, path::Path};

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

/// Named numbers, in all and per group; curves; a confusion matrix where there is one.
///
/// On disk: a Zarr group whose attributes hold `metrics` (name: number), `groups` (group: {name: number}) and
/// `details` (plain data), with one array per curve under `curves/`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Name to value; `workflow.yaml` names them as `stage.name`.
    pub values: BTreeMap<String, f64>,
    /// Group (e.g. patient) to name to value.
    pub groups: BTreeMap<String, BTreeMap<String, f64>>,
    /// Curves by name, one value per step.
    pub curves: BTreeMap<String, Vec<f64>>,
    /// Whatever else explains the numbers: classes, confusion matrix, conventions.
    pub details: serde_json::Value,
}

impl Artifact for Metrics {
    const PORT: PortType = PortType::Metrics;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
