//! Files that params name, data and scripts: made absolute for the stage, and replaced by digests of what they hold in keys.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use restage_cache::{Digest, Store};
use restage_stage::task::{CODE_MARK, PATH_MARK, TOOL_MARK};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{plugin::python, workflow::git};

/// The mark, in keyed params, of a digest in the place of a path.
pub(super) const DIGEST_MARK: &str = "$digest";

/// Params for the stage (absolute paths) and for keys (digests instead), and what they name.
#[derive(Clone)]
pub(super) struct Params {
    pub(super) given: Arc<Value>,
    pub(super) keyed: Arc<Value>,
    pub(super) named: Named,
}

/// Files that params name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Named {
    /// All that is read of data and code, with what it held when the plan was made.
    pub(crate) files: Vec<(PathBuf, Digest)>,
    /// Which of them are code, with what they are in keys.
    pub(crate) code: Vec<(PathBuf, Digest)>,
    /// Programs given by their path.
    pub(crate) tools: Vec<PathBuf>,
    /// Each path as it is written.
    #[serde(skip)]
    pub(crate) written: Vec<Written>,
}

/// A path among the params, and what it named when the plan was made.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The param that it is in.
    pub(crate) param: String,
    /// Its text, references replaced.
    pub(crate) text: String,
    /// Where it begins, if it is relative.
    pub(crate) folder: PathBuf,
    /// Of the data, or of the script and what it imports.
    pub(crate) digest: Digest,
    /// Whether it is a script.
    pub(crate) code: bool,
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
            Value::Object(map) => mark_of(map).is_some() || map.values().any(Self::names_any),
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
        let mut named = Named::default();
        for (param, value) in params.as_object().into_iter().flatten() {
            match self.value(value, &format!("/{param}"), foreign, &mut named) {
                Ok((for_stage, for_key)) => {
                    given.insert(param.clone(), for_stage);
                    keyed.insert(param.clone(), for_key);
                }
                Err(message) => wrong(param, message),
            }
        }
        Params { given: Arc::new(given.into()), keyed: Arc::new(keyed.into()), named }
    }

    fn value(
        &mut self,
        value: &Value,
        pointer: &str,
        foreign: &Foreign,
        named: &mut Named,
    ) -> Result<(Value, Value), String> {
        match value {
            Value::Object(map) if mark_of(map).is_some() => {
                let (mark, path) = mark_of(map).unwrap_or_default();
                let folder =
                    foreign.iter().find(|(place, _)| place == pointer).map(|(_, folder)| folder.as_path());
                self.file(mark, path, pointer, folder.unwrap_or(self.folder), named)
            }
            Value::Object(map) => {
                let (mut given, mut keyed) = (serde_json::Map::new(), serde_json::Map::new());
                for (key, value) in map {
                    let (for_stage, for_key) =
                        self.value(value, &format!("{pointer}/{key}"), foreign, named)?;
                    given.insert(key.clone(), for_stage);
                    keyed.insert(key.clone(), for_key);
                }
                Ok((given.into(), keyed.into()))
            }
            Value::Array(items) => {
                let (mut given, mut keyed) = (Vec::new(), Vec::new());
                for (index, item) in items.iter().enumerate() {
                    let (for_stage, for_key) =
                        self.value(item, &format!("{pointer}/{index}"), foreign, named)?;
                    given.push(for_stage);
                    keyed.push(for_key);
                }
                Ok((given.into(), keyed.into()))
            }
            plain => Ok((plain.clone(), plain.clone())),
        }
    }

    /// A marked path for the stage and for keys.
    fn file(
        &mut self,
        mark: &str,
        path: &str,
        pointer: &str,
        folder: &Path,
        named: &mut Named,
    ) -> Result<(Value, Value), String> {
        if mark == TOOL_MARK {
            // Without a `/` it is looked for on `PATH`, as a shell does.
            let given = if path.contains('/') { folder.join(path) } else { PathBuf::from(path) };
            named.tools.extend(given.is_absolute().then(|| given.clone()));
            return Ok((json!({ TOOL_MARK: given }), json!({ TOOL_MARK: path })));
        }
        let absolute = folder.join(path);
        let repository = git::root_of(folder, self.store).filter(|_| Path::new(path).is_relative());
        if repository.is_some_and(|root| git::within(&root, &absolute).is_none()) {
            return Err(format!("`{path}` leads out of the repository of the file that names it"));
        }
        let digest = self.digest(&absolute)?;
        let written = |digest, code| Written {
            param: pointer.split('/').nth(1).unwrap_or_default().to_owned(),
            text: path.to_owned(),
            folder: folder.to_owned(),
            digest,
            code,
        };
        if mark == PATH_MARK {
            named.written.push(written(digest, false));
            named.files.push((absolute.clone(), digest));
            return Ok((json!({ PATH_MARK: absolute }), json!({ DIGEST_MARK: digest })));
        }
        let sources =
            python::sources(&absolute).map_err(|error| format!("cannot read the code of {path}: {error}"))?;
        let mut keyed = serde_json::Map::new();
        for source in sources {
            named.files.push((source.path.clone(), self.digest(&source.path)?));
            named.code.push((source.path, source.digest));
            keyed.insert(source.name, json!({ DIGEST_MARK: source.digest }));
        }
        let keyed = Value::from(keyed);
        named.written.push(written(Digest::of(keyed.to_string().as_bytes()), true));
        Ok((json!({ CODE_MARK: absolute }), keyed))
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

/// The mark and the path of a marked path.
fn mark_of(map: &serde_json::Map<String, Value>) -> Option<(&str, &str)> {
    let (mark, path) = map.iter().next().filter(|_| map.len() == 1)?;
    [PATH_MARK, CODE_MARK, TOOL_MARK].contains(&mark.as_str()).then_some((mark, path.as_str()?))
}
