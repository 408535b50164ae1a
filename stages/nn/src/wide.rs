//! Loops over many values, compiled for the widest registers that the processor has, and functions that such loops can hold:
//! without branches or calls. No product is fused with a sum, and sums go by fixed lanes, so all processors give the same bits.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use pulp::{Arch, NullaryFnOnce};

/// Partial sums of one sum. Fixed: the order of additions must not depend on the width of registers.
const LANES: usize = 16;

/// Runs a loop. What it calls must be inlined, or it stays narrow.
pub(crate) fn run<L: NullaryFnOnce>(work: L) -> L::Output {
    Arch::new().dispatch(work)
}

/// `function` of every value, on the calling thread.
pub(crate) fn map(input: &[f32], output: &mut [f32], function: impl Fn(f32) -> f32) {
    struct Map<'a, F>(&'a [f32], &'a mut [f32], F);
    impl<F: Fn(f32) -> f32> NullaryFnOnce for Map<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.1.iter_mut().zip(self.0).for_each(|(output, x)| *output = self.2(*x));
        }
    }
    run(Map(input, output, function));
}

/// `function` of what is there and of every value, on the calling thread.
pub(crate) fn update(places: &mut [f32], input: &[f32], function: impl Fn(f32, f32) -> f32) {
    struct Update<'a, F>(&'a mut [f32], &'a [f32], F);
    impl<F: Fn(f32, f32) -> f32> NullaryFnOnce for Update<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.0.iter_mut().zip(self.1).for_each(|(place, x)| *place = self.2(*place, *x));
        }
    }
    run(Update(places, input, function));
}

/// The first of what `function` makes of every value, and the second in the value's place, on the calling thread.
pub(crate) fn split(places: &mut [f32], output: &mut [f32], function: impl Fn(f32) -> (f32, f32)) {
    struct Split<'a, F>(&'a mut [f32], &'a mut [f32], F);
    impl<F: Fn(f32) -> (f32, f32)> NullaryFnOnce for Split<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let both = self.1.iter_mut().zip(self.0);
            both.for_each(|(output, place)| (*output, *place) = self.2(*place));
        }
    }
    run(Split(places, output, function));
}

/// The sum of `value` of every pair.
#[inline(always)]
pub(crate) fn sum_of(a: &[f32], b: &[f32], value: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, rest_of_a), (b, rest_of_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += value(a[lane], b[lane]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest_of_a.iter().zip(rest_of_b)) {
        *lane += value(*a, *b);
    }
    lanes.iter().sum()
}

/// The largest value; −∞ of none.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = lanes[lane].max(chunk[lane]);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, value| most.max(*value))
}

/// eˣ to 1e-7 of itself, by a power of two and Cephes' polynomial on the rest (Moshier 1989); what would be below 1e-38 or
/// above 1e38 is that.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it leaves a number's integer part in the last bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first short enough to be exact when multiplied.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.3, 88.0);
    let rounded = x * LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = x - power * LN_2[0] - power * LN_2[1];
    let coefficients = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let series = coefficients.into_iter().fold(1.987_569_1e-4, |sum, next| sum * rest + next);
    let scale = f32::from_bits((rounded.to_bits().wrapping_add(127)) << 23);
    (series * (rest * rest) + rest + 1.0) * scale
}

/// The normal distribution's Φ(x), to 2e-7, and its density times √2π. Φ(−|x|) is e^(−x²/2) times a polynomial in
/// 1 / (1 + 0.4 |x| / √2), the form of Abramowitz & Stegun 7.1.26; its coefficients are a minimax fit, to 1.4e-7 of itself.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let u = x.abs() * FRAC_1_SQRT_2;
    let density = exp(-u * u);
    let t = 1.0 / (1.0 + 0.4 * u);
    let coefficients =
        [-0.354_669_2, 0.608_665_2, -0.296_250_94, 0.362_314_22, 0.155_830_73, 0.233_406_3, 0.225_187_4];
    let below = coefficients.into_iter().fold(0.065_516_17, |sum, next| sum * t + next);
    let below = 0.5 * below * t * density;
    (if x < 0.0 { below } else { 1.0 - below }, density)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against functions that others wrote, in double precision.
    #[test]
    fn functions_are_those_they_are_called() {
        for step in -9000..=9000 {
            let x = step as f32 * 1e-3;
            let (phi, density) = normal(x);
            let known = 0.5 * libm::erfc(-f64::from(x) / 2_f64.sqrt());
            assert!((f64::from(phi) - known).abs() < 2.5e-7, "Φ({x}): {phi}, {known}");
            let known = (-0.5 * f64::from(x) * f64::from(x)).exp();
            assert!((f64::from(density) - known).abs() < 3e-7, "{x}: {density}, {known}");
            let (x, known) = (x * 9.6, (f64::from(x * 9.6)).exp());
            assert!((f64::from(exp(x)) / known - 1.0).abs() < 1.5e-7, "exp {x}");
        }
        assert!(exp(-200.0) < 1.3e-38 && exp(-200.0) >= 0.0 && exp(200.0).is_finite() && exp(0.0) == 1.0);
    }

    #[test]
    fn sums_and_the_largest_take_every_value() {
        let values: Vec<f32> = (0..37).map(|i| (i * 7 % 37) as f32).collect();
        assert_eq!(sum_of(&values, &values, |a, b| a + b), 2.0 * values.iter().sum::<f32>());
        assert_eq!(largest(&values), 36.0);
        assert_eq!(largest(&values[..3]), 14.0);
    }
}
