//! Sums of and searches in many values: eight at a time, so that no addition waits for the one before, and no test for the
//! one before. The order of additions is fixed.

/// Values that are looked at together.
const LANES: usize = 8;

/// Their sum.
pub(crate) fn total(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += f64::from(chunk[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
}

/// The place of the first of which `is_wrong` holds, where that is rare.
pub(crate) fn first(values: &[f32], is_wrong: impl Fn(f32) -> bool) -> Option<usize> {
    const PART: usize = 4096;
    let any = |part: &[f32]| part.iter().fold(false, |any, &value| any | is_wrong(value));
    let part = values.chunks(PART).position(any)?;
    let place = values[part * PART..].iter().position(|&value| is_wrong(value))?;
    Some(part * PART + place)
}

/// Whether it cannot be a count, or the logarithm of one.
pub(crate) fn is_no_amount(value: f32) -> bool {
    // Of NaN neither comparison holds.
    !((0.0..=f32::MAX).contains(&value))
}

/// Whether it has a fraction. Beyond 2²⁴ no `f32` has.
pub(crate) fn is_fraction(value: f32) -> bool {
    value.abs() < 16_777_216.0 && (value as i32) as f32 != value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_one_by_one(values in proptest::collection::vec(-1e3_f32..1e3, 0..9000)) {
            let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
            prop_assert!((total(&values) - sum).abs() < 1e-6);
            for limit in [990.0, 999.9, 2e3] {
                let wrong = |value: f32| value > limit;
                prop_assert_eq!(first(&values, wrong), values.iter().position(|&value| wrong(value)));
            }
        }

        #[test]
        fn fractions_are_what_differs_from_its_whole_part(value: f32) {
            prop_assert_eq!(is_fraction(value), value.fract() != 0.0 && value.is_finite());
        }
    }

    #[test]
    fn amounts_are_finite_and_not_negative() {
        for amount in [0.0, -0.0, 1.5, f32::MAX] {
            assert!(!is_no_amount(amount), "{amount}");
        }
        for other in [-1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(is_no_amount(other), "{other}");
        }
    }
}
