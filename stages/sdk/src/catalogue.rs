//! What a plugin says of itself: its stage types with their ports and the JSON Schema of their params.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Names of the streams that it draws from, so that a sweep can vary one of them alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// Otherwise: params by which a stage takes a seed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeded_if: Vec<ParamIs>,
    /// What it reads.
    pub inputs: Vec<InputPort>,
    /// Of which optional inputs one is needed all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// What it writes.
    pub outputs: Vec<OutputPort>,
    /// JSON Schema (2020-12) of its params.
    pub params: Value,
    /// Whether its ports are the workflow's to choose: it takes inputs of any name and type, one or a list; its outputs are
    /// those that its param `outputs` names, with their types; it takes a seed if its param `seed` is true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// How far what it writes may be from what it wrote before, of the same inputs; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
}

/// A param, and the value of it by which something holds: that a stage takes a seed, or needs an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamIs {
    /// Its name; `encoder.kind` is `kind` in `encoder`.
    pub param: String,
    /// The value that makes it so; absent: any but `null`, `false` and 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
}

impl ParamIs {
    /// Whether these canonical params make it so.
    pub fn holds(&self, params: &Value) -> bool {
        let inner = self.param.split('.').try_fold(params, |params, name| params.get(name));
        let is_set = |value: &&Value| {
            !value.is_null() && value.as_bool() != Some(false) && value.as_f64() != Some(0.0)
        };
        let value = inner.filter(is_set);
        value.is_some_and(|value| self.is.as_deref().is_none_or(|is| value.as_str() == Some(is)))
    }
}

impl std::fmt::Display for ParamIs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.is {
            Some(is) => write!(f, "`{}` is `{is}`", self.param),
            None => write!(f, "`{}` is set", self.param),
        }
    }
}

/// Optional inputs of which one is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Their names.
    pub of: Vec<String>,
    /// Whether several of them may be connected.
    pub several: bool,
}

/// How far two results of one action may be apart: two floating-point numbers agree when they are at most `absolute`
/// apart, or at most `relative` times the larger one's magnitude. For audits only: no key and no result depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tolerance {
    /// In the numbers' own unit.
    pub absolute: f64,
    /// As a part of the larger number.
    pub relative: f64,
}

impl Tolerance {
    /// Whether two numbers may be `apart`, of which `larger` is the larger magnitude. Nothing is near what is not finite.
    pub fn allows(&self, apart: f64, larger: f64) -> bool {
        apart.is_finite() && (apart <= self.absolute || apart <= self.relative * larger)
    }
}

impl std::fmt::Display for Tolerance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.absolute, self.relative) {
            (absolute, 0.0) => write!(f, "{absolute:e}"),
            (0.0, relative) => write!(f, "{relative:e} of the larger number"),
            (absolute, relative) => write!(f, "{absolute:e}, or {relative:e} of the larger number"),
        }
    }
}

/// What kind of artifact flows through a port.
///
/// `TrainLabels` and `TestLabels` are types of their own, so that handing test labels to a stage that trains is a
/// wrong wire, refused before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "author", derive(schemars::JsonSchema))]
pub enum PortType {
    /// Spots x genes with coordinates: an AnnData group.
    Table,
    /// A histological image with its scale factors.
    Image,
    /// A section as SpatialData has it: table, shapes of its spots, image.
    Section,
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
    /// Which spots are neighbours, and how strongly.
    Graph,
    /// Anything: a folder whose meaning is between the stages.
    Any,
}

impl std::fmt::Display for PortType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Image => "image",
            Self::Section => "section",
            Self::Patches => "patches",
            Self::Embedding => "embedding",
            Self::Labels => "labels",
            Self::Split => "split",
            Self::TrainLabels => "train-labels",
            Self::TestLabels => "test-labels",
            Self::Model => "model",
            Self::Predictions => "predictions",
            Self::Metrics => "metrics",
            Self::Graph => "graph",
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
    /// Otherwise: the params by which it is needed all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed_if: Vec<ParamIs>,
    /// Whether it takes a list.
    pub many: bool,
    /// One sentence for people.
    pub doc: String,
}

impl InputPort {
    /// Whether a stage with these canonical params does not run without it.
    pub fn is_needed(&self, params: &Value) -> bool {
        !self.optional || self.needed_if.iter().any(|by| by.holds(params))
    }
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
