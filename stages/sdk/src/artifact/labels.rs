//! Regions of annotated spots; the labels of training and of test spots are types of their own.

use std::path::Path;

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

/// The region of each annotated spot. `None`: seen by the expert but not assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Section per spot.
    pub sections: Vec<String>,
    /// Patient per spot.
    pub patients: Vec<String>,
    /// Region per spot.
    pub regions: Vec<Option<String>>,
}

/// Labels of training spots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainLabels(pub Labels);

/// Labels of test spots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestLabels(pub Labels);

impl Artifact for Labels {
    const PORT: PortType = PortType::Labels;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}

impl Artifact for TrainLabels {
    const PORT: PortType = PortType::TrainLabels;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}

impl Artifact for TestLabels {
    const PORT: PortType = PortType::TestLabels;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
