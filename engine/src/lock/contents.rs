//! What a workflow is made of now, and in what that differs from what is locked of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use restage_cache::{Digest, Store};
use toml::Spanned;

use super::Locked;
use crate::{
    plan::{Plan, Written},
    plugin::Code,
    workflow::{
        Diagnostic, Origin, Place, Source, Workflow,
        git::{Pin, root_of, short},
    },
};

/// What a workflow is made of now: what `restage lock` writes.
pub(crate) struct Contents {
    pub(super) workflow: PathBuf,
    pub(super) entries: Locked<(Digest, Place), (Pin, Place)>,
    /// Code of stage types: it knows which of its sources changed.
    code: BTreeMap<String, Arc<Code>>,
}

impl Contents {
    /// What a workflow is made of that is planned with the overrides `set`. `given` is its path as it was given, for people.
    pub(crate) fn new(given: &Path, set: &[String], workflow: &Workflow, plan: &Plan, store: &Store) -> Self {
        let texts = workflow.texts(set);
        let base = workflow.path.parent().unwrap_or(Path::new("."));
        let mut entries: Locked<(Digest, Place), (Pin, Place)> = Locked::default();
        let mut code = BTreeMap::new();
        for action in plan.graph.node_weights() {
            let step = &action.step;
            let Some(stage) = workflow.body.stages.get(&step.stage) else { continue };
            if !entries.stages.contains_key(&step.uses) {
                entries.stages.insert(step.uses.clone(), (step.code.identity, stage.uses.at.clone()));
                code.insert(step.uses.clone(), step.code.clone());
            }
            for written in &step.named.written {
                // What lies in a repository is what its commit says.
                let is_relative = Path::new(&written.text).is_relative();
                if is_relative && root_of(&written.folder, store).is_some() {
                    continue;
                }
                let at = stage.with.get(&written.param).map_or(&stage.uses.at, |(_, node)| &node.at);
                let list = if written.code { &mut entries.scripts } else { &mut entries.data };
                list.entry(key(written, base, &texts)).or_insert_with(|| (written.digest, at.clone()));
            }
        }
        for import in &workflow.imports {
            match &import.origin {
                Origin::Here => {
                    let path = relative(base, &import.path).to_string_lossy().into_owned();
                    entries.imports.insert(path, (import.digest, import.at.clone()));
                }
                Origin::Git(pin) => {
                    entries.git.insert(import.prefix.clone(), (pin.clone(), import.at.clone()));
                }
                Origin::SameRepository => {}
            }
        }
        Self { workflow: given.to_owned(), entries, code }
    }

    /// How many things are in it: stage types, files of data, scripts, imports.
    pub(crate) fn counts(&self) -> [(usize, &'static str); 4] {
        let Locked { stages, data, scripts, imports, git } = &self.entries;
        [
            (stages.len(), "stage type"),
            (data.len(), "data path"),
            (scripts.len(), "script"),
            (imports.len() + git.len(), "import"),
        ]
    }

    /// `source`: the lock's, where what is no longer used is told.
    pub(super) fn differences(
        &self,
        locked: &Locked<Spanned<Digest>, Spanned<Pin>>,
        source: Option<&Source>,
    ) -> Vec<Diagnostic> {
        let accept = format!("`restage lock {}` accepts it", self.workflow.display());
        let mut told = Told { list: Vec::new(), accept, source };
        self.stages(&locked.stages, &mut told);
        let now = &self.entries;
        let lists = [
            ("data", &now.data, &locked.data, "named here"),
            ("script", &now.scripts, &locked.scripts, "named here"),
            ("import", &now.imports, &locked.imports, "imported here"),
        ];
        for (what, now, then, label) in lists {
            for (key, (digest, at)) in now {
                match then.get(key) {
                    None => told.add(at, format!("{what} `{key}`: not in the lock"), label, ""),
                    Some(then) if then.get_ref() != digest => {
                        told.add(at, format!("{what} `{key}`: content changed"), label, "");
                    }
                    Some(_) => {}
                }
            }
            told.unused(what, then.iter().map(|(key, then)| (key, then.span())), now);
        }
        for (prefix, (pin, at)) in &now.git {
            let Some(then) = locked.git.get(prefix).map(Spanned::get_ref) else {
                told.add(at, format!("import `{prefix}`: not in the lock"), "imported here", "");
                continue;
            };
            if pin.commit != then.commit {
                let message = format!(
                    "import `{prefix}`: commit is {}, locked {}",
                    short(&pin.commit),
                    short(&then.commit)
                );
                told.add(at, message, "imported here", "");
            } else if pin != then {
                let shown = |pin: &Pin| match &pin.reference {
                    Some(reference) => format!("`{reference}` of {}", pin.git),
                    None => pin.git.clone(),
                };
                let message =
                    format!("import `{prefix}`: is from {}, locked from {}", shown(pin), shown(then));
                told.add(at, message, "imported here", "");
            }
        }
        told.unused("import", locked.git.iter().map(|(key, then)| (key, then.span())), &now.git);
        told.list
    }

    /// Stage types of one plugin change together, and are told together.
    fn stages(&self, locked: &BTreeMap<String, Spanned<Digest>>, told: &mut Told<'_>) {
        /// Stage types of a plugin with their places, by what its code is and was.
        type Together<'a> = BTreeMap<(&'a str, Digest, Option<Digest>), Vec<(&'a String, &'a Place)>>;
        let mut together = Together::new();
        for (uses, (digest, at)) in &self.entries.stages {
            let then = locked.get(uses).map(|then| *then.get_ref());
            if then != Some(*digest) {
                let plugin = uses.split('/').next().unwrap_or_default();
                together.entry((plugin, *digest, then)).or_default().push((uses, at));
            }
        }
        for ((_, now, then), stages) in together {
            let names: Vec<String> = stages.iter().map(|(uses, _)| format!("`{uses}`")).collect();
            let Some((uses, at)) = stages.first() else { continue };
            let what = format!("stage type{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "));
            match then {
                None => told.add(at, format!("{what}: not in the lock"), "used here", ""),
                Some(then) => {
                    let message = format!("{what}: code is {}, locked {}", digits(&now), digits(&then));
                    let code = self.code.get(*uses);
                    let sources = code.map(|code| code.changed_since(&then)).unwrap_or_default();
                    let why = match sources.as_slice() {
                        [] => {
                            "its sources, their dependencies, the compiler or its flags are others".to_owned()
                        }
                        [one] => format!("{one} differs"),
                        [one, rest @ ..] => format!("{one} and {} more differ", rest.len()),
                    };
                    told.add(at, message, "used here", &why);
                }
            }
        }
        told.unused("stage type", locked.iter().map(|(key, then)| (key, then.span())), &self.entries.stages);
    }
}

