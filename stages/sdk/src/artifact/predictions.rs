//! A predicted region per spot.

use std::{collections::HashMap, path::Path};

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

/// A predicted region and class probabilities per spot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Class names, sorted.
    pub classes: Vec<String>,
    /// `spots.len() * classes.len()` probabilities, a spot's together.
    pub probabilities: Vec<f32>,
}

impl Predictions {
    /// The probabilities of the spot at a position, one per class.
    pub fn row(&self, position: usize) -> &[f32] {
        &self.probabilities[position * self.classes.len()..][..self.classes.len()]
    }

    /// Position of the class with the largest probability, the first of equal ones.
    pub fn predicted_class(&self, position: usize) -> usize {
        let row = self.row(position);
        (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
    }

    /// The class with the largest probability, the first of equal ones.
    pub fn predicted(&self, position: usize) -> &str {
        &self.classes[self.predicted_class(position)]
    }

    /// Spot id to position.
    pub fn positions(&self) -> HashMap<&str, usize> {
        super::positions(&self.spots)
    }
}

impl Artifact for Predictions {
    const PORT: PortType = PortType::Predictions;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
