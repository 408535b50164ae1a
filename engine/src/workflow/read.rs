//! A tree of nodes to a [`Workflow`]. The grammar tells what has the wrong shape; here the rest is taken as it is, and
//! what the shape cannot say is checked: that names exist, that nothing is given twice.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use indexmap::IndexMap;

use super::{
    Body, Diagnostic, Diagnostics, Execution, Gpus, Input, Located, Node, OutputRef, Place, Scopes, Source,
    Stage, Sweep, Value, Workflow, check,
    diagnostic::{nearest, suggest},
    git::{self, Git},
    grammar,
    import::{self, Loader},
    node,
    scope::{Param, Scope},
    sweep, units,
};

/// What one file brings, imports included.
#[derive(Default)]
pub(super) struct Part {
    pub(super) plugins: Vec<Located<PathBuf>>,
    /// Whether there are more, which could not be read.
    pub(super) more_plugins: bool,
    pub(super) scopes: Scopes,
    pub(super) stages: IndexMap<Arc<str>, Arc<Stage>>,
    /// Prefixes of imports that could not be read: what they would have brought is not missed a second time.
    pub(super) unread: Vec<Arc<str>>,
}

pub(super) fn workflow(source: &Source, path: PathBuf, git: Option<&Git>) -> Result<Workflow, Diagnostic> {
    let mut problems = Diagnostics::default();
    let root = node::parse(source, &mut problems)?;
    check_file(&root, &mut problems);
    let mut loader = Loader::new(&path, git);
    let part = part(&root, &path, &mut loader, &mut problems);
    let more_plugins = part.more_plugins;
    let body = Body {
        scopes: Arc::new(part.scopes),
        stages: part.stages,
        unread: part.unread.into(),
        rewired: false,
    };
    let sweep = root.get("sweep").map_or_else(Sweep::default, |node| sweep::read(node, &body, &mut problems));
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = root.get("name").and_then(Node::text).map_or_else(stem, str::to_owned);
    let (plugins, imports) = (part.plugins, loader.imported);
    Ok(Workflow { name, path, plugins, more_plugins, imports, body, sweep, problems })
}

/// Checks a file's shape.
pub(super) fn check_file(root: &Node, problems: &mut Diagnostics) {
    match &root.value {
        Value::Null => problems.push(
            Diagnostic::new(&root.at, "the file is empty", "expected a workflow")
                .help("begin with `restage: 1`, then `plugins:` and `stages:`"),
        ),
        Value::Map(_) => check::check(root, &grammar::WORKFLOW, "the workflow", problems),
        _ => problems.push(
            Diagnostic::new(
                &root.at,
                format!("a workflow is a mapping, not {}", root.kind()),
                "expected `restage: 1`",
            )
            .help("it has lines `key: value`; is there a space after each colon?"),
        ),
    }
}

/// Reads one file's plugins, scopes and stages. Its shape is checked already.
pub(super) fn part(root: &Node, path: &Path, loader: &mut Loader<'_>, problems: &mut Diagnostics) -> Part {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut part = Part::default();
    if loader.repository().is_none_or(|repository| repository.plugins) {
        let root_of = loader.repository().map(|repository| repository.root.as_path());
        let listed = root.get("plugins").map_or(0, |plugins| plugins.items().len().max(1));
        part.plugins = plugins(root, folder, root_of, problems);
        part.more_plugins = part.plugins.len() < listed;
    }
    part.scopes.insert("".into(), scope(root, problems));
    for (prefix, node) in root.get("import").map(Node::entries).into_iter().flatten() {
        if let Some(stage) = root.get("stages").and_then(|stages| key(stages, &prefix.value)) {
            problems.push(
                Diagnostic::new(
                    &prefix.at,
                    format!("`{}` is a stage already", prefix.value),
                    "imported under the name",
                )
                .and(&stage.at, "of this stage")
                .help("import it under another name"),
            );
            continue;
        }
        if reserved(prefix, problems) {
            continue;
        }
        match import::import(prefix, node, folder, loader, problems) {
            Some(imported) => {
                part.plugins.extend(imported.plugins);
                part.more_plugins |= imported.more_plugins;
                part.scopes.extend(imported.scopes);
                part.stages.extend(imported.stages);
                part.unread.extend(imported.unread);
            }
            None => {
                part.unread.push(prefix.value.as_str().into());
                part.more_plugins = true;
            }
        }
    }
    let own = root.get("stages").map(Node::entries).unwrap_or_default();
    if own.is_empty() && part.stages.is_empty() {
        check_stages(root, problems);
    }
    let names: HashSet<Arc<str>> =
        part.stages.keys().cloned().chain(own.iter().map(|(name, _)| name.value.as_str().into())).collect();
    let is_stage = |name: &str| names.contains(name);
    for (name, node) in own {
        reserved(name, problems);
        let stage = stage(&name.at, node, &is_stage, problems);
        part.stages.insert(name.value.as_str().into(), Arc::new(stage));
    }
    check_wires(own, &part, problems);
    part
}

