//! What a plugin's code *is*: a digest of its sources, the same on every machine that builds the same commit.
//!
//! | in the identity | not in it, and why |
//! | --- | --- |
//! | Rust sources as token streams, of the crate and of the workspace crates it uses | comments, docs, layout: they change no result |
//! | other files beside the sources, as bytes | tests, benches, examples, README: not in the library |
//! | locked dependencies: name, version, checksum, features | dependencies of other crates in the lock file |
//! | compiler release, its flags, the release profile | paths, linkers, times, user, host: two people share hits |

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use restage_cache::Digest;
use serde::Deserialize;

use super::{build::BuildError, settings};

/// A plugin's sources as cargo sees them.
pub(super) struct Sources {
    /// Digest of everything in the table above.
    pub(super) identity: Digest,
    /// Folders and files whose change may change the identity.
    pub(super) watched: Vec<PathBuf>,
    /// Name of the package.
    pub(super) package: String,
    /// Root of its workspace.
    pub(super) workspace: PathBuf,
    /// What the identity is of, piece by piece: files of workspace crates, dependencies, the compiler.
    pub(super) files: Vec<(String, Digest)>,
}

/// The part of `cargo metadata` that matters.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<ResolveNode>,
}

#[derive(Deserialize)]
struct ResolveNode {
    id: String,
    deps: Vec<Dependency>,
    features: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// The part of a lock file that matters.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Reads a plugin's sources.
pub(super) fn sources(manifest: &Path) -> Result<Sources, BuildError> {
    let manifest = &std::fs::canonicalize(manifest).map_err(BuildError::io(manifest))?;
    let metadata = metadata(manifest)?;
    let lock_path = metadata.workspace_root.join("Cargo.lock");
    let lock: Lock = parse_toml(&lock_path)?;
    let checksums: BTreeMap<(&str, &str), Option<&str>> = lock
        .package
        .iter()
        .map(|locked| ((locked.name.as_str(), locked.version.as_str()), locked.checksum.as_deref()))
        .collect();
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &ResolveNode> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();

    let root = metadata.packages.iter().find(|package| package.manifest_path == *manifest);
    let root = root.ok_or_else(|| BuildError::NotACrate { path: manifest.clone() })?;

    let workspace = &metadata.workspace_root;
    let mut watched = vec![lock_path, workspace.join("Cargo.toml")];
    watched.extend(settings::files(workspace));
    let told = settings::of_workspace(workspace)?.into_iter().chain(settings::of_environment());
    let mut parts: Vec<(String, Digest)> =
        told.map(|(name, value)| (name, Digest::of(value.as_bytes()))).collect();
    parts.push(("toolchain".into(), Digest::of(&toolchain(workspace)?)));
    let mut files: Vec<(String, Digest)> = parts.clone();
    let mut seen = BTreeSet::new();
    let mut queue = vec![root.id.as_str()];
    while let Some(id) = queue.pop() {
        if !seen.insert(id) {
            continue;
        }
        let (Some(package), Some(node)) = (packages.get(id), nodes.get(id)) else { continue };
        let name = format!("{} {} [{}]", package.name, package.version, node.features.join(","));
        let digest = match &package.source {
            Some(source) => {
                let checksum =
                    checksums.get(&(package.name.as_str(), package.version.as_str())).copied().flatten();
                let digest = Digest::of(checksum.unwrap_or(source).as_bytes());
                files.push((name.clone(), digest));
                digest
            }
            None => {
                let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
                watched.push(package.manifest_path.clone());
                watched.extend(code_folders(folder));
                let own = crate_files(folder)?;
                let called =
                    |(path, digest): &(String, Digest)| (format!("{}/{path}", package.name), *digest);
                files.extend(own.iter().map(called));
                digest_of("restage crate v1", &own)?
            }
        };
        parts.push((name, digest));
        // Dev-dependencies are in tests only.
        let used = |dependency: &&Dependency| {
            dependency.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
        };
        queue.extend(node.deps.iter().filter(used).map(|dependency| dependency.pkg.as_str()));
    }
    parts.sort();
    Ok(Sources {
        identity: digest_of("restage plugin identity v1", &parts)?,
        watched,
        package: root.name.clone(),
        workspace: metadata.workspace_root.clone(),
        files,
    })
}

fn metadata(manifest: &Path) -> Result<Metadata, BuildError> {
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let output = cargo(folder)
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(manifest)
        .output()
        .map_err(BuildError::NoCargo)?;
    if !output.status.success() {
        return Err(BuildError::Cargo {
            path: manifest.to_owned(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| BuildError::Cargo { path: manifest.to_owned(), output: error.to_string() })
}

/// The cargo to call: the one that started us, if any; in the crate's folder, whose settings then count wherever the
/// user stands.
pub(super) fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder);
    // Relative to where the user stands.
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR")
        && let Ok(target) = std::path::absolute(target)
    {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    cargo
}

fn toolchain(workspace: &Path) -> Result<Vec<u8>, BuildError> {
    let output =
        Command::new("rustc").arg("-vV").current_dir(workspace).output().map_err(BuildError::NoCargo)?;
    Ok(output.stdout)
}

/// A crate's folders and files that go into its library.
fn code_folders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<'_> {
    ["src", "build.rs"].into_iter().map(|name| folder.join(name)).filter(|path| path.exists())
}

/// Digests of a crate's own sources.
fn crate_files(folder: &Path) -> Result<Vec<(String, Digest)>, BuildError> {
    let mut files = Vec::new();
    for path in code_folders(folder) {
        collect(&path, &mut files)?;
    }
    let mut parts: Vec<(String, Digest)> = Vec::new();
    for path in files {
        let bytes = std::fs::read(&path).map_err(BuildError::io(&path))?;
        let relative = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let digest = match str::from_utf8(&bytes) {
            Ok(text) if is_rust => {
                Digest::of(significant(text).unwrap_or_else(|| text.to_owned()).as_bytes())
            }
            _ => Digest::of(&bytes),
        };
        parts.push((relative, digest));
    }
    parts.sort();
    Ok(parts)
}

fn digest_of(context: &str, parts: &[(String, Digest)]) -> Result<Digest, BuildError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(parts, &mut bytes).map_err(|error| BuildError::Digest(error.to_string()))?;
    Ok(Digest::from_bytes(blake3::derive_key(context, &bytes)))
}

/// All files below a path, hidden ones apart.
pub(super) fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), BuildError> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(BuildError::io(path))? {
        let entry = entry.map_err(BuildError::io(path))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// A Rust file without what changes no result: comments, docs, layout. `None` if it is not Rust.
fn significant(text: &str) -> Option<String> {
    let tokens: TokenStream = text.parse().ok()?;
    let mut out = String::with_capacity(text.len());
    write_tokens(tokens, &mut out);
    Some(out)
}

fn write_tokens(tokens: TokenStream, out: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if let TokenTree::Punct(hash) = &token
            && hash.as_char() == '#'
        {
            // `#[doc …]` and `#![doc …]` are what comments become.
            let bang = matches!(tokens.peek(), Some(TokenTree::Punct(bang)) if bang.as_char() == '!');
            let bang = bang.then(|| tokens.next()).flatten();
            if matches!(tokens.peek(), Some(TokenTree::Group(group)) if is_doc(group)) {
                tokens.next();
                continue;
            }
            out.push('#');
            out.push_str(if bang.is_some() { "!" } else { "" });
            continue;
        }
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push_str(open);
                write_tokens(group.stream(), out);
                out.push_str(close);
            }
            TokenTree::Punct(punct) => {
                out.push(punct.as_char());
                if punct.spacing() == Spacing::Alone {
                    out.push(' ');
                }
            }
            other => {
                out.push_str(&other.to_string());
                out.push(' ');
            }
        }
    }
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    group.delimiter() == Delimiter::Bracket
        && matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(name)) if name == "doc")
}

fn parse_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, BuildError> {
    let text = std::fs::read_to_string(path).map_err(BuildError::io(path))?;
    toml::from_str(&text)
        .map_err(|error| BuildError::Cargo { path: path.to_owned(), output: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_docs_and_layout_change_nothing_but_code_does() {
        let code = "/// Adds.\npub fn add(a: u32) -> u32 { a + 1 } // one\n";
        let reformatted = "//! A module.\npub fn add(\n    a: u32,\n) -> u32 {\n    /* one */ a + 1\n}\n";
        // A trailing comma is a token: rustfmt's own layout changes are not all free.
        let same_tokens = reformatted.replace("u32,\n)", "u32\n)");
        assert_eq!(significant(code), significant(&same_tokens));
        assert_ne!(significant(code), significant(&code.replace("+ 1", "+ 2")));
        assert_ne!(significant("#[a] fn f() {}"), significant("fn f() {}"));
        assert_ne!(significant("let x = \"a b\";"), significant("let x = \"a  b\";"));
    }

    #[test]
    fn neighbouring_tokens_do_not_run_together() {
        assert_ne!(significant("a b"), significant("ab"));
        assert_ne!(significant("a + + b"), significant("a ++ b"), "joint punctuation has its own meaning");
    }
}
