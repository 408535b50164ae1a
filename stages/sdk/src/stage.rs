//! What an author writes: a type that implements [`Stage`].

use std::path::Path;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catalogue::{Choice, InputPort, OutputPort, ParamIs, PortType, StageType, Tolerance},
    context::Context,
    error::Result,
};

/// One stage type. The type itself is only a name: everything a run needs comes in through `params` and [`Context`].
pub trait Stage: 'static {
    /// The part of the stage type after the slash.
    const NAME: &'static str;
    /// Whether it draws random numbers from the sweep's seed.
    const SEEDED: bool = false;
    /// Names of the streams that it draws from by [`Context::rng`] and [`Context::seed_of`]: a sweep can vary one of them alone
    /// and say how much of the spread comes from it. Usual ones are `init` (weights), `batches` (order, masks, augmentation)
    /// and `labels` (which spots are labelled).
    const STREAMS: &'static [&'static str] = &[];
    /// Params that make it draw from the sweep's seed where the type does not always: those with that value, or, where none is
    /// given, with any but `null`, `false` and 0.
    const SEEDED_IF: &'static [(&'static str, Option<&'static str>)] = &[];
    /// Whether its ports are the workflow's to choose; see [`StageType::open`].
    const OPEN: bool = false;
    /// How far what it writes may be from what it wrote before, of the same inputs, e.g. where a library sums in another
    /// order on another machine; `restage cache audit` measures by it. Without one, two runs give the same bytes.
    const TOLERANCE: Option<Tolerance> = None;
    /// What `with:` holds. Derive `Serialize`, `Deserialize` with `deny_unknown_fields` and `default`, and
    /// `JsonSchema`: the docs of its fields are what editors show.
    type Params: Serialize + DeserializeOwned + JsonSchema;

    /// Its ports.
    fn ports() -> Ports;

    /// What JSON Schema cannot say about the params; called before anything runs.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with what was expected.
    fn validate(_params: &Self::Params) -> Result<()> {
        Ok(())
    }

    /// Does the work: reads `ctx` inputs, writes every output.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn run(params: Self::Params, ctx: &Context) -> Result<()>;
}

/// A kind of artifact: what a port carries and how it lies on disk.
pub trait Artifact: Sized {
    /// The port type that carries it.
    const PORT: PortType;

    /// Reads it from a folder.
    ///
    /// # Errors
    /// If the folder does not hold one.
    fn read(path: &Path) -> Result<Self>;

    /// Writes it to a folder that does not exist yet.
    ///
    /// # Errors
    /// If the data are inconsistent (lengths that do not agree, ids that are not unique) or the disk refuses.
    fn write(&self, path: &Path) -> Result<()>;
}

/// The ports of a stage type.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    pub(crate) doc: &'static str,
    pub(crate) inputs: Vec<InputPort>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) outputs: Vec<OutputPort>,
}

impl Ports {
    /// No ports yet; `doc` says in a sentence or two what the stage does.
    pub fn new(doc: &'static str) -> Self {
        Self { doc, ..Self::default() }
    }

    fn add_input<A: Artifact>(mut self, name: &str, doc: &str, optional: bool, many: bool) -> Self {
        let (name, doc, needed_if) = (name.into(), doc.into(), Vec::new());
        self.inputs.push(InputPort { name, kind: A::PORT, optional, needed_if, many, doc });
        self
    }

    /// An input that must be connected to one artifact.
    #[must_use]
    pub fn input<A: Artifact>(self, name: &str, doc: &str) -> Self {
        self.add_input::<A>(name, doc, false, false)
    }

    /// An input that may be left out.
    #[must_use]
    pub fn optional<A: Artifact>(self, name: &str, doc: &str) -> Self {
        self.add_input::<A>(name, doc, true, false)
    }

    /// An input that takes one artifact or a list of them.
    #[must_use]
    pub fn many<A: Artifact>(self, name: &str, doc: &str) -> Self {
        self.add_input::<A>(name, doc, false, true)
    }

    /// An input that takes none, one or a list.
    #[must_use]
    pub fn optional_many<A: Artifact>(self, name: &str, doc: &str) -> Self {
        self.add_input::<A>(name, doc, true, true)
    }

