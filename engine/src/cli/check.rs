//! `restage check`: everything that is wrong with a workflow.

use std::process::ExitCode;

use super::{Failure, Target, open_catalog, open_store, print_json};
use crate::{
    plan::{History, Plan},
    workflow,
};

#[derive(clap::Args)]
#[command(after_help = "Example: restage check workflows/quickstart.yaml")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let target = arguments.target;
    let workflow = workflow::load(&target.workflow)?;
    let store = open_store()?;
    let mut catalog = open_catalog(&workflow, &store).await?;
    let plan = Plan::new(&workflow, &target.selection(), &mut catalog, &store, &History::default()).await?;
    if target.json {
        print_json(&serde_json::json!({ "diagnostics": [] }));
    } else {
        let (stages, variants) = (workflow.stages.len(), plan.variants.len());
        let actions = plan.graph.node_count();
        say!("{} is right: {stages} stages, {variants} variants, {actions} actions", workflow.name);
    }
    Ok(ExitCode::SUCCESS)
}
