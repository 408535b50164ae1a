//! Overrides: `pretrain.temperature`, `params.epochs`, `regions.in.features`, `regions.uses` set to another value.

use super::{
    Diagnostic, Diagnostics, Input, Located, Node, Place, Source, Value, Workflow, diagnostic::suggest, node,
    read,
};

impl Workflow {
    /// Sets the value at a path.
    pub(crate) fn set(&mut self, path: &Located<String>, value: &Node, problems: &mut Diagnostics) {
        let mut parts = path.value.split('.');
        let (first, rest) = (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>());
        if first == "params" {
            return self.set_param(path, &rest, value, problems);
        }
        let names: Vec<String> = self.stages.keys().cloned().collect();
        let Some(stage) = self.stages.get_mut(first) else {
            let known = names.iter().map(String::as_str).chain(["params"]);
            problems.push(
                Diagnostic::new(&path.at, format!("there is no stage `{first}`"), "set here")
                    .help(suggest(first, known)),
            );
            return;
        };
        match rest.as_slice() {
            [] => problems.push(
                Diagnostic::new(&path.at, format!("`{first}` is a stage, not a value"), "set here")
                    .help(format!("name a param of it: `{first}.PARAM`")),
            ),
            ["uses"] => match &value.value {
                Value::Text(text) => stage.uses = Located { value: text.clone(), at: value.at.clone() },
                _ => problems.push(Diagnostic::new(
                    &value.at,
                    "`uses` is a stage type",
                    "expected `plugin/name`",
                )),
            },
            ["in", port] => {
                let from = read::output_refs(value, problems);
                for output in &from {
                    if !names.contains(&output.value.stage) {
                        let message = format!("there is no stage `{}`", output.value.stage);
                        let known = names.iter().map(String::as_str);
                        problems.push(
                            Diagnostic::new(&output.at, message, "read here")
                                .help(suggest(&output.value.stage, known)),
                        );
                    }
                }
                stage.inputs.insert((*port).to_owned(), Input { at: path.at.clone(), from });
            }
            [param, deeper @ ..] => {
                let entry = stage
                    .with
                    .entry((*param).to_owned())
                    .or_insert_with(|| (path.at.clone(), Node { value: Value::Null, at: path.at.clone() }));
                entry.0 = path.at.clone();
                set_deep(&mut entry.1, deeper, path, value);
            }
        }
    }

    fn set_param(&mut self, path: &Located<String>, rest: &[&str], value: &Node, problems: &mut Diagnostics) {
        let known: Vec<String> = self.params.keys().cloned().collect();
        match rest.split_first().and_then(|(name, deeper)| Some((self.params.get_mut(*name)?, deeper))) {
            Some((node, deeper)) => set_deep(node, deeper, path, value),
            None => problems.push(
                Diagnostic::new(&path.at, format!("the workflow has no `{}`", path.value), "set here").help(
                    suggest(rest.first().copied().unwrap_or_default(), known.iter().map(String::as_str)),
                ),
            ),
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

/// Reads `path=value` as given to `--set`; the value is YAML.
pub(crate) fn argument(text: &str) -> Result<(Located<String>, Node), Diagnostic> {
    let at = Place::argument(text);
    let Some((path, value)) = text.split_once('=') else {
        return Err(Diagnostic::new(&at, "`--set` takes PATH=VALUE", "no `=` here")
            .help("e.g. --set pretrain.temperature=0.2"));
    };
    let source = Source::new(std::path::Path::new("command line"), value.to_owned());
    let node = node::parse(&source)?;
    Ok((Located { value: path.to_owned(), at }, node))
}
