//! `restage plugin test`: the conformance kit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use crate::{
    cli::{Failure, Planned, Target, open_store, planned, print_json},
    conformance::{self, Check, Example, Report, Subject, Verdict},
    plan::input_digests,
    plugin,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage plugin test stages/visium\n  \
                        restage plugin test stages/visium --workflow workflows/quickstart.yaml\n  \
                        restage plugin test libmine.so --stage keep\n\n\
                        Exit status: 0 if no check failed, 1 if one did, 2 if there is nothing to try.")]
pub(super) struct Arguments {
    /// A plugin: a crate's folder, or a built library
    path: PathBuf,
    /// Only this stage type, by its name without the plugin's; may be given again
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Take params and inputs from this workflow, as far as its results are cached: stage types that need some are run too
    #[arg(long, value_name = "FILE")]
    workflow: Option<PathBuf>,
    /// How long one run of a stage may take
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: std::time::Duration,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let code = plugin::library(&arguments.path, &store, &|notice| eprintln!("{notice}"))
        .map_err(plugin::CatalogError::from)?;
    let examples = match &arguments.workflow {
        Some(workflow) => examples(Target::all_of(workflow)).await?,
        None => BTreeMap::new(),
    };
    let subject = Subject {
        library: &code.library,
        store: &store,
        only: &arguments.stage.iter().cloned().collect::<BTreeSet<_>>(),
        examples: &examples,
        limit: Duration::max(arguments.timeout, Duration::from_millis(1)),
    };
    let report = conformance::check(&subject, &|what| tracing::info!("trying {what}")).await?;
    if arguments.json {
        print_json(&report);
    } else {
        print(&report);
    }
    let failed = report.all().any(|check| matches!(check.verdict, Verdict::Failed(_)));
    Ok(ExitCode::from(u8::from(failed)))
}

/// How a workflow uses each stage type: the first use of which all inputs are here.
async fn examples(target: Target) -> Result<BTreeMap<String, Example>, Failure> {
    let Planned { cache, plan, .. } = planned(&target).await?;
    let mut examples = BTreeMap::new();
    for action in plan.graph.node_weights() {
        let mut inputs: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (port, digests) in input_digests(&plan, action) {
            for digest in digests {
                inputs.entry(port.clone()).or_default().extend(cache.store.artifact(&digest)?);
            }
        }
        let wanted = |(port, sources): &(std::sync::Arc<str>, crate::plan::Sources)| {
            inputs.get(&**port).map_or(0, Vec::len) == sources.len()
        };
        if action.inputs.iter().all(wanted) {
            let params = (*action.step.params).clone();
            examples.entry(action.step.uses.clone()).or_insert(Example { params, inputs });
        }
    }
    Ok(examples)
}

fn print(report: &Report) {
    match &report.plugin {
        Some((name, version)) => say!("plugin {name} {version}"),
        None => say!("no plugin"),
    }
    report.checks.iter().for_each(print_check);
    for stage in &report.stages {
        say!("{}", stage.stage);
        stage.checks.iter().for_each(print_check);
    }
    let count = |wanted: fn(&Verdict) -> bool| report.all().filter(|check| wanted(&check.verdict)).count();
    say!(
        "{} ok, {} failed, {} skipped",
        count(|verdict| matches!(verdict, Verdict::Ok)),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
        count(|verdict| matches!(verdict, Verdict::Skipped { .. })),
    );
}

fn print_check(check: &Check) {
    match &check.verdict {
        Verdict::Ok => say!("  ok       {}", check.name),
        Verdict::Skipped { why } => say!("  skipped  {}: {why}", check.name),
        Verdict::Failed(broken) => {
            say!("  FAILED   {}", check.name);
            say!("    expected  {}", broken.expected);
            say!("    found     {}", broken.found);
            say!("    help      {}", broken.help);
        }
    }
}
