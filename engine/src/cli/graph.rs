//! `restage graph`: the stages of a workflow and what they read, drawn; variants folded into one picture.

use std::{
    collections::{BTreeSet, HashMap},
    process::ExitCode,
};

use indexmap::{IndexMap, IndexSet};
use petgraph::graph::NodeIndex;

use super::{Failure, Planned, Target, planned};
use crate::{
    plan::Plan,
    report::{Edge, Graph, Node, State},
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage graph workflows/quickstart.yaml --format svg > quickstart.svg\n  \
                        restage graph workflows/quickstart.yaml --only baseline"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// What to write: `mermaid` is drawn by GitHub and GitLab in Markdown, `svg` by every browser
    #[arg(long, value_enum, default_value = "mermaid")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Dot,
    Mermaid,
    Svg,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Planned { workflow, plan, .. } = planned(&arguments.target).await?;
    let graph = graph(&workflow.name, &plan);
    let text = match arguments.format {
        Format::Dot => graph.dot(),
        Format::Mermaid => graph.mermaid(),
        Format::Svg => graph.svg(),
    };
    say!("{}", text.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// A stage of some variants.
#[derive(Default)]
struct Folded<'a> {
    uses: IndexSet<&'a str>,
    actions: BTreeSet<NodeIndex>,
    variants: IndexSet<&'a str>,
}

/// An input of some variants.
#[derive(Default)]
struct Wire<'a> {
    ports: BTreeSet<&'a str>,
    variants: IndexSet<&'a str>,
}

fn graph(title: &str, plan: &Plan) -> Graph {
    // Of two stages that are one action, each variant knows its own.
    let mut stage_of: HashMap<(&str, NodeIndex), &str> = HashMap::new();
    let mut stages: IndexMap<&str, Folded<'_>> = IndexMap::new();
    for instance in &plan.instances {
        stage_of.entry((&instance.variant, instance.action)).or_insert(&instance.stage);
        let folded = stages.entry(&instance.stage).or_default();
        folded.uses.insert(&plan.graph[instance.action].step.uses);
        folded.actions.insert(instance.action);
        folded.variants.insert(&instance.variant);
    }
    let mut wires: IndexMap<(usize, usize), Wire<'_>> = IndexMap::new();
    for instance in &plan.instances {
        let Some(to) = stages.get_index_of(&*instance.stage) else { continue };
        for (port, sources) in &plan.graph[instance.action].inputs {
            for (source, _) in sources {
                let from =
                    stage_of.get(&(&*instance.variant, *source)).and_then(|stage| stages.get_index_of(stage));
                let Some(from) = from else { continue };
                let wire = wires.entry((from, to)).or_default();
                wire.ports.insert(port);
                wire.variants.insert(&instance.variant);
            }
        }
    }
    // Said only where it is not all of them.
    let some = |variants: &IndexSet<&str>| -> Vec<String> {
        let all = variants.len() == plan.variants.len();
        if all { Vec::new() } else { variants.iter().map(ToString::to_string).collect() }
    };
    let nodes = stages.iter().map(|(name, folded)| {
        let states = folded.actions.iter().map(|action| match plan.graph[*action].decision.word() {
            "run" => State::Run,
            "may run" => State::MayRun,
            _ => State::Cached,
        });
        let count = folded.actions.len();
        Node {
            name: (*name).to_owned(),
            detail: folded.uses.iter().copied().collect::<Vec<_>>().join(" or "),
            note: if count > 1 { format!("× {count} actions") } else { String::new() },
            // Cached is what all are; one that runs shows.
            state: states.max_by_key(|state| {
                [State::Cached, State::MayRun, State::Run].iter().position(|s| s == state)
            }),
            only_in: some(&folded.variants),
        }
    });
    let edges = wires.iter().map(|((from, to), wire)| Edge {
        from: *from,
        to: *to,
        label: wire.ports.iter().copied().collect::<Vec<_>>().join(", "),
        only_in: some(&wire.variants),
    });
    Graph { title: title.to_owned(), nodes: nodes.collect(), edges: edges.collect() }
}
