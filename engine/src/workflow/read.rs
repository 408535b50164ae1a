//! A tree of nodes to a [`Workflow`]: known keys, right kinds, and every problem collected on the way.

use std::path::PathBuf;

use indexmap::IndexMap;

use super::{
    Ablation, Diagnostic, Diagnostics, Input, Located, MetricRef, Node, OutputRef, Place, Resources, Source,
    Stage, Sweep, Value, Workflow, diagnostic::suggest, node, reference::is_name,
};

const WORKFLOW_KEYS: &[&str] = &["restage", "name", "plugins", "params", "stages", "sweep"];
const STAGE_KEYS: &[&str] = &["uses", "in", "with", "foreach", "gather", "resources"];
const SWEEP_KEYS: &[&str] = &["metric", "seeds", "ablate"];
const ABLATION_KEYS: &[&str] = &["set", "vary", "drop"];

pub(super) fn workflow(source: &Source, path: PathBuf) -> Result<Workflow, Diagnostic> {
    let root = node::parse(source)?;
    let mut reader = Reader::default();
    let mut workflow = reader.workflow(&root, path);
    workflow.problems = reader.problems;
    Ok(workflow)
}

type Entries<'a> = &'a [(Located<String>, Node)];

#[derive(Default)]
struct Reader {
    problems: Diagnostics,
}

