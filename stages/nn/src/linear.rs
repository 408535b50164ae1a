//! A linear layer.

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    gemm::{par_affine, par_gemm, view},
    params::{ParamId, Params},
    tensor::{self, Matrix, Source, gradient_mut},
};

/// `x Wᵀ + b`, with `W` of outputs x inputs as in PyTorch.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Columns of its input.
    pub inputs: usize,
    /// Columns of its output.
    pub outputs: usize,
    /// `W`.
    pub weight: ParamId,
    /// `b`.
    pub bias: ParamId,
}

impl Linear {
    /// Adds `NAME.weight` and `NAME.bias` to `params`.
    pub fn new(params: &mut Params, name: &str, inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let weight = params.weight(format!("{name}.weight"), vec![outputs, inputs], inputs, rng);
        let bias = params.bias(format!("{name}.bias"), outputs, inputs, rng);
        Self { inputs, outputs, weight, bias }
    }

    /// Rows x inputs to rows x outputs.
    ///
    /// # Panics
    /// If `x` has not as many columns as the layer has inputs.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Matrix<T>, source: Source) -> Matrix<T> {
        let Self { inputs, outputs, weight, bias } = *self;
        let (rows, columns) = *x.shape();
        assert_eq!(columns, inputs, "columns of the input of a linear layer");
        let (x, mut tape) = x.split_tape();
        let (weight, bias) = (params[weight].tensor.clone(), params[bias].tensor.clone());
        let (input, w) = (tensor::values(&x), tensor::values(&weight));

        let mut output = vec![0.0; rows * outputs];
        let w_view = view(&w, outputs, inputs).reversed_axes();
        par_affine(view(&input, rows, inputs), w_view, &tensor::values(&bias), &mut output);
        let y = tensor::tensor(output, (rows, outputs));

        // Without their values, which the next op has.
        let (x, out) = (x.ghost(), y.ghost());
        tape.add_backward_op(move |gradients| {
            let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
            let dy_view = view(&dy, rows, outputs);
            let dw = gradient_mut(gradients, &weight)?;
            par_gemm(dy_view.reversed_axes(), view(&input, rows, inputs), 1.0, dw);
            tensor::add_rows(gradient_mut(gradients, &bias)?, &dy);
            if source == Source::Op {
                par_gemm(dy_view, view(&w, outputs, inputs), 1.0, gradients.get_or_alloc_mut(&x)?);
            }
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
    fn computes_x_w_transposed_plus_b() {
        let mut params = Params::default();
        let layer = Linear::new(&mut params, "l", 2, 3, &mut rng());
        let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        params
            .load(|name| match name {
                "l.weight" => Some((&[3, 2], &w)),
                _ => Some((&[3], &[0.5, 0.0, -1.0])),
            })
            .unwrap();
        let y = layer.forward(&params, tensor::tensor(vec![1.0, -1.0, 2.0, 0.5], (2, 2)), Source::Data);
        assert_eq!(tensor::values(&y), [-0.5, -1.0, -2.0, 3.5, 8.0, 12.0]);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut params = Params::default();
        let layer = Linear::new(&mut params, "l", 5, 4, &mut rng());
        check(&params, wave((70, 5)), |params, x| layer.forward(params, x, Source::Op));
    }
}
