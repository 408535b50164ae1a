//! `restage schema`: the JSON Schema of workflows, for editors.

use std::{path::PathBuf, process::ExitCode};

use super::{Failure, load, open_catalog, open_store};
use crate::workflow;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage schema workflows/*.yaml > workflows/restage.schema.json\n  restage schema\n\n\
                        An editor with a YAML language server uses it for files that begin with\n  \
                        # yaml-language-server: $schema=restage.schema.json"
)]
pub(super) struct Arguments {
    /// Workflows whose plugins' stage types it knows; without any, the bare language
    workflows: Vec<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut catalogues = std::collections::BTreeMap::new();
    for path in &arguments.workflows {
        let store = open_store()?;
        let workflow = load(path, &store)?;
        for (name, plugin) in open_catalog(&workflow, &store).await?.plugins() {
            catalogues.entry(name.to_owned()).or_insert_with(|| plugin.catalogue.clone());
        }
    }
    super::print_json(&workflow::schema(catalogues.values()));
    Ok(ExitCode::SUCCESS)
}