impl Reader {
    fn workflow(&mut self, root: &Node, path: PathBuf) -> Workflow {
        let entries = self.map(root, "a workflow");
        self.known(entries, WORKFLOW_KEYS, "a workflow");
        self.version(root, entries);
        let name = match get(entries, "name") {
            Some(node) => self.text(node, "the workflow's name").unwrap_or_default(),
            None => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        let plugins = get(entries, "plugins").map(|node| self.plugins(node)).unwrap_or_default();
        let params = get(entries, "params").map(|node| self.named(node, "params")).unwrap_or_default();
        let params = params.into_iter().map(|(name, (_, node))| (name, node)).collect();
        let stages = match get(entries, "stages") {
            Some(node) => self.stages(node),
            None => {
                self.problem(Diagnostic::new(&root.at, "the workflow has no `stages`", "expected `stages:`"));
                IndexMap::new()
            }
        };
        let sweep = get(entries, "sweep").map(|node| self.sweep(node));
        let sweep = sweep.unwrap_or_else(|| Sweep { seeds: vec![0], ..Sweep::default() });
        let problems = Diagnostics::default();
        let workflow = Workflow { name, path, plugins, params, stages, sweep, problems };
        self.wires(&workflow);
        workflow
    }

    fn version(&mut self, root: &Node, entries: Entries<'_>) {
        match get(entries, "restage") {
            None => self.problem(
                Diagnostic::new(&root.at, "the language's version is missing", "expected `restage: 1`")
                    .help("begin the file with `restage: 1`"),
            ),
            Some(Node { value: Value::Int(1), .. }) => {}
            Some(node) => self.problem(
                Diagnostic::new(&node.at, "unknown version of the workflow language", "expected 1")
                    .help("this restage reads version 1"),
            ),
        }
    }

    fn plugins(&mut self, node: &Node) -> Vec<Located<PathBuf>> {
        let items = self.list(node, "`plugins`");
        items
            .iter()
            .filter_map(|item| {
                let entries = self.map(item, "a plugin");
                self.known(entries, &["path"], "a plugin");
                let Some(path) = get(entries, "path") else {
                    self.problem(
                        Diagnostic::new(&item.at, "a plugin without its path", "expected `path:`")
                            .help("give its source folder or its library, relative to this file"),
                    );
                    return None;
                };
                let text = self.text(path, "a plugin's path")?;
                Some(Located { value: PathBuf::from(text), at: path.at.clone() })
            })
            .collect()
    }

    fn stages(&mut self, node: &Node) -> IndexMap<String, Stage> {
        self.named(node, "stages")
            .into_iter()
            .map(|(name, (at, node))| {
                let stage = self.stage(at, &node);
                (name, stage)
            })
            .collect()
    }

    fn stage(&mut self, at: Place, node: &Node) -> Stage {
        let entries = self.map(node, "a stage");
        self.known(entries, STAGE_KEYS, "a stage");
        let uses = get(entries, "uses").and_then(|node| {
            let value = self.text(node, "`uses`")?;
            Some(Located { value, at: node.at.clone() })
        });
        let uses = uses.unwrap_or_else(|| {
            if get(entries, "uses").is_none() {
                self.problem(
                    Diagnostic::new(&at, "a stage without its type", "expected `uses: plugin/name`")
                        .help("add `uses:`, e.g. `uses: visium/load`"),
                );
            }
            Located { value: String::new(), at: at.clone() }
        });
        let inputs = get(entries, "in").map(|node| self.inputs(node)).unwrap_or_default();
        let with = get(entries, "with").map(|node| self.named(node, "`with`")).unwrap_or_default();
        let foreach = get(entries, "foreach").map(|node| self.foreach(node)).unwrap_or_default();
        let gather = get(entries, "gather").map(|node| self.names(node, "`gather`")).unwrap_or_default();
        let resources = get(entries, "resources").map(|node| self.resources(node)).unwrap_or_default();
        Stage { at, uses, inputs, with, foreach, gather, resources }
    }

    fn inputs(&mut self, node: &Node) -> IndexMap<String, Input> {
        self.named(node, "`in`")
            .into_iter()
            .map(|(port, (at, node))| {
                let from = output_refs(&node, &mut self.problems);
                (port, Input { at, from })
            })
            .collect()
    }

    fn foreach(&mut self, node: &Node) -> IndexMap<String, (Place, Vec<Node>)> {
        self.named(node, "`foreach`")
            .into_iter()
            .map(|(name, (at, node))| {
                let values = self.list(&node, "the values of `foreach`").to_vec();
                if values.is_empty() {
                    self.problem(Diagnostic::new(
                        &node.at,
                        "nothing to map over",
                        "expected at least one value",
                    ));
                }
                (name, (at, values))
            })
            .collect()
    }

    fn resources(&mut self, node: &Node) -> Resources {
        let entries = self.map(node, "`resources`");
        self.known(entries, &["cpus"], "`resources`");
        let mut resources = Resources::default();
        if let Some(cpus) = get(entries, "cpus") {
            match &cpus.value {
                Value::Int(count @ 1..) => resources.cpus = usize::try_from(*count).unwrap_or(usize::MAX),
                _ => self.wrong_kind(cpus, "`cpus`", "a whole number from 1"),
            }
        }
        resources
    }

    fn sweep(&mut self, node: &Node) -> Sweep {
        let entries = self.map(node, "`sweep`");
        self.known(entries, SWEEP_KEYS, "`sweep`");
        let metrics = get(entries, "metric").map(|node| self.metrics(node)).unwrap_or_default();
        let seeds = get(entries, "seeds").map_or_else(|| vec![0], |node| self.seeds(node));
        let ablate = get(entries, "ablate").map(|node| self.ablations(node)).unwrap_or_default();
        Sweep { metrics, seeds, ablate }
    }

    fn metrics(&mut self, node: &Node) -> Vec<Located<MetricRef>> {
        self.names(node, "`metric`")
            .into_iter()
            .filter_map(|Located { value, at }| match value.split_once('.') {
                Some((stage, name)) if is_name(stage) && is_name(name) => {
                    Some(Located { value: MetricRef { stage: stage.into(), name: name.into() }, at })
                }
                _ => {
                    self.problem(
                        Diagnostic::new(
                            &at,
                            format!("`{value}` does not name a metric"),
                            "expected `stage.metric`",
                        )
                        .help("e.g. `metric: evaluate.macro_f1`"),
                    );
                    None
                }
            })
            .collect()
    }

    fn seeds(&mut self, node: &Node) -> Vec<u64> {
        let mut seeds = Vec::new();
        let items = self.list(node, "`seeds`").to_vec();
        for item in &items {
            match &item.value {
                Value::Int(seed @ 0..) => {
                    let seed = seed.unsigned_abs();
                    if seeds.contains(&seed) {
                        self.problem(Diagnostic::new(
                            &item.at,
                            format!("seed {seed} is given twice"),
                            "again here",
                        ));
                    }
                    seeds.push(seed);
                }
                Value::Int(seed) => {
                    let message = format!("{seed} cannot be a seed");
                    self.problem(Diagnostic::new(&item.at, message, "expected a whole number from 0"));
                }
                _ => self.wrong_kind(item, "a seed", "a whole number from 0"),
            }
        }
        if items.is_empty() {
            self.problem(Diagnostic::new(
                &node.at,
                "a sweep needs at least one seed",
                "expected e.g. `[0, 1, 2]`",
            ));
        }
        seeds
    }

    fn ablations(&mut self, node: &Node) -> Vec<Ablation> {
        self.map(node, "`ablate`")
            .iter()
            .map(|(name, node)| {
                if name.value == "baseline" {
                    self.problem(
                        Diagnostic::new(
                            &name.at,
                            "`baseline` is the workflow as written",
                            "choose another name",
                        )
                        .help("changes are compared to it; it needs no entry"),
                    );
                }
                let entries = self.map(node, "an ablation");
                self.known(entries, ABLATION_KEYS, "an ablation");
                let paths = |reader: &mut Self, key: &str| -> Vec<(Located<String>, Node)> {
                    get(entries, key).map(|node| reader.map(node, key).to_vec()).unwrap_or_default()
                };
                let set = paths(self, "set");
                let vary = paths(self, "vary")
                    .into_iter()
                    .map(|(path, values)| (path, self.list(&values, "the values of `vary`").to_vec()))
                    .collect();
                let drop = get(entries, "drop").map(|node| self.names(node, "`drop`")).unwrap_or_default();
                Ablation { name: name.clone(), set, vary, drop }
            })
            .collect()
    }

    /// Checks what can be known without the plugins: that references name stages, metrics too.
    fn wires(&mut self, workflow: &Workflow) {
        let stages = || workflow.stages.keys().map(String::as_str);
        for (name, stage) in &workflow.stages {
            for output in stage.inputs.values().flat_map(|input| &input.from) {
                if output.value.stage == *name {
                    self.problem(Diagnostic::new(&output.at, format!("stage `{name}` reads itself"), "here"));
                } else if !workflow.stages.contains_key(&output.value.stage) {
                    self.problem(
                        Diagnostic::new(
                            &output.at,
                            format!("there is no stage `{}`", output.value.stage),
                            "read here",
                        )
                        .help(suggest(&output.value.stage, stages())),
                    );
                }
            }
        }
        for metric in &workflow.sweep.metrics {
            if !workflow.stages.contains_key(&metric.value.stage) {
                self.problem(
                    Diagnostic::new(
                        &metric.at,
                        format!("there is no stage `{}`", metric.value.stage),
                        "its metric",
                    )
                    .help(suggest(&metric.value.stage, stages())),
                );
            }
        }
    }

    // --- kinds of values ---

    fn problem(&mut self, diagnostic: Diagnostic) {
        self.problems.push(diagnostic);
    }

    fn wrong_kind(&mut self, node: &Node, what: &str, expected: &str) {
        self.problem(Diagnostic::new(
            &node.at,
            format!("{what} is {}, not {expected}", node.kind()),
            format!("expected {expected}"),
        ));
    }

    fn map<'a>(&mut self, node: &'a Node, what: &str) -> Entries<'a> {
        match &node.value {
            Value::Map(entries) => entries,
            _ => {
                self.wrong_kind(node, what, "a mapping");
                &[]
            }
        }
    }

    fn list<'a>(&mut self, node: &'a Node, what: &str) -> &'a [Node] {
        match &node.value {
            Value::List(items) => items,
            _ => {
                self.wrong_kind(node, what, "a list");
                &[]
            }
        }
    }

    fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.wrong_kind(node, what, "text");
                None
            }
        }
    }

    /// One text or a list of them.
    fn names(&mut self, node: &Node, what: &str) -> Vec<Located<String>> {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        items
            .iter()
            .filter_map(|item| Some(Located { value: self.text(item, what)?, at: item.at.clone() }))
            .collect()
    }

    /// A mapping whose keys are names.
    fn named(&mut self, node: &Node, what: &str) -> IndexMap<String, (Place, Node)> {
        let entries = self.map(node, what);
        for (key, _) in entries {
            if !is_name(&key.value) {
                self.problem(
                    Diagnostic::new(&key.at, format!("`{}` cannot be a name", key.value), "here")
                        .help("names are letters, digits, `_` and `-`"),
                );
            }
        }
        entries.iter().map(|(key, node)| (key.value.clone(), (key.at.clone(), node.clone()))).collect()
    }

    fn known(&mut self, entries: Entries<'_>, keys: &[&str], what: &str) {
        for (key, _) in entries {
            if !keys.contains(&key.value.as_str()) {
                self.problem(
                    Diagnostic::new(&key.at, format!("{what} has no `{}`", key.value), "unknown key")
                        .help(suggest(&key.value, keys.iter().copied())),
                );
            }
        }
    }
}

fn get<'a>(entries: Entries<'a>, key: &str) -> Option<&'a Node> {
    entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node)
}

/// What an input reads: one output or a list of them.
pub(super) fn output_refs(node: &Node, problems: &mut Diagnostics) -> Vec<Located<OutputRef>> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    items
        .iter()
        .filter_map(|item| {
            let output = match &item.value {
                Value::Text(text) => OutputRef::parse(text),
                _ => None,
            };
            if output.is_none() {
                problems.push(
                    Diagnostic::new(&item.at, "an input reads a stage's output", "expected `stage.port`")
                        .help("write `port: stage.output`; `port: stage` if the stage has one output"),
                );
            }
            Some(Located { value: output?, at: item.at.clone() })
        })
        .collect()
}
