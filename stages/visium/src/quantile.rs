//! Medians and percentiles, as NumPy computes them.

/// The median; of an even number of values the mean of the middle two; NaN of none. Reorders the values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    select(values, 50.0)
}

/// The `percent`th percentile (0 to 100) of ascending values, interpolated linearly; NaN of none.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some((below, above, share)) = place(sorted.len(), percent) else { return f64::NAN };
    sorted[below] + (sorted[above] - sorted[below]) * share
}

/// The same of values in any order, which it reorders: of many, far faster than to sort them.
pub(crate) fn select(values: &mut [f64], percent: f64) -> f64 {
    select_by(values, percent, |value| value)
}

/// The percentile of what `of` makes of values, which grows with them: it is taken of two only.
pub(crate) fn select_by(values: &mut [f64], percent: f64, of: impl Fn(f64) -> f64) -> f64 {
    let Some((below, above, share)) = place(values.len(), percent) else { return f64::NAN };
    let (_, &mut low, rest) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = if above > below { rest.iter().copied().min_by(f64::total_cmp) } else { None };
    let (low, high) = (of(low), of(high.unwrap_or(low)));
    low + (high - low) * share
}

/// The values that a percentile lies between, and how far it is from the lower to the upper.
fn place(count: usize, percent: f64) -> Option<(usize, usize, f64)> {
    let last = count.checked_sub(1)?;
    let place = last as f64 * (percent / 100.0);
    let below = (place.floor() as usize).min(last);
    Some((below, (below + 1).min(last), place - below as f64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_selected_is_what_sorting_finds(mut values in proptest::collection::vec(-9.0..9.0_f64, 0..60), percent in 0.0..=100.0_f64) {
            let selected = select(&mut values.clone(), percent);
            values.sort_by(f64::total_cmp);
            let wanted = percentile(&values, percent);
            prop_assert!(selected == wanted || (selected.is_nan() && wanted.is_nan()));
        }
    }

    #[test]
    fn medians_are_numpy_s() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn percentiles_are_numpy_s() {
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 25.0), 1.75);
        assert_eq!(percentile(&values, 100.0), 8.0);
    }
}
