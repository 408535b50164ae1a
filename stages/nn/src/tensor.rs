//! Tensors with run-time shapes, and the way from dfdx's tensors and gradients to plain slices.

use dfdx::prelude::*;
use rayon::prelude::*;

/// A tape that records ops for the backward pass; without it ([`NoneTape`]) ops only compute.
pub type Recording = OwnedTape<f32, Cpu>;
/// One number.
pub type Scalar<T = NoneTape> = Tensor<(), f32, Cpu, T>;
/// Rows x columns.
pub type Matrix<T = NoneTape> = Tensor<(usize, usize), f32, Cpu, T>;
/// Images x height x width x channels: a pixel's channels lie together, as in a file.
pub type Images<T = NoneTape> = Tensor<(usize, usize, usize, usize), f32, Cpu, T>;

/// Where an op's input comes from, which decides whether its gradient is worth computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Data: nobody asks for its gradient.
    Data,
    /// Another op.
    Op,
}

/// A tensor of these values, row-major.
///
/// # Panics
/// If there are not as many as the shape says.
pub fn tensor<S: Shape>(values: Vec<f32>, shape: S) -> Tensor<S, f32, Cpu> {
    Cpu::default().tensor_from_vec(values, shape)
}

/// The values of a contiguous tensor, row-major: one `memcpy`, where dfdx's `as_vec` walks element by element.
///
/// Every op of this crate returns contiguous tensors; what `permute` and `broadcast` of dfdx return is not.
pub fn values<S: Shape, T>(tensor: &Tensor<S, f32, Cpu, T>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape().num_elements()];
    tensor.copy_into(&mut values);
    values
}

/// The gradient of `tensor`, to be added to.
pub(crate) fn gradient_mut<'a, S: Shape>(
    gradients: &'a mut Gradients<f32, Cpu>,
    tensor: &Tensor<S, f32, Cpu>,
) -> Result<&'a mut [f32], CpuError> {
    Ok(gradients.get_or_alloc_mut(tensor)?)
}

/// Takes the gradient of an op's output, which nobody reads after the op's own backward step.
pub(crate) fn take_gradient<S: Shape>(
    gradients: &mut Gradients<f32, Cpu>,
    tensor: &Tensor<S, f32, Cpu>,
) -> Result<Vec<f32>, CpuError> {
    Ok(std::mem::take(&mut **gradients.get_or_alloc_mut(tensor)?))
}

/// Rows that one partial sum takes. Fixed: it must not depend on the number of threads.
const ROWS: usize = 256;

/// Adds rows to one, in the order of chunks of fixed size.
pub(crate) fn add_rows(sum: &mut [f32], rows: &[f32]) {
    let columns = sum.len();
    let chunk = |rows: &[f32]| {
        let mut sum = vec![0.0; columns];
        for row in rows.chunks_exact(columns) {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sum
    };
    let parts: Vec<Vec<f32>> = rows.par_chunks(ROWS * columns).map(chunk).collect();
    add_all(sum, &parts);
}

/// Adds `parts` to `sum` in their order.
pub(crate) fn add_all(sum: &mut [f32], parts: &[Vec<f32>]) {
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, wave},
    };

    /// dfdx's own, as plugins use them: what every row gets is added to each of its places.
    #[test]
    fn reshaped_and_spread_gradients_are_those_of_finite_differences() {
        check(&Params::default(), wave((6, 4)), |_, x| {
            let rows = x.with_empty_tape().reshape_like(&(3, 2, 4)).mean::<(usize, usize), Axis<1>>();
            let rows = rows.broadcast_like::<_, Axis<1>>(&(3, 2, 4));
            (x.reshape_like(&(3, 2, 4)) + rows).reshape_like(&(2, 12))
        });
    }
}
