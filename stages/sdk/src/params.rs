//! Param types with a meaning to the engine: paths. Each is written in YAML as a text, relative to the workflow file; in
//! canonical params it is a mapping with a mark, `{"$path": …}`, by which the engine finds it and makes it absolute.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::task::{CODE_MARK, PATH_MARK, TOOL_MARK};

/// A file or folder outside the workflow that the stage reads; the digest of its *content* is part of the action key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPath(PathBuf);

/// A script that the stage runs; the digest of its *code* is part of the action key. A Python script is what its tokens
/// are, with the local modules that it imports: a comment changes nothing. Of other files each byte counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodePath(PathBuf);

/// A program that the stage runs: the name of one on `PATH`, or with a `/` a path. It is part of the action key as it is
/// written, not by its content: another machine's Python is another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPath(PathBuf);

/// What the three have in common.
macro_rules! marked {
    ($type:ident, $mark:expr, $doc:literal, $expected:literal) => {
        impl $type {
            /// The path; absolute while a stage runs.
            pub fn as_path(&self) -> &Path {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                BTreeMap::from([($mark, &self.0)]).serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let path = match Form::deserialize(deserializer) {
                    Ok(form) => form.path($mark),
                    // One that is not there says its name; what is no path only that it is none of the forms.
                    Err(error) if error.to_string().starts_with("missing field") => return Err(error),
                    Err(_) => None,
                };
                path.map(Self).ok_or_else(|| D::Error::custom($expected))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $doc })
            }
        }
    };
}

/// A path as it is written, and as the engine hands it back.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Plain(PathBuf),
    Marked(BTreeMap<String, PathBuf>),
}

impl Form {
    fn path(self, mark: &str) -> Option<PathBuf> {
        match self {
            Self::Plain(path) => Some(path),
            Self::Marked(mut map) => map.remove(mark).filter(|_| map.is_empty()),
        }
    }
}

marked!(
    InputPath,
    PATH_MARK,
    "A file or folder, relative to the workflow file; its content is part of the cache key.",
    "expected a path relative to the workflow file"
);
marked!(
    CodePath,
    CODE_MARK,
    "A script, relative to the workflow file; its code is part of the cache key, with that of the local Python modules that \
     it imports. Comments are not.",
    "expected the path of a script, relative to the workflow file"
);
marked!(
    ToolPath,
    TOOL_MARK,
    "A program on PATH, or with a `/` a path relative to the workflow file.",
    "expected the name of a program, or its path"
);
