//! Stages with typed ports and with params of every kind: what can be wired and written wrongly.

use std::{marker::PhantomData, path::Path};

use restage_stage::{Artifact, Context, Error, Ports, Result, Stage, catalogue::PortType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// A text that goes for a type of artifact.
pub(crate) struct Typed<K>(PhantomData<K>);

/// A type of artifact.
pub(crate) trait Kind {
    /// Its port type.
    const PORT: PortType;
}

/// Types of artifacts, by name.
macro_rules! kinds {
    ($($name:ident),+) => {
        $(
            /// Goes for the port type of this name.
            pub(crate) struct $name;

            impl Kind for $name {
                const PORT: PortType = PortType::$name;
            }
        )+
    };
}

kinds!(Table, Embedding, TrainLabels, TestLabels, Model, Metrics);

impl<K: Kind> Artifact for Typed<K> {
    const PORT: PortType = K::PORT;

    fn read(path: &Path) -> Result<Self> {
        Text::read(path).map(|_| Self(PhantomData))
    }

    fn write(&self, path: &Path) -> Result<()> {
        Text(K::PORT.to_string()).write(path)
    }
}

fn write<K: Kind>(ctx: &Context, port: &str) -> Result<()> {
    ctx.write(port, &Typed::<K>(PhantomData))
}

/// No params.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

/// Brings a table with its labels.
pub(crate) struct Section;

impl Stage for Section {
    const NAME: &'static str = "section";
    type Params = NoParams;

    fn ports() -> Ports {
        Ports::new("Brings a table with its labels.")
            .output::<Typed<Table>>("table", "Spots x genes.")
            .output::<Typed<TrainLabels>>("train", "Labels of training spots.")
            .output::<Typed<TestLabels>>("test", "Labels of test spots.")
    }

    fn run(_: NoParams, ctx: &Context) -> Result<()> {
        write::<Table>(ctx, "table")?;
        write::<TrainLabels>(ctx, "train")?;
        write::<TestLabels>(ctx, "test")
    }
}

/// How `test/thin` does it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ThinParams {
    /// Nothing comes of it. Default 0.
    seldom: u8,
}

/// Makes another table of a table.
pub(crate) struct Thin;

impl Stage for Thin {
    const NAME: &'static str = "thin";
    type Params = ThinParams;

    fn ports() -> Ports {
        Ports::new("Makes another table of a table.")
            .input::<Typed<Table>>("table", "A table.")
            .output::<Typed<Table>>("table", "Another one.")
    }

    fn run(_: ThinParams, ctx: &Context) -> Result<()> {
        write::<Table>(ctx, "table")
    }
}

/// Makes an embedding of a table.
pub(crate) struct Embed;

impl Stage for Embed {
    const NAME: &'static str = "embed";
    type Params = NoParams;

    fn ports() -> Ports {
        Ports::new("Makes an embedding of a table.")
            .input::<Typed<Table>>("table", "A table.")
            .output::<Typed<Embedding>>("embedding", "One vector per spot.")
    }

    fn run(_: NoParams, ctx: &Context) -> Result<()> {
        write::<Embedding>(ctx, "embedding")
    }
}

/// Trains.
pub(crate) struct Train;

/// Params of `test/train`: one of every kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainParams {
    /// How many steps; there is no default.
    steps: u64,
    /// Above 0. Default 0.1.
    #[serde(default = "rate")]
    rate: f64,
    /// Default false.
    #[serde(default)]
    shuffle: bool,
    /// Widths of layers. Default none.
    #[serde(default)]
    layers: Vec<u32>,
    /// What is optimised with. Default `adam`.
    #[serde(default)]
    optimiser: Optimiser,
    /// When it ends early.
    #[serde(default)]
    stop: Stop,
    /// How the rate falls.
    #[serde(default)]
    decay: Decay,
}

/// One of several, with what belongs to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Decay {
    /// Not at all.
    #[default]
    None,
    /// As half a cosine.
    Cosine {
        /// From which step on.
        from: u64,
    },
}

fn rate() -> f64 {
    0.1
}

/// Optimisers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Optimiser {
    #[default]
    Adam,
    Sgd,
}

/// When training ends early.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Stop {
    /// After so many steps without progress.
    patience: u64,
}

impl Stage for Train {
    const NAME: &'static str = "train";
    type Params = TrainParams;

    fn ports() -> Ports {
        Ports::new("Trains a model.")
            .input::<Typed<Embedding>>("features", "One vector per spot.")
            .input::<Typed<TrainLabels>>("labels", "Labels of training spots.")
            .output::<Typed<Model>>("model", "The model.")
    }

    fn validate(params: &TrainParams) -> Result<()> {
        if params.rate > 0.0 {
            Ok(())
        } else {
            Err(Error::invalid(format!("`rate`: expected a number above 0, found {}", params.rate)))
        }
    }

    fn run(_: TrainParams, ctx: &Context) -> Result<()> {
        write::<Model>(ctx, "model")
    }
}

/// Evaluates.
pub(crate) struct Evaluate;

impl Stage for Evaluate {
    const NAME: &'static str = "evaluate";
    type Params = NoParams;

    fn ports() -> Ports {
        Ports::new("Evaluates a model.")
            .input::<Typed<Model>>("model", "The model.")
            .input::<Typed<TestLabels>>("labels", "Labels of test spots.")
            .output::<Typed<Metrics>>("metrics", "Numbers.")
    }

    fn run(_: NoParams, ctx: &Context) -> Result<()> {
        write::<Metrics>(ctx, "metrics")
    }
}

/// Smooths.
pub(crate) struct Smooth;

/// Params of `test/smooth`: by some of them it needs inputs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SmoothParams {
    /// How it is done.
    by: By,
    /// Over so many spots; there is no default.
    over: Option<u32>,
}

/// Ways to smooth.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum By {
    /// As all spots are.
    #[default]
    Mean,
    /// As a model says.
    Model {
        /// How much of it.
        share: f64,
    },
}

impl Stage for Smooth {
    const NAME: &'static str = "smooth";
    type Params = SmoothParams;

    fn ports() -> Ports {
        Ports::new("Smooths a table or an embedding.")
            .optional::<Typed<Table>>("table", "A table.")
            .optional::<Typed<Embedding>>("embedding", "One vector per spot.")
            .either(&["table", "embedding"])
            .optional::<Typed<Model>>("model", "What spots should be like.")
            .needed_if("by.kind", &["model"])
            .optional::<Typed<TrainLabels>>("labels", "Which spots are alike.")
            .needed_if("over", &[])
            .output::<Typed<Table>>("table", "A smooth one.")
    }

    fn run(_: SmoothParams, ctx: &Context) -> Result<()> {
        write::<Table>(ctx, "table")
    }
}
