//! Losses of self-supervised objectives, one family a file; each with the conventions that it has where libraries differ.

mod barlow;
mod contrastive;
mod cosine;
mod distill;
mod infomax;
mod masked;
mod rows;
mod vicreg;

use dfdx::prelude::*;

pub use barlow::{Barlow, barlow};
pub use contrastive::{clip, info_nce, nt_xent, soft_clip};
pub use cosine::{negative_cosine, scaled_cosine_error};
pub use distill::{Centre, sinkhorn, soft_cross_entropy};
pub use infomax::infomax;
pub use masked::masked_mse;
pub use vicreg::{VicReg, VicRegWeights, vicreg};

pub(crate) use rows::Unit;

use crate::tensor::{self, Matrix, Recording, Scalar, gradient_mut, take_gradient};

/// A loss whose gradients by its inputs were computed with it.
fn with_gradients<const N: usize>(
    inputs: [Matrix<Recording>; N],
    loss: f64,
    gradients: [Vec<f32>; N],
) -> Scalar<Recording> {
    let mut tape = Recording::default();
    let inputs = inputs.map(|input| {
        let (input, other) = input.split_tape();
        tape = std::mem::take(&mut tape).merge(other);
        input
    });
    let loss = tensor::tensor(vec![loss as f32], ());
    let out = loss.clone();
    tape.add_backward_op(move |all| {
        let slope: f32 = take_gradient(all, &out)?.iter().sum();
        for (input, gradient) in inputs.iter().zip(&gradients) {
            let sums = gradient_mut(all, input)?.iter_mut();
            sums.zip(gradient).for_each(|(sum, value)| *sum += slope * value);
        }
        Ok(())
    });
    loss.put_tape(tape)
}
