//! The manifest of a tree: which files it has, in an encoding whose digest *is* the tree's digest.
//!
//! Deterministic CBOR: an array, sorted by path, of arrays `[path: text, size: unsigned, digest: text of 64 hex digits]`.
//! Every string carries its length, so no two trees share bytes. No times, modes, owners or empty folders.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Names what is digested, and its version. Changing anything above means changing this.
const CONTEXT: &str = "restage tree v1";

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the tree, `/` between its parts; empty where the tree is one plain file.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Of the content.
    pub(crate) digest: Digest,
}

/// The files of a tree in the order of their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Written<'a>(&'a str, u64, Digest);

#[derive(Deserialize)]
struct Read(String, u64, Digest);

impl Manifest {
    pub(crate) fn new(mut entries: Vec<Entry>) -> Manifest {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Manifest { entries }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The canonical bytes. The error is the encoder's.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let rows: Vec<Written<'_>> =
            self.entries.iter().map(|e| Written(&e.path, e.size, e.digest)).collect();
        let mut bytes = Vec::new();
        ciborium::into_writer(&rows, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// The digest of the tree that these canonical bytes describe.
    pub(crate) fn digest(bytes: &[u8]) -> Digest {
        Digest::from_bytes(blake3::derive_key(CONTEXT, bytes))
    }

    /// The manifest of the artifact `digest`; `None` if the bytes are any other's, torn, or would lead out of its folder.
    pub(crate) fn decode(bytes: &[u8], digest: &Digest) -> Option<Manifest> {
        if Manifest::digest(bytes) != *digest {
            return None;
        }
        let rows: Vec<Read> = ciborium::from_reader(bytes).ok()?;
        let entries = rows.into_iter().map(|Read(path, size, digest)| Entry { path, size, digest });
        let manifest = Manifest { entries: entries.collect() };
        manifest.entries.iter().all(|e| stays_inside(&e.path)).then_some(manifest)
    }
}

fn stays_inside(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry { path: path.into(), size: 3, digest: Digest::of(b"abc") }
    }

    fn encoded(entries: Vec<Entry>) -> (Vec<u8>, Digest) {
        let bytes = Manifest::new(entries).encode().unwrap();
        let digest = Manifest::digest(&bytes);
        (bytes, digest)
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let (bytes, _) = encoded(vec![entry("b"), entry("a/é")]);
        let hex = Digest::of(b"abc").to_string();
        let mut expected = vec![0x82]; // an array of two
        for path in ["a/é", "b"] {
            expected.extend([0x83, 0x60 + path.len() as u8]); // an array of three; a text
            expected.extend(path.bytes());
            expected.extend([0x03, 0x78, 64]); // size 3; a text of 64
            expected.extend(hex.bytes());
        }
        assert_eq!(bytes, expected);
    }

    #[test]
    fn only_its_own_bytes_are_read_back() {
        let (bytes, digest) = encoded(vec![entry("a"), entry("b/c")]);
        assert_eq!(Manifest::decode(&bytes, &digest), Some(Manifest::new(vec![entry("a"), entry("b/c")])));
        assert_eq!(Manifest::decode(&bytes, &Digest::of(b"other")), None);
        for cut in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..cut], &digest), None);
        }
    }

    #[test]
    fn a_path_that_leads_out_is_not_read() {
        for path in ["../a", "a/../../b", "/a", "a//b", "", "./a", "a/"] {
            let (bytes, digest) = encoded(vec![entry(path)]);
            assert_eq!(Manifest::decode(&bytes, &digest), None, "{path}");
        }
    }
}
