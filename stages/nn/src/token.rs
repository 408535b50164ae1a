//! Some rows of many, and a learned row that stands where rows are hidden or left out.

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
        let (token, value) = (params[self.0].key.clone(), params[self.0].shared());
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

    /// The rows of `x` at these places among all, the token at all others: the way back from [`pick`]. To each, `places` is added,
    /// its rows in turn.
    ///
    /// # Panics
    /// If `x` has not as many columns as the token, not as many rows as there are places, or `places` is no matrix of as many
    /// columns.
    pub fn fill<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        x: Matrix<T>,
        rows: &[usize],
        (places, count): (&[f32], usize),
    ) -> Matrix<T> {
        let (found, dims) = *x.shape();
        let (token, value) = (params[self.0].key.clone(), params[self.0].shared());
        assert!(value.len() == dims && places.len().is_multiple_of(dims), "columns of rows among tokens");
        assert_eq!(found, rows.len(), "places of rows among tokens");
        let (x, mut tape) = x.split_tape();
        let mut output = value.repeat(count);
        let mut taken = vec![false; count];
        for (row, x) in rows.iter().zip(tensor::values(&x).chunks_exact(dims)) {
            output[row * dims..(row + 1) * dims].copy_from_slice(x);
            taken[*row] = true;
        }
        for (row, place) in output.chunks_exact_mut(dims).zip(places.chunks_exact(dims).cycle()) {
            row.iter_mut().zip(place).for_each(|(sum, value)| *sum += value);
        }
        let y = tensor::tensor(output, (count, dims));

        let (x, out, rows) = (x.ghost(), y.ghost(), rows.to_vec());
        tape.add_backward_op(move |gradients| {
            let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
            let add =
                |sums: &mut [f32], dy: &[f32]| sums.iter_mut().zip(dy).for_each(|(sum, value)| *sum += value);
            let sums = gradient_mut(gradients, &token)?;
            dy.chunks_exact(dims).zip(&taken).filter(|(_, taken)| !**taken).for_each(|(dy, _)| add(sums, dy));
            let dx = gradients.get_or_alloc_mut(&x)?;
            for (row, dx) in rows.iter().zip(dx.chunks_exact_mut(dims)) {
                add(dx, &dy[row * dims..(row + 1) * dims]);
            }
            Ok(())
        });
        y.put_tape(tape)
    }
}

/// These rows of `x`, in this order.
///
/// # Panics
/// If `x` has not that many rows.
pub fn pick<T: Tape<f32, Cpu>>(x: Matrix<T>, rows: &[usize]) -> Matrix<T> {
    let columns = x.shape().1;
    let (x, mut tape) = x.split_tape();
    let input = tensor::values(&x);
    let picked = rows.iter().flat_map(|row| &input[row * columns..(row + 1) * columns]).copied().collect();
    let y = tensor::tensor(picked, (rows.len(), columns));

    let (x, out, rows) = (x.ghost(), y.ghost(), rows.to_vec());
    tape.add_backward_op(move |gradients| {
        let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
        let dx = gradients.get_or_alloc_mut(&x)?;
        for (row, dy) in rows.iter().zip(dy.chunks_exact(columns)) {
            let sums = dx[row * columns..(row + 1) * columns].iter_mut();
            sums.zip(dy).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    });
    y.put_tape(tape)
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
    #[test]
    fn picked_rows_go_back_to_their_places() {
        let mut params = Params::default();
        let token = MaskToken::new(&mut params, "token", 2);
        params.load(|_| Some((&[2][..], &[7.0, 8.0][..]))).unwrap();
        let x = tensor::tensor((0..8).map(|value| value as f32).collect(), (4, 2));
        let picked = pick(x, &[2, 1]);
        assert_eq!(tensor::values(&picked), [4.0, 5.0, 2.0, 3.0]);
        let filled = token.fill(&params, picked, &[2, 1], (&[0.0, 0.0, 0.5, 0.0], 4));
        assert_eq!(tensor::values(&filled), [7.0, 8.0, 2.5, 3.0, 4.0, 5.0, 7.5, 8.0]);
        check(&params, wave((6, 2)), |params, x| {
            token.fill(params, pick(x, &[2, 1, 5]), &[2, 1, 5], (&[0.1, 0.2, 0.3, 0.4], 6))
        });
    }
}
