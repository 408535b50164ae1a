//! `restage cache pull`: results that a remote has and this cache lacks.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use restage_cache::{ActionKey, Transfer};

use super::{Wrong, many, push::tell_different, remote, travelled, verify::bar};
use crate::{
    cache::{Cache, Shared},
    cli::{Failure, Target, open_store, planned_with, print_json},
    report::size,
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage cache pull workflows/her2st.yaml          # what a team mate has computed of it\n  \
                        restage cache pull --all workflows/her2st.yaml    # intermediate results too\n  \
                        restage cache pull 3fa9c17b0d…                    # whole digests\n\n\
                        Each byte is checked against its digest. `restage run` fetches what it needs by itself."
)]
pub(super) struct Arguments {
    /// Workflows, and artifacts by their whole digests
    #[arg(required = true, value_name = "WORKFLOW|DIGEST")]
    what: Vec<PathBuf>,
    /// Also results that nobody reads, because what reads them is there
    #[arg(long)]
    all: bool,
    /// The remote, instead of the one in `restage.toml`: file:///folder, s3://bucket/prefix, http:// or https://
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let shared = Shared::new(remote(arguments.remote.as_deref())?, false);
    let cache = Cache { store, shared: Some(shared.into()) };
    let (mut actions, mut artifacts) = (BTreeSet::new(), BTreeSet::new());
    for what in &arguments.what {
        match what.to_str().and_then(|text| text.parse().ok()) {
            Some(digest) => drop(artifacts.insert(digest)),
            None if what.exists() => actions.extend(keys(what, &cache).await?),
            None => return Err(Wrong::NothingThere(what.clone()).into()),
        }
    }
    let Some(shared) = &cache.shared else { return Err(Wrong::NoRemote.into()) };
    if !arguments.all {
        actions.retain(|(_, is_needed)| *is_needed);
    }
    let actions = actions.into_iter().map(|(key, _)| key).collect();
    let bar = bar();
    let pulled = cache.store.pull(shared.remote(), &actions, &artifacts, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let pulled = pulled?;
    if arguments.json {
        print_json(&pulled);
    } else {
        tell(&pulled, shared.remote().url());
    }
    Ok(ExitCode::SUCCESS)
}

/// Keys of a workflow's actions, as far as they can be known without running any, and whether somebody needs the result.
async fn keys(workflow: &std::path::Path, cache: &Cache) -> Result<BTreeSet<(ActionKey, bool)>, Failure> {
    let planned = planned_with(&Target::all_of(workflow), cache.clone()).await?;
    let key =
        |action: &crate::plan::Action| Some((action.key?, action.decision != crate::plan::Decision::Cached));
    Ok(planned.plan.graph.node_weights().filter_map(key).collect())
}

fn tell(pulled: &Transfer, url: &str) {
    let Transfer { records, artifacts, files, bytes, present, different, missing } = pulled;
    if *artifacts == 0 && *records == 0 {
        say!("nothing to take from {url}");
    } else {
        say!("{}, {} from {url}", travelled(*records, *artifacts), size(*bytes));
        say!("    {} travelled; {} were here", many(*files, "file"), many(*present, "artifact"));
    }
    tell_different(different, "here");
    if !missing.is_empty() {
        say!("    {} not there", many(missing.len(), "result"));
    }
}
