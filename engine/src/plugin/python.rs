//! What a Python script's code *is*: itself and the local modules that it imports, each as a tree of tokens.
//!
//! | counts | does not, and why |
//! | --- | --- |
//! | every token, and how blocks nest | comments, blank lines, layout: they change no result |
//! | texts with all that is in them, docstrings too: a program can read those | |
//! | modules beside the script that an `import` anywhere in them names, however deep | modules that are not there: they are the environment's, which a lock file tells |
//!
//! Imports are followed without running anything. A module whose name is made when the program runs is not found; the
//! sandbox keeps a stage from reading it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
};

use restage_cache::Digest;
use tree_sitter::{Node, Parser, Tree};

/// A file of code: its name as seen from the script's folder, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
}

/// The script and the local modules that it imports, by name. What is not Python is one file, and counts byte by byte.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn sources(script: &Path) -> io::Result<Vec<Source>> {
    let root = script.parent().unwrap_or(Path::new(""));
    let mut found: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    let mut queue = VecDeque::from([script.to_owned()]);
    while let Some(path) = queue.pop_front() {
        if found.contains_key(&path) {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let parsed = is_python(&path).then(|| parse(&bytes)).flatten();
        let digest = match &parsed {
            Some(tree) => Digest::of(&tokens(tree, &bytes)),
            None => Digest::of(&bytes),
        };
        found.insert(path.clone(), digest);
        let imports = parsed.map(|tree| imports(&tree, &bytes)).unwrap_or_default();
        queue.extend(imports.iter().flat_map(|import| import.files(root, &path)));
    }
    let source = |(path, digest): (PathBuf, Digest)| {
        let name = path.strip_prefix(root).ok()?.to_string_lossy().into_owned();
        Some(Source { name, path, digest })
    };
    Ok(found.into_iter().filter_map(source).collect())
}

fn is_python(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "py")
}

/// `None` if it is not Python that this parser knows: then its bytes count.
fn parse(bytes: &[u8]) -> Option<Tree> {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_python::LANGUAGE.into()).ok()?;
    parser.parse(bytes, None).filter(|tree| !tree.root_node().has_error())
}

/// The tokens of a tree, and how they nest.
fn tokens(tree: &Tree, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let counts = !matches!(node.kind(), "comment" | "line_continuation");
        // What lies between the tokens of a text is part of it.
        let is_whole = node.kind() == "string" || node.child_count() == 0;
        if counts && is_whole {
            let token = &text[node.byte_range()];
            out.extend_from_slice(&(token.len() as u64).to_le_bytes());
            out.extend_from_slice(token);
        }
        if counts && !is_whole && cursor.goto_first_child() {
            out.push(b'(');
            out.extend_from_slice(node.kind().as_bytes());
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return out;
            }
            out.push(b')');
        }
    }
}

/// An import as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    /// How many dots it begins with; none: from the script's folder.
    dots: usize,
    module: Vec<String>,
    /// What is imported of the module: perhaps modules below it.
    names: Vec<String>,
}

impl Import {
    /// The local files that it brings in: the module, the packages that it is in, and modules below it that it names.
    fn files(&self, root: &Path, importer: &Path) -> Vec<PathBuf> {
        let base = match self.dots {
            0 => Some(root),
            dots => importer.ancestors().nth(dots),
        };
        let Some(base) = base.filter(|base| base.starts_with(root)) else { return Vec::new() };
        let mut files = Vec::new();
        let mut place = base.to_owned();
        files.extend((self.dots > 0).then(|| base.join("__init__.py")).filter(|file| file.is_file()));
        for part in &self.module {
            place.push(part);
            match module(&place) {
                Some(file) => files.push(file),
                // A folder without `__init__.py` is a package as well.
                None if place.is_dir() => {}
                None => return files,
            }
        }
        files.extend(self.names.iter().filter_map(|name| module(&place.join(name))));
        files
    }
}

/// The file of the module that a path without its ending means.
fn module(place: &Path) -> Option<PathBuf> {
    let named = |ending: &str| {
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        place.with_file_name(name)
    };
    let built = || {
        let (folder, stem) = (place.parent()?, place.file_name()?.to_str()?);
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries.into_iter().find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(".so") && name.split('.').next() == Some(stem)
        })
    };
    [place.join("__init__.py"), named(".py")].into_iter().find(|file| file.is_file()).or_else(built)
}

/// All imports of a file, wherever they stand.
fn imports(tree: &Tree, text: &[u8]) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut nodes = vec![tree.root_node()];
    while let Some(node) = nodes.pop() {
        match node.kind() {
            "import_statement" => {
                imports.extend(named(node, text).map(|module| Import { dots: 0, module, names: Vec::new() }))
            }
            "import_from_statement" => imports.extend(import_from(node, text)),
            "call" => imports.extend(import_call(node, text)),
            _ => {}
        }
        nodes.extend(
            (0..node.named_child_count()).filter_map(|index| node.named_child(u32::try_from(index).ok()?)),
        );
    }
    imports
}

/// The dotted names of a statement, those with another name beside them too.
fn named<'a>(node: Node<'a>, text: &'a [u8]) -> impl Iterator<Item = Vec<String>> + 'a {
    let mut cursor = node.walk();
    let names: Vec<Node<'_>> = node.children_by_field_name("name", &mut cursor).collect();
    names.into_iter().map(move |name| match name.kind() {
        "aliased_import" => {
            name.child_by_field_name("name").map(|name| dotted(name, text)).unwrap_or_default()
        }
        _ => dotted(name, text),
    })
}

