//! Param types with a meaning to the engine.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, ser::SerializeMap};

use crate::task::PATH_MARK;

/// A file or folder outside the workflow that the stage reads.
///
/// Written in YAML as a path relative to the workflow file. In canonical params it is `{"$path": …}`: by that mark
/// the engine finds it, makes it absolute, and puts the digest of its *content* into the action key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPath(PathBuf);

impl InputPath {
    /// The path; absolute while a stage runs.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Serialize for InputPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(PATH_MARK, &self.0)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for InputPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Plain(PathBuf),
            Marked {
                #[serde(rename = "$path")]
                path: PathBuf,
            },
        }
        Form::deserialize(deserializer)
            .map(|form| match form {
                Form::Plain(path) | Form::Marked { path } => Self(path),
            })
            .map_err(|_| serde::de::Error::custom("expected a path relative to the workflow file"))
    }
}

impl JsonSchema for InputPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InputPath".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A file or folder, relative to the workflow file; its content is part of the cache key."
        })
    }
}
