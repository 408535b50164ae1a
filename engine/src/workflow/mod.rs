//! The workflow language: YAML text to a [`Workflow`], or every problem with its place.

mod diagnostic;
mod node;
mod read;
mod reference;
mod set;

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

pub(crate) use diagnostic::suggest;
pub(crate) use diagnostic::{Diagnostic, Diagnostics, Place, Source};
pub(crate) use node::{Located, Node, Value};
pub(crate) use reference::{OutputRef, interpolate};
pub(crate) use set::argument as set_argument;

/// One workflow file.
#[derive(Clone, Debug)]
pub(crate) struct Workflow {
    /// Its name: `name:`, by default the file's.
    pub(crate) name: String,
    /// The file, absolute.
    pub(crate) path: PathBuf,
    /// Plugins by their path: a source folder, or a built library.
    pub(crate) plugins: Vec<Located<PathBuf>>,
    /// `params:` that `${params.x}` refers to.
    pub(crate) params: IndexMap<String, Node>,
    /// The stages in the order of the file.
    pub(crate) stages: IndexMap<String, Stage>,
    /// What is varied.
    pub(crate) sweep: Sweep,
    /// What was found wrong while reading. Planning adds what it finds and refuses: all mistakes are told at once.
    pub(crate) problems: Diagnostics,
}

/// A named step.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Where its name stands.
    pub(crate) at: Place,
    /// `plugin/name`.
    pub(crate) uses: Located<String>,
    /// Per input port what it reads, and where the port's name stands.
    pub(crate) inputs: IndexMap<String, Input>,
    /// Params.
    pub(crate) with: IndexMap<String, (Place, Node)>,
    /// Maps the stage over values: dimension to values.
    pub(crate) foreach: IndexMap<String, (Place, Vec<Node>)>,
    /// Dimensions of its inputs that it collects.
    pub(crate) gather: Vec<Located<String>>,
    /// What it needs of the machine.
    pub(crate) resources: Resources,
}

/// What an input port reads.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// Where the port's name stands.
    pub(crate) at: Place,
    /// Outputs of other stages, in order.
    pub(crate) from: Vec<Located<OutputRef>>,
}

/// What a stage needs of the machine. Recorded, not part of any key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Threads.
    pub(crate) cpus: usize,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1 }
    }
}

/// What a workflow varies and compares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// `stage.name` of the metrics that the table compares; the first one decides.
    pub(crate) metrics: Vec<Located<MetricRef>>,
    /// Seeds; `[0]` if none are given.
    pub(crate) seeds: Vec<u64>,
    /// Changes against the workflow as written, by name.
    pub(crate) ablate: Vec<Ablation>,
}

/// A metric of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricRef {
    /// Stage whose `metrics` output holds it.
    pub(crate) stage: String,
    /// Its name.
    pub(crate) name: String,
}

/// One change, or a series of them, against the workflow as written.
#[derive(Clone, Debug)]
pub(crate) struct Ablation {
    /// Its name.
    pub(crate) name: Located<String>,
    /// Paths set to a value, all together.
    pub(crate) set: Vec<(Located<String>, Node)>,
    /// Paths with the values that they take one after the other: a variant each.
    pub(crate) vary: Vec<(Located<String>, Vec<Node>)>,
    /// Stages left out; their consumers get their input.
    pub(crate) drop: Vec<Located<String>>,
}

/// Reads a workflow file.
///
/// # Errors
/// If it cannot be read, or is not YAML. What else is wrong with it is in [`Workflow::problems`]: stage types and
/// params are checked by [`Plan::new`](crate::plan::Plan::new), which knows the plugins, and tells it all.
pub(crate) fn load(path: &Path) -> Result<Workflow, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| LoadError::NotText { path: path.to_owned() })?;
    // Editors on other systems begin files with a byte-order mark; it means nothing here.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    read::workflow(&Source::new(path, text), absolute).map_err(|problem| Diagnostics(vec![problem]).into())
}

/// Why a workflow file could not be loaded.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(crate) enum LoadError {
    /// The file is not there, or may not be read.
    #[error("cannot read the workflow {}", path.display())]
    #[diagnostic(help("give the path of a workflow file, e.g. workflows/quickstart.yaml"))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not UTF-8 text.
    #[error("{} is not UTF-8 text", path.display())]
    #[diagnostic(help("a workflow is a YAML file; save it as UTF-8"))]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The file is not YAML.
    #[error("the workflow is not YAML")]
    Invalid(Diagnostics),
}

impl From<Diagnostics> for LoadError {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Invalid(diagnostics)
    }
}
