//! Plugins: found by their path, built from their sources, loaded in host processes.

mod build;
mod host;
mod identity;
mod load;
mod protocol;
mod serve;

use std::{collections::BTreeMap, path::PathBuf};

use restage_cache::{Digest, Store};
use restage_stage::catalogue::{Catalogue, StageType};

pub(crate) use build::BuildError;
pub(crate) use host::Host;
pub(crate) use host::{Failure, HOST_COMMAND, StartError};
pub(crate) use serve::serve;

use crate::workflow::{Diagnostic, Diagnostics, Workflow};

/// The plugins of a workflow.
pub(crate) struct Catalog {
    plugins: BTreeMap<String, Plugin>,
}

/// One plugin: where its library is and what it offers.
pub(crate) struct Plugin {
    /// The library that hosts load.
    pub(crate) library: PathBuf,
    /// What its code is: part of every action key of its stages.
    pub(crate) identity: Digest,
    /// Digest of the library's file; recorded.
    pub(crate) binary: Digest,
    /// Whether the identity is of its sources, so that other people's builds share hits.
    pub(crate) from_sources: bool,
    /// Its stage types.
    pub(crate) catalogue: Catalogue,
    host: Host,
}

/// A stage type with the plugin that offers it.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    /// The plugin.
    pub(crate) plugin: &'a Plugin,
    /// The stage type.
    pub(crate) stage: &'a StageType,
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
        let folder = workflow.path.parent().map(PathBuf::from).unwrap_or_default();
        let mut problems = workflow.problems.clone();
        let known = problems.0.len();
        let mut paths = Vec::new();
        for path in &workflow.plugins {
            let absolute = folder.join(&path.value);
            if !absolute.exists() {
                let message = format!("there is no plugin at `{}`", path.value.display());
                problems.push(
                    Diagnostic::new(&path.at, message, "neither a folder nor a library").help(
                        "`path:` is relative to the workflow file: a crate's folder, or a built library",
                    ),
                );
            }
            paths.push(absolute);
        }
        if problems.0.len() > known {
            return problems.or(Self { plugins: BTreeMap::new() }).map_err(CatalogError::Workflow);
        }
        let mut problems = Diagnostics::default();
        let mut plugins = BTreeMap::new();
        for (path, library) in workflow.plugins.iter().zip(build::libraries(&paths, store, notice)?) {
            let (host, catalogue) = Host::start(&library.path).await?;
            let name = catalogue.plugin.clone();
            let plugin = Plugin {
                library: library.path,
                identity: library.identity,
                binary: library.binary,
                from_sources: library.from_sources,
                catalogue,
                host,
            };
            if plugins.insert(name.clone(), plugin).is_some() {
                let message = format!("two plugins are called `{name}`");
                problems
                    .push(Diagnostic::new(&path.at, message, "the second one").help("remove one of them"));
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

    /// Canonical params of a stage type, or what is wrong with them.
    pub(crate) async fn check(
        &mut self,
        uses: &str,
        params: &serde_json::Value,
    ) -> Result<serde_json::Value, Vec<String>> {
        let unknown = || vec![format!("unknown stage type `{uses}`")];
        let (plugin, stage) = uses.split_once('/').ok_or_else(unknown)?;
        self.plugins.get_mut(plugin).ok_or_else(unknown)?.host.check(stage, params).await
    }
}
