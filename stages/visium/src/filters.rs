//! How chunks of HDF5 are unpacked: deflate and shuffle, with which nearly all of them are packed, where the crate that reads the
//! rest of a file has slower ways of its own; and LZF, for which it has none.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hdf5_reader::{
    FilterRegistry,
    error::Error,
    filters::{FILTER_DEFLATE, FILTER_SHUFFLE},
};
use libdeflater::Decompressor;

use crate::lzf;

/// What filters before deflate may have added to a chunk: a checksum of four bytes, a header, or a packing that packed nothing.
const ADDED: usize = 1 << 10;

/// Room that a thread keeps from chunk to chunk, at most.
const KEPT: usize = 4 << 20;

/// Bytes of the largest chunk of the datasets that were opened: no chunk unpacks to much more, whatever a damaged one says.
pub(crate) type Largest = Arc<AtomicUsize>;

/// The filters by their numbers.
pub(crate) fn registry(largest: &Largest) -> FilterRegistry {
    let mut filters = FilterRegistry::new();
    let largest = Arc::clone(largest);
    let inflated =
        move |packed: &[u8]| inflate(packed, largest.load(Ordering::Relaxed).saturating_add(ADDED));
    filters.register(FILTER_DEFLATE, Box::new(move |_, packed, _| inflated(packed)));
    filters.register(FILTER_SHUFFLE, Box::new(|_, planes, size| Ok(unshuffle(planes, size))));
    filters.register(lzf::FILTER, Box::new(lzf::filter));
    filters
}

/// Unpacks a chunk of at most `most` bytes. Its checksum is compared.
fn inflate(packed: &[u8], most: usize) -> Result<Vec<u8>, Error> {
    thread_local! {
        /// With room that is kept: how large a chunk is, is known when it is unpacked.
        static UNPACKING: RefCell<(Decompressor, Vec<u8>)> = RefCell::new((Decompressor::new(), Vec::new()));
    }
    let wrong = |problem: &str| Error::DecompressionError(format!("a chunk of deflate {problem}"));
    // A byte makes no more than 1032: a chunk that claims to be huge takes no memory.
    let most = most.min(packed.len().saturating_mul(1032));
    UNPACKING.with_borrow_mut(|(decompressor, room)| {
        if room.len() < most {
            room.try_reserve_exact(most - room.len()).map_err(|_| wrong("does not fit into memory"))?;
            room.resize(most, 0);
        }
        let size = decompressor
            .zlib_decompress(packed, &mut room[..most])
            .map_err(|problem| wrong(&format!("is damaged: {problem}")))?;
        // What is rare is not kept, and not copied.
        if most > KEPT {
            let mut chunk = std::mem::take(room);
            chunk.truncate(size);
            return Ok(chunk);
        }
        Ok(room[..size].to_vec())
    })
}

/// Elements of `size` bytes from their first bytes, then their second, …; what is left over stays as it is.
fn unshuffle(planes: &[u8], size: usize) -> Vec<u8> {
    match size {
        2 => unshuffle_of::<2>(planes),
        4 => unshuffle_of::<4>(planes),
        8 => unshuffle_of::<8>(planes),
        0 | 1 => planes.to_vec(),
        _ => {
            let count = planes.len() / size;
            let mut elements = vec![0; planes.len()];
            for (place, element) in elements.chunks_exact_mut(size).enumerate() {
                element
                    .iter_mut()
                    .zip(planes[place..].iter().step_by(count))
                    .for_each(|(to, from)| *to = *from);
            }
            elements[count * size..].copy_from_slice(&planes[count * size..]);
            elements
        }
    }
}

/// As `unshuffle`, of numbers: the compiler knows how many planes there are, and takes many elements at a time.
fn unshuffle_of<const SIZE: usize>(planes: &[u8]) -> Vec<u8> {
    let count = planes.len() / SIZE;
    let mut elements = vec![0; planes.len()];
    let of_plane: [&[u8]; SIZE] = std::array::from_fn(|plane| &planes[plane * count..][..count]);
    for (place, element) in elements.as_chunks_mut::<SIZE>().0.iter_mut().enumerate() {
        *element = std::array::from_fn(|plane| of_plane[plane][place]);
    }
    elements[count * SIZE..].copy_from_slice(&planes[count * SIZE..]);
    elements
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(4));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_zlib_packed_comes_out(bytes in proptest::collection::vec(0..4_u8, 0..5000)) {
            prop_assert_eq!(inflate(&deflated(&bytes), bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn elements_come_back_from_their_planes(bytes in proptest::collection::vec(0..=u8::MAX, 0..200), size in 0..20_usize) {
            let count = bytes.len().checked_div(size).unwrap_or_default();
            let mut planes: Vec<u8> =
                (0..size).flat_map(|plane| bytes.iter().skip(plane).step_by(size.max(1)).take(count)).copied().collect();
            planes.extend_from_slice(&bytes[count * size..]);
            prop_assert_eq!(unshuffle(&planes, size), bytes);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0..=u8::MAX, 0..200), size in 0..20_usize) {
            let _ = inflate(&bytes, 1 << 16);
            prop_assert_eq!(unshuffle(&bytes, size).len(), bytes.len());
        }
    }

    #[test]
    fn a_chunk_of_more_than_it_may_have_or_with_a_wrong_byte_is_damaged() {
        let bytes = vec![7; 1 << 20];
        let mut packed = deflated(&bytes);
        assert!(inflate(&packed, 1 << 10).unwrap_err().to_string().contains("a chunk of deflate is damaged"));
        assert_eq!(inflate(&packed, usize::MAX).unwrap(), bytes);
        // The last byte of the checksum.
        *packed.last_mut().unwrap() ^= 1;
        assert!(inflate(&packed, 1 << 20).unwrap_err().to_string().contains("is damaged"));
    }
}
