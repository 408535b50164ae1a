//! What values may refer to: params, which may refer to each other, and the declared environment, file by file.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;

use super::{
    Diagnostic, Diagnostics, Node,
    reference::{Names, interpolate, referred},
};

/// Scopes by the prefix of the file that declares them; the workflow's own prefix is empty.
pub(crate) type Scopes = IndexMap<Arc<str>, Scope>;

/// What one file declares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) params: IndexMap<String, Param>,
    /// Declared environment variables with their values.
    pub(crate) env: Arc<IndexMap<String, Node>>,
}

/// A param as written.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) node: Node,
    /// Prefix of the file whose names it refers to: where an import gives a value, that is not the file that declares it.
    pub(crate) scope: Arc<str>,
}

/// Scopes with all references replaced.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    params: HashMap<Arc<str>, IndexMap<String, Node>>,
    env: HashMap<Arc<str>, Arc<IndexMap<String, Node>>>,
    none: IndexMap<String, Node>,
}

impl Resolved {
    /// Replaces the references of all params. Unknown ones and circles are told once.
    pub(crate) fn new(scopes: &Scopes, problems: &mut Diagnostics) -> Self {
        let raw = |scope: &Scope| -> IndexMap<String, Node> {
            scope.params.iter().map(|(name, param)| (name.clone(), param.node.clone())).collect()
        };
        let mut resolved = Self {
            params: scopes.iter().map(|(prefix, scope)| (prefix.clone(), raw(scope))).collect(),
            env: scopes.iter().map(|(prefix, scope)| (prefix.clone(), scope.env.clone())).collect(),
            none: IndexMap::new(),
        };
        let mut walk = Walk { scopes, resolved: &mut resolved, states: HashMap::new(), problems };
        for (prefix, scope) in scopes {
            for name in scope.params.keys() {
                walk.visit(prefix, name);
            }
        }
        resolved
    }

    /// What values of a file may refer to.
    pub(crate) fn names(&self, prefix: &str) -> [(&'static str, &IndexMap<String, Node>); 2] {
        let env = self.env.get(prefix).map_or(&self.none, |env| &**env);
        [("params", self.params.get(prefix).unwrap_or(&self.none)), ("env", env)]
    }
}

/// How far a param is: absent from the map, on the way, or done.
#[derive(Clone, Copy, PartialEq)]
enum State {
    OnTheWay,
    Done,
}

/// Visits params so that what one refers to comes before it.
struct Walk<'a> {
    scopes: &'a Scopes,
    resolved: &'a mut Resolved,
    states: HashMap<(Arc<str>, String), State>,
    problems: &'a mut Diagnostics,
}

impl Walk<'_> {
    fn visit(&mut self, prefix: &Arc<str>, name: &str) {
        let scopes = self.scopes;
        let Some(param) = scopes.get(prefix).and_then(|scope| scope.params.get(name)) else { return };
        let id = (prefix.clone(), name.to_owned());
        match self.states.get(&id) {
            Some(State::Done) => return,
            Some(State::OnTheWay) => {
                let message = format!("the param `{name}` refers to itself, directly or through others");
                self.problems.push(Diagnostic::new(&param.node.at, message, "part of the circle"));
                return;
            }
            None => {}
        }
        self.states.insert(id.clone(), State::OnTheWay);
        let mut others = Vec::new();
        referred(&param.node, "params", &mut others);
        for other in &others {
            self.visit(&param.scope, other);
        }
        if !others.is_empty() || has_reference(&param.node) {
            let names: &Names<'_> = &self.resolved.names(&param.scope);
            let node = interpolate(&param.node, names, self.problems);
            if let Some(value) = self.resolved.params.get_mut(prefix).and_then(|params| params.get_mut(name))
            {
                *value = node;
            }
        }
        self.states.insert(id, State::Done);
    }
}

fn has_reference(node: &Node) -> bool {
    match &node.value {
        super::Value::Text(text) => text.contains("${"),
        super::Value::List(items) => items.iter().any(has_reference),
        super::Value::Map(entries) => entries.iter().any(|(_, value)| has_reference(value)),
        _ => false,
    }
}
