//! Plugins: found by their path, built from their sources, loaded in host processes.

mod build;
mod code;
pub(crate) mod copies;
mod failure;
mod host;
mod identity;
mod load;
mod output;
mod protocol;
pub(crate) mod python;
mod sandbox;
mod serve;
mod settings;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use restage_cache::Store;
use restage_stage::catalogue::{Catalogue, StageType};

pub(crate) use build::{BuildError, Found, lock, look};
pub(crate) use code::{Code, SourceList, changed_sources, source_list};
pub(crate) use failure::Failure;
pub(crate) use host::{HOST_COMMAND, Host, StartError};
pub(crate) use sandbox::{Access, Sandbox};
pub(crate) use serve::serve;

use crate::workflow::{Diagnostic, Diagnostics, Located, Workflow};

/// The plugins of a workflow.
pub(crate) struct Catalog {
    plugins: BTreeMap<String, Plugin>,
}

/// One plugin: its code and what it offers.
pub(crate) struct Plugin {
    /// Where it is: a crate's folder, or a library.
    pub(crate) path: PathBuf,
    /// Its code.
    pub(crate) code: Arc<Code>,
    /// Its stage types.
    pub(crate) catalogue: Catalogue,
    checker: Checker,
}

/// Who makes params canonical.
enum Checker {
    /// The plugin itself.
    Host(Box<Host>),
    /// Nobody: they are right as they are.
    #[cfg(test)]
    Nobody,
}

/// A stage type with the plugin that offers it.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    /// The plugin.
    pub(crate) plugin: &'a Plugin,
    /// The stage type.
    pub(crate) stage: &'a StageType,
}

/// The library of one plugin, whatever its path names: built if it is a crate's folder.
pub(crate) fn library(
    path: &std::path::Path,
    store: &Store,
    notice: &dyn Fn(&str),
) -> Result<Code, BuildError> {
    let missing = || BuildError::Missing { path: path.to_owned() };
    let path = std::fs::canonicalize(path).map_err(|_| missing())?;
    build::libraries(&[path], store, notice)?.pop().ok_or_else(missing)
}

/// Why the plugins of a workflow cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(crate) enum CatalogError {
    /// A plugin could not be built.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Build(#[from] BuildError),
    /// A plugin could not be loaded.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The workflow names plugins wrongly.
    #[error("the workflow's plugins cannot be used together")]
    Workflow(Diagnostics),
}

impl Catalog {
    /// Builds and loads the plugins of a workflow. `notice` is told before something takes long.
    ///
    /// # Errors
    /// If one cannot be built or loaded, or two have the same name.
    pub(crate) async fn open(
        workflow: &Workflow,
        store: &Store,
        notice: &dyn Fn(&str),
    ) -> Result<Self, CatalogError> {
        Self::of(&workflow.plugins, workflow.more_plugins, &workflow.problems, store, notice).await
    }

    /// The same of plugins by their paths; of a workflow with `more`, some that are not known.
    pub(crate) async fn of(
        all: &[Located<PathBuf>],
        more: bool,
        problems: &Diagnostics,
        store: &Store,
        notice: &dyn Fn(&str),
    ) -> Result<Self, CatalogError> {
        let mut problems = problems.clone();
        let known = problems.0.len();
        let mut paths = Vec::new();
        let mut places = Vec::new();
        for path in all {
            match std::fs::canonicalize(&path.value) {
                // A workflow and what it imports may name the same one.
                Ok(canonical) if paths.contains(&canonical) => {}
                Ok(canonical) if canonical.is_dir() && !canonical.join("Cargo.toml").is_file() => {
                    let message = format!("there is no crate in the folder {}", canonical.display());
                    problems.push(
                        Diagnostic::new(&path.at, message, "expected a `Cargo.toml` in it")
                            .help("a plugin is a crate's folder, or a built library; `path:` is relative to the file that it is written in"),
                    );
                }
                Ok(canonical) => {
                    paths.push(canonical);
                    places.push(&path.at);
                }
                Err(_) => {
                    let message = format!("there is no plugin at {}", path.value.display());
                    problems.push(
                        Diagnostic::new(&path.at, message, "neither a folder nor a library").help(
                            "`path:` is relative to the file that it is written in: a crate's folder, or a built library",
                        ),
                    );
                }
            }
        }
        // Without all plugins nobody knows which stage types there are.
        if problems.0.len() > known || more {
            return problems.or(Self { plugins: BTreeMap::new() }).map_err(CatalogError::Workflow);
        }
        let mut problems = Diagnostics::default();
        let mut plugins = BTreeMap::new();
        let codes = build::libraries(&paths, store, notice)?;
        for ((at, path), code) in places.into_iter().zip(paths).zip(codes) {
            let (host, catalogue) = Host::start(&code.library, &[]).await?;
            let name = catalogue.plugin.clone();
            let checker = Checker::Host(Box::new(host));
            let plugin = Plugin { path, code: Arc::new(code), catalogue, checker };
            if plugins.insert(name.clone(), plugin).is_some() {
                let message = format!("two plugins are called `{name}`");
                problems.push(Diagnostic::new(at, message, "the second one").help("remove one of them"));
            }
        }
        problems.or(Self { plugins }).map_err(CatalogError::Workflow)
    }

    /// The plugins by name.
    pub(crate) fn plugins(&self) -> impl Iterator<Item = (&str, &Plugin)> {
        self.plugins.iter().map(|(name, plugin)| (name.as_str(), plugin))
    }

    /// A stage type by its full name.
    pub(crate) fn find(&self, uses: &str) -> Option<Offer<'_>> {
        let (plugin, stage) = uses.split_once('/')?;
        let plugin = self.plugins.get(plugin)?;
        let stage = plugin.catalogue.stages.iter().find(|known| known.name == stage)?;
        Some(Offer { plugin, stage })
    }

    /// Full names of all stage types.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.plugins.iter().flat_map(|(plugin, known)| {
            known.catalogue.stages.iter().map(move |stage| format!("{plugin}/{}", stage.name))
        })
    }

    /// Canonical params of a stage type, or what is wrong with them, one answer for each.
    pub(crate) async fn check(
        &mut self,
        uses: &str,
        params: &[&serde_json::Value],
    ) -> Vec<Result<serde_json::Value, Vec<String>>> {
        let plugin =
            uses.split_once('/').and_then(|(plugin, stage)| Some((self.plugins.get_mut(plugin)?, stage)));
        match plugin {
            Some((Plugin { checker: Checker::Host(host), .. }, stage)) => host.check(stage, params).await,
            #[cfg(test)]
            Some((Plugin { checker: Checker::Nobody, .. }, _)) => {
                params.iter().map(|params| Ok((*params).clone())).collect()
            }
            None => params.iter().map(|_| Err(vec![format!("unknown stage type `{uses}`")])).collect(),
        }
    }

    /// A catalog of one plugin without a library, whose params are right as they are.
    #[cfg(test)]
    pub(crate) fn model(catalogue: Catalogue, identity: restage_cache::Digest) -> Self {
        let name = catalogue.plugin.clone();
        let (path, code) = (PathBuf::new(), Arc::new(Code::model(identity)));
        let plugin = Plugin { path, code, catalogue, checker: Checker::Nobody };
        Self { plugins: BTreeMap::from([(name, plugin)]) }
    }
}
