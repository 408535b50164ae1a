//! How alike embeddings are to a number of learned ones.

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    gemm::{par_gemm, view},
    loss::Unit,
    params::{ParamId, Params},
    tensor::{self, Matrix, gradient_mut, take_gradient},
};

/// Learned directions. Scores are cosines, as of SwAV's normalised prototypes and DINO's weight-normalised last layer.
#[derive(Clone, Copy, Debug)]
pub struct Prototypes {
    dims: usize,
    count: usize,
    weight: ParamId,
}

impl Prototypes {
    /// Adds `NAME.weight`, prototypes x dimensions, to `params`.
    pub fn new(params: &mut Params, name: &str, dims: usize, count: usize, rng: &mut impl Rng) -> Self {
        let weight = params.weight(format!("{name}.weight"), vec![count, dims], dims, rng);
        Self { dims, count, weight }
    }

    /// Items x dimensions to items x prototypes: cosines.
    ///
    /// # Panics
    /// If `x` has other dimensions.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>) -> Matrix<T> {
        let Self { dims, count, weight } = *self;
        let (items, columns) = *x.shape();
        assert_eq!(columns, dims, "dimensions of prototypes");
        let (x, mut tape) = x.split_tape();
        let (weight, w) = (params[weight].key.clone(), params[weight].values());
        let [left, right] = [tensor::values(&x), w].map(|rows| Unit::of(&rows, dims));
        let mut scores = vec![0.0; items * count];
        let directions = view(&right.rows, count, dims);
        par_gemm(view(&left.rows, items, dims), directions.reversed_axes(), 0.0, &mut scores);
        let y = tensor::tensor(scores, (items, count));

        let out = y.clone();
        tape.add_backward_op(move |gradients| {
            let dy = take_gradient(gradients, &out)?;
            let dy = view(&dy, items, count);
            let mut by_left = vec![0.0; items * dims];
            par_gemm(dy, view(&right.rows, count, dims), 0.0, &mut by_left);
            let mut by_right = vec![0.0; count * dims];
            par_gemm(dy.reversed_axes(), view(&left.rows, items, dims), 0.0, &mut by_right);
            let add = |sums: &mut [f32], values: Vec<f32>| {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            };
            add(gradient_mut(gradients, &x)?, left.back(by_left));
            add(gradient_mut(gradients, &weight)?, right.back(by_right));
            Ok(())
        });
        y.put_tape(tape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check, rng, wave};

    #[test]
    fn scores_are_cosines() {
        let mut params = Params::default();
        let prototypes = Prototypes::new(&mut params, "p", 2, 2, &mut rng());
        params.load(|_| Some((&[2, 2][..], &[3.0, 4.0, 0.0, -2.0][..]))).unwrap();
        let scores = tensor::values(&prototypes.forward(&params, tensor::tensor(vec![0.0, 5.0], (1, 2))));
        assert!((scores[0] - 0.8).abs() < 1e-6 && (scores[1] + 1.0).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut params = Params::default();
        let prototypes = Prototypes::new(&mut params, "p", 4, 5, &mut rng());
        check(&params, wave((6, 4)), |params, x| prototypes.forward(params, x));
    }
}
