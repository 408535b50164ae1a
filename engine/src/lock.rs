//! `restage.lock`: what the workflows of a folder are made of, beside them and under version control.
//!
//! ```toml
//! version = 1
//!
//! [workflows."regions.yaml".stages]
//! "visium/load" = "5f0c…"                    # the plugin's code, by its identity
//!
//! [workflows."regions.yaml".data]
//! "${env.DATA}/A1" = "93b1…"                 # as the workflow writes it
//!
//! [workflows."regions.yaml".git]
//! prep = { git = "https://…", ref = "main", commit = "…" }
//! ```
//!
//! One file for all workflows of a folder, one line an entry, sorted: two branches that lock different things merge. Paths are
//! relative to that folder, and values of params and environment variables go by their names, so that the lock is that of others too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    io,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use restage_cache::{Digest, Store};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    plan::{Plan, Written},
    plugin::Code,
    workflow::{
        Diagnostic, Origin, Place, Source, Workflow,
        git::{Pin, root_of, short},
    },
};

/// The file's name.
pub(crate) const FILE: &str = "restage.lock";

/// Version of the file.
const VERSION: u32 = 1;

const HEAD: &str = "# What the workflows here are made of: code, data, imports. `restage lock WORKFLOW` writes it, `restage run --locked`\n\
                    # runs nothing else. It belongs under version control, and is not edited by hand.\n";

/// Why there is no lock to compare with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// There is none.
    #[error("there is no {FILE} beside {}", .0.display())]
    None(PathBuf),
    /// There is one, for other workflows.
    #[error("the {FILE} beside {} has nothing of it", .0.display())]
    NotOf(PathBuf),
    /// It cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what `restage lock` writes.
    #[error("{} cannot be understood: {message}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        message: String,
    },
}

impl LockError {
    /// What to do.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::None(workflow) | Self::NotOf(workflow) => {
                Some(format!("`restage lock {}` writes it", workflow.display()))
            }
            Self::Io { .. } => None,
            Self::Broken { message, .. } if message.contains("<<<<<<<") => Some(
                "two branches changed it: take either side, then let `restage lock WORKFLOW` write it"
                    .to_owned(),
            ),
            Self::Broken { .. } => Some(
                "take it from version control again, or remove it and let `restage lock WORKFLOW` write it"
                    .to_owned(),
            ),
        }
    }
}

/// The lock of a folder.
#[derive(Default)]
pub(crate) struct Lock {
    /// Its text, for places in it.
    source: Option<Source>,
    workflows: BTreeMap<String, Locked<Spanned<Digest>, Spanned<Pin>>>,
}

/// What one workflow is made of: digests, commits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound = "D: Deserialize<'de>, P: Deserialize<'de>")]
struct Locked<D, P> {
    /// Code of stage types.
    #[serde(default)]
    stages: BTreeMap<String, D>,
    /// Files and folders that params name.
    #[serde(default)]
    data: BTreeMap<String, D>,
    /// Scripts that params name.
    #[serde(default)]
    scripts: BTreeMap<String, D>,
    /// Imported files.
    #[serde(default)]
    imports: BTreeMap<String, D>,
    /// Imports from repositories, by their prefix.
    #[serde(default)]
    git: BTreeMap<String, P>,
}

impl<D, P> Default for Locked<D, P> {
    fn default() -> Self {
        let [stages, data, scripts, imports] = [(); 4].map(|()| BTreeMap::new());
        Self { stages, data, scripts, imports, git: BTreeMap::new() }
    }
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    #[serde(default)]
    workflows: BTreeMap<String, Locked<Spanned<Digest>, Spanned<Pin>>>,
}

/// What a workflow is made of now: what `restage lock` writes.
pub(crate) struct Contents {
    workflow: PathBuf,
    entries: Locked<(Digest, Place), (Pin, Place)>,
    /// Code of stage types: it knows which of its sources changed.
    code: BTreeMap<String, Arc<Code>>,
}

/// The place of a workflow's lock.
pub(crate) fn beside(workflow: &Path) -> PathBuf {
    workflow.with_file_name(FILE)
}

