//! Arrays of colour x row x column, as OME-NGFF has images, from and to interleaved RGB rows.

use std::{num::NonZeroU64, ops::Range, sync::Arc};

use zarrs::{
    array::{
        Array, ArrayBuilder, ArrayMetadataOptions, ArraySubset, FillValue,
        codec::{ShardingCodecBuilder, ZstdCodec, array_to_bytes::sharding::SubchunkWriteOrder},
        data_type,
    },
    filesystem::FilesystemStore,
};

use super::{Attributes, Place, ROWS_BYTES, Reader, Writer, ZSTD_LEVEL, codec_options, type_name};
use crate::error::Result;

/// Red, green, blue.
const COLOURS: usize = 3;
/// Rows and columns of a chunk: a viewer's tile; a window of rows over a slide reads few rows beyond its own.
const TILE: usize = 256;

/// An array of planes that is being written from its first row on; file by file, so that no file is read again.
pub struct Planes {
    place: Place,
    array: Array<FilesystemStore>,
    /// Interleaved rows of the file that is not full yet.
    kept: Vec<u8>,
    /// Row that `kept` begins at.
    first: usize,
    height: usize,
    width: usize,
    file_rows: usize,
}

/// Rows of one file of an RGB image of this width: whole tiles, at most 64 MiB where one tile fits that.
pub fn file_rows(width: usize) -> usize {
    let tiles = ROWS_BYTES / (width.div_ceil(TILE).max(1) * TILE * TILE * COLOURS);
    tiles.max(1) * TILE
}

impl Writer {
    /// Begins an RGB image of `[3, height, width]` bytes, of which a file holds so many rows, a multiple of 256.
    ///
    /// # Errors
    /// If the name cannot be a node's, or the disk refuses.
    pub fn planes(&self, name: &str, height: usize, width: usize, file_rows: usize) -> Result<Planes> {
        let place = self.named(name)?;
        let tiled = |side: usize| side.div_ceil(TILE).max(1) * TILE;
        let file_rows = file_rows.min(tiled(height));
        let zstd = Arc::new(ZstdCodec::new(ZSTD_LEVEL, false));
        let shape = [COLOURS, height, width].map(|side| side as u64);
        let small = height.max(width) <= TILE;
        let file =
            if small { [COLOURS, height.max(1), width.max(1)] } else { [COLOURS, file_rows, tiled(width)] };
        let mut builder = ArrayBuilder::new(
            shape.to_vec(),
            file.map(|side| side as u64).to_vec(),
            data_type::uint8(),
            FillValue::from(0_u8),
        );
        if small {
            builder.bytes_to_bytes_codecs(vec![zstd]);
        } else {
            let chunk =
                [COLOURS, TILE, TILE].into_iter().filter_map(|side| NonZeroU64::new(side as u64)).collect();
            let mut sharding = ShardingCodecBuilder::new(chunk, &data_type::uint8());
            sharding.bytes_to_bytes_codecs(vec![zstd]);
            let sharding = sharding.build().with_subchunk_write_order(SubchunkWriteOrder::C);
            builder.array_to_bytes_codec(Arc::new(sharding));
        }
        builder.dimension_names(Some(["c", "y", "x"])).attributes(Attributes::new());
        let array = builder.build(place.store.clone(), place.path()).map_err(place.error())?;
        let plain = ArrayMetadataOptions::default().with_include_zarrs_metadata(false);
        array.store_metadata_opt(&plain).map_err(place.error())?;
        let file_rows = if small { height } else { file_rows };
        Ok(Planes { place, array, kept: Vec::new(), first: 0, height, width, file_rows })
    }
}

impl Planes {
    /// Appends interleaved RGB values of any number of rows.
    ///
    /// # Errors
    /// If there are more than the image has, or the disk refuses.
    pub fn push(&mut self, mut values: &[u8]) -> Result<()> {
        let row = self.width * COLOURS;
        while !values.is_empty() {
            let rows = self.file_rows.min(self.height - self.first);
            let taken = (rows * row - self.kept.len()).min(values.len());
            if taken == 0 {
                return Err(self.place.wrong("is given more rows than its shape has"));
            }
            self.kept.extend_from_slice(&values[..taken]);
            values = &values[taken..];
            if self.kept.len() == rows * row {
                self.store(rows)?;
            }
        }
        Ok(())
    }

    fn store(&mut self, rows: usize) -> Result<()> {
        let planes = split(&self.kept);
        self.kept.clear();
        let subset = subset(COLOURS, self.first..self.first + rows, self.width);
        self.array
            .store_array_subset_opt(&subset, planes.as_slice(), &codec_options())
            .map_err(self.place.error())?;
        self.first += rows;
        Ok(())
    }

    /// Checks that all rows came.
    ///
    /// # Errors
    /// If some did not.
    pub fn finish(self) -> Result<()> {
        if self.first < self.height && self.width > 0 {
            let height = self.height;
            return Err(self.place.wrong(format!("got {} of its {height} rows", self.first)));
        }
        Ok(())
    }
}

impl Reader {
    /// Rows of a chunk of an image of colour x row x column: so many at a time are read without reading any twice.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn chunk_rows(&self, name: &str) -> Result<usize> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        let first = vec![0; array.shape().len()];
        let chunk = array.chunk_shape(&first).map_err(place.error())?;
        Ok(chunk.get(1).map_or(1, |rows| rows.get() as usize))
    }

    /// Interleaved RGB of some rows of an array of colour x row x column: of more colours the first three, of one that one
    /// thrice.
    ///
    /// # Errors
    /// If the array is missing, is not of bytes, or lacks these rows.
    pub fn rgb_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        if *array.data_type() != data_type::uint8() {
            let found = type_name(array.data_type());
            return Err(place.wrong(format!("is of type {found}; expected uint8")));
        }
        let &[colours @ (1 | 3 | 4), height, width] = array.shape() else {
            let shape = array.shape();
            return Err(place.wrong(format!("has the shape {shape:?}; expected [3, height, width]")));
        };
        if rows.end as u64 > height {
            return Err(place.wrong(format!("has no rows {rows:?}")));
        }
        let count = rows.len() * width as usize;
        if count == 0 {
            return Ok(Vec::new());
        }
        let subset = subset((colours as usize).min(COLOURS), rows, width as usize);
        let planes: Vec<u8> =
            array.retrieve_array_subset_opt(&subset, &codec_options()).map_err(place.error())?;
        let plane = |colour: usize| &planes[if colours == 1 { 0 } else { colour * count }..][..count];
        Ok(interleave(plane(0), plane(1), plane(2)))
    }
}

fn subset(colours: usize, rows: Range<usize>, width: usize) -> ArraySubset {
    ArraySubset::new_with_ranges(&[0..colours as u64, rows.start as u64..rows.end as u64, 0..width as u64])
}

/// The planes of interleaved pixels, one after the other.
fn split(pixels: &[u8]) -> Vec<u8> {
    let (pixels, _) = pixels.as_chunks::<COLOURS>();
    let mut planes = Vec::with_capacity(pixels.len() * COLOURS);
    for colour in 0..COLOURS {
        planes.extend(pixels.iter().map(|pixel| pixel[colour]));
    }
    planes
}

fn interleave(red: &[u8], green: &[u8], blue: &[u8]) -> Vec<u8> {
    let mut pixels = vec![0; red.len() * COLOURS];
    let (chunks, _) = pixels.as_chunks_mut::<COLOURS>();
    for (((pixel, red), green), blue) in chunks.iter_mut().zip(red).zip(green).zip(blue) {
        *pixel = [*red, *green, *blue];
    }
    pixels
}
