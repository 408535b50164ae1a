//! Golden values and real sections for tests. They are not part of the repository: a test that finds none says so
//! and passes.

use std::path::{Path, PathBuf};

/// A file or folder beside the workspace, at `$RESTAGE_SHARED` or `../shared`.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RESTAGE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join(path);
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return None;
    }
    Some(path)
}

/// A file of golden values.
pub(crate) fn json(name: &str) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(shared(&format!("golden/{name}"))?).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}
