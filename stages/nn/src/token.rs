//! A learned row that stands where rows are hidden.

use dfdx::prelude::*;

use crate::{
    params::{ParamId, Params},
    tensor::{self, Matrix, Source, gradient_mut, take_gradient},
};

/// The token of masked modelling (GraphMAE, Hou et al. 2022): 0 at first, learned.
#[derive(Clone, Copy, Debug)]
pub struct MaskToken(ParamId);

impl MaskToken {
    /// Adds `NAME`, of so many values, to `params`.
    pub fn new(params: &mut Params, name: &str, dims: usize) -> Self {
        Self(params.constant(name.to_owned(), dims, 0.0))
    }

    /// `x` with the token in place of these rows.
    ///
    /// # Panics
    /// If `x` has not as many columns as the token, or not that many rows.
    pub fn hide<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        x: Matrix<T>,
        rows: &[usize],
        source: Source,
    ) -> Matrix<T> {
        let shape = *x.shape();
        let dims = shape.1;
        let token = params[self.0].tensor.clone();
        let value = tensor::values(&token);
        assert_eq!(value.len(), dims, "columns of rows that a token hides");
        let (x, mut tape) = x.split_tape();
        let mut output = tensor::values(&x);
        rows.iter().for_each(|row| output[row * dims..(row + 1) * dims].copy_from_slice(&value));
        let y = tensor::tensor(output, shape);

        let (out, rows) = (y.clone(), rows.to_vec());
        tape.add_backward_op(move |gradients| {
            let mut dy = take_gradient(gradients, &out)?;
            let sums = gradient_mut(gradients, &token)?;
            for row in rows {
                let dy = &mut dy[row * dims..(row + 1) * dims];
                sums.iter_mut().zip(&*dy).for_each(|(sum, value)| *sum += value);
                dy.fill(0.0);
            }
            if source == Source::Op {
                gradient_mut(gradients, &x)?.iter_mut().zip(dy).for_each(|(sum, value)| *sum += value);
            }
            Ok(())
        });
        y.put_tape(tape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check, wave};

    #[test]
    fn stands_for_hidden_rows_and_learns_from_them_only() {
        let mut params = Params::default();
        let token = MaskToken::new(&mut params, "token", 3);
        params.load(|_| Some((&[3][..], &[7.0, 8.0, 9.0][..]))).unwrap();
        let x = tensor::tensor(vec![1.0; 12], (4, 3));
        let hidden = tensor::values(&token.hide(&params, x, &[1, 3], Source::Op));
        assert_eq!(hidden, [1.0, 1.0, 1.0, 7.0, 8.0, 9.0, 1.0, 1.0, 1.0, 7.0, 8.0, 9.0]);
        check(&params, wave((4, 3)), |params, x| token.hide(params, x, &[1, 3], Source::Op));
    }
}
