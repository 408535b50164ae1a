//! The two halves of a linear layer, for networks that have one alone, or do something in between.

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    gemm::{par_gemm, view},
    params::{ParamId, Params},
    tensor::{self, Matrix, Source, gradient_mut, take_gradient},
};

/// `x Wᵀ`, with `W` of outputs x inputs as in PyTorch: a linear layer without a bias.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    inputs: usize,
    outputs: usize,
    weight: ParamId,
}

impl Projection {
    /// Adds `NAME.weight` to `params`.
    pub fn new(params: &mut Params, name: &str, inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let weight = params.weight(format!("{name}.weight"), vec![outputs, inputs], inputs, rng);
        Self { inputs, outputs, weight }
    }

    /// Rows x inputs to rows x outputs.
    ///
    /// # Panics
    /// If `x` has not as many columns as it has inputs.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>, source: Source) -> Matrix<T> {
        let Self { inputs, outputs, weight } = *self;
        let (rows, columns) = *x.shape();
        assert_eq!(columns, inputs, "columns of what is projected");
        let (x, mut tape) = x.split_tape();
        let (weight, w) = (params[weight].key.clone(), params[weight].shared());
        let input = tensor::values(&x);
        let mut output = vec![0.0; rows * outputs];
        par_gemm(view(&input, rows, inputs), view(&w, outputs, inputs).reversed_axes(), 0.0, &mut output);
        let y = tensor::tensor(output, (rows, outputs));

        let out = y.clone();
        tape.add_backward_op(move |gradients| {
            let dy = take_gradient(gradients, &out)?;
            let dy = view(&dy, rows, outputs);
            let dw = gradient_mut(gradients, &weight)?;
            par_gemm(dy.reversed_axes(), view(&input, rows, inputs), 1.0, dw);
            if source == Source::Op {
                par_gemm(dy, view(&w, outputs, inputs), 1.0, gradient_mut(gradients, &x)?);
            }
            Ok(())
        });
        y.put_tape(tape)
    }
}

/// `x + b`, of each row.
///
/// # Panics
/// If `b` has not as many values as `x` columns.
pub(crate) fn add_bias<T: Tape<f32, Cpu>>(params: &Params, bias: ParamId, x: Matrix<T>) -> Matrix<T> {
    let (rows, columns) = *x.shape();
    let (bias, b) = (params[bias].key.clone(), params[bias].shared());
    assert_eq!(b.len(), columns, "columns of what a bias is added to");
    let (x, mut tape) = x.split_tape();
    let mut output = tensor::values(&x);
    let add = |row: &mut [f32], values: &[f32]| {
        row.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    };
    output.chunks_exact_mut(columns).for_each(|row| add(row, &b));
    let y = tensor::tensor(output, (rows, columns));

    let out = y.clone();
    tape.add_backward_op(move |gradients| {
        let dy = take_gradient(gradients, &out)?;
        let db = gradient_mut(gradients, &bias)?;
        dy.chunks_exact(columns).for_each(|row| add(db, row));
        add(gradient_mut(gradients, &x)?, &dy);
        Ok(())
    });
    y.put_tape(tape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Linear,
        gradcheck::{check, rng, wave},
    };

    #[test]
    fn both_halves_are_a_linear_layer() {
        let mut params = Params::default();
        let whole = Linear::new(&mut params, "l", 5, 4, &mut rng());
        let mut halves = Params::default();
        let projection = Projection::new(&mut halves, "l", 5, 4, &mut rng());
        let bias = halves.bias("l.bias".into(), 4, 5, &mut rng());
        let values =
            params.iter().map(|param| (&param.name, &param.shape, param.values())).collect::<Vec<_>>();
        halves
            .load(|name| {
                let (_, shape, values) = values.iter().find(|(other, ..)| *other == name)?;
                Some((&shape[..], &values[..]))
            })
            .unwrap();
        let x = wave((6, 5));
        let of_halves = add_bias(&halves, bias, projection.forward(&halves, x.clone(), Source::Data));
        let of_whole = tensor::values(&whole.forward(&params, x, Source::Data));
        for (half, whole) in tensor::values(&of_halves).iter().zip(of_whole) {
            assert!((half - whole).abs() < 1e-6);
        }
        check(&halves, wave((6, 5)), |params, x| {
            add_bias(params, bias, projection.forward(params, x, Source::Op))
        });
    }
}
