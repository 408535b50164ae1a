//! The different colours of some pixels, and how often each occurs: of millions of pixels, some hundred thousand. What is
//! fitted to pixels, or done to them, is fitted to colours and done to each once.

use rayon::prelude::*;

/// Different colours, ascending, each with how many pixels have it.
pub(super) struct Palette(pub(super) Vec<([u8; 3], u32)>);

impl Palette {
    /// Of how many pixels it is.
    pub(super) fn pixels(&self) -> u64 {
        self.0.iter().map(|(_, count)| u64::from(*count)).sum()
    }
}

/// A number for every colour that there is: 64 MiB, of which only what is used is ever touched. All are 0 between uses.
pub(super) struct Cube {
    cells: Vec<u32>,
}

impl Cube {
    pub(super) fn new() -> Self {
        Self { cells: vec![0; 1 << 24] }
    }

    /// The colours of these pixels.
    pub(super) fn palette<'a>(&mut self, pixels: impl IntoIterator<Item = &'a [u8]>) -> Palette {
        let mut seen = Vec::new();
        for part in pixels {
            for pixel in part.as_chunks::<3>().0 {
                let at = index(*pixel);
                let cell = &mut self.cells[at];
                if *cell == 0 {
                    seen.push(at as u32);
                }
                *cell = cell.saturating_add(1);
            }
        }
        seen.par_sort_unstable();
        let take = |at: u32| (at.to_be_bytes(), std::mem::take(&mut self.cells[at as usize]));
        Palette(seen.into_iter().map(take).map(|([_, r, g, b], count)| ([r, g, b], count)).collect())
    }

    /// Gives each pixel what `new` makes of its colour, which is one of the palette's.
    pub(super) fn recolour(
        &mut self,
        pixels: &mut [&mut [u8]],
        palette: &Palette,
        new: impl Fn([u8; 3]) -> [u8; 3] + Sync,
    ) {
        let changed: Vec<[u8; 3]> = palette.0.par_iter().map(|(colour, _)| new(*colour)).collect();
        for ((colour, _), new) in palette.0.iter().zip(changed) {
            self.cells[index(*colour)] = index(new) as u32;
        }
        pixels.par_iter_mut().for_each(|part| {
            for pixel in part.as_chunks_mut::<3>().0 {
                let [_, r, g, b] = self.cells[index(*pixel)].to_be_bytes();
                *pixel = [r, g, b];
            }
        });
        palette.0.iter().for_each(|(colour, _)| self.cells[index(*colour)] = 0);
    }
}

fn index([r, g, b]: [u8; 3]) -> usize {
    u32::from_be_bytes([0, r, g, b]) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pixel_is_counted_and_changed(pixels in prop::collection::vec([0_u8..9, 0_u8..3, 250_u8..], 0..200)) {
            let mut counts: BTreeMap<[u8; 3], u32> = BTreeMap::new();
            pixels.iter().for_each(|pixel| *counts.entry(*pixel).or_default() += 1);
            let (first, second) = pixels.split_at(pixels.len() / 3);
            let mut cube = Cube::new();
            let palette = cube.palette([first.as_flattened(), second.as_flattened()]);
            prop_assert_eq!(&palette.0, &counts.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(palette.pixels(), pixels.len() as u64);
            let new = |[r, g, b]: [u8; 3]| [b, r.wrapping_mul(7), g];
            let mut changed = pixels.as_flattened().to_vec();
            cube.recolour(&mut [&mut changed], &palette, new);
            let wanted: Vec<[u8; 3]> = pixels.into_iter().map(new).collect();
            prop_assert_eq!(changed.as_slice(), wanted.as_flattened());
            prop_assert!(cube.palette([]).0.is_empty() && cube.cells.iter().all(|cell| *cell == 0));
        }
    }
}
