//! What the tests of the public surface share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use restage_cache::{ActionKey, Digest, Published, Record, Store};
use serde_json::json;

/// Files by their path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn files(list: &[(&str, &str)]) -> Files {
    list.iter().map(|(path, content)| ((*path).to_owned(), content.as_bytes().to_vec())).collect()
}

pub(crate) fn write<'a>(top: &Path, files: impl IntoIterator<Item = (&'a String, &'a Vec<u8>)>) {
    fs::create_dir_all(top).unwrap();
    for (path, content) in files {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

pub(crate) fn publish(store: &Store, files: &Files) -> Published {
    let staging = store.staging().unwrap();
    write(&staging.path().join("out"), files);
    store.publish(&staging.path().join("out")).unwrap()
}

pub(crate) fn key(name: &str) -> ActionKey {
    ActionKey::derive("restage test v1", name.as_bytes())
}

pub(crate) fn record(outputs: &[(&str, Digest)]) -> Record {
    let outputs = outputs.iter().map(|(port, digest)| ((*port).to_owned(), *digest)).collect();
    Record { outputs, provenance: json!({ "host": "here", "seconds": 1.5 }) }
}

/// Where the thing of this digest lies.
pub(crate) fn within(store: &Store, folder: &str, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    store.root().join("v1").join(folder).join(&hex[..2]).join(&hex[2..])
}

/// How many things are in `staging`, where an open store has a folder of its own.
pub(crate) fn staged(store: &Store) -> usize {
    let folders = fs::read_dir(store.root().join("v1/staging")).unwrap().map(|left| left.unwrap().path());
    folders.map(|folder| fs::read_dir(folder).unwrap().count()).sum()
}
