//! The workflow language: YAML text to a [`Workflow`], or every problem with its place.

mod check;
mod diagnostic;
mod excerpt;
mod file;
pub(crate) mod git;
mod grammar;
mod import;
mod node;
mod read;
mod reference;
mod schema;
mod scope;
mod set;
mod sweep;
mod traps;
mod units;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use git::Git;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub(crate) use check::boolean_word;
pub(crate) use diagnostic::{Diagnostic, Diagnostics, Place, Source};
pub(crate) use diagnostic::{nearest, suggest};
pub(crate) use excerpt::draw;
pub(crate) use file::{FileError, MAX_BYTES};
pub(crate) use import::{Imported, Origin};
pub(crate) use node::{Located, Node, Value, parse};
pub(crate) use reference::{OutputRef, ROOM, interpolate, is_name, referred};
pub(crate) use schema::schema;
pub(crate) use scope::{Resolved, Scopes};
pub(crate) use set::argument as set_argument;
pub(crate) use sweep::{Ablation, Axis, MetricRef, Range, Sweep, Test};
pub(crate) use units::bytes;

/// One workflow file, with what it imports.
#[derive(Clone, Debug)]
pub(crate) struct Workflow {
    /// Its name: `name:`, by default the file's.
    pub(crate) name: String,
    /// The file, absolute.
    pub(crate) path: PathBuf,
    /// Plugins by their absolute path: a source folder, or a built library.
    pub(crate) plugins: Vec<Located<PathBuf>>,
    /// Whether there are more, which could not be read; that is told.
    pub(crate) more_plugins: bool,
    /// Files that it imports, as often as it does.
    pub(crate) imports: Vec<Imported>,
    /// What overrides change.
    pub(crate) body: Body,
    /// What is varied.
    pub(crate) sweep: Sweep,
    /// What was found wrong while reading. Planning adds what it finds and refuses: all mistakes are told at once.
    pub(crate) problems: Diagnostics,
}

impl Workflow {
    /// The other files that it is made of.
    pub(crate) fn imported(&self) -> Vec<PathBuf> {
        let canonical = |path: &Path| std::fs::canonicalize(path).ok();
        let files = self.imports.iter().filter_map(|import| canonical(&import.path));
        files.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The texts that its values may refer to, by how they do: `${params.x}`, `${env.X}`. `set`: with these overrides.
    pub(crate) fn texts(&self, set: &[String]) -> Vec<(String, String)> {
        // What is wrong is told where the workflow is planned.
        let mut problems = Diagnostics::default();
        let mut body = self.body.clone();
        for (path, value) in set.iter().filter_map(|text| set_argument(text, &mut problems).ok()) {
            body.set(&path, &value, &mut Diagnostics::default());
        }
        let resolved = Resolved::new(&body.scopes, &mut problems);
        let mut texts = Vec::new();
        for (kind, values) in resolved.names("") {
            let text = |(name, node): (&String, &Node)| {
                Some((format!("${{{kind}.{name}}}"), node.text()?.to_owned()))
            };
            texts.extend(values.iter().filter_map(text));
        }
        texts
    }
}

/// Stages and the values that they refer to: what overrides change. A clone shares every stage with its original, so
/// that thousands of variants cost little more than their differences.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// Params and environment by the prefix of the file that declares them; the workflow's own prefix is empty.
    pub(crate) scopes: Arc<Scopes>,
    /// The stages in the order of the files; imported ones first.
    pub(crate) stages: IndexMap<Arc<str>, Arc<Stage>>,
    /// Prefixes of imports that could not be read, which is told: nothing more is said of what is below them.
    pub(crate) unread: Arc<[Arc<str>]>,
    /// Whether wires, stage types or the set of stages changed since [`Body::settle`].
    pub(crate) rewired: bool,
}

impl Body {
    /// From here on [`Body::rewired`] tells of changes.
    pub(crate) fn settle(&mut self) {
        self.rewired = false;
    }

    /// Names of the stages.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.keys().map(|name| &**name)
    }
}

