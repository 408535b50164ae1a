//! What a store holds, for people to ask about: records with where results came from, artifacts by the first digits of
//! their digest.

use crate::action::Record;
use crate::digest::{ActionKey, Digest};
use crate::error::Result;
use crate::inventory;
use crate::store::Store;

impl Store {
    /// All records that can be read, in the order of their keys. Results that disagree with another's are among them.
    pub fn records(&self) -> Result<Vec<(ActionKey, Record)>> {
        let all = inventory::records(self.layout())?;
        Ok(all.into_iter().filter_map(|noted| Some((noted.key, noted.record.ok()?))).collect())
    }

    /// The artifacts whose digests begin with these hex digits, in order, whether or not they are whole. None where the text
    /// is not one of at least two lower-case hex digits.
    pub fn artifacts_like(&self, prefix: &str) -> Result<Vec<Digest>> {
        let is_hex = prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let Some((shard, rest)) = prefix.split_at_checked(2).filter(|_| is_hex) else {
            return Ok(Vec::new());
        };
        let listed = inventory::unless_gone(inventory::list(&self.layout().artifacts().join(shard)))?;
        let names = listed.unwrap_or_default().into_iter().map(|(name, _)| name);
        let mut found: Vec<Digest> = names
            .filter(|name| name.starts_with(rest))
            .filter_map(|name| format!("{shard}{name}").parse().ok())
            .collect();
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::temp;
    use crate::gc_tests::{key, publish, record};

    #[test]
    fn artifacts_are_found_by_the_beginning_of_their_digest() {
        let temp = temp();
        let store = Store::open(temp.path()).unwrap();
        let digest = publish(&store, &[3].into());
        let text = digest.to_string();
        for length in [2, 6, 63, 64] {
            assert_eq!(store.artifacts_like(&text[..length]).unwrap(), [digest]);
        }
        let other = if text.starts_with('0') { "1" } else { "0" };
        for none in ["", &text[..1], &format!("{text}0"), &format!("{other}{text}"), "../files", "ä", "AB12"]
        {
            assert_eq!(store.artifacts_like(none).unwrap(), [], "{none}");
        }
    }

    #[test]
    fn records_are_listed_with_what_they_say() {
        let temp = temp();
        let store = Store::open(temp.path()).unwrap();
        let digests = [1, 2].map(|file| publish(&store, &[file].into()));
        record(&store, 0, &digests, 7);
        record(&store, 0, &digests[..1], 8);
        let all = store.records().unwrap();
        assert_eq!(all.len(), 2, "one and one that disagrees");
        assert!(all.iter().all(|(found, _)| *found == key(0)));
        assert_eq!(all[0].1.provenance["milliseconds"], 7);
    }
}