/// The name of a workflow in its lock.
fn name_of(workflow: &Path) -> String {
    workflow.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Lock {
    /// The lock beside a workflow; an empty one where there is none.
    ///
    /// # Errors
    /// If there is one that cannot be understood.
    pub(crate) fn beside(workflow: &Path) -> Result<Self, LockError> {
        let path = beside(workflow);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }

    fn parse(path: &Path, text: String) -> Result<Self, LockError> {
        let broken = |message: String| LockError::Broken { path: path.to_owned(), message };
        let OnDisk { version, workflows } =
            toml::from_str(&text).map_err(|error| broken(error.to_string().trim_end().to_owned()))?;
        if version != VERSION {
            return Err(broken(format!(
                "it is of version {version}, and this `restage` knows version {VERSION}"
            )));
        }
        Ok(Self { source: Some(Source::new(path, text)), workflows })
    }

    /// Whether it has something of a workflow.
    pub(crate) fn has(&self, workflow: &Path) -> bool {
        self.workflows.contains_key(&name_of(workflow))
    }

    /// The commits of a workflow's imports, by their prefix.
    pub(crate) fn pins(&self, workflow: &Path) -> BTreeMap<String, Pin> {
        let locked = self.workflows.get(&name_of(workflow));
        let pins = locked.into_iter().flat_map(|locked| &locked.git);
        pins.map(|(prefix, pin)| (prefix.clone(), pin.get_ref().clone())).collect()
    }

    /// Everything in which a workflow differs from what is locked of it. `whole`: what is locked and not there is told too.
    ///
    /// # Errors
    /// If nothing is locked of it.
    pub(crate) fn differences(&self, now: &Contents, whole: bool) -> Result<Vec<Diagnostic>, LockError> {
        let source = self.source.as_ref().ok_or_else(|| LockError::None(now.workflow.clone()))?;
        let locked = self.workflows.get(&name_of(&now.workflow));
        let locked = locked.ok_or_else(|| LockError::NotOf(now.workflow.clone()))?;
        Ok(now.differences(locked, whole.then_some(source)))
    }

    /// Writes what a workflow is made of now, and forgets workflows that are no longer there. What others are made of stays. Whether
    /// that changes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, now: &Contents) -> Result<bool, LockError> {
        let path = beside(&now.workflow);
        let own = name_of(&now.workflow);
        let others =
            self.workflows.iter().filter(|(name, _)| **name != own && path.with_file_name(name).is_file());
        let mut all: BTreeMap<&str, String> = others
            .map(|(name, locked)| (name.as_str(), locked.text(name, Spanned::get_ref, Spanned::get_ref)))
            .collect();
        all.insert(&own, now.entries.text(&own, |(digest, _)| digest, |(pin, _)| pin));
        let text = whole(all);
        if self.source.as_ref().is_some_and(|source| source.text() == text) {
            return Ok(false);
        }
        let io = |source| LockError::Io { path: path.clone(), source };
        // In one piece: who reads it meanwhile has the old one or the new one.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut aside = tempfile::Builder::new().prefix(".restage.lock").tempfile_in(folder).map_err(io)?;
        io::Write::write_all(&mut aside, text.as_bytes()).map_err(io)?;
        let mode = std::fs::metadata(&path).map_or_else(
            |_| std::os::unix::fs::PermissionsExt::from_mode(0o644),
            |metadata| metadata.permissions(),
        );
        aside.as_file().set_permissions(mode).map_err(io)?;
        aside.persist(&path).map_err(|error| io(error.error))?;
        Ok(true)
    }
}

impl<D, P> Locked<D, P> {
    /// The lines of a workflow.
    fn text(&self, workflow: &str, digest: fn(&D) -> &Digest, pin: fn(&P) -> &Pin) -> String {
        let mut text = String::new();
        let mut table = |title: &str, lines: Vec<(&String, String)>| {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n[workflows.{}.{title}]", quoted(workflow));
            }
            for (key, value) in lines {
                let _ = writeln!(text, "{} = {value}", quoted(key));
            }
        };
        let tables = [
            ("stages", &self.stages),
            ("data", &self.data),
            ("scripts", &self.scripts),
            ("imports", &self.imports),
        ];
        for (title, entries) in tables {
            let line = |(key, value): (_, &D)| (key, format!("\"{}\"", digest(value)));
            table(title, entries.iter().map(line).collect());
        }
        let line = |(key, value): (_, &P)| {
            let Pin { git, reference, commit } = pin(value);
            let reference = reference
                .as_ref()
                .map(|reference| format!("ref = {}, ", quoted(reference)))
                .unwrap_or_default();
            (key, format!("{{ git = {}, {reference}commit = {} }}", quoted(git), quoted(commit)))
        };
        table("git", self.git.iter().map(line).collect());
        if text.is_empty() {
            // A workflow without anything is locked all the same.
            let _ = writeln!(text, "\n[workflows.{}]", quoted(workflow));
        }
        text
    }
}

