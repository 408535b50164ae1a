//! Where things lie under the root: the only place that knows the names in the picture of `lib.rs`.

use std::path::{Path, PathBuf};

use crate::digest::{ActionKey, Digest};
use crate::error::{Error, Result};

/// The folder inside an artifact that is what its readers open.
pub(crate) const TREE: &str = "tree";
/// The list beside [`TREE`] that an artifact's digest is the digest of.
pub(crate) const MANIFEST: &str = "manifest";
/// The file of an action that holds its result.
pub(crate) const RECORD: &str = "record.json";
/// The folder beside [`RECORD`] for results that disagree with it.
pub(crate) const SEEN: &str = "seen";

/// The paths of one store.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    current: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Layout {
        let current = root.join("v1");
        Layout { root, current }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("FORMAT")
    }

    pub(crate) fn tag(&self) -> PathBuf {
        self.root.join("CACHEDIR.TAG")
    }

    /// The folder of this format, parent of all below.
    pub(crate) fn current(&self) -> &Path {
        &self.current
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.current.join("files")
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.current.join("artifacts")
    }

    pub(crate) fn actions(&self) -> PathBuf {
        self.current.join("actions")
    }

    pub(crate) fn stagings(&self) -> PathBuf {
        self.current.join("staging")
    }

    pub(crate) fn scratches(&self) -> PathBuf {
        self.current.join("scratch")
    }

    /// Who computes what now.
    pub(crate) fn claims(&self) -> PathBuf {
        self.current.join("claims")
    }

    pub(crate) fn claim(&self, key: &ActionKey) -> PathBuf {
        self.claims().join(key.to_string())
    }

    /// What is known of files that are not in the store.
    pub(crate) fn outsides(&self) -> PathBuf {
        self.current.join("outside")
    }

    /// What is known of the file or folder `real`, an absolute path.
    pub(crate) fn outside(&self, real: &Path) -> PathBuf {
        self.outsides().join(Digest::of(real.as_os_str().as_encoded_bytes()).to_string())
    }

    /// Named roots of the sweep.
    pub(crate) fn pins(&self) -> PathBuf {
        self.current.join("pins")
    }

    /// What a sweep moved out of the way, to be deleted by a later one.
    pub(crate) fn trash(&self) -> PathBuf {
        self.current.join("trash")
    }

    /// What was found damaged.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.current.join("quarantine")
    }

    pub(crate) fn file(&self, digest: &Digest) -> PathBuf {
        digest.within(&self.files())
    }

    pub(crate) fn artifact(&self, digest: &Digest) -> PathBuf {
        digest.within(&self.artifacts())
    }

    pub(crate) fn action(&self, key: &ActionKey) -> PathBuf {
        key.as_digest().within(&self.actions())
    }

    /// A folder that is not the store's own business, beside its own.
    pub(crate) fn bucket(&self, name: &str) -> Result<PathBuf> {
        let ours = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
        let letters = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        let fits = name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_lowercase());
        if !letters || !fits || name.strip_prefix('v').is_some_and(ours) {
            return Err(Error::BucketName(name.to_owned()));
        }
        Ok(self.root.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stays_beside_the_stores_own_folders() {
        let layout = Layout::new("/cache".into());
        for good in ["plugins", "runs", "v1x", "v", "a-b_2"] {
            assert_eq!(layout.bucket(good).unwrap(), Path::new("/cache").join(good));
        }
        for bad in ["", "v1", "v22", "..", "../x", "a/b", "FORMAT", "-x", "2x", "ä", &"a".repeat(65)] {
            assert!(matches!(layout.bucket(bad), Err(Error::BucketName(name)) if name == bad));
        }
    }
}
