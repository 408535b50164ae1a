//! `restage show`: the artifacts of a workflow's last run.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{Failure, open_store, print_json};
use crate::{
    plan::name,
    run::{
        journal,
        past::{self, Output},
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage show workflows/quickstart.yaml\n  \
                        restage show workflows/quickstart.yaml regions --all\n  \
                        restage show --json --all workflows/quickstart.yaml")]
pub(super) struct Arguments {
    /// The workflow file
    workflow: PathBuf,
    /// Only this stage; `STAGE[VALUE]` for one point of a mapped stage, with `.PORT` for one output, with `@VARIANT` for one
    /// variant
    stage: Option<String>,
    /// All variants, not the baseline only
    #[arg(long)]
    all: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let path = std::path::absolute(&arguments.workflow)?;
    let events = journal::last_run(&path, &store)?.ok_or(Failure::NeverRan)?;
    let outputs = past::outputs(events);
    let variant = (!arguments.all).then_some(outputs.baseline.as_str());
    let wanted = match &arguments.stage {
        Some(stage) => outputs.named(stage, variant).map_err(Failure::unknown)?,
        None => {
            let is = |output: &&Output| variant.is_none_or(|variant| output.instance.variant == variant);
            outputs.outputs.iter().filter(is).collect()
        }
    };
    let mut list = Vec::new();
    for Output { instance, port, digest } in wanted {
        let path = store.artifact(digest)?;
        let opens = path.as_deref().and_then(opens);
        list.push(json!({
            "stage": instance.stage, "at": instance.at, "variant": instance.variant, "seed": instance.seed,
            "port": port, "digest": digest, "path": path, "opens": opens,
        }));
        if !arguments.json {
            let seed = instance.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
            let variant = if instance.variant == outputs.baseline && !arguments.all {
                String::new()
            } else {
                format!(" ({})", instance.variant)
            };
            let opens = opens.map(|with| format!("  # {with}")).unwrap_or_default();
            let place = path.map_or("gone from the store".to_owned(), |path| path.display().to_string());
            say!("{}.{port}{seed}{variant}{opens}\n    {place}", name(&instance.stage, &instance.at));
        }
    }
    if arguments.json {
        print_json(&list);
    }
    Ok(ExitCode::SUCCESS)
}

/// What opens an artifact in Python, as `workflows/artifacts.md` tells; none where it is no Zarr group.
fn opens(artifact: &Path) -> Option<&'static str> {
    let root = std::fs::read(artifact.join("zarr.json")).ok();
    let json = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let attributes = match root {
        Some(root) => json(root)?.get("attributes").cloned().unwrap_or_default(),
        // Of Zarr 2, which Python may write.
        None if artifact.join(".zgroup").is_file() => {
            std::fs::read(artifact.join(".zattrs")).ok().and_then(json).unwrap_or_default()
        }
        None => return None,
    };
    let encoding = attributes.get("encoding-type").and_then(serde_json::Value::as_str);
    Some(match encoding {
        _ if attributes.get("spatialdata_attrs").is_some() && artifact.join("tables").is_dir() => {
            "spatialdata.read_zarr"
        }
        Some("anndata") => "anndata.read_zarr",
        Some("dataframe") => "anndata.io.read_elem",
        _ => "zarr.open_group",
    })
}
