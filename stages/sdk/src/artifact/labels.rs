//! Regions of annotated spots; the labels of training and of test spots are types of their own.

use std::path::Path;

use super::{
    Artifact, Categorical, Column, Frame, anndata,
    zarr::{Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

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

    fn read(path: &Path) -> Result<Self> {
        let frame = anndata::read_frame(&Reader::open(path)?)?;
        let text = |name: &str| -> Result<Vec<String>> {
            let missing = || Error::invalid(format!("{}: a spot without a {name}", path.display()));
            frame
                .categorical(name)?
                .iter()
                .map(|value| value.map(str::to_owned).ok_or_else(missing))
                .collect()
        };
        Ok(Self {
            sections: text("section")?,
            patients: text("patient")?,
            regions: frame.categorical("region")?.iter().map(|region| region.map(str::to_owned)).collect(),
            spots: frame.index,
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = |values: &[String]| Categorical::encode(values.iter().map(|value| Some(value.as_str())));
        let columns = [
            ("section", text(&self.sections)),
            ("patient", text(&self.patients)),
            ("region", Categorical::encode(self.regions.iter().map(Option::as_deref))),
        ];
        let frame = Frame {
            index: self.spots.clone(),
            columns: columns
                .into_iter()
                .map(|(name, values)| (name.into(), Column::Categorical(values)))
                .collect(),
        };
        anndata::frame(&frame, |attributes| Writer::create(path, attributes))
    }
}

impl Artifact for TrainLabels {
    const PORT: PortType = PortType::TrainLabels;

    fn read(path: &Path) -> Result<Self> {
        Labels::read(path).map(Self)
    }

    fn write(&self, path: &Path) -> Result<()> {
        self.0.write(path)
    }
}

impl Artifact for TestLabels {
    const PORT: PortType = PortType::TestLabels;

    fn read(path: &Path) -> Result<Self> {
        Labels::read(path).map(Self)
    }

    fn write(&self, path: &Path) -> Result<()> {
        self.0.write(path)
    }
}