/// Tells that there are no stages, unless something else is the reason, which is told.
fn check_stages(root: &Node, problems: &mut Diagnostics) {
    let is_mapping = |node: &Node| matches!(node.value, Value::Map(_));
    let misspelled = |(key, _): &(Located<String>, Node)| {
        grammar::WORKFLOW.key(&key.value).is_none() && nearest(&key.value, &["stages"]).is_some()
    };
    let right = is_mapping(root) && root.get("stages").is_none_or(is_mapping) && root.get("import").is_none();
    let stages = key(root, "stages");
    if !right || (stages.is_none() && root.entries().iter().any(misspelled)) {
        return;
    }
    let at = stages.map_or(&root.at, |stages| &stages.at);
    problems.push(
        Diagnostic::new(at, "the workflow has no stages", "expected `stages:` with at least one")
            .help("add one, e.g. `stages: { section: { uses: visium/load, with: { path: … } } }`"),
    );
}

/// Tells a name that paths of values need for something else.
fn reserved(name: &Located<String>, problems: &mut Diagnostics) -> bool {
    let reserved = name.value == "params";
    if reserved {
        problems.push(
            Diagnostic::new(&name.at, "nothing can be called `params`", "expected another name")
                .help("`params.x` is the path of a param of the workflow, in `sweep:` and in `--set`"),
        );
    }
    reserved
}

/// The key of a mapping, with its place.
fn key<'a>(node: &'a Node, name: &str) -> Option<&'a Located<String>> {
    node.entries().iter().find(|(known, _)| known.value == name).map(|(known, _)| known)
}

/// Plugins by their path. Those of a repository lie in it.
fn plugins(
    root: &Node,
    folder: &Path,
    repository: Option<&Path>,
    problems: &mut Diagnostics,
) -> Vec<Located<PathBuf>> {
    let mut plugins = Vec::new();
    for item in root.get("plugins").map(Node::items).unwrap_or_default() {
        let Some((text, at)) = item.get("path").and_then(|path| Some((path.text()?, &path.at))) else {
            continue;
        };
        let path = folder.join(text);
        if repository.is_some_and(|repository| git::within(repository, &path).is_none()) {
            let message = format!("the plugin `{text}` lies outside the repository");
            problems.push(
                Diagnostic::new(at, message, "named here")
                    .help("a file from a repository may name plugins of that repository only"),
            );
            continue;
        }
        plugins.push(Located { value: path, at: at.clone() });
    }
    plugins
}

fn scope(root: &Node, problems: &mut Diagnostics) -> Scope {
    let params = root.get("params").map(Node::entries).unwrap_or_default();
    let params = params
        .iter()
        .map(|(name, node)| (name.value.clone(), Param { node: node.clone(), scope: "".into() }));
    let params = params.collect();
    let mut env = IndexMap::new();
    if let Some(declared) = root.get("env") {
        let named = declared.texts().into_iter().map(|name| (name, None)).collect();
        let declared: Vec<(Located<String>, Option<&Node>)> = match &declared.value {
            Value::Map(entries) => {
                let given = |node: &Node| !matches!(node.value, Value::Null);
                entries
                    .iter()
                    .map(|(name, node)| (name.clone(), Some(node).filter(|node| given(node))))
                    .collect()
            }
            _ => named,
        };
        for (name, default) in declared {
            let node = variable(&name, default, problems);
            env.insert(name.value, node);
        }
    }
    Scope { params, env: Arc::new(env) }
}

/// The value of a declared environment variable.
fn variable(name: &Located<String>, default: Option<&Node>, problems: &mut Diagnostics) -> Node {
    use std::env::VarError;
    match (std::env::var(&name.value), default) {
        (Ok(text), _) => Node { value: Value::Text(text), at: name.at.clone() },
        (Err(VarError::NotPresent), Some(default)) => default.clone(),
        (Err(VarError::NotPresent), None) => {
            let message = format!("`{}` is not set in the environment", name.value);
            let help = format!("set it, or give a default: `env: {{ {}: VALUE }}`", name.value);
            problems.push(Diagnostic::new(&name.at, message, "declared here, without a default").help(help));
            Node { value: Value::Unknown, at: name.at.clone() }
        }
        (Err(VarError::NotUnicode(_)), _) => {
            let message = format!("the environment's `{}` is not UTF-8 text", name.value);
            problems.push(Diagnostic::new(&name.at, message, "declared here"));
            Node { value: Value::Unknown, at: name.at.clone() }
        }
    }
}

