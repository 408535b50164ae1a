//! Data files that params name: made absolute for the stage, and replaced by the digest of their content in keys.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use restage_cache::{Digest, Store};
use restage_stage::task::PATH_MARK;
use serde_json::Value;

/// The mark, in keyed params, of a digest in the place of a path.
pub(super) const DIGEST_MARK: &str = "$digest";

/// Params for the stage (absolute paths) and for keys (digests instead), and the files that they name.
#[derive(Clone)]
pub(super) struct Params {
    pub(super) given: Arc<Value>,
    pub(super) keyed: Arc<Value>,
    pub(super) files: Vec<(PathBuf, Digest)>,
}

/// Texts that come from files of other folders than the workflow's: where in the params, and which folder.
pub(super) type Foreign = Vec<(String, PathBuf)>;

/// Digests of data files, each taken once.
pub(super) struct Files<'a> {
    /// Where relative paths begin.
    folder: &'a Path,
    store: &'a Store,
    digests: HashMap<PathBuf, Digest>,
}

impl<'a> Files<'a> {
    pub(super) fn new(folder: &'a Path, store: &'a Store) -> Self {
        Self { folder, store, digests: HashMap::new() }
    }

    /// Whether there is a path among the params.
    pub(super) fn names_any(params: &Value) -> bool {
        match params {
            Value::Object(map) => map.contains_key(PATH_MARK) || map.values().any(Self::names_any),
            Value::Array(items) => items.iter().any(Self::names_any),
            _ => false,
        }
    }

    /// Resolves a stage's params; `wrong` is told each param that names a file which cannot be read.
    pub(super) fn resolve(
        &mut self,
        params: &Value,
        foreign: &Foreign,
        mut wrong: impl FnMut(&str, String),
    ) -> Params {
        let (mut given, mut keyed) = (serde_json::Map::new(), serde_json::Map::new());
        let mut files = Vec::new();
        for (param, value) in params.as_object().into_iter().flatten() {
            match self.value(value, &format!("/{param}"), foreign, &mut files) {
                Ok((for_stage, for_key)) => {
                    given.insert(param.clone(), for_stage);
                    keyed.insert(param.clone(), for_key);
                }
                Err(message) => wrong(param, message),
            }
        }
        Params { given: Arc::new(given.into()), keyed: Arc::new(keyed.into()), files }
    }

    fn value(
        &mut self,
        value: &Value,
        pointer: &str,
        foreign: &Foreign,
        files: &mut Vec<(PathBuf, Digest)>,
    ) -> Result<(Value, Value), String> {
        match value {
            Value::Object(map) if map.len() == 1 && map.contains_key(PATH_MARK) => {
                let path = map.get(PATH_MARK).and_then(Value::as_str).unwrap_or_default();
                let folder =
                    foreign.iter().find(|(place, _)| place == pointer).map(|(_, folder)| folder.as_path());
                let absolute = folder.unwrap_or(self.folder).join(path);
                let digest = self.digest(&absolute)?;
                files.push((absolute.clone(), digest));
                Ok((serde_json::json!({ PATH_MARK: absolute }), serde_json::json!({ DIGEST_MARK: digest })))
            }
            Value::Object(map) => {
                let (mut given, mut keyed) = (serde_json::Map::new(), serde_json::Map::new());
                for (key, value) in map {
                    let (for_stage, for_key) =
                        self.value(value, &format!("{pointer}/{key}"), foreign, files)?;
                    given.insert(key.clone(), for_stage);
                    keyed.insert(key.clone(), for_key);
                }
                Ok((given.into(), keyed.into()))
            }
            Value::Array(items) => {
                let (mut given, mut keyed) = (Vec::new(), Vec::new());
                for (index, item) in items.iter().enumerate() {
                    let (for_stage, for_key) =
                        self.value(item, &format!("{pointer}/{index}"), foreign, files)?;
                    given.push(for_stage);
                    keyed.push(for_key);
                }
                Ok((given.into(), keyed.into()))
            }
            plain => Ok((plain.clone(), plain.clone())),
        }
    }

    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        if let Some(digest) = self.digests.get(path) {
            return Ok(*digest);
        }
        if !path.exists() {
            return Err(format!("there is no file or folder {}", path.display()));
        }
        let digest = self.store.digest_outside(path).map_err(|error| crate::causes(&error).join(": "))?;
        self.digests.insert(path.to_owned(), digest);
        Ok(digest)
    }
}
