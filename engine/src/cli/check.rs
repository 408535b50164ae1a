//! `restage check`: everything that is wrong with a workflow.

use std::process::ExitCode;

use super::{Failure, Planned, Target, planned, print_json};

#[derive(clap::Args)]
#[command(after_help = "Example: restage check workflows/quickstart.yaml")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let target = arguments.target;
    let Planned { workflow, plan, .. } = planned(&target).await?;
    if target.json {
        print_json(&serde_json::json!({ "diagnostics": [] }));
    } else {
        let (stages, variants) = (workflow.body.stages.len(), plan.variants.len());
        let actions = plan.graph.node_count();
        say!("{} is right: {stages} stages, {variants} variants, {actions} actions", workflow.name);
    }
    Ok(ExitCode::SUCCESS)
}
