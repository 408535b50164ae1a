//! The different colours of some pixels, and how often each occurs: of millions of pixels, some hundred thousand. What is
//! fitted to pixels, or done to them, is fitted to colours and done to each once.

use rayon::prelude::*;

use crate::tissue_mask::BLACK;

/// Different colours, in the [`Cube`]'s order, each with how many pixels have it.
pub(super) struct Palette(pub(super) Vec<([u8; 3], u32)>);

impl Palette {
    /// The colours of what light fell through. Pure black is what a program cut out, and of 1 % of such pixels the second of
    /// two stains is gray.
    pub(super) fn lit(&self) -> Self {
        Self(self.0.iter().copied().filter(|(colour, _)| *colour != BLACK).collect())
    }

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
                let cell = &mut self.cells[index(*pixel)];
                if *cell == 0 {
                    seen.push(*pixel);
                }
                *cell = cell.saturating_add(1);
            }
        }
        // Whichever came first: the same pixels have the same palette.
        seen.par_sort_unstable_by_key(|colour| index(*colour));
        let take = |colour: [u8; 3]| (colour, std::mem::take(&mut self.cells[index(colour)]));
        Palette(seen.into_iter().map(take).collect())
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
            self.cells[index(*colour)] = u32::from_be_bytes([0, new[0], new[1], new[2]]);
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

/// The bits of the three values in turns: colours that are alike, as an image's are, lie together in memory.
fn index([r, g, b]: [u8; 3]) -> usize {
    (SPREAD[usize::from(r)] << 2 | SPREAD[usize::from(g)] << 1 | SPREAD[usize::from(b)]) as usize
}

/// The bits of each value, three places apart.
static SPREAD: [u32; 256] = {
    let mut spread = [0; 256];
    let mut value = 0;
    while value < 256 {
        let mut bit = 0;
        while bit < 8 {
            spread[value] |= (value as u32 >> bit & 1) << (3 * bit);
            bit += 1;
        }
        value += 1;
    }
    spread
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_colour_has_a_place_of_its_own() {
        let mut taken = vec![false; 1 << 24];
        for colour in 0..1_u32 << 24 {
            let [_, r, g, b] = colour.to_be_bytes();
            assert!(!std::mem::replace(&mut taken[index([r, g, b])], true));
        }
    }

    proptest! {
        #[test]
        fn every_pixel_is_counted_and_changed(pixels in prop::collection::vec([0_u8..9, 0_u8..3, 200_u8..203], 0..200)) {
            let mut counts: BTreeMap<[u8; 3], u32> = BTreeMap::new();
            pixels.iter().for_each(|pixel| *counts.entry(*pixel).or_default() += 1);
            let (first, second) = pixels.split_at(pixels.len() / 3);
            let mut cube = Cube::new();
            let palette = cube.palette([first.as_flattened(), second.as_flattened()]);
            prop_assert_eq!(palette.0.len(), counts.len());
            prop_assert_eq!(&palette.0.iter().copied().collect::<BTreeMap<_, _>>(), &counts);
            prop_assert!(palette.0.is_sorted_by_key(|(colour, _)| index(*colour)));
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
