//! A predicted region per spot.

use std::{collections::HashMap, path::Path};

use super::{
    Artifact, anndata,
    zarr::{Attributes, Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

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

    fn read(path: &Path) -> Result<Self> {
        let root = Reader::open(path)?;
        let spots = root.texts("spots", None)?;
        let classes = root.texts("classes", None)?;
        let probabilities = root.floats("probabilities", &[Some(spots.len()), Some(classes.len())])?;
        Ok(Self { spots, classes, probabilities })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let shape = [self.spots.len(), self.classes.len()];
        if self.probabilities.len() != shape[0] * shape[1] {
            let [spots, classes] = shape;
            let has = self.probabilities.len();
            return Err(Error::invalid(format!(
                "{has} probabilities for {spots} spots and {classes} classes"
            )));
        }
        if !self.spots.is_empty() && self.classes.is_empty() {
            return Err(Error::invalid("predictions need at least one class"));
        }
        anndata::check_unique("spots", &self.spots)?;
        anndata::check_unique("classes", &self.classes)?;
        let root = Writer::create(path, Attributes::new())?;
        anndata::texts(&root, "spots", &self.spots)?;
        anndata::texts(&root, "classes", &self.classes)?;
        anndata::array(&root, "probabilities", &shape, &self.probabilities)
    }
}
