//! One image crop per spot.

/// One 8-bit RGB crop per spot, all of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patches {
    /// Spot ids; spots without an image, or whose crop leaves it, are not here.
    pub spots: Vec<String>,
    /// Side of a crop in pixels.
    pub size: usize,
    /// `spots.len() * size * size * 3` bytes: spot, row, column, colour.
    pub pixels: Vec<u8>,
}
// Methods wanted: patch(i) -> &[u8]
