//! The manifest of a tree: which files it has, in an encoding whose digest *is* the tree's digest.
//!
//! Deterministic CBOR: an array, sorted by path, of arrays `[path: text, size: unsigned, digest: text of 64 hex digits]`.
//! Every string carries its length, so no two trees share bytes. No times, modes, owners or empty folders.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Refusal;

/// Names what is digested, and its version. Changing anything above means changing this.
const CONTEXT: &str = "restage tree v1";

/// More files than this are no artifact but a mistake, or an attempt to fill a disk's table of files: Zarr is sharded.
pub(crate) const MAX_FILES: usize = 1 << 18;

/// What file systems take as one name, in bytes.
const MAX_NAME: usize = 255;

/// What they take as a path, less room for where a store lies.
const MAX_PATH: usize = 3_000;

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

    /// A manifest that comes from elsewhere, held to all that [`Store::publish`](crate::Store::publish) holds a folder to.
    /// The error is the path at fault, if it is one, and what is wrong.
    pub(crate) fn admit(bytes: &[u8], digest: &Digest) -> Result<Manifest, (String, Refusal)> {
        let manifest = Manifest::decode(bytes, digest);
        // Other spellings of the same rows would be another artifact once it is published from here.
        let canonical = manifest.filter(|manifest| manifest.encode().is_ok_and(|encoded| encoded == bytes));
        let manifest = canonical.ok_or((String::new(), Refusal::NotAManifest))?;
        let mut paths = manifest.entries.iter().map(|entry| &entry.path);
        if !paths.clone().zip(paths.clone().skip(1)).all(|(a, b)| a < b) {
            return Err((String::new(), Refusal::NotAManifest));
        }
        if let Some(odd) = paths.find(|path| is_odd(path)) {
            return Err((odd.clone(), Refusal::OddName));
        }
        manifest.bytes().ok_or((String::new(), Refusal::TooLarge))?;
        manifest.check_names()?;
        Ok(manifest)
    }

    /// The size of all files together. `None` if no disk could hold them.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.size))
    }

    /// Whether the names can be given to files anywhere: on systems too that do not tell `A` from `a`.
    pub(crate) fn check_names(&self) -> Result<(), (String, Refusal)> {
        if self.entries.len() > MAX_FILES {
            return Err((String::new(), Refusal::TooMany(self.entries.len())));
        }
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        let mut folders: HashSet<String> = HashSet::new();
        for Entry { path, .. } in &self.entries {
            if path.len() > MAX_PATH || path.split('/').any(|name| name.len() > MAX_NAME) {
                return Err((path.clone(), Refusal::LongName));
            }
            let folded = path.to_lowercase();
            let above = folded.match_indices('/').filter_map(|(end, _)| folded.get(..end));
            folders.extend(above.map(str::to_owned));
            if let Some(twin) = seen.insert(folded, path) {
                return Err((path.clone(), Refusal::CaseTwin(twin.to_owned())));
            }
        }
        // A file that is a folder too.
        match seen.iter().find(|(folded, _)| folders.contains(*folded)) {
            Some((_, path)) => Err(((*path).to_owned(), Refusal::FileAndFolder)),
            None => Ok(()),
        }
    }
}

fn stays_inside(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether a name is one that does not travel between systems.
pub(crate) fn is_odd(name: &str) -> bool {
    name.contains(|c: char| c.is_control() || c == '\\')
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
            assert!(Manifest::admit(&bytes, &digest).is_err(), "{path}");
        }
    }

    /// What `admit` says about rows in this order.
    fn admitted(entries: Vec<Entry>) -> Result<Manifest, (String, Refusal)> {
        let bytes = Manifest { entries }.encode().unwrap();
        Manifest::admit(&bytes, &Manifest::digest(&bytes))
    }

    #[test]
    fn what_would_harm_another_system_is_not_admitted() {
        let why = |paths: &[&str]| admitted(paths.iter().map(|path| entry(path)).collect()).unwrap_err().1;
        assert_eq!(why(&["a\0b"]), Refusal::OddName);
        assert_eq!(why(&["C:\\a"]), Refusal::OddName);
        assert_eq!(why(&["b", "a"]), Refusal::NotAManifest, "not sorted");
        assert_eq!(why(&["a", "a"]), Refusal::NotAManifest, "twice");
        assert_eq!(why(&["A/x", "a/X"]), Refusal::CaseTwin("A/x".into()));
        assert_eq!(why(&["É", "é"]), Refusal::CaseTwin("É".into()));
        assert_eq!(why(&["a", "a/b"]), Refusal::FileAndFolder);
        assert_eq!(
            why(&["a/b", "A"].map(|path| path).iter().rev().copied().collect::<Vec<_>>()),
            Refusal::FileAndFolder
        );
        assert_eq!(why(&[&"a".repeat(256)]), Refusal::LongName);
        assert_eq!(why(&[&"a/".repeat(1_600).as_str()[..3_199]]), Refusal::LongName);
        let huge = vec![Entry { size: u64::MAX, ..entry("a") }, entry("b")];
        assert_eq!(admitted(huge).unwrap_err().1, Refusal::TooLarge);
        let many = (0..1_000_000).map(|number| entry(&format!("{number:07}"))).collect();
        assert_eq!(admitted(many).unwrap_err().1, Refusal::TooMany(1_000_000));
        assert!(admitted(vec![entry("A/x"), entry("a/y"), entry("é/ü")]).is_ok());
    }

    #[test]
    fn only_the_canonical_bytes_are_admitted() {
        let (bytes, _) = encoded(vec![entry("a")]);
        let longer = [bytes.as_slice(), b"x"].concat();
        // The same array with its length in two bytes.
        let wide = [&[0x98, 0x01], &bytes[1..]].concat();
        for other in [longer, wide] {
            assert_eq!(
                Manifest::admit(&other, &Manifest::digest(&other)).unwrap_err().1,
                Refusal::NotAManifest
            );
        }
    }
}
