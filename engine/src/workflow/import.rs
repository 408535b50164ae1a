//! `import:`: the stages of another file under a prefix, with values for its params.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use restage_cache::Digest;

use super::{
    Diagnostic, Diagnostics, Located, Node, Place, Source,
    diagnostic::{nearest, suggest},
    file,
    git::{self, Git, Pin},
    node,
    read::{self, Part},
    reference::join,
    scope::Param,
};

/// More files than this are nobody's workflow: files that import each other twice double at every step.
const MAX_FILES: usize = 200;

/// A file that is imported.
#[derive(Clone, Debug)]
pub(crate) struct Imported {
    /// The prefix of its stages.
    pub(crate) prefix: String,
    /// Where its path stands.
    pub(crate) at: Place,
    /// The file.
    pub(crate) path: PathBuf,
    /// Of its text.
    pub(crate) digest: Digest,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

/// Where an imported file comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// It lies here.
    Here,
    /// From a repository, by this import.
    Git(Pin),
    /// From a repository, which another import names.
    SameRepository,
}

/// Which files are being read, so that circles are seen, and which were.
pub(super) struct Loader<'a> {
    open: Vec<PathBuf>,
    /// Where repositories are; `None` where none are asked.
    git: Option<&'a Git>,
    /// The prefixes of the files that are being read.
    prefixes: Vec<String>,
    /// The repository of the file that is being read, if it is of one.
    repository: Option<Repository>,
    pub(super) imported: Vec<Imported>,
}

/// The repository that a file is of.
#[derive(Clone)]
pub(super) struct Repository {
    /// Its files.
    pub(super) root: PathBuf,
    /// For people: its URL and commit.
    shown: String,
    /// Whether plugins that its files name are built.
    pub(super) plugins: bool,
    /// Links that were left out.
    links: Arc<[String]>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(path: &Path, git: Option<&'a Git>) -> Self {
        Self {
            open: vec![canonical(path)],
            git,
            prefixes: Vec::new(),
            repository: None,
            imported: Vec::new(),
        }
    }