fn digits(digest: &Digest) -> String {
    short(&digest.to_string()).to_owned()
}

/// What differs so far.
struct Told<'a> {
    list: Vec<Diagnostic>,
    /// What to do about each.
    accept: String,
    /// The lock's text, where what is no longer used is told.
    source: Option<&'a Source>,
}

impl Told<'_> {
    fn add(&mut self, at: &Place, message: String, label: &str, why: &str) {
        let help = if why.is_empty() { self.accept.clone() } else { format!("{why}; {}", self.accept) };
        self.list.push(Diagnostic::new(at, message, label).help(help));
    }

    fn unused<'k, T>(
        &mut self,
        what: &str,
        locked: impl Iterator<Item = (&'k String, Range<usize>)>,
        now: &BTreeMap<String, T>,
    ) {
        let Some(source) = self.source else { return };
        for (key, span) in locked.filter(|(key, _)| !now.contains_key(*key)) {
            let line = source
                .text()
                .get(..span.start)
                .and_then(|before| before.rfind('\n'))
                .map_or(0, |end| end + 1);
            let at = Place { source: source.clone(), span: line..span.end };
            self.add(&at, format!("{what} `{key}`: in the lock, no longer used"), "locked here", "");
        }
    }
}

/// A path as it is locked: relative to the workflow's folder, whichever file it is written in; the value of a param or an
/// environment variable by its name, for that is what differs from machine to machine.
fn key(written: &Written, base: &Path, texts: &[(String, String)]) -> String {
    let text = &written.text;
    let of_value = |(name, value): &(String, String)| {
        let value = Some(value.trim_end_matches('/')).filter(|value| !value.is_empty())?;
        let rest = text.strip_prefix(value)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| (value.len(), format!("{name}{rest}")))
    };
    // The longest says most; of equal ones the name decides.
    let named: BTreeSet<(usize, String)> = texts.iter().filter_map(of_value).collect();
    if let Some((_, named)) = named.into_iter().next_back() {
        return named;
    }
    if written.folder == base || Path::new(text).is_absolute() {
        return text.clone();
    }
    relative(base, &written.folder.join(text)).to_string_lossy().into_owned()
}

/// A path seen from a folder; both are absolute, and links are not looked at.
fn relative(base: &Path, path: &Path) -> PathBuf {
    let plain = |path: &Path| {
        let mut parts = Vec::new();
        for component in path.components() {
            match component {
                Component::ParentDir => drop(parts.pop()),
                Component::Normal(name) => parts.push(name.to_owned()),
                _ => {}
            }
        }
        parts
    };
    let (base, path) = (plain(base), plain(path));
    let shared = base.iter().zip(&path).take_while(|(a, b)| a == b).count();
    let up = base.iter().skip(shared).map(|_| "..".into());
    up.chain(path.into_iter().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_workflows_folder() {
        let seen = |path: &str| relative(Path::new("/a/b"), Path::new(path)).display().to_string();
        assert_eq!(seen("/a/b/c/d"), "c/d");
        assert_eq!(seen("/a/b/parts/../../data/x"), "../data/x");
        assert_eq!(seen("/x"), "../../x");
    }
}