/// A named step.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Where its name stands.
    pub(crate) at: Place,
    /// Prefix of the file that declares it: where `${params.x}` is looked up.
    pub(crate) scope: Arc<str>,
    /// `plugin/name`.
    pub(crate) uses: Located<String>,
    /// Per input port what it reads, and where the port's name stands.
    pub(crate) inputs: IndexMap<String, Input>,
    /// Params.
    pub(crate) with: IndexMap<String, (Place, Node)>,
    /// Maps the stage over values: dimension to a list of values, or a reference to one.
    pub(crate) foreach: IndexMap<String, (Place, Node)>,
    /// Dimensions of its inputs that it collects.
    pub(crate) gather: Vec<Located<String>>,
    /// How it is run. Recorded, not part of any key.
    pub(crate) execution: Execution,
    /// Whether `in` or `with` has another shape than it may, which is told: nothing is missed in them.
    pub(crate) misshapen: bool,
}

/// What an input port reads.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// Where the port's name stands.
    pub(crate) at: Place,
    /// Outputs of other stages, in order.
    pub(crate) from: Vec<Located<OutputRef>>,
}

/// How a stage is run: what it needs of the machine, and what is done when it fails. Changes no result, so it is
/// recorded and part of no key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Execution {
    /// Threads; `None`: one, and those that nobody holds when it begins.
    pub(crate) cpus: Option<usize>,
    /// Bytes of main memory that it may take; `None`: not said.
    pub(crate) memory: Option<u64>,
    /// GPUs.
    pub(crate) gpus: Gpus,
    /// How often it is tried again when it fails.
    pub(crate) retries: u32,
    /// How much more memory it gets each time that it took more than it may; `None`: that is a failure like others.
    pub(crate) more_memory: Option<u32>,
    /// How long one try may take.
    pub(crate) timeout: Option<Duration>,
}

/// GPUs that a stage asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Gpus {
    /// How many.
    pub(crate) count: usize,
    /// Bytes of each one's memory that it takes, so that others may have the rest; `None`: all of it.
    pub(crate) memory: Option<u64>,
    /// Whether it cannot do without; else they are taken as available.
    pub(crate) required: bool,
    /// Where that is said.
    #[serde(skip)]
    pub(crate) asked: Option<Place>,
}

/// Reads a workflow file and what it imports.
///
/// # Errors
/// If it cannot be read, or is not YAML. What else is wrong with it is in [`Workflow::problems`]: stage types and
/// params are checked by [`Plan::new`](crate::plan::Plan::new), which knows the plugins, and tells it all.
pub(crate) fn load(path: &Path, git: &Git) -> Result<Workflow, LoadError> {
    let text = file::read(path).map_err(|source| LoadError::File { path: path.to_owned(), source })?;
    workflow(path, text, Some(git))
}

/// Whether a file is YAML as workflows have it, whatever it says.
///
/// # Errors
/// If it is not, or cannot be read.
pub(crate) fn check_yaml(path: &Path) -> Result<(), LoadError> {
    let text = file::read(path).map_err(|source| LoadError::File { path: path.to_owned(), source })?;
    let mut problems = Diagnostics::default();
    if let Err(problem) = node::parse(&Source::new(path, text), &mut problems) {
        problems.push(problem);
    }
    problems.or(()).map_err(LoadError::Invalid)
}

/// Reads a workflow from the bytes of its file. No repository is asked.
///
/// # Errors
/// Like [`load`].
pub(crate) fn read(path: &Path, bytes: Vec<u8>) -> Result<Workflow, LoadError> {
    let text = file::text(bytes).map_err(|source| LoadError::File { path: path.to_owned(), source })?;
    workflow(path, text, None)
}

fn workflow(path: &Path, text: String, git: Option<&Git>) -> Result<Workflow, LoadError> {
    let absolute = std::path::absolute(path)
        .map_err(|source| LoadError::File { path: path.to_owned(), source: source.into() })?;
    read::workflow(&Source::new(path, text), absolute, git)
        .map_err(|problem| LoadError::Invalid(Diagnostics(vec![problem])))
}

/// Why a workflow file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file is not there, or is no workflow's.
    #[error("cannot read the workflow {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The file is not YAML.
    #[error("the workflow is not YAML")]
    Invalid(Diagnostics),
}

impl LoadError {
    /// What to do.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::File { path, source } => {
                let example = "give the path of a workflow file, e.g. workflows/quickstart.yaml";
                let help = source.help().map(str::to_owned).or_else(|| file::near(path));
                Some(help.unwrap_or_else(|| example.to_owned()))
            }
            Self::Invalid(_) => None,
        }
    }
}
