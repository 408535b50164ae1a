//! Bytes as text of a page.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::DeflateEncoder};

/// Compressed, in base 64; the page's script unpacks it.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    // Writing into memory does not fail.
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default();
    STANDARD.encode(packed)
}

/// As a `data:` address.
pub(super) fn address(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|value| (value / 7 % 251) as u8).collect();
        let packed = text(&bytes);
        assert!(packed.len() < bytes.len());
        let mut back = Vec::new();
        let compressed = STANDARD.decode(packed).unwrap();
        flate2::read::DeflateDecoder::new(&compressed[..]).read_to_end(&mut back).unwrap();
        assert!(back == bytes);
        assert_eq!(address("image/png", b"abc"), "data:image/png;base64,YWJj");
    }
}
