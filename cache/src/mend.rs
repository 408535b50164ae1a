//! Mending: an artifact that lost files, or in which some were replaced, is put together again from `files/`.
//!
//! Nothing is computed. What cannot be mended (the manifest is gone too, or bytes were overwritten in place, under all
//! their names) is damaged as before.

use std::fs;

use crate::artifact::unless_absent;
use crate::assemble::Assembly;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::MANIFEST;
use crate::manifest::Manifest;
use crate::store::Store;

impl Store {
    /// Puts a damaged artifact together again from files that are stored by their content, all of which are read. True if
    /// it is whole now.
    pub fn mend(&self, digest: &Digest) -> Result<bool> {
        if self.flaw(digest)?.is_none() {
            return Ok(true);
        }
        let place = self.layout().artifact(digest).join(MANIFEST);
        let encoded = unless_absent(fs::read(&place)).map_err(Error::io("read", &place))?.unwrap_or_default();
        let Some(manifest) = Manifest::decode(&encoded, digest) else { return Ok(false) };
        let assembly = Assembly::begin(self, digest, &manifest)?;
        if !assembly.lacking().is_empty() {
            return Ok(false);
        }
        assembly.finish()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Disk;
    use crate::faults::{Fault, Faults};
    use crate::layout::TREE;
    use crate::{Published, tree_digest};

    fn publish(store: &Store) -> Published {
        let staging = store.staging().unwrap();
        fs::create_dir_all(staging.path().join("c/0")).unwrap();
        for (name, bytes) in
            [("zarr.json", "{}"), ("c/0/0", "first"), ("c/0/1", "second"), ("c/0/2", "first")]
        {
            fs::write(staging.path().join(name), bytes).unwrap();
        }
        store.publish(staging.path()).unwrap()
    }

    #[test]
    fn what_was_lost_or_replaced_is_mended_and_what_was_overwritten_is_not() {
        let temp = tempfile::tempdir().unwrap();
        // A store that is opened anew has looked at nothing a moment ago.
        let open = || Store::open(temp.path()).unwrap();
        let digest = publish(&open()).digest;
        let store = open();
        let place = store.layout().artifact(&digest);
        let whole = || tree_digest(&open().artifact(&digest).unwrap().unwrap()).unwrap() == digest;
        let damage: [&dyn Fn(); 3] = [
            &|| fs::remove_dir_all(place.join(TREE)).unwrap(),
            &|| fs::remove_file(place.join(TREE).join("c/0/1")).unwrap(),
            &|| {
                let file = place.join(TREE).join("c/0/0");
                fs::remove_file(&file).unwrap();
                fs::write(file, "FIRST").unwrap();
            },
        ];
        for damage in damage {
            damage();
            assert!(open().artifact(&digest).unwrap().is_none());
            assert!(store.mend(&digest).unwrap() && whole());
        }
        assert!(store.mend(&digest).unwrap(), "nothing to do");

        fs::remove_file(place.join(TREE).join("c/0/1")).unwrap();
        fs::remove_file(store.layout().file(&Digest::of(b"second"))).unwrap();
        assert!(!store.mend(&digest).unwrap(), "that file was the last copy");
        fs::remove_dir_all(&place).unwrap();
        assert!(!store.mend(&digest).unwrap(), "nothing says what was in it");
    }

    #[test]
    fn mending_survives_each_fault() {
        let attempt = |number: usize, fault: Fault| {
            let temp = crate::crash::temp();
            let root = temp.path();
            let store = Store::open(root).unwrap();
            let digest = publish(&store).digest;
            fs::remove_dir_all(store.layout().artifact(&digest).join(TREE)).unwrap();
            let faulty = Store::open_on(Disk::with(Faults::at(number, fault)), root).unwrap();
            let mended = faulty.mend(&digest);
            let failed = faulty.disk().faults.failed().is_some();
            assert!(failed && !fault.is_interruption() || mended.unwrap());
            drop(faulty);
            let store = Store::open(root).unwrap();
            if let Some(tree) = store.artifact(&digest).unwrap() {
                assert_eq!(tree_digest(&tree).unwrap(), digest);
            }
            assert!(store.mend(&digest).unwrap());
            failed
        };
        for fault in Fault::ALL {
            let operations = (0..).take_while(|number| attempt(*number, fault)).count();
            assert!(operations >= 15 || fault.is_rare(), "{fault:?}: only {operations} operations were seen");
        }
    }
}
