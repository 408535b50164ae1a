//! Strips and tiles of LZW in a TIFF. The crate `tiff` refuses sound ones whose last code fills the tile exactly
//! (image-tiff's issue 395); here codes are read until the tile is full, as libtiff does.

use std::{
    fs::File,
    io::{BufReader, Error, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use tiff::{
    TiffError,
    decoder::{ChunkType, Decoder},
    tags::{CompressionMethod, Tag},
};
use weezl::{BitOrder, LzwStatus, decode::Configuration};

/// What is needed to decode the chunks of a page by hand.
pub(super) struct Lzw {
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    /// Whole chunk: samples in a row, rows.
    size: (usize, usize),
    is_tiled: bool,
    /// Interleaved samples of a pixel.
    samples: usize,
    /// 1 or 2.
    bytes_per_sample: usize,
    is_little_endian: bool,
    /// Whether samples are differences to their left neighbour.
    is_predicted: bool,
}

impl Lzw {
    /// `None` where the page is packed in another way, or holds samples that are neither of 8 nor of 16 bits.
    pub(super) fn of_page(
        path: &Path,
        decoder: &mut Decoder<BufReader<File>>,
        samples: usize,
    ) -> Result<Option<Self>, TiffError> {
        let compression = decoder.find_tag_unsigned::<u16>(Tag::Compression)?;
        let bits = decoder.find_tag_unsigned_vec::<u16>(Tag::BitsPerSample)?.unwrap_or_default();
        let bytes_per_sample = match bits.first() {
            Some(8) => 1,
            Some(16) => 2,
            _ => return Ok(None),
        };
        let predictor = decoder.find_tag_unsigned::<u16>(Tag::Predictor)?.unwrap_or(1);
        if compression != Some(CompressionMethod::LZW.to_u16()) || predictor > 2 {
            return Ok(None);
        }
        let is_tiled = matches!(decoder.get_chunk_type(), ChunkType::Tile);
        let (offsets, lengths) = if is_tiled {
            (Tag::TileOffsets, Tag::TileByteCounts)
        } else {
            (Tag::StripOffsets, Tag::StripByteCounts)
        };
        let (width, height) = decoder.chunk_dimensions();
        let mut order = [0];
        File::open(path)?.read_exact(&mut order)?;
        Ok(Some(Self {
            offsets: decoder.get_tag_u64_vec(offsets)?,
            lengths: decoder.get_tag_u64_vec(lengths)?,
            size: (width as usize * samples, height as usize),
            is_tiled,
            samples,
            bytes_per_sample,
            is_little_endian: order[0] == b'I',
            is_predicted: predictor == 2,
        }))
    }

    /// Samples of a chunk that lie inside the page, `(width, height)` of them in pixels; of longer ones the upper 8 bits.
    pub(super) fn decode(
        &self,
        file: &mut (impl Read + Seek),
        chunk: usize,
        (width, height): (u32, u32),
    ) -> Result<Vec<u8>, TiffError> {
        let cut_off = || Error::new(ErrorKind::UnexpectedEof, format!("chunk {chunk} of LZW is cut off"));
        let (Some(&offset), Some(&length)) = (self.offsets.get(chunk), self.lengths.get(chunk)) else {
            return Err(cut_off().into());
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut packed = Vec::new();
        file.take(length).read_to_end(&mut packed)?;
        let rows = if self.is_tiled { self.size.1 } else { height as usize };
        let length = self.size.0.checked_mul(rows * self.bytes_per_sample);
        // A code of 9 to 12 bits stands for at most 4096 bytes: a false size must not take memory.
        let Some(length) = length.filter(|length| length / 4096 <= packed.len()) else {
            return Err(cut_off().into());
        };
        let mut bytes = vec![0; length];
        let configuration = Configuration::with_tiff_size_switch(BitOrder::Msb, 8);
        let mut decoder = configuration.with_yield_on_full_buffer(true).build();
        let (mut read, mut filled) = (0, 0);
        while filled < bytes.len() {
            let step = decoder.decode_bytes(&packed[read..], &mut bytes[filled..]);
            (read, filled) = (read + step.consumed_in, filled + step.consumed_out);
            match step.status {
                Ok(LzwStatus::Ok) => {}
                Ok(LzwStatus::Done | LzwStatus::NoProgress) => break,
                Err(error) => return Err(Error::new(ErrorKind::InvalidData, error).into()),
            }
        }
        if filled < bytes.len() {
            return Err(cut_off().into());
        }
        Ok(self.upper_bytes(&bytes, width as usize * self.samples, height as usize))
    }

    /// Undoes the predictor, and leaves out what lies beyond the page.
    fn upper_bytes(&self, bytes: &[u8], inside: usize, height: usize) -> Vec<u8> {
        let mut kept = Vec::with_capacity(inside * height);
        let mut last = vec![0_u16; self.samples];
        for row in bytes.chunks_exact(self.size.0 * self.bytes_per_sample).take(height) {
            last.fill(0);
            for (place, sample) in row.chunks_exact(self.bytes_per_sample).take(inside).enumerate() {
                let value = match *sample {
                    [low, high] if self.is_little_endian => u16::from_le_bytes([low, high]),
                    [high, low] => u16::from_be_bytes([high, low]),
                    // As the upper byte, 8 bits add up modulo 256 like 16 bits modulo 65536.
                    [byte, ..] => u16::from_be_bytes([byte, 0]),
                    [] => 0,
                };
                let channel = place % self.samples;
                last[channel] = if self.is_predicted { last[channel].wrapping_add(value) } else { value };
                kept.push(last[channel].to_be_bytes()[0]);
            }
        }
        kept
    }
}
