//! What members of a tar have in common, bundles of results and whatever else is written for others.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::digest::Digest;

/// Bytes that are hashed while they are read.
pub struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Hashed<R> {
    /// Nothing is read yet.
    pub fn new(inner: R) -> Hashed<R> {
        Hashed { inner, hasher: blake3::Hasher::new() }
    }

    /// Of what was read so far.
    pub fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// The header of a plain file of so many bytes, without name and checksum: the same for everybody at any time, so that equal
/// members are equal bytes.
pub fn plain_header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

/// What is wrong with a tar, on one short line: `tar` quotes the bytes that it stumbles on, which may be anybody's.
pub fn damage(error: &io::Error) -> String {
    const MOST: usize = 120;
    error.to_string().escape_debug().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_tar_that_is_none_do_not_reach_a_terminal() {
        let told = damage(&io::Error::other(format!("not a number: \x1b[2J{}", "x".repeat(500))));
        assert!(told.starts_with("not a number: \\u{1b}[2Jxx") && told.len() == 120, "{told}");
    }
}
