//! What of a machine does not travel: values of its environment, and places of its files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    plan::PastAction,
    run::event::Event,
    workflow::{Node, Workflow, referred},
};

/// Shorter values are found in texts that have nothing to do with them.
const SHORTEST: usize = 4;

/// The mark of a value from the environment: in its place stands what the workflow writes.
const ENV_MARK: &str = "$env";

/// What the environment gave to a workflow.
#[derive(Default)]
pub(super) struct Hidden {
    /// Params of stages that it is in, with what is written there.
    params: BTreeMap<(String, String), Value>,
    /// Values and how a workflow writes them, long ones first.
    values: Vec<(String, String)>,
}

impl Hidden {
    pub(super) fn of(workflow: &Workflow) -> Self {
        let scopes = &workflow.body.scopes;
        let mut values = BTreeSet::new();
        for scope in scopes.values() {
            for (name, node) in scope.env.iter() {
                // A default stands in the workflow.
                if let Some(value) = node.text().filter(|value| value.len() >= SHORTEST)
                    && std::env::var(name).is_ok_and(|set| set == value)
                {
                    values.insert((value.to_owned(), format!("${{env.{name}}}")));
                }
            }
        }
        let mut values: Vec<(String, String)> = values.into_iter().collect();
        values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        let mut hidden = Self { params: BTreeMap::new(), values };
        let sweep = &workflow.sweep;
        let axes = sweep.ablate.iter().filter_map(|ablation| ablation.vary.as_ref());
        let axes = axes.chain(&sweep.grid).chain(&sweep.zip);
        let set = sweep.ablate.iter().flat_map(|ablation| &ablation.set).map(|(path, node)| (path, node));
        let set = set.chain(axes.flat_map(|axis| axis.values.iter().map(move |node| (&axis.path, node))));
        let set: Vec<(&str, &Node)> = set
            .map(|(path, node)| (path.value.as_str(), node))
            .filter(|(_, node)| names_env(node, workflow, "", 0))
            .collect();
        for (name, stage) in &workflow.body.stages {
            for (param, (_, node)) in &stage.with {
                let path = format!("{name}.{param}");
                let is_set = |(set, _): &&(&str, &Node)| *set == path || set.starts_with(&format!("{path}."));
                let written = set.iter().find(is_set).map(|(_, node)| node.to_json());
                let own = || names_env(node, workflow, &stage.scope, 0) || names_set(node, &set);
                if let Some(written) = written.or_else(|| own().then(|| node.to_json())) {
                    hidden.params.insert((name.to_string(), param.clone()), written);
                }
            }
        }
        hidden
    }

    /// A stage's params, those of the environment as they are written.
    pub(super) fn params(&self, stage: &str, params: &Value) -> Value {
        let mut params = params.clone();
        for (param, value) in params.as_object_mut().into_iter().flatten() {
            let is_content = value.get("$digest").is_some();
            if let Some(written) = self.params.get(&(stage.to_owned(), param.clone())).filter(|_| !is_content)
            {
                *value = json!({ ENV_MARK: written });
            }
        }
        self.texts(&mut params);
        params
    }

    /// All texts in a value.
    pub(super) fn texts(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.texts(item)),
            Value::Object(entries) => entries.values_mut().for_each(|value| self.texts(value)),
            _ => {}
        }
    }

    pub(super) fn text(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (value, written)| text.replace(value, written))
    }

    /// An event of a run as others may read it. `None` for what tells them nothing.
    pub(super) fn event(&self, event: Event, workflow: &str) -> Option<Event> {
        Some(match event {
            Event::Started(mut started) => {
                started.workflow = workflow.into();
                Event::Started(started)
            }
            Event::Done { action, how, key, outputs, past, metrics } => {
                let keyed_params = self.params(&past.stage, &past.keyed_params);
                let past = Box::new(PastAction { keyed_params, ..*past });
                Event::Done { action, how, key, outputs, past, metrics }
            }
            Event::Failed { action, message, milliseconds } => {
                Event::Failed { action, message: without_places(&message), milliseconds }
            }
            Event::Metric { .. } | Event::Skipped { .. } | Event::Finished { .. } => event,
            Event::Running { .. }
            | Event::Waiting { .. }
            | Event::Log { .. }
            | Event::Progress { .. }
            | Event::Notice { .. }
            | Event::Retrying { .. } => return None,
        })
    }
}

/// Whether a value refers to the environment, by itself or by params.
fn names_env(node: &Node, workflow: &Workflow, scope: &str, depth: usize) -> bool {
    let mut found = Vec::new();
    referred(node, "env", &mut found);
    if !found.is_empty() || depth > 100 {
        return true;
    }
    referred(node, "params", &mut found);
    let params = workflow.body.scopes.get(scope).map(|scope| &scope.params);
    let param = |name: &&str| params?.get(name.split('.').next()?);
    found.iter().filter_map(param).any(|param| names_env(&param.node, workflow, &param.scope, depth + 1))
}

/// Whether a value refers to a param that a variant sets to something of the environment.
fn names_set(node: &Node, set: &[(&str, &Node)]) -> bool {
    let mut found = Vec::new();
    referred(node, "params", &mut found);
    let names = |name: &&str| set.iter().any(|(path, _)| path.strip_prefix("params.") == Some(name));
    found.iter().any(names)
}

/// A message without the folders of absolute paths in it.
fn without_places(message: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '(' | ')' | ',' | ';' | '=');
    let mut told = String::with_capacity(message.len());
    for piece in message.split_inclusive(ends) {
        let (word, end) = match piece.char_indices().next_back().filter(|(_, last)| ends(*last)) {
            Some((place, _)) => piece.split_at(place),
            None => (piece, ""),
        };
        match word.find('/').filter(|start| word.get(..*start).is_some_and(|before| !before.contains(".."))) {
            Some(start) if start == 0 || word.get(..start).is_some_and(|before| before.ends_with(':')) => {
                let (before, path) = word.split_at(start);
                let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
                told.push_str(before);
                told.push_str("…/");
                told.push_str(&name.unwrap_or_default());
            }
            _ => told.push_str(word),
        }
        told.push_str(end);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_names_of_files_and_lose_their_folders() {
        for (message, told) in [
            ("cannot read /home/me/x/y.h5: no such file", "cannot read …/y.h5: no such file"),
            ("in `/groups/a b`", "in `…/a b`"),
            ("1/2 of and/or, ../data/x", "1/2 of and/or, ../data/x"),
            ("file:///home/me/x", "file:…/x"),
            ("", ""),
        ] {
            assert_eq!(without_places(message), told);
        }
    }

    #[test]
    fn values_of_the_environment_go_by_their_names() {
        let hidden = Hidden {
            params: [(("load".to_owned(), "user".to_owned()), json!("${env.WHO}"))].into(),
            values: vec![("/groups/secret".into(), "${env.DATA}".into())],
        };
        let params = json!({ "user": 7, "path": { "$digest": "aa" }, "note": "of /groups/secret/x" });
        assert_eq!(
            hidden.params("load", &params),
            json!({ "user": { "$env": "${env.WHO}" }, "path": { "$digest": "aa" }, "note": "of ${env.DATA}/x" })
        );
        assert_eq!(hidden.params("other", &json!({ "user": 7 })), json!({ "user": 7 }));
    }
}
