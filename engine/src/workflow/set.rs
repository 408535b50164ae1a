//! Overrides: `pretrain.temperature`, `params.epochs`, `regions.in.features`, `regions.uses`, `pretrain.resources.cpus`
//! set to another value. The same paths in `set:`, `vary:`, `grid:` and on the command line.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    Body, Diagnostic, Diagnostics, Input, Located, Node, Place, Source, Stage, Value, check,
    diagnostic::suggest,
    grammar, node,
    read::{self, check_output, is_unread},
    reference::join,
};

impl Body {
    /// Sets the value at a path.
    pub(crate) fn set(&mut self, path: &Located<String>, value: &Node, problems: &mut Diagnostics) {
        // A path in a file that is none was told by the grammar.
        let is_file = path.at.source.folder().is_some();
        if is_file && path.value.split('.').any(str::is_empty) {
            return;
        }
        if path.value.split('.').count() > node::MAX_DEPTH {
            let message = "the path leads more deeply into a value than any workflow is nested";
            return problems.push(Diagnostic::new(&path.at, message, "set here").help("shorten it"));
        }
        if let Some((scope, rest)) = self.param_path(&path.value) {
            return self.set_param(&scope, &rest, path, value, problems);
        }
        let Some((name, rest)) = self.stage_path(&path.value) else {
            if is_unread(&path.value, &self.unread) {
                return;
            }
            let Some((first, _)) = path.value.split_once('.').or((!is_file).then_some((&*path.value, "")))
            else {
                return;
            };
            let known = self.names().chain(["params"]);
            let help = match first {
                "sweep" if !is_file => {
                    "a sweep is not set: `--seeds 0,1,2` takes other seeds, `--only VARIANT` some variants"
                        .to_owned()
                }
                _ => suggest(first, known),
            };
            problems.push(
                Diagnostic::new(&path.at, format!("there is no stage `{first}`"), "set here").help(help),
            );
            return;
        };
        self.set_in_stage(&name, &rest, path, value, problems);
    }

    /// The value at a path, as written; `None` if there is none.
    pub(crate) fn get(&self, path: &str) -> Option<serde_json::Value> {
        let deep = |node: &Node, rest: &[String]| {
            rest.iter().try_fold(node.to_json(), |value, key| value.get(key).cloned())
        };
        if let Some((scope, rest)) = self.param_path(path) {
            let (name, rest) = rest.split_first()?;
            return deep(&self.scopes.get(&*scope)?.params.get(name)?.node, rest);
        }
        let (name, rest) = self.stage_path(path)?;
        let stage = self.stages.get(&*name)?;
        match rest.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["uses"] => Some(stage.uses.value.clone().into()),
            ["in", port] => {
                let from = &stage.inputs.get(*port)?.from;
                let names: Vec<String> = from.iter().map(|output| output.value.to_string()).collect();
                Some(match names.as_slice() {
                    [one] => one.clone().into(),
                    _ => names.into(),
                })
            }
            ["with", param, ..] => deep(&stage.with.get(*param)?.1, rest.get(2..)?),
            [param, ..] => deep(&stage.with.get(*param)?.1, rest.get(1..)?),
            [] => None,
        }
    }

    /// The scope and the rest of a path that begins with `params` or `PREFIX.params`.
    fn param_path(&self, path: &str) -> Option<(Arc<str>, Vec<String>)> {
        self.scopes.keys().find_map(|prefix| {
            let rest = path.strip_prefix(&join(prefix, "params"))?.strip_prefix('.')?;
            Some((prefix.clone(), rest.split('.').map(str::to_owned).collect()))
        })
    }

    /// The stage and the rest of a path: imported stages have dots in their names, so the longest name counts.
    pub(super) fn stage_path(&self, path: &str) -> Option<(Arc<str>, Vec<String>)> {
        let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
        let name = ends.rev().find_map(|end| self.stages.get_key_value(path.get(..end)?))?.0;
        let rest = path.get(name.len() + 1..).unwrap_or_default();
        Some((name.clone(), rest.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()))
    }

    fn set_in_stage(
        &mut self,
        name: &Arc<str>,
        rest: &[String],
        path: &Located<String>,
        value: &Node,
        problems: &mut Diagnostics,
    ) {
        let rewires = rest.first().is_some_and(|first| first == "in");
        let others = if rewires { self.stages.clone() } else { IndexMap::new() };
        let Some(stage) = self.stages.get_mut(&**name).map(Arc::make_mut) else { return };
        let parts: Vec<&str> = rest.iter().map(String::as_str).collect();
        // What a stage writes whose type leaves its ports open; to wire others again costs little.
        self.rewired |= matches!(parts.as_slice(), ["with"] | ["with", "outputs", ..] | ["outputs", ..]);
        match parts.as_slice() {
            [] => problems.push(
                Diagnostic::new(&path.at, format!("`{name}` is a stage, not a value"), "set here")
                    .help(format!("name a param of it: `{name}.PARAM`")),
            ),
            ["uses"] => {
                check::check(value, &grammar::Shape::Text, "`uses`", problems);
                stage.uses =
                    Located { value: value.text().unwrap_or_default().to_owned(), at: value.at.clone() };
                self.rewired = true;
            }
            ["in", port] => {
                check::check(
                    value,
                    &grammar::Shape::OneOrMore(&grammar::Shape::Output),
                    &format!("`{port}`"),
                    problems,
                );
                let is_stage = |name: &str| others.contains_key(name);
                let from = read::output_refs(value, &is_stage);
                for output in &from {
                    let unread = &self.unread;
                    check_output(output, &others, unread, problems);
                }
                stage.inputs.insert((*port).to_owned(), Input { at: path.at.clone(), from });
                self.rewired = true;
            }
            ["foreach", dim] => match stage.foreach.get_mut(*dim) {
                Some(entry) => *entry = (path.at.clone(), value.clone()),
                None => {
                    let known = stage.foreach.keys().map(String::as_str);
                    problems.push(
                        Diagnostic::new(
                            &path.at,
                            format!("`{name}` is not mapped over `{dim}` by itself"),
                            "set here",
                        )
                        .help(suggest(dim, known)),
                    );
                }
            },
            ["retries" | "timeout" | "resources", ..] => set_execution(stage, &parts, path, value, problems),
            ["with"] => {
                check::check(value, &grammar::Shape::Named(&grammar::Shape::Any), "`with`", problems);
                let entries = value.entries().iter();
                stage.with =
                    entries.map(|(key, node)| (key.value.clone(), (key.at.clone(), node.clone()))).collect();
            }
            ["with", param, deeper @ ..] | [param, deeper @ ..] => {
                let entry = stage
                    .with
                    .entry((*param).to_owned())
                    .or_insert_with(|| (path.at.clone(), Node { value: Value::Null, at: path.at.clone() }));
                entry.0 = path.at.clone();
                set_deep(&mut entry.1, deeper, path, value);
            }
        }
    }

    fn set_param(
        &mut self,
        scope: &Arc<str>,
        rest: &[String],
        path: &Located<String>,
        value: &Node,
        problems: &mut Diagnostics,
    ) {
        let Some(params) = Arc::make_mut(&mut self.scopes).get_mut(scope).map(|scope| &mut scope.params)
        else {
            return;
        };
        let (name, deeper) =
            rest.split_first().map_or(("", &[][..]), |(name, deeper)| (name.as_str(), deeper));
        match params.get_mut(name) {
            Some(param) => {
                // The value stands in the workflow's own file, or on the command line: its names are the workflow's.
                param.scope = "".into();
                set_deep(
                    &mut param.node,
                    &deeper.iter().map(String::as_str).collect::<Vec<_>>(),
                    path,
                    value,
                );
            }
            None => {
                let help = suggest(name, params.keys().map(String::as_str));
                problems.push(
                    Diagnostic::new(
                        &path.at,
                        format!("there is no param `{}`", join(scope, name)),
                        "set here",
                    )
                    .help(help),
                );
            }
        }
    }
}

