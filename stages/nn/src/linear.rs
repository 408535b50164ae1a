//! A linear layer.

use dfdx::prelude::*;
use rand::Rng;

use crate::{
    op::{Back, Shared, Step, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    tensor::{Matrix, Source},
    weights::Weights,
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
        let (rows, columns) = *x.shape();
        let run = |x| self.run(params, x, Dims::rows(rows, columns));
        on_tape(x, source, run, |dims| (dims.items, dims.channels))
    }

    /// On rows, or the pixels of images.
    pub(crate) fn run(&self, params: &Params, x: Shared, dims: Dims) -> Step {
        assert_eq!(dims.channels, self.inputs, "columns of the input of a linear layer");
        let weights = Weights::new(params, (self.weight, self.bias));
        let y = weights.apply(&x, dims.pixels());
        let back: Back = Box::new(move |dy, gradients, wanted| {
            weights.back(gradients, &dy, &x)?;
            drop(x);
            Ok(wanted.product(dims.pixels() * weights.inputs(), |dx, start| weights.by_input(&dy, start, dx)))
        });
        Step { values: y.into(), dims: Dims { channels: self.outputs, ..dims }, back }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradcheck::{check, rng, wave},
        tensor,
    };

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
