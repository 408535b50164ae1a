//! Errors of what was predicted, over those entries that were hidden.

use dfdx::prelude::*;
use pulp::NullaryFnOnce;
use rayon::prelude::*;

use crate::{
    tensor::{self, Matrix, Scalar, gradient_mut, take_gradient},
    wide,
};

/// Values that one partial sum takes. Fixed: it must not depend on the number of threads.
const CHUNK: usize = 8192;

/// The mean of (prediction − target)² over the entries that `mask` marks; 0 if it marks none.
///
/// # Panics
/// If the three have not as many entries.
pub fn masked_mse<T: Tape<f32, Cpu>>(prediction: Matrix<T>, target: Vec<f32>, mask: Vec<bool>) -> Scalar<T> {
    let (prediction, mut tape) = prediction.split_tape();
    let predicted = tensor::values(&prediction);
    assert!(
        predicted.len() == target.len() && target.len() == mask.len(),
        "entries of prediction, target, mask"
    );

    let sums: Vec<(f64, usize)> = predicted
        .par_chunks(CHUNK)
        .zip(target.par_chunks(CHUNK))
        .zip(mask.par_chunks(CHUNK))
        .map(|((predicted, target), mask)| wide::run(Squares { predicted, target, mask }))
        .collect();
    let (sum, count) = sums.iter().fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m));
    let count = count.max(1);
    let loss = tensor::tensor(vec![(sum / count as f64) as f32], ());

    let out = loss.clone();
    tape.add_backward_op(move |gradients| {
        let slope = 2.0 / count as f32 * take_gradient(gradients, &out)?.iter().sum::<f32>();
        let gradient = gradient_mut(gradients, &prediction)?;
        gradient
            .par_chunks_mut(CHUNK)
            .zip(predicted.par_chunks(CHUNK))
            .zip(target.par_chunks(CHUNK).zip(mask.par_chunks(CHUNK)))
            .for_each(|((gradient, predicted), (target, mask))| {
                wide::run(Slopes { gradient, predicted, target, mask, slope });
            });
        Ok(())
    });
    loss.put_tape(tape)
}

/// The sum of squares where there is a mask, and how many there are. In fixed lanes, as [`wide::sum_of`].
struct Squares<'a> {
    predicted: &'a [f32],
    target: &'a [f32],
    mask: &'a [bool],
}

impl NullaryFnOnce for Squares<'_> {
    type Output = (f64, usize);

    #[inline(always)]
    fn call(self) -> (f64, usize) {
        const LANES: usize = 8;
        let mut sums = [0.0; LANES];
        let error =
            |predicted: f32, target: f32, mask: bool| f64::from(if mask { predicted - target } else { 0.0 });
        let ((predicted, p), (target, t)) = (self.predicted.as_chunks(), self.target.as_chunks());
        let (mask, m) = self.mask.as_chunks::<LANES>();
        for ((predicted, target), mask) in predicted.iter().zip(target).zip(mask) {
            let (predicted, target): (&[f32; LANES], &[f32; LANES]) = (predicted, target);
            for lane in 0..LANES {
                let error = error(predicted[lane], target[lane], mask[lane]);
                sums[lane] += error * error;
            }
        }
        for (lane, ((predicted, target), mask)) in p.iter().zip(t).zip(m).enumerate() {
            sums[lane] += error(*predicted, *target, *mask).powi(2);
        }
        (sums.iter().sum(), self.mask.iter().map(|mask| usize::from(*mask)).sum())
    }
}

/// Adds the gradient of the mean.
struct Slopes<'a> {
    gradient: &'a mut [f32],
    predicted: &'a [f32],
    target: &'a [f32],
    mask: &'a [bool],
    slope: f32,
}

impl NullaryFnOnce for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let entries = self.gradient.iter_mut().zip(self.predicted).zip(self.target.iter().zip(self.mask));
        for ((gradient, predicted), (target, mask)) in entries {
            *gradient += if *mask { self.slope * (predicted - target) } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, wave},
    };

    #[test]
    fn masked_mse_sees_only_what_is_marked() {
        let loss = masked_mse(
            tensor::tensor(vec![1.0, 5.0, 2.0], (1, 3)),
            vec![3.0, 0.0, 1.0],
            vec![true, false, true],
        );
        assert_eq!(loss.array(), 2.5);
        let none = masked_mse(tensor::tensor(vec![1.0], (1, 1)), vec![3.0], vec![false]);
        assert_eq!(none.array(), 0.0);
    }

    #[test]
    fn masked_mse_gradients_are_those_of_finite_differences() {
        let target: Vec<f32> = (0..42).map(|i| (i as f32).cos()).collect();
        let mask: Vec<bool> = (0..42).map(|i| i % 3 != 0).collect();
        check(&Params::default(), wave((6, 7)), move |_, x| masked_mse(x, target.clone(), mask.clone()));
    }
}