    /// The repository of the file that is being read, if it is of one.
    pub(super) fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Reads an imported file. What is wrong with it is told at its own places; `None` if nothing can be had from it.
pub(super) fn import(
    prefix: &Located<String>,
    node: &Node,
    folder: &Path,
    loader: &mut Loader<'_>,
    problems: &mut Diagnostics,
) -> Option<Part> {
    loader.prefixes.push(prefix.value.clone());
    let outer = loader.repository.clone();
    let part = read_file(node, folder, loader, problems);
    loader.repository = outer;
    loader.prefixes.pop();
    part.map(|part| under(part, &prefix.value))
}

fn read_file(
    node: &Node,
    folder: &Path,
    loader: &mut Loader<'_>,
    problems: &mut Diagnostics,
) -> Option<Part> {
    let written = node.get("path").and_then(|path| Some((path.text()?, &path.at)));
    let origin = origin(node, loader, problems)?;
    let (text, at) = written?;
    let mut wrong = |message: String, label: &str, help: &str| {
        problems.push(Diagnostic::new(at, message, label).help(help));
        None
    };
    // From a repository, a path begins at its root.
    let (path, name) = match loader.repository.clone() {
        None => (folder.join(text), None),
        Some(Repository { root, shown, links, .. }) => {
            let begin = if matches!(origin, Origin::Git(_)) { &root } else { folder };
            let inside = git::within(&root, &begin.join(text));
            let Some(path) = inside else {
                let message = format!("`{text}` leads out of the repository");
                let help = format!("what is imported from {shown} may import files of that repository only");
                return wrong(message, "imported here", &help);
            };
            let relative = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
            if links.contains(&relative) {
                let message =
                    format!("`{relative}` is a link that leads to a folder, or out of the repository");
                return wrong(message, "imported here", "give the path of the file itself");
            }
            (path, Some(format!("{shown}/{relative}")))
        }
    };
    let text = match file::read(&path) {
        Ok(text) => text,
        Err(error) => {
            let shown = name.unwrap_or_else(|| path.display().to_string());
            let message = format!("cannot read the imported file {shown}: {error}");
            let relative = match origin {
                Origin::Git(_) => "the path is relative to the root of the repository",
                _ => "the path is relative to the file that imports it",
            };
            let help = error.help().map(str::to_owned).or_else(|| file::near(&path));
            return wrong(message, "imported here", &help.unwrap_or_else(|| relative.to_owned()));
        }
    };
    let file = canonical(&path);
    if let Some(start) = loader.open.iter().position(|open| *open == file) {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let circle: Vec<String> = loader.open.iter().skip(start).chain([&file]).map(name).collect();
        let message = format!("files import each other in a circle: {}", circle.join(" -> "));
        return wrong(message, "this closes the circle", "move what both need into a third file");
    }
    if loader.imported.len() + 1 >= MAX_FILES {
        let message = format!("more than {MAX_FILES} files are imported");
        return wrong(message, "by here", "import each file once, where it is needed");
    }
    loader.imported.push(Imported {
        prefix: loader.prefixes.join("."),
        at: at.clone(),
        path: path.clone(),
        digest: Digest::of(text.as_bytes()),
        origin,
    });
    let guest = loader.repository.as_ref().is_some_and(|repository| !repository.plugins);
    let source = match name {
        Some(name) => Source::of_git(&path, name, text, guest),
        None => Source::new(&path, text),
    };
    let root = match node::parse(&source, problems) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    read::check_file(&root, problems);
    loader.open.push(file);
    let mut part = read::part(&root, &path, loader, problems);
    loader.open.pop();
    give_params(node, &mut part, problems);
    Some(part)
}

/// Where the file comes from. If it is a repository, that is the loader's from now on. `None` if it cannot be had, which is told.
fn origin(node: &Node, loader: &mut Loader<'_>, problems: &mut Diagnostics) -> Option<Origin> {
    let Some(url) = node.get("git") else {
        let mut right = true;
        for key in ["commit", "ref", "plugins"] {
            if let Some((key, _)) = node.entries().iter().find(|(name, _)| name.value == key) {
                let message =
                    format!("`{}` is of an import from a repository, and no `git` is given", key.value);
                let help = "add `git: URL`, or remove it: a file that lies here is read as it is";
                problems.push(Diagnostic::new(&key.at, message, "of which repository?").help(help));
                right = false;
            }
        }
        let inside = loader.repository.is_some();
        return right.then_some(if inside { Origin::SameRepository } else { Origin::Here });
    };
    let (commit, reference) = (node.get("commit"), node.get("ref"));
    let mut wrong = |at: &Place, message: String, label: &str, help: &str| {
        problems.push(Diagnostic::new(at, message, label).help(help));
        None
    };
    let text = url.text()?;
    let Some(git) = loader.git else {
        let message = "nothing is imported from repositories here".to_owned();
        return wrong(&url.at, message, "a repository", "import a file that lies here");
    };
    // What comes from elsewhere does not reach the repositories of this machine.
    let is_local = |url: &str| url.starts_with("file:");
    if is_local(text) && loader.repository.as_ref().is_some_and(|outer| !is_local(&outer.shown)) {
        let message = "a repository from elsewhere imports one of this machine".to_owned();
        return wrong(
            &url.at,
            message,
            "not imported",
            "what it needs must be in it, or where everybody finds it",
        );
    }
    let told = |error: git::GitError| (error.to_string(), error.help());
    let prefix = loader.prefixes.join(".");
    let (commit, reference) = match (commit, reference) {
        (Some(_), Some(reference)) => {
            let message = "an import has a `commit` or a `ref`, not both".to_owned();
            return wrong(&reference.at, message, "one too many", "the commit says all; remove `ref`");
        }
        // The one that is meant is told as an unknown key.
        (None, None) if node.entries().iter().any(|(key, _)| is_misspelt(&key.value)) => return None,
        (None, None) => {
            let message = "an import from a repository needs a `commit`".to_owned();
            let help = "add `commit:` with the full id of one, which `git rev-parse HEAD` tells in the repository; or `ref:` with a \
                        branch or a tag, which `restage lock` pins";
            return wrong(&url.at, message, "which state of it?", help);
        }
        // One of the wrong shape was told by the grammar.
        (Some(commit), None) => {
            (commit.text().filter(|commit| super::check::is_commit(commit))?.to_owned(), None)
        }
        (None, Some(reference)) => {
            let name = reference.text()?;
            match git.commit_of(&prefix, text, name) {
                Ok(Some(commit)) => (commit, Some(name.to_owned())),
                Ok(None) => {
                    let message = format!("no `restage.lock` says which commit `{name}` is");
                    let help = "`restage lock` looks it up and writes it down, so that it is the same tomorrow; or give a `commit`";
                    return wrong(&reference.at, message, "not pinned", help);
                }
                Err(error) => {
                    let at = if error.is_of_reference() { &reference.at } else { &url.at };
                    let (message, help) = told(error);
                    return wrong(at, message, "not imported", help);
                }
            }
        }
    };
    match git.checkout(text, &commit) {
        Ok(checkout) => {
            // Who is not trusted cannot trust others.
            let trusted = loader.repository.as_ref().is_none_or(|outer| outer.plugins);
            loader.repository = Some(Repository {
                root: checkout.root,
                shown: format!("{text}@{}", git::short(&commit)),
                plugins: trusted && node.get("plugins").and_then(Node::text) == Some("allow"),
                links: checkout.links.into(),
            });
            Some(Origin::Git(Pin { git: text.to_owned(), reference, commit }))
        }
        Err(error) => {
            let at = match (&error, node.get("commit").or_else(|| node.get("ref"))) {
                (git::GitError::Commit(_), Some(commit)) => &commit.at,
                _ => &url.at,
            };
            let (message, help) = told(error);
            wrong(at, message, "not imported", help)
        }
    }
}

/// Whether a key is no key of an import, and near one that says which state of a repository is meant.
fn is_misspelt(key: &str) -> bool {
    const KEYS: [&str; 6] = ["path", "params", "git", "commit", "ref", "plugins"];
    !KEYS.contains(&key) && nearest(key, &KEYS).is_some_and(|near| matches!(near, "commit" | "ref"))
}

/// Puts the importer's values in the place of the file's own.
fn give_params(node: &Node, part: &mut Part, problems: &mut Diagnostics) {
    let Some(own) = part.scopes.get_mut("") else { return };
    for (name, value) in node.get("params").map(Node::entries).unwrap_or_default() {
        match own.params.get_mut(&name.value) {
            // `..` marks the importer's scope until the part gets its prefix.
            Some(param) => *param = Param { node: value.clone(), scope: OUTSIDE.into() },
            None => problems.push(
                Diagnostic::new(
                    &name.at,
                    format!("the imported file has no param `{}`", name.value),
                    "given here",
                )
                .help(suggest(&name.value, own.params.keys().map(String::as_str))),
            ),
        }
    }
}

/// Stands for the scope of the importing file; no prefix can be called so.
const OUTSIDE: &str = "..";

/// Puts everything under a prefix.
fn under(part: Part, prefix: &str) -> Part {
    let scopes = part.scopes.into_iter().map(|(inner, mut scope)| {
        for param in scope.params.values_mut() {
            param.scope = match &*param.scope {
                OUTSIDE => "".into(),
                inner => join_scope(prefix, inner),
            };
        }
        (join_scope(prefix, &inner), scope)
    });
    let stages = part.stages.into_iter().map(|(name, stage)| {
        let mut stage = Arc::unwrap_or_clone(stage);
        stage.scope = join_scope(prefix, &stage.scope);
        for output in stage.inputs.values_mut().flat_map(|input| &mut input.from) {
            output.value = output.value.under(prefix);
        }
        (join(prefix, &name).into(), Arc::new(stage))
    });
    Part {
        plugins: part.plugins,
        more_plugins: part.more_plugins,
        scopes: scopes.collect(),
        stages: stages.collect(),
        unread: part.unread.iter().map(|inner| join_scope(prefix, inner)).collect(),
    }
}

/// The scope of a file under a prefix: `prep`, and `prep.inner` for what it imports.
fn join_scope(prefix: &str, inner: &str) -> Arc<str> {
    if inner.is_empty() { prefix.into() } else { join(prefix, inner).into() }
}
