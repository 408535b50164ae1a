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

mod contents;

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

pub(crate) use contents::Contents;
use restage_cache::Digest;
use serde::Deserialize;
use toml::Spanned;

use crate::workflow::{Diagnostic, Source, git::Pin};

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
}
