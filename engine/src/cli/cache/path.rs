//! `restage cache path`: where an artifact is, for programs that open it.

use std::{path::Path, process::ExitCode};

use restage_cache::{Digest, Store};

use super::{Wrong, artifact, outputs};
use crate::cli::{Failure, open_store};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage cache path 3fa9c17b0d\n  \
                        restage cache path workflows/quickstart.yaml clean\n  \
                        restage cache path workflows/quickstart.yaml pretrain.model --variant 'image only'\n\n\
                        In Python: anndata.read_zarr(subprocess.check_output([\"restage\", \"cache\", \"path\", …], text=True).strip())")]
pub(super) struct Arguments {
    /// The beginning of an artifact's digest; or a workflow, for its last run; or the folder of a run
    what: String,
    /// Of a run: the stage, `STAGE[VALUE]` for one point of a mapped stage; with `.PORT` for one output, with `@VARIANT` for
    /// one variant
    stage: Option<String>,
    /// Of a run: the variant, if it is not the baseline
    #[arg(long, requires = "stage")]
    variant: Option<String>,
    /// Of a run: only this seed
    #[arg(long, requires = "stage")]
    seed: Option<u64>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let digests = match &arguments.stage {
        Some(stage) => of_run(arguments, stage, &store)?,
        None if Path::new(&arguments.what).is_file() => {
            return Err(Wrong::WhichStage(arguments.what.clone()).into());
        }
        None => vec![(arguments.what.clone(), artifact(&arguments.what, &store)?)],
    };
    let mut folders = Vec::new();
    for (what, digest) in digests {
        folders.push(store.artifact(&digest)?.ok_or(Wrong::Gone { what: format!("{what} ({digest:.12})") })?);
    }
    // All or nothing: who reads these takes a folder that is missing for one that was not asked for.
    for folder in folders {
        say!("{}", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn of_run(arguments: &Arguments, stage: &str, store: &Store) -> Result<Vec<(String, Digest)>, Failure> {
    let outputs = outputs(Path::new(&arguments.what), store)?;
    let variant = arguments.variant.as_deref().unwrap_or(&outputs.baseline);
    let mut wanted = outputs.named(stage, Some(variant)).map_err(Failure::unknown)?;
    wanted.retain(|output| arguments.seed.is_none_or(|seed| output.instance.seed == Some(seed)));
    let mut found: Vec<(String, Digest)> = Vec::new();
    for output in wanted {
        // Seeds may share a result.
        if found.iter().all(|(_, digest)| *digest != output.digest) {
            found.push((format!("{}.{}", output.instance.stage, output.port), output.digest));
        }
    }
    if found.is_empty() {
        let seed = arguments.seed.unwrap_or_default();
        return Err(Wrong::NoSeed { stage: stage.to_owned(), seed }.into());
    }
    Ok(found)
}
