//! What numbers among params must be.

use restage_stage::{Error, Result};

/// Refuses a count of 0, by its param's name.
///
/// # Errors
/// If there is one.
pub(crate) fn one_or_more(counts: &[(&str, usize)]) -> Result<()> {
    counts
        .iter()
        .find(|(_, count)| *count == 0)
        .map_or(Ok(()), |(name, _)| Err(Error::invalid(format!("`{name}` is 0: it must be 1 or more"))))
}

/// Refuses what is not a finite number above 0.
///
/// # Errors
/// If it is not.
pub(crate) fn above_zero(name: &str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::invalid(format!("`{name}` is {value}: it must be a number above 0"))),
    }
}
