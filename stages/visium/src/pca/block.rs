//! A few vectors side by side, as all of components' arithmetic takes them.

/// Vectors of a block.
pub(super) const WIDTH: usize = 8;
/// A few vectors: per row their values.
pub(super) type Block = Vec<[f64; WIDTH]>;

/// `sums + weight * row`, each rounded once: one instruction of a processor that has it, and the same bytes on all.
///
/// Sums go in and out by value, or they would be written to memory after every addition.
#[inline(always)]
pub(super) fn add(sums: [f64; WIDTH], weight: f64, row: &[f64; WIDTH]) -> [f64; WIDTH] {
    std::array::from_fn(|lane| weight.mul_add(row[lane], sums[lane]))
}
