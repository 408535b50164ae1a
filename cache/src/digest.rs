//! Digests: 32 bytes of BLAKE3, written as 64 lower-case hex digits and checked whenever they are read.
//!
//! Paths inside the store are made of digests only, so a text that is not one can never become a path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A BLAKE3 digest. As text, in JSON and in CBOR: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: expected 64 lower-case hex digits")]
pub struct ParseDigestError(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        blake3::hash(bytes).into()
    }

    /// The digest that has these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `base/ab/cdef…`: where the thing with this digest lies; 256 folders keep each of them short.
    pub(crate) fn within(&self, base: &Path) -> PathBuf {
        let hex = self.to_string();
        let (shard, rest) = hex.split_at(2);
        base.join(shard).join(rest)
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Digest {
        Digest(hash.into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        // One spelling only: an upper-case twin would be a second name for the same thing.
        let refused = || ParseDigestError(text.chars().take(80).collect());
        if !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refused());
        }
        blake3::Hash::from_hex(text).map(Digest::from).map_err(|_| refused())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What an action's result is looked up by. Who derives it decides what is in it; the store knows only the name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionKey(Digest);

impl ActionKey {
    /// The key of an action that is described by `cbor`, which must be encoded deterministically.
    ///
    /// `context` names what is being described and its version (`restage action v1`): the same bytes under another
    /// context are another key.
    pub fn derive(context: &str, cbor: &[u8]) -> ActionKey {
        ActionKey(Digest::from_bytes(blake3::derive_key(context, cbor)))
    }

    /// The key whose name in the store this is.
    pub(crate) const fn from_digest(digest: Digest) -> ActionKey {
        ActionKey(digest)
    }

    /// The key as a plain digest.
    pub const fn as_digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ActionKey {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<ActionKey, ParseDigestError> {
        text.parse().map(ActionKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_is_the_published_value() {
        // BLAKE3 of the empty input, from its test vectors.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of(b"").to_string(), empty);
    }

    #[test]
    fn text_comes_back() {
        let digest = Digest::of(b"a spot");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        let key = ActionKey::derive("restage action v1", b"x");
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn only_64_lower_case_hex_digits_are_a_digest() {
        let good = Digest::of(b"").to_string();
        let bad = [
            String::new(),
            good[1..].to_owned(),
            format!("{good}0"),
            good.to_uppercase(),
            good.replace('a', "/"),
            format!("../{}", &good[3..]),
            "é".repeat(32),
        ];
        for text in bad {
            assert_eq!(text.parse::<Digest>(), Err(ParseDigestError(text.clone())));
            assert!(serde_json::from_value::<ActionKey>(text.clone().into()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_context_is_part_of_a_key() {
        assert_ne!(ActionKey::derive("a v1", b"x"), ActionKey::derive("a v2", b"x"));
    }
}
