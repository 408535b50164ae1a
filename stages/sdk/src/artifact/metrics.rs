//! Named numbers. What the ablation table compares, what the report draws.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use super::{
    Artifact, anndata,
    zarr::{Attributes, Reader, Writer},
};
use crate::{catalogue::PortType, error::Result};

/// Named numbers, in all and per group; curves; a confusion matrix where there is one.
///
/// On disk: a Zarr group whose attributes hold `metrics` (name: number), `groups` (group: {name: number}) and
/// `details` (plain data), with one array per curve under `curves/`. A value that is not a number is `null` there.
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

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        // A program need not write more than the numbers.
        let has = |name: &str| root.attributes().contains_key(name);
        let groups: BTreeMap<String, BTreeMap<String, Option<f64>>> =
            if has("groups") { root.attribute("groups")? } else { BTreeMap::new() };
        let mut all = BTreeMap::new();
        if root.has("curves") {
            let curves = root.group("curves")?;
            for name in curves.children()? {
                let values = curves.doubles(&name, &[None])?;
                all.insert(name, values);
            }
        }
        Ok(Self {
            values: from_json(root.attribute("metrics")?),
            groups: groups.into_iter().map(|(group, values)| (group, from_json(values))).collect(),
            curves: all,
            details: if has("details") { root.attribute("details")? } else { Value::Null },
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let groups: Map<_, _> =
            self.groups.iter().map(|(group, values)| (group.clone(), to_json(values))).collect();
        let attributes = [
            ("metrics", to_json(&self.values)),
            ("groups", json!(groups)),
            ("details", self.details.clone()),
        ];
        let root =
            Writer::create(path, attributes.into_iter().map(|(name, value)| (name.into(), value)).collect())?;
        let curves = root.group("curves", Attributes::new())?;
        self.curves
            .iter()
            .try_for_each(|(name, values)| anndata::array(&curves, name, &[values.len()], values))
    }
}

fn to_json(values: &BTreeMap<String, f64>) -> Value {
    // A number that is not finite becomes null.
    json!(values)
}

fn from_json(values: BTreeMap<String, Option<f64>>) -> BTreeMap<String, f64> {
    values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect()
}
