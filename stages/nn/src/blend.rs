//! Two rows mixed by a score.

use dfdx::prelude::*;

use crate::tensor::{self, Matrix, gradient_mut, take_gradient};

/// σ(s) a + (1 − σ(s)) b for each row: attention over two, where `s`, rows x 1, is how much higher the first one's score is.
///
/// # Panics
/// If the three have not as many rows, or the first two not as many columns.
pub fn blend<T: Tape<f32, Cpu>>(a: Matrix<T>, b: Matrix<T>, scores: Matrix<T>) -> Matrix<T> {
    let shape @ (rows, dims) = *a.shape();
    assert!(shape == *b.shape() && *scores.shape() == (rows, 1), "two rows and a score each");
    let (a, tape) = a.split_tape();
    let (b, of_b) = b.split_tape();
    let (scores, of_scores) = scores.split_tape();
    let mut tape = tape.merge(of_b).merge(of_scores);
    let shares: Vec<f32> = tensor::values(&scores).iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect();
    let (first, second) = (tensor::values(&a), tensor::values(&b));
    let mixed = |at: usize| shares[at / dims] * first[at] + (1.0 - shares[at / dims]) * second[at];
    let y = tensor::tensor((0..rows * dims).map(mixed).collect(), shape);

    let out = y.clone();
    tape.add_backward_op(move |gradients| {
        let dy = take_gradient(gradients, &out)?;
        for (row, dy) in dy.chunks_exact(dims).enumerate() {
            let (at, share) = (row * dims..(row + 1) * dims, shares[row]);
            let add = |sums: &mut [f32], factor: f32| {
                sums.iter_mut().zip(dy).for_each(|(sum, value)| *sum += factor * value);
            };
            add(&mut gradient_mut(gradients, &a)?[at.clone()], share);
            add(&mut gradient_mut(gradients, &b)?[at.clone()], 1.0 - share);
            let apart = first[at.clone()].iter().zip(&second[at]).zip(dy);
            let slope: f32 = apart.map(|((first, second), dy)| (first - second) * dy).sum();
            gradient_mut(gradients, &scores)?[row] += share * (1.0 - share) * slope;
        }
        Ok(())
    });
    y.put_tape(tape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Linear, Params, Source,
        gradcheck::{check, rng, wave},
    };

    #[test]
    fn is_the_first_the_second_or_their_mean() {
        let row = |values: [f32; 2]| tensor::tensor(values.repeat(3), (3, 2));
        let scores = tensor::tensor(vec![100.0, -100.0, 0.0], (3, 1));
        let mixed = tensor::values(&blend(row([1.0, 2.0]), row([5.0, -4.0]), scores));
        assert_eq!(mixed, [1.0, 2.0, 5.0, -4.0, 3.0, -1.0]);
    }

    /// Scored as attention does, so that dfdx's own ops in between are checked too.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut params = Params::default();
        let hidden = Linear::new(&mut params, "hidden", 4, 3, &mut rng());
        let score = Linear::new(&mut params, "score", 3, 1, &mut rng());
        let other = tensor::values(&wave((12, 4)))[24..].to_vec();
        check(&params, wave((6, 4)), |params, x| {
            let other = tensor::tensor(other.clone(), (6, 4)).leaky_traced();
            let of = |x: Matrix<_>| {
                score.forward(params, hidden.forward(params, x, Source::Op).tanh(), Source::Op)
            };
            let scores = of(x.with_empty_tape()) - of(other.with_empty_tape());
            blend(x, other, scores)
        });
    }
}
