//! Medians and percentiles, as NumPy computes them.

use rayon::prelude::*;

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
    let Some((below, above, share)) = place(values.len(), percent) else { return f64::NAN };
    let (_, &mut low, rest) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = if above > below { rest.iter().copied().min_by(f64::total_cmp) } else { None };
    low + (high.unwrap_or(low) - low) * share
}

/// Values of which each occurs a number of times.
pub(crate) struct Weighted {
    /// Ascending, each with how many there are up to it.
    values: Vec<(f64, usize)>,
}

impl Weighted {
    /// Of values in any order and how often they occur.
    pub(crate) fn new(mut values: Vec<(f64, u32)>) -> Self {
        values.par_sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut count = 0;
        let up_to = |(value, times): (f64, u32)| {
            count += times as usize;
            (value, count)
        };
        Self { values: values.into_iter().map(up_to).collect() }
    }

    /// The `percent`th percentile (0 to 100), interpolated linearly; NaN of none.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        self.percentile_of(percent, |value| value)
    }

    /// The percentile of what `of` makes of the values, which grows with them: it is taken of two only.
    pub(crate) fn percentile_of(&self, percent: f64, of: impl Fn(f64) -> f64) -> f64 {
        let count = self.values.last().map_or(0, |(_, count)| *count);
        let Some((below, above, share)) = place(count, percent) else { return f64::NAN };
        let at = |place: usize| of(self.values[self.values.partition_point(|(_, up_to)| *up_to <= place)].0);
        let (low, high) = (at(below), at(above));
        low + (high - low) * share
    }
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

    proptest! {
        #[test]
        fn of_repeated_values_it_is_that_of_all(values in proptest::collection::vec((-9.0..9.0_f64, 0..5_u32), 0..30), percent in 0.0..=100.0_f64) {
            let mut all: Vec<f64> =
                values.iter().flat_map(|(value, times)| std::iter::repeat_n(*value, *times as usize)).collect();
            all.sort_by(f64::total_cmp);
            let (found, wanted) = (Weighted::new(values).percentile(percent), percentile(&all, percent));
            prop_assert!(found == wanted || (found.is_nan() && wanted.is_nan()), "{found} {wanted}");
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