    /// The last of the inputs so far, which may be left out, is needed if this param is one of these values; of no values: if it is
    /// set at all. A workflow without it is refused before anything runs. `encoder.kind` is param `kind` in `encoder`.
    #[must_use]
    pub fn needed_if(mut self, param: &str, is: &[&str]) -> Self {
        if let Some(port) = self.inputs.last_mut() {
            let of = |is: Option<&&str>| ParamIs { param: param.into(), is: is.map(|is| (*is).into()) };
            match is {
                [] => port.needed_if.push(of(None)),
                values => port.needed_if.extend(values.iter().map(|is| of(Some(is)))),
            }
        }
        self
    }

    /// Of these inputs, each of which may be left out, one must be connected, and no other.
    #[must_use]
    pub fn either(self, inputs: &[&str]) -> Self {
        self.choice(inputs, false)
    }

    /// Of these inputs, each of which may be left out, one or several must be connected.
    #[must_use]
    pub fn at_least_one(self, inputs: &[&str]) -> Self {
        self.choice(inputs, true)
    }

    fn choice(mut self, inputs: &[&str], several: bool) -> Self {
        self.choices.push(Choice { of: inputs.iter().map(|name| (*name).into()).collect(), several });
        self
    }

    /// The inputs so far.
    pub fn inputs(&self) -> &[InputPort] {
        &self.inputs
    }

    /// An output.
    #[must_use]
    pub fn output<A: Artifact>(mut self, name: &str, doc: &str) -> Self {
        self.outputs.push(OutputPort { name: name.into(), kind: A::PORT, doc: doc.into() });
        self
    }
}

/// A [`Stage`] without its type: what the exported table holds.
pub struct Entry {
    pub(crate) name: &'static str,
    pub(crate) describe: fn() -> StageType,
    pub(crate) check: fn(serde_json::Value) -> Result<serde_json::Value>,
    pub(crate) run: fn(serde_json::Value, &Context) -> Result<()>,
}

impl Entry {
    /// The entry of a stage type.
    pub const fn of<S: Stage>() -> Self {
        Self { name: S::NAME, describe: describe::<S>, check: check::<S>, run: run::<S> }
    }
}

fn describe<S: Stage>() -> StageType {
    let ports = S::ports();
    StageType {
        name: S::NAME.into(),
        doc: ports.doc.into(),
        seeded: S::SEEDED,
        streams: S::STREAMS.iter().map(|&stream| stream.to_owned()).collect(),
        seeded_if: S::SEEDED_IF
            .iter()
            .map(|(param, is)| ParamIs { param: (*param).into(), is: is.map(Into::into) })
            .collect(),
        open: S::OPEN,
        inputs: ports.inputs,
        choices: ports.choices,
        outputs: ports.outputs,
        params: schemars::schema_for!(S::Params).to_value(),
        tolerance: S::TOLERANCE,
    }
}

fn parse<S: Stage>(params: serde_json::Value) -> Result<S::Params> {
    use crate::Error;
    // Serde would take a list for a struct's fields in their order.
    if !params.is_object() {
        return Err(Error::invalid("expected params by name"));
    }
    // The path in front is how the engine finds the param's place in the YAML.
    let params: S::Params = serde_path_to_error::deserialize(params).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner().to_string());
        Error::invalid(if path == "." { inner } else { format!("`{path}`: {inner}") })
    })?;
    S::validate(&params)?;
    Ok(params)
}

fn check<S: Stage>(params: serde_json::Value) -> Result<serde_json::Value> {
    use crate::Error;
    let params = parse::<S>(params)?;
    serde_json::to_value(&params).map_err(Error::other("cannot write the params"))
}

/// Runs a stage as a host does, from params as JSON to outputs with their marks.
///
/// # Errors
/// If params or inputs cannot be worked with, or the stage fails.
pub fn run<S: Stage>(params: serde_json::Value, ctx: &Context) -> Result<()> {
    let needed =
        S::ports().inputs.into_iter().find(|port| !port.optional && ctx.inputs(&port.name).is_empty());
    if let Some(port) = needed {
        return Err(crate::Error::invalid(format!("input `{}` is not connected", port.name)));
    }
    S::run(parse::<S>(params)?, ctx)?;
    ctx.mark_outputs()
}