/// The file, of the lines of its workflows.
fn whole(workflows: BTreeMap<&str, String>) -> String {
    let mut text = format!("{HEAD}version = {VERSION}\n");
    text.extend(workflows.into_values());
    text
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => drop(write!(quoted, "\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
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
    fn differences(
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
    use proptest::prelude::*;

    use super::*;

    /// A lock of plain values as text, and what is read of it as text again.
    fn again(all: &BTreeMap<String, Locked<Digest, Pin>>) -> (String, String) {
        let text = whole(
            all.iter().map(|(name, locked)| (name.as_str(), locked.text(name, |d| d, |p| p))).collect(),
        );
        let lock = Lock::parse(Path::new("restage.lock"), text.clone())
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let read = lock.workflows.iter();
        let read =
            read.map(|(name, locked)| (name.as_str(), locked.text(name, Spanned::get_ref, Spanned::get_ref)));
        (text, whole(read.collect()))
    }

    fn entries() -> impl Strategy<Value = BTreeMap<String, Digest>> {
        prop::collection::btree_map(any::<String>(), any::<u64>(), 0..4)
            .prop_map(|map| map.into_iter().map(|(key, n)| (key, Digest::of(&n.to_le_bytes()))).collect())
    }

    fn pin() -> impl Strategy<Value = Pin> {
        (any::<String>(), prop::option::of(any::<String>()), "[0-9a-f]{40}")
            .prop_map(|(git, reference, commit)| Pin { git, reference, commit })
    }

    fn locked() -> impl Strategy<Value = Locked<Digest, Pin>> {
        let git = prop::collection::btree_map("[a-z.]{1,4}", pin(), 0..3);
        (entries(), entries(), entries(), entries(), git)
            .prop_map(|(stages, data, scripts, imports, git)| Locked { stages, data, scripts, imports, git })
    }

    proptest! {
        #[test]
        fn a_lock_is_read_as_it_was_written_one_line_an_entry(all in prop::collection::btree_map(any::<String>(), locked(), 0..3)) {
            let (text, read) = again(&all);
            prop_assert_eq!(&text, &read);
            let count = |locked: &Locked<Digest, Pin>| {
                let tables = [locked.stages.len(), locked.data.len(), locked.scripts.len(), locked.imports.len(), locked.git.len()];
                tables.into_iter().sum::<usize>()
            };
            // And one for the version.
            let written = text.lines().filter(|line| line.starts_with(['"', 'v'])).count();
            prop_assert_eq!(written, 1 + all.values().map(count).sum::<usize>());
        }
    }

    #[test]
    fn a_lock_looks_like_this() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let pin = |reference: Option<&str>| Pin {
            git: "https://host/repo.git".into(),
            reference: reference.map(str::to_owned),
            commit: "0123456789abcdef0123456789abcdef01234567".into(),
        };
        let regions: Locked<Digest, Pin> = Locked {
            stages: [("visium/load".into(), digest("a")), ("ssl/pretrain".into(), digest("b"))].into(),
            data: [("${env.DATA}/A1".into(), digest("c")), ("../data/ä \"b\".h5".into(), digest("d"))].into(),
            scripts: [("train.py".into(), digest("e"))].into(),
            imports: [("parts/preprocess.yaml".into(), digest("f"))].into(),
            git: [("prep".into(), pin(None)), ("prep.inner".into(), pin(Some("main")))].into(),
        };
        let all = [("regions.yaml".to_owned(), regions), ("empty.yaml".to_owned(), Locked::default())];
        let (text, read) = again(&all.into());
        assert_eq!(text, read);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_is_no_lock_is_told() {
        let told = |text: &str| {
            let error = Lock::parse(Path::new("restage.lock"), text.to_owned()).err().unwrap();
            (error.to_string(), error.help().unwrap())
        };
        assert!(told("version = 2\n").0.contains("version 2"));
        assert!(told("version = 1\nworkflow = {}\n").0.contains("`workflow`"));
        assert!(told("version = 1\n[workflows.\"w\".stages]\n\"a/b\" = \"12\"\n").0.contains("line 3"));
        let (message, help) = told("version = 1\n<<<<<<< HEAD\n");
        assert!(message.contains("line 2") && help.contains("two branches"), "{message}: {help}");
    }

    #[test]
    fn paths_are_seen_from_the_workflows_folder() {
        let seen = |path: &str| relative(Path::new("/a/b"), Path::new(path)).display().to_string();
        assert_eq!(seen("/a/b/c/d"), "c/d");
        assert_eq!(seen("/a/b/parts/../../data/x"), "../data/x");
        assert_eq!(seen("/x"), "../../x");
    }
}