fn dotted(node: Node<'_>, text: &[u8]) -> Vec<String> {
    let parts =
        (0..node.named_child_count()).filter_map(|index| node.named_child(u32::try_from(index).ok()?));
    parts.map(|part| String::from_utf8_lossy(&text[part.byte_range()]).into_owned()).collect()
}

fn import_from(node: Node<'_>, text: &[u8]) -> Option<Import> {
    let from = node.child_by_field_name("module_name")?;
    let names = named(node, text).flatten().collect();
    if from.kind() != "relative_import" {
        return Some(Import { dots: 0, module: dotted(from, text), names });
    }
    let parts: Vec<Node<'_>> = (0..from.named_child_count())
        .filter_map(|index| from.named_child(u32::try_from(index).ok()?))
        .collect();
    let prefix = parts.iter().find(|part| part.kind() == "import_prefix")?;
    let dots = text[prefix.byte_range()].iter().filter(|byte| **byte == b'.').count();
    let module = parts.iter().find(|part| part.kind() == "dotted_name");
    Some(Import { dots, module: module.map(|name| dotted(*name, text)).unwrap_or_default(), names })
}

/// `importlib.import_module("a.b")` and `__import__("a.b")`, where the name is written out.
fn import_call(node: Node<'_>, text: &[u8]) -> Option<Import> {
    let function = node.child_by_field_name("function")?;
    let called = &text[function.byte_range()];
    let imports =
        called == b"__import__" || called == b"import_module" || called == b"importlib.import_module";
    let name = node.child_by_field_name("arguments").filter(|_| imports)?.named_child(0)?;
    let quoted = std::str::from_utf8(&text[name.byte_range()]).ok().filter(|_| name.kind() == "string")?;
    let module = quoted.trim_matches(['"', '\'']).split('.').map(str::to_owned).collect();
    Some(Import { dots: 0, module, names: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Vec<u8> {
        let tree = parse(text.as_bytes()).unwrap_or_else(|| panic!("not Python: {text}"));
        tokens(&tree, text.as_bytes())
    }

    /// A folder with files; the names of the script's sources.
    fn follow(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let sources = sources(&folder.path().join(files[0].0)).unwrap();
        sources.into_iter().map(|source| source.name).collect()
    }

    const CODE: &str = "import os\n\ndef add(a, b=1):\n    if a:\n        return a + b\n    return 'x  y'\n";

    #[test]
    fn comments_and_layout_change_nothing() {
        for same in [
            "# what it does\nimport os # the system\n\n\n\ndef add(a, b=1):\n    # first\n    if a:\n        return a + b\n    return 'x  y'\n",
            "import os\ndef add(a,b = 1):\n  if a:\n     return a+b\n  return 'x  y'",
            "import os\r\n\r\ndef add(a, b=1):\r\n\tif a:\r\n\t\treturn a + \\\r\n  b\r\n\treturn 'x  y'\r\n",
            "import os\ndef add(\n    a,  # one\n    b=1\n):\n    if a:\n        return a + b\n    return 'x  y'\n",
        ] {
            assert_eq!(digest(CODE), digest(same), "{same}");
        }
    }

    #[test]
    fn every_token_and_every_indent_counts() {
        for (from, to) in [
            ("b=1", "b=2"),
            ("a + b", "a - b"),
            ("'x  y'", "'x y'"),
            ("'x  y'", "\"x  y\""),
            ("def add", "async def add"),
            ("    return 'x", "        return 'x"),
            ("import os", "import os, sys"),
            ("return a + b", "return a + b # type: ignore\n        pass"),
        ] {
            assert_ne!(digest(CODE), digest(&CODE.replacen(from, to, 1)), "{from} -> {to}");
        }
        assert_ne!(digest("f(a, b)"), digest("f(ab)"));
        assert_ne!(digest("\"\"\"One.\"\"\"\n"), digest("\"\"\"Two.\"\"\"\n"), "docstrings can be read");
        assert_ne!(digest("f'{a}  {b}'"), digest("f'{a} {b}'"));
    }

    #[test]
    fn every_form_of_import_is_followed() {
        let main = "
import numpy, plain
import package.inner as inner
from package import helper, VALUE
from names import one
def late():
    if True:
        from deep.down import thing
    importlib.import_module('literal')
    __import__(\"dunder\")
";
        let all = [
            ("main.py", main),
            ("plain.py", "import second"),
            ("second.py", "import plain"),
            ("package/__init__.py", "from . import sibling\nfrom .more import x"),
            ("package/inner.py", "from ..plain import y\nfrom .sibling import z"),
            ("package/helper.py", ""),
            ("package/sibling.py", ""),
            ("package/more.py", ""),
            ("package/unused.py", ""),
            ("names/one.py", ""),
            ("deep/down/thing.py", "import fast"),
            ("fast.cpython-311-x86_64-linux-gnu.so", "\u{7f}ELF"),
            ("literal.py", ""),
            ("dunder.py", ""),
            ("unused.py", ""),
        ];
        assert_eq!(
            follow(&all),
            [
                "deep/down/thing.py",
                "dunder.py",
                "fast.cpython-311-x86_64-linux-gnu.so",
                "literal.py",
                "main.py",
                "names/one.py",
                "package/__init__.py",
                "package/helper.py",
                "package/inner.py",
                "package/more.py",
                "package/sibling.py",
                "plain.py",
                "second.py",
            ]
        );
    }

    #[test]
    fn what_is_not_python_counts_byte_by_byte() {
        assert_eq!(follow(&[("run.sh", "python3 other.py"), ("other.py", "")]), ["run.sh"]);
        assert!(parse(b"def broken(:\n").is_none());
        assert_eq!(follow(&[("broken.py", "def broken(:\nimport x"), ("x.py", "")]), ["broken.py"]);
    }
}
