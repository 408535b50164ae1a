//! `import:`: the stages of another file under a prefix, with values for its params.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Diagnostic, Diagnostics, Located, Node, Source,
    diagnostic::suggest,
    file, node,
    read::{self, Part},
    reference::join,
    scope::Param,
};

/// More files than this are nobody's workflow: files that import each other twice double at every step.
const MAX_FILES: usize = 200;

/// Which files are being read, so that circles are seen, and how many there were.
pub(super) struct Loader {
    open: Vec<PathBuf>,
    files: usize,
}

impl Loader {
    pub(super) fn new(path: &Path) -> Self {
        Self { open: vec![canonical(path)], files: 1 }
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
    loader: &mut Loader,
    problems: &mut Diagnostics,
) -> Option<Part> {
    let written = node.get("path")?;
    let path = folder.join(written.text()?);
    let mut wrong = |message: String, label: &str, help: &str| {
        problems.push(Diagnostic::new(&written.at, message, label).help(help));
        None
    };
    let text = match file::read(&path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot read the imported file {}: {error}", path.display());
            let relative = "the path is relative to the file that imports it";
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
    loader.files += 1;
    if loader.files > MAX_FILES {
        let message = format!("more than {MAX_FILES} files are imported");
        return wrong(message, "by here", "import each file once, where it is needed");
    }
    let root = match node::parse(&Source::new(&path, text), problems) {
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
    Some(under(part, &prefix.value))
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
