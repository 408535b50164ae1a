//! What the files of a workflow say, read as text: no plugin, no environment, no other file is asked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::names::{clean, plain};
use crate::workflow::{self, Diagnostics, Node, Source};

/// More files than this are nobody's workflow.
const MAX_FILES: usize = 200;

/// What a workflow would run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sketch {
    pub(crate) stages: Vec<StageSketch>,
    /// What it varies, as written.
    pub(crate) sweep: Value,
    /// Its params, as written.
    pub(crate) params: Value,
    /// Plugins that its files name: the file's folder and the path as written.
    pub(crate) plugins: Vec<(String, String)>,
    /// Variables of the environment that it reads.
    pub(crate) env: Vec<String>,
    /// Imports from elsewhere, which `restage run` would fetch.
    pub(crate) elsewhere: Vec<Value>,
}

/// A stage as written.
#[derive(Debug, Serialize)]
pub(crate) struct StageSketch {
    pub(crate) name: String,
    pub(crate) uses: String,
    pub(crate) with: Value,
}

/// Why a file is none of a workflow.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The file.
    pub(super) file: String,
    pub(super) why: String,
}

/// One file, as far as it matters here.
pub(super) struct Parsed {
    root: Node,
}

impl Parsed {
    pub(super) fn of(name: &str, text: &[u8]) -> Result<Self, Wrong> {
        let wrong = |why: String| Wrong { file: name.to_owned(), why };
        if text.len() > workflow::MAX_BYTES {
            return Err(wrong("it is longer than 1 MiB, which no workflow is".into()));
        }
        let text = std::str::from_utf8(text).map_err(|_| wrong("it is not UTF-8 text".into()))?;
        let source = Source::new(Path::new(name), text.trim_start_matches('\u{feff}').to_owned());
        let root = workflow::parse(&source, &mut Diagnostics::default())
            .map_err(|problem| wrong(format!("it is no workflow: {}", clean(&problem.message))))?;
        Ok(Self { root })
    }

    /// Prefixes and paths of what it imports; `None` for what does not lie beside it.
    pub(super) fn imports(&self) -> impl Iterator<Item = (&str, Option<&str>, &Node)> {
        let imports = self.root.get("import").map(Node::entries).unwrap_or_default();
        imports.iter().map(|(prefix, node)| {
            let path = node.get("path").and_then(Node::text).filter(|_| node.get("git").is_none());
            (prefix.value.as_str(), path, node)
        })
    }

    fn env(&self) -> Vec<String> {
        let Some(declared) = self.root.get("env") else { return Vec::new() };
        let keys = declared.entries().iter().map(|(name, _)| name.value.clone());
        let items = declared.items().iter().chain([declared]).filter_map(Node::text).map(str::to_owned);
        keys.chain(items).collect()
    }
}

impl Sketch {
    /// Reads a workflow among these files, by their names.
    pub(super) fn of(files: &BTreeMap<String, Vec<u8>>, workflow: &str) -> Result<Self, Wrong> {
        let mut sketch = Self::default();
        let mut read = 0;
        sketch.read(files, workflow, "", &mut Vec::new(), &mut read)?;
        Ok(sketch)
    }

    fn read(
        &mut self,
        files: &BTreeMap<String, Vec<u8>>,
        name: &str,
        prefix: &str,
        open: &mut Vec<String>,
        read: &mut usize,
    ) -> Result<(), Wrong> {
        let wrong = |why: String| Wrong { file: name.to_owned(), why };
        let text = files.get(name).ok_or_else(|| wrong("it is not there".into()))?;
        *read += 1;
        if open.iter().any(|open| open == name) || *read > MAX_FILES {
            return Err(wrong("files import each other in a circle, or too many are imported".into()));
        }
        let parsed = Parsed::of(name, text)?;
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        open.push(name.to_owned());
        for (inner, path, node) in parsed.imports() {
            let Some(path) = path else {
                self.elsewhere.push(node.to_json());
                continue;
            };
            let place = inside(folder, path).filter(|place| files.contains_key(place));
            let place = place
                .ok_or_else(|| wrong(format!("it imports `{}`, which is not in the archive", clean(path))))?;
            self.read(files, &place, &joined(prefix, inner), open, read)?;
        }
        open.pop();
        let root = &parsed.root;
        for (stage, node) in root.get("stages").map(Node::entries).unwrap_or_default() {
            self.stages.push(StageSketch {
                name: joined(prefix, &stage.value),
                uses: node.get("uses").and_then(Node::text).unwrap_or("-").to_owned(),
                with: node.get("with").map(Node::to_json).unwrap_or_default(),
            });
        }
        let plugins = root.get("plugins").map(Node::items).unwrap_or_default();
        let plugins = plugins.iter().filter_map(|item| item.get("path")?.text());
        let folder = folder.to_string_lossy().into_owned();
        self.plugins.extend(plugins.map(|path| (folder.clone(), path.to_owned())));
        self.env.extend(parsed.env());
        if prefix.is_empty() {
            self.sweep = root.get("sweep").map(Node::to_json).unwrap_or_default();
            self.params = root.get("params").map(Node::to_json).unwrap_or_default();
        }
        Ok(())
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Where a path leads from a folder below a root, if it stays below that.
pub(super) fn inside(folder: &Path, path: &str) -> Option<String> {
    let place: PathBuf = plain(&folder.join(path));
    let first = place.components().next()?;
    matches!(first, std::path::Component::Normal(_)).then(|| place.to_str().map(str::to_owned))?
}
