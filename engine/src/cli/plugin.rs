//! `restage plugin list`: the stage types of a workflow's plugins.

use std::{path::PathBuf, process::ExitCode};

use super::{Failure, open_catalog, open_store, print_json};
use crate::workflow;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show the stage types of a workflow's plugins, with ports and params
    #[command(after_help = "Example: restage plugin list workflows/quickstart.yaml")]
    List {
        /// A workflow that names the plugins
        workflow: PathBuf,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        let Command::List { json, .. } = self.command;
        json
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Command::List { workflow, json } = arguments.command;
    let workflow = workflow::load(&workflow)?;
    let catalog = open_catalog(&workflow, &open_store()?).await?;
    if json {
        print_json(&catalog.plugins().map(|(_, plugin)| &plugin.catalogue).collect::<Vec<_>>());
        return Ok(ExitCode::SUCCESS);
    }
    for (name, plugin) in catalog.plugins() {
        let built =
            if plugin.code.from_sources { "known by its sources" } else { "known by its binary only" };
        say!("plugin {name} {}, {built}\n", plugin.catalogue.version);
        for stage in &plugin.catalogue.stages {
            say!("{name}/{}{}", stage.name, if stage.seeded { "  (takes a seed)" } else { "" });
            say!("    {}", stage.doc);
            if let Some(tolerance) = stage.tolerance {
                say!("    two runs of it may be apart by {tolerance}");
            }
            for port in &stage.inputs {
                let optional = if port.optional { ", optional" } else { "" };
                let many = if port.many { ", one or a list" } else { "" };
                say!("  in   {}: {}{optional}{many}  {}", port.name, port.kind, port.doc);
            }
            for port in &stage.outputs {
                say!("  out  {}: {}  {}", port.name, port.kind, port.doc);
            }
            for (param, schema) in
                stage.params.get("properties").and_then(|all| all.as_object()).into_iter().flatten()
            {
                let default = schema.get("default").map(|value| format!(" = {value}")).unwrap_or_default();
                let doc = schema.get("description").and_then(|text| text.as_str()).unwrap_or_default();
                say!("  with {param}{default}  {}", doc.replace('\n', " "));
            }
            say!("");
        }
    }
    Ok(ExitCode::SUCCESS)
}
