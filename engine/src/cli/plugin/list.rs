//! `restage plugin list`: the stage types of a workflow's plugins.

use std::{path::PathBuf, process::ExitCode};

use crate::cli::{Failure, load, open_catalog, open_store, print_json};

#[derive(clap::Args)]
#[command(after_help = "Example: restage plugin list workflows/quickstart.yaml")]
pub(super) struct Arguments {
    /// A workflow that names the plugins
    workflow: PathBuf,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { workflow, json } = arguments;
    let store = open_store()?;
    let workflow = load(&workflow, &store)?;
    let catalog = open_catalog(&workflow, &store).await?;
    if json {
        print_json(&catalog.plugins().map(|(_, plugin)| &plugin.catalogue).collect::<Vec<_>>());
        return Ok(ExitCode::SUCCESS);
    }
    for (name, plugin) in catalog.plugins() {
        let built =
            if plugin.code.from_sources { "known by its sources" } else { "known by its binary only" };
        say!("plugin {name} {}, {built}\n", plugin.catalogue.version);
        for stage in &plugin.catalogue.stages {
            let seed = match stage {
                stage if stage.seeded => "  (takes a seed)",
                stage if !stage.seeded_if.is_empty() => "  (takes a seed with some params)",
                _ => "",
            };
            say!("{name}/{}{seed}", stage.name);
            say!("    {}", stage.doc);
            if let Some(tolerance) = stage.tolerance {
                say!("    two runs of it may be apart by {tolerance}");
            }
            if stage.open {
                say!("  in   and out as the workflow says");
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
