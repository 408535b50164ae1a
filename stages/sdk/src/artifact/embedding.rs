//! One vector per spot: an AnnData group with a dense X.

/// One vector per spot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Length of a vector.
    pub dims: usize,
    /// `spots.len() * dims` values, a spot's together.
    pub values: Vec<f32>,
}
// Methods wanted: row(i) -> &[f32]; positions() -> HashMap<&str, usize>
