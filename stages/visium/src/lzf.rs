//! LZF, with which h5py packs what is written with `compression="lzf"`: HDF5 knows it by a number, and no crate unpacks it.
//!
//! A byte below 32 is followed by one literal more than it says. Any other begins a copy of what was unpacked already: its
//! upper three bits are the length less 2 (7: a byte more is added), its lower five and one more byte how far back, less 1.

use hdf5_reader::{error::Error, messages::filter_pipeline::FilterDescription};

/// h5py's filter.
pub(crate) const FILTER: u16 = 32000;

/// Unpacks a chunk; the third of the filter's values is how many bytes it has, where it says.
pub(crate) fn filter(about: &FilterDescription, packed: &[u8], _: usize) -> Result<Vec<u8>, Error> {
    let size = about.client_data.get(2).map(|&size| size as usize);
    unpack(packed)
        .filter(|chunk| size.is_none_or(|size| size == 0 || size == chunk.len()))
        .ok_or_else(|| Error::DecompressionError("a chunk of LZF is damaged".into()))
}

/// `None` where a piece is cut off, or copies what is not there.
fn unpack(mut packed: &[u8]) -> Option<Vec<u8>> {
    let mut chunk = Vec::with_capacity(packed.len() * 2);
    while let Some((&first, rest)) = packed.split_first() {
        packed = rest;
        let mut next = || {
            let (&byte, rest) = packed.split_first()?;
            packed = rest;
            Some(usize::from(byte))
        };
        if first < 32 {
            let (literals, rest) = packed.split_at_checked(usize::from(first) + 1)?;
            chunk.extend_from_slice(literals);
            packed = rest;
            continue;
        }
        let more = if first >> 5 == 7 { next()? } else { 0 };
        let length = usize::from(first >> 5) + more + 2;
        let back = (usize::from(first & 31) << 8) + next()? + 1;
        let begin = chunk.len().checked_sub(back)?;
        // A copy may reach into what it makes itself.
        (begin..begin + length).for_each(|place| chunk.push(chunk[place]));
    }
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_may_overlap_and_be_long() {
        assert_eq!(unpack(&[2, b'a', b'b', b'c', 0x20, 2]).unwrap(), b"abcabc");
        assert_eq!(unpack(&[0, b'x', 0xe0, 11, 0]).unwrap(), vec![b'x'; 1 + 7 + 11 + 2]);
    }

    #[test]
    fn what_is_cut_off_or_not_there_is_none() {
        for damaged in [&[3, b'a'][..], &[0, b'a', 0x20], &[0, b'a', 0xe0, 1], &[0, b'a', 0x20, 1]] {
            assert_eq!(unpack(damaged), None, "{damaged:?}");
        }
    }
}
