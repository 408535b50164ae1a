//! What values may refer to: params, which may refer to each other, and the declared environment, file by file.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;

use super::{
    Diagnostic, Diagnostics, Node, Value,
    reference::{Names, interpolate, join, referred},
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

/// Longer chains of params that refer to each other are nobody's workflow.
const MAX_CHAIN: usize = 100;

/// What references among params may bring in all together.
const ROOM: usize = 1 << 24;

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
        let mut walk = Walk {
            scopes,
            resolved: &mut resolved,
            states: HashMap::new(),
            open: Vec::new(),
            room: ROOM,
            problems,
        };
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

/// A param by the prefix of its file and its name.
type Id = (Arc<str>, String);

/// Visits params so that what one refers to comes before it.
struct Walk<'a> {
    scopes: &'a Scopes,
    resolved: &'a mut Resolved,
    states: HashMap<Id, State>,
    /// Those on the way, each referring to the next.
    open: Vec<Id>,
    room: usize,
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
                self.tell_circle(&id);
                return self.set(&id, Value::Unknown, &param.node);
            }
            None if self.open.len() >= MAX_CHAIN => {
                let message = format!("more than {MAX_CHAIN} params refer to each other in a row");
                self.problems.push(
                    Diagnostic::new(&param.node.at, message, "one too many")
                        .help("refer to the first of them directly"),
                );
                return self.set(&id, Value::Unknown, &param.node);
            }
            None => {}
        }
        self.states.insert(id.clone(), State::OnTheWay);
        self.open.push(id.clone());
        let mut others = Vec::new();
        referred(&param.node, "params", &mut others);
        for other in &others {
            self.visit(&param.scope, other);
        }
        self.open.pop();
        // Of a circle, nothing is known.
        let known = self.states.get(&id) == Some(&State::OnTheWay);
        if known && (!others.is_empty() || has_reference(&param.node)) {
            let names: &Names<'_> = &self.resolved.names(&param.scope);
            let node = interpolate(&param.node, names, &mut self.room, self.problems);
            self.set(&id, node.value.clone(), &node);
        }
        self.states.insert(id, State::Done);
    }

    fn set(&mut self, id: &Id, value: Value, node: &Node) {
        let params = self.resolved.params.get_mut(&id.0);
        if let Some(place) = params.and_then(|params| params.get_mut(&id.1)) {
            *place = Node { value, at: node.at.clone() };
        }
        self.states.insert(id.clone(), State::Done);
    }

    /// Tells the circle that closes at a param.
    fn tell_circle(&mut self, id: &Id) {
        let circle = self.open.iter().skip_while(|open| *open != id).cloned().collect::<Vec<_>>();
        let name = |(prefix, name): &Id| join(prefix, name);
        let names: Vec<String> = circle.iter().chain([id]).map(name).collect();
        let message = match circle.as_slice() {
            [_] => format!("the param `{}` refers to itself", name(id)),
            _ => format!("params refer to each other in a circle: {}", names.join(" -> ")),
        };
        let places = circle.iter().zip(names.iter().zip(names.iter().skip(1)));
        let places = places.filter_map(|((prefix, param), (name, next))| {
            let at = &self.scopes.get(prefix)?.params.get(param)?.node.at;
            Some((at, format!("`{name}` refers to `{next}`")))
        });
        let problem = places.take(6).fold(None, |problem: Option<Diagnostic>, (at, label)| match problem {
            Some(problem) => Some(problem.and(at, label)),
            None => Some(Diagnostic::new(at, &message, label)),
        });
        if let Some(problem) = problem {
            self.problems.push(problem.help(match circle.as_slice() {
                [_] => "give it a value of its own",
                _ => "give one of them a value of its own",
            }));
        }
    }
}

fn has_reference(node: &Node) -> bool {
    match &node.value {
        Value::Text(text) => text.contains("${"),
        Value::List(items) => items.iter().any(has_reference),
        Value::Map(entries) => entries.iter().any(|(_, value)| has_reference(value)),
        _ => false,
    }
}