fn stage(at: &Place, node: &Node, is_stage: &impl Fn(&str) -> bool, problems: &mut Diagnostics) -> Stage {
    let uses = node
        .get("uses")
        .and_then(|node| Some(Located { value: node.text()?.to_owned(), at: node.at.clone() }));
    let named = |key: &str| -> IndexMap<String, (Place, Node)> {
        let entries = node.get(key).map(Node::entries).unwrap_or_default();
        entries.iter().map(|(key, node)| (key.value.clone(), (key.at.clone(), node.clone()))).collect()
    };
    let mut execution = Execution::default();
    for (key, value) in node.entries() {
        read_execution(&key.value, value, &mut execution);
    }
    let inputs = named("in").into_iter().map(|(port, (at, node))| {
        let from = output_refs(&node, is_stage);
        (port, Input { at, from })
    });
    let gather = node.get("gather").map(Node::texts).unwrap_or_default();
    for (index, dim) in gather.iter().enumerate() {
        if gather.iter().take(index).any(|before| before.value == dim.value) {
            let message = format!("`{}` is gathered twice", dim.value);
            problems.push(Diagnostic::new(&dim.at, message, "again here").help("name each dimension once"));
        }
    }
    let is_mapping = |node: &Node| matches!(node.value, Value::Map(_));
    let misshapen = ["in", "with"].iter().any(|key| node.get(key).is_some_and(|node| !is_mapping(node)));
    Stage {
        at: at.clone(),
        scope: "".into(),
        // A stage without its type was told by the grammar.
        uses: uses.unwrap_or_else(|| Located { value: String::new(), at: at.clone() }),
        inputs: inputs.collect(),
        with: named("with"),
        foreach: named("foreach"),
        gather,
        execution,
        misshapen,
    }
}

/// Takes a key of a stage that says how it is run; others are left alone.
pub(super) fn read_execution(key: &str, value: &Node, execution: &mut Execution) {
    match key {
        "retries" => {
            let count = value.get("count").unwrap_or(value);
            execution.retries = count.int().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
            execution.more_memory = value.get("memory").and_then(Node::text).and_then(units::factor);
        }
        "timeout" => execution.timeout = value.text().and_then(units::duration),
        "resources" => {
            let count = |node: &Node| node.int().and_then(|count| usize::try_from(count).ok());
            if let Some(cpus) = value.get("cpus") {
                execution.cpus = count(cpus);
            }
            if let Some(memory) = value.get("memory") {
                execution.memory = memory.text().and_then(units::bytes);
            }
            if let Some(gpus) = value.get("gpus") {
                let is_required = gpus.text() == Some("required")
                    || matches!(gpus.get("required"), Some(Node { value: Value::Bool(true), .. }));
                execution.gpus = Gpus {
                    // One, where it is only said how.
                    count: gpus.get("count").or(Some(gpus)).and_then(count).unwrap_or(1),
                    memory: gpus.get("memory").and_then(Node::text).and_then(units::bytes),
                    required: is_required,
                    asked: is_required.then(|| gpus.at.clone()),
                };
            }
        }
        _ => {}
    }
}

/// What an input reads: one output or a list of them. What is none was told by the grammar.
pub(super) fn output_refs(node: &Node, is_stage: &impl Fn(&str) -> bool) -> Vec<Located<OutputRef>> {
    let texts = node.texts().into_iter().filter(|text| OutputRef::is_one(&text.value));
    texts.map(|text| Located { value: OutputRef::parse(&text.value, is_stage), at: text.at }).collect()
}

/// Checks what can be known without the plugins: that inputs name stages, other than their own.
fn check_wires(own: &[(Located<String>, Node)], part: &Part, problems: &mut Diagnostics) {
    for (name, _) in own {
        let Some(stage) = part.stages.get(name.value.as_str()).filter(|_| !problems.full()) else { continue };
        for output in stage.inputs.values().flat_map(|input| &input.from) {
            if *output.value.stage == *name.value {
                let message = format!("stage `{}` reads itself", name.value);
                problems.push(
                    Diagnostic::new(&output.at, message, "here").help("read the output of another stage"),
                );
            } else {
                check_output(output, &part.stages, &part.unread, problems);
            }
        }
    }
}

/// Tells if the stage of an output is not there.
pub(super) fn check_output(
    output: &Located<OutputRef>,
    stages: &IndexMap<Arc<str>, Arc<Stage>>,
    unread: &[Arc<str>],
    problems: &mut Diagnostics,
) {
    // Below the prefix of an import, a name has a dot: `prep.counts` is a stage, and no output of a stage `prep`.
    let prefix = format!("{}.", output.value.stage);
    let whole = output.value.to_string();
    // Imported stages come first.
    let mut imported = stages.keys().take_while(|stage| stage.contains('.'));
    let is_prefix =
        !stages.contains_key(&output.value.stage) && imported.any(|stage| stage.starts_with(&prefix));
    let name = if is_prefix { &whole } else { &*output.value.stage };
    check_stage(name, &output.at, stages, unread, "read here", problems);
}

/// Tells if there is no stage of that name, unless it would be of an import that could not be read.
pub(super) fn check_stage(
    name: &str,
    at: &Place,
    stages: &IndexMap<Arc<str>, Arc<Stage>>,
    unread: &[Arc<str>],
    label: &str,
    problems: &mut Diagnostics,
) {
    if !stages.contains_key(name) && !is_unread(name, unread) {
        let message = format!("there is no stage `{name}`");
        let known = stages.keys().map(|known| &**known);
        problems.push(Diagnostic::new(at, message, label).help(suggest(name, known)));
    }
}

/// Whether a name is below the prefix of an import that could not be read.
pub(super) fn is_unread(name: &str, unread: &[Arc<str>]) -> bool {
    unread.iter().any(|prefix| {
        name.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}
