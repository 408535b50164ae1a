//! A predicted region per spot.

/// A predicted region and class probabilities per spot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Class names, sorted.
    pub classes: Vec<String>,
    /// `spots.len() * classes.len()` probabilities, a spot's together.
    pub probabilities: Vec<f32>,
}
// Methods wanted: predicted(i) -> &str  (largest probability, first on ties)
