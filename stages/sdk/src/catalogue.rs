//! What a plugin says of itself: its stage types with their ports and the JSON Schema of their params.

use serde::{Deserialize, Serialize};

/// The mark, in the schema of a param, that it changes no result and is part of no key.
pub const UNKEYED_MARK: &str = "x-restage-unkeyed";

/// All stage types of one plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Catalogue {
    /// The plugin's name: the part of a stage type before the slash.
    pub plugin: String,
    /// The plugin's own version.
    pub version: String,
    /// Its stage types.
    pub stages: Vec<StageType>,
}

/// One stage type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageType {
    /// The part after the slash.
    pub name: String,
    /// One paragraph for people.
    pub doc: String,
    /// Whether it draws random numbers from the sweep's seed: only such stages fork per seed.
    pub seeded: bool,
    /// What it reads.
    pub inputs: Vec<InputPort>,
    /// What it writes.
    pub outputs: Vec<OutputPort>,
    /// JSON Schema (2020-12) of its params.
    pub params: serde_json::Value,
}

/// What kind of artifact flows through a port.
///
/// `TrainLabels` and `TestLabels` are types of their own, so that handing test labels to a stage that trains is a
/// wrong wire, refused before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortType {
    /// Spots x genes with coordinates: an AnnData group.
    Table,
    /// A histological image with its scale factors.
    Image,
    /// One image crop per spot.
    Patches,
    /// One vector per spot: an AnnData group with a dense X.
    Embedding,
    /// The region of each annotated spot, of all patients.
    Labels,
    /// Which spot trains and which tests; no labels.
    Split,
    /// Labels of training spots.
    TrainLabels,
    /// Labels of test spots: only evaluation reads them.
    TestLabels,
    /// Weights with their architecture.
    Model,
    /// A predicted region per spot, with probabilities.
    Predictions,
    /// Named numbers.
    Metrics,
    /// Anything: a folder whose meaning is between the stages.
    Any,
}

impl std::fmt::Display for PortType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Image => "image",
            Self::Patches => "patches",
            Self::Embedding => "embedding",
            Self::Labels => "labels",
            Self::Split => "split",
            Self::TrainLabels => "train-labels",
            Self::TestLabels => "test-labels",
            Self::Model => "model",
            Self::Predictions => "predictions",
            Self::Metrics => "metrics",
            Self::Any => "any",
        })
    }
}

/// An input of a stage type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputPort {
    /// Its name.
    pub name: String,
    /// What flows in.
    #[serde(rename = "type")]
    pub kind: PortType,
    /// Whether the stage runs without it.
    pub optional: bool,
    /// Whether it takes a list.
    pub many: bool,
    /// One sentence for people.
    pub doc: String,
}

/// An output of a stage type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutputPort {
    /// Its name.
    pub name: String,
    /// What flows out.
    #[serde(rename = "type")]
    pub kind: PortType,
    /// One sentence for people.
    pub doc: String,
}
