//! Arrays of colour x row x column, as OME-NGFF has images, from and to interleaved RGB rows.

use std::{num::NonZeroU64, ops::Range};

use zarrs::array::{Array, ArraySubset, data_type};

use super::{
    Attributes, Layout, Number, Order, ROWS_BYTES, Reader, Rows, Writer, codec_options, create, type_name,
};
use crate::error::Result;

/// Red, green, blue.
const COLOURS: usize = 3;
/// Rows and columns of a chunk: a viewer's tile; a window of rows over a slide reads few rows beyond its own.
const TILE: usize = 256;

/// Rows of one file of an RGB image of this width: whole tiles, at most 64 MiB where one tile fits that.
pub fn file_rows(width: usize) -> usize {
    let tiles = ROWS_BYTES / (width.div_ceil(TILE).max(1) * TILE * TILE * COLOURS);
    tiles.max(1) * TILE
}

impl Writer {
    /// Begins an RGB image of `[3, height, width]` bytes, of which a file holds so many rows, a multiple of 256; takes
    /// interleaved rows.
    ///
    /// # Errors
    /// If the name cannot be a node's, or the disk refuses.
    pub fn planes(&self, name: &str, height: usize, width: usize, file_rows: usize) -> Result<Rows<u8>> {
        let place = self.named(name)?;
        let layout = layout(height, width, file_rows);
        let shape = [COLOURS, height, width];
        let array = create(&place, &shape, u8::data_type(), u8::zero(), &layout, Attributes::new())?;
        let (row, file_rows) = (width * COLOURS, layout.file[1] as usize);
        Ok(Rows {
            place,
            array,
            kept: Vec::new(),
            first: 0,
            rows: height,
            row,
            file_rows,
            order: Order::Planes,
        })
    }
}

/// Files of so many rows, in tiles; an image no larger than a tile is one.
fn layout(height: usize, width: usize, file_rows: usize) -> Layout {
    let axes = Some(["c", "y", "x"]);
    if height.max(width) <= TILE {
        return Layout { axes, ..Layout::whole(&[COLOURS, height, width]) };
    }
    let tiled = |side: usize| side.div_ceil(TILE).max(1) * TILE;
    let file = [COLOURS, file_rows.min(tiled(height)), tiled(width)];
    let chunk = [COLOURS, TILE, TILE];
    Layout {
        file: file.map(|side| side as u64).to_vec(),
        chunk: chunk.into_iter().map(|side| NonZeroU64::new(side as u64)).collect(),
        axes,
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
pub(super) fn split<T: Copy>(pixels: &[T]) -> Vec<T> {
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
