//! A linear layer without a bias.

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    gemm::{par_gemm, view},
    params::{ParamId, Params},
    tensor::{self, Matrix, Source, gradient_mut, take_gradient},
};

/// `x Wᵀ`, with `W` of outputs x inputs as in PyTorch.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Linear,
        gradcheck::{check, rng, wave},
    };

    #[test]
    fn is_a_linear_layer_without_its_bias() {
        let mut params = Params::default();
        let projection = Projection::new(&mut params, "l", 5, 4, &mut rng());
        let bias = params.constant("l.bias".into(), 4, 0.0);
        let linear = Linear { inputs: 5, outputs: 4, weight: projection.weight, bias };
        let x = wave((6, 5));
        let of_linear = tensor::values(&linear.forward(&params, x.clone(), Source::Data));
        assert_eq!(tensor::values(&projection.forward(&params, x, Source::Data)), of_linear);
        check(&params, wave((6, 5)), |params, x| projection.forward(params, x, Source::Op));
    }
}