/// Sets how a stage is run; checked as if it stood in the stage.
fn set_execution(
    stage: &mut Stage,
    parts: &[&str],
    path: &Located<String>,
    value: &Node,
    problems: &mut Diagnostics,
) {
    let mut entry = Node { value: Value::Null, at: path.at.clone() };
    set_deep(&mut entry, parts, path, value);
    let before = problems.0.len();
    for (key, value) in entry.entries() {
        check::check_key(&grammar::STAGE, key, value, problems);
        if problems.0.len() == before {
            read::read_execution(&key.value, value, &mut stage.execution);
        }
    }
}

/// Sets a value inside nested mappings, making those that are missing.
fn set_deep(node: &mut Node, path: &[&str], whole: &Located<String>, value: &Node) {
    let Some((key, rest)) = path.split_first() else {
        *node = value.clone();
        return;
    };
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return };
    let position = entries.iter().position(|(name, _)| name.value == *key).unwrap_or_else(|| {
        let empty = Node { value: Value::Null, at: whole.at.clone() };
        entries.push((Located { value: (*key).to_owned(), at: whole.at.clone() }, empty));
        entries.len() - 1
    });
    if let Some((_, inner)) = entries.get_mut(position) {
        set_deep(inner, rest, whole, value);
    }
}

/// Reads `path=value` as given to `--set`. A value that begins like a list, a mapping or a quoted text is YAML; others are
/// what YAML reads a scalar as, and else the text as it is, so that `=`, `-` or `:` need no quotes within quotes.
pub(crate) fn argument(
    text: &str,
    problems: &mut Diagnostics,
) -> Result<(Located<String>, Node), Diagnostic> {
    let at = Place::argument(text);
    let Some((path, value)) = text.split_once('=') else {
        return Err(Diagnostic::new(&at, "`--set` takes PATH=VALUE", "no `=` here")
            .help("e.g. --set pretrain.temperature=0.2"));
    };
    // The value is read by itself, and shown as a part of the argument.
    let mut own = Diagnostics::default();
    let begin = path.len() + 1;
    let shift = |problem: Diagnostic| problem.shifted(&at.source, begin);
    let node = if value.trim_start().starts_with(['[', '{', '"', '\'']) {
        node::parse(&Source::argument(value), &mut own).map_err(shift)?
    } else {
        let plain = || Value::Text(value.to_owned());
        let parsed = if value.is_empty() { plain() } else { node::scalar(value).unwrap_or_else(plain) };
        Node { value: parsed, at: Place::argument(value) }
    };
    own.0.into_iter().map(shift).for_each(|problem| problems.push(problem));
    let name = Place { source: at.source.clone(), span: 0..path.len() };
    Ok((Located { value: path.to_owned(), at: name }, shifted(node, &at.source, begin)))
}

/// A value that stands so many bytes later in another text.
fn shifted(node: Node, source: &Source, by: usize) -> Node {
    let value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(|item| shifted(item, source, by)).collect()),
        Value::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = Located { value: key.value, at: key.at.shifted(source, by) };
                    (key, shifted(value, source, by))
                })
                .collect(),
        ),
        plain => plain,
    };
    Node { value, at: node.at.shifted(source, by) }
}
