//! A transformer's block, half by half: `x + f(norm(x))` as one op. What is cheap to compute again is not kept for the way back:
//! normalised tokens, what GELU gives, weights of tokens by tokens.

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    activation::{CHUNK, gelu_of, gelu_slope},
    attention::Attention,
    layer_norm::{Moments, moments, normalise, slopes},
    linear::Linear,
    network::{Layer, Value},
    norm::LayerNorm,
    params::Params,
    scratch::Scratch,
    tensor::{self, add, add_all, gradient_mut},
    weights::Weights,
    wide,
};

/// What is made of normalised tokens, and added to them as they were.
pub(crate) enum Half {
    /// Attention among the tokens of each sequence.
    Among(Attention),
    /// Two linear layers with GELU between them, on each token.
    Alone(Linear, Linear),
}

impl Half {
    /// The two kinds that layers beside an empty shortcut can be.
    pub(crate) fn of(layers: &[Layer]) -> Option<(LayerNorm, Self)> {
        match layers {
            [Layer::LayerNorm(norm), Layer::Attention(attention)] => Some((*norm, Self::Among(*attention))),
            [Layer::LayerNorm(norm), Layer::Linear(first), Layer::Gelu, Layer::Linear(second)] => {
                Some((*norm, Self::Alone(*first, *second)))
            }
            _ => None,
        }
    }

    /// `x + f(norm(x))`; the pixels of an image are a sequence of tokens, and so is a row alone.
    ///
    /// # Panics
    /// If tokens are not as wide as the layers.
    pub(crate) fn on<T: Tape<f32, Cpu>>(&self, params: &Params, norm: LayerNorm, x: Value<T>) -> Value<T> {
        match x {
            Value::Rows(x) => Value::Rows(self.forward(params, norm, x, 1)),
            Value::Images(x) => {
                let (_, height, width, _) = *x.shape();
                Value::Images(self.forward(params, norm, x, height * width))
            }
        }
    }

    fn forward<S: Shape, T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        norm: LayerNorm,
        x: Tensor<S, f32, Cpu, T>,
        tokens: usize,
    ) -> Tensor<S, f32, Cpu, T> {
        let shape = *x.shape();
        let (x, mut tape) = x.split_tape();
        let start = Start::new(params, norm, tensor::values(&x));
        let x = x.ghost();
        match *self {
            Self::Among(attention) => {
                let heads = attention.heads;
                let (rows, dim) = (start.rows(), start.columns);
                assert_eq!(heads.dim, dim, "width of the tokens of an attention");
                let (qkv_layer, proj) =
                    (Weights::new(params, attention.qkv), Weights::new(params, attention.proj));
                let qkv = qkv_layer.apply(&start.normalised(), rows);
                let context = heads.attend(&qkv, tokens);
                let y = tensor::tensor(proj.apply_beside(&start.x, &context), shape);
                let out = y.ghost();
                tape.add_backward_op(move |gradients| {
                    let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
                    let dcontext = proj.back(gradients, &dy, &context)?;
                    drop(context);
                    let dqkv = heads.slopes(&qkv, &dcontext, tokens);
                    drop((qkv, dcontext));
                    let dz = qkv_layer.back(gradients, &dqkv, &start.normalised())?;
                    let dx = start.back(gradients, dy, &dz)?;
                    add(gradients.get_or_alloc_mut(&x)?, &dx);
                    Ok(())
                });
                y.put_tape(tape)
            }
            Self::Alone(first, second) => {
                let [first, second] =
                    [first, second].map(|layer| Weights::new(params, (layer.weight, layer.bias)));
                let hidden = first.apply(&start.normalised(), start.rows());
                let mut active = Scratch::new(hidden.len());
                active.par_chunks_mut(CHUNK).zip(hidden.par_chunks(CHUNK)).for_each(|(active, hidden)| {
                    wide::map(hidden, active, gelu_of);
                });
                let y = tensor::tensor(second.apply_beside(&start.x, &active), shape);
                drop(active);
                let out = y.ghost();
                tape.add_backward_op(move |gradients| {
                    let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
                    let mut active = Scratch::new(hidden.len());
                    active.par_chunks_mut(CHUNK).zip(hidden.par_chunks(CHUNK)).for_each(
                        |(active, hidden)| {
                            wide::map(hidden, active, gelu_of);
                        },
                    );
                    let mut dhidden = second.back(gradients, &dy, &active)?;
                    drop(active);
                    dhidden.par_chunks_mut(CHUNK).zip(hidden.par_chunks(CHUNK)).for_each(
                        |(slopes, hidden)| {
                            wide::scale_slopes(slopes, hidden, gelu_slope);
                        },
                    );
                    drop(hidden);
                    let dz = first.back(gradients, &dhidden, &start.normalised())?;
                    drop(dhidden);
                    let dx = start.back(gradients, dy, &dz)?;
                    add(gradients.get_or_alloc_mut(&x)?, &dx);
                    Ok(())
                });
                y.put_tape(tape)
            }
        }
    }
}

/// Tokens as they were, and what normalises them.
struct Start {
    x: Vec<f32>,
    columns: usize,
    moments: Vec<Moments>,
    weight: Tensor<(usize,), f32, Cpu>,
    bias: Tensor<(usize,), f32, Cpu>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Start {
    fn new(params: &Params, LayerNorm(norm): LayerNorm, x: Vec<f32>) -> Self {
        let (weight, bias) = (params[norm.weight].tensor.clone(), params[norm.bias].tensor.clone());
        let (gamma, beta) = (tensor::values(&weight), tensor::values(&bias));
        let columns = norm.channels;
        let moments = moments(&x, columns);
        Self { x, columns, moments, weight, bias, gamma, beta }
    }

    fn rows(&self) -> usize {
        self.moments.len()
    }

    fn normalised(&self) -> Scratch {
        let mut z = Scratch::new(self.x.len());
        normalise(&self.x, &self.moments, [&self.gamma, &self.beta], &mut z);
        z
    }

    /// Adds the norm's gradients; that of the tokens: what came along the shortcut, and what came through the norm.
    fn back(
        self,
        gradients: &mut Gradients<f32, Cpu>,
        mut dy: Vec<f32>,
        dz: &[f32],
    ) -> Result<Vec<f32>, CpuError> {
        let [dgamma, dbeta] = slopes(&mut dy, dz, &self.x, &self.moments, &self.gamma);
        add_all(gradient_mut(gradients, &self.weight)?, &dgamma);
        add_all(gradient_mut(gradients, &self.bias)?, &dbeta);
        Ok(dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradcheck::{check, rng, wave},
        network::Network,
        tensor::Source,
    };

    /// One op or a layer after the other, it is the same.
    #[test]
    fn halves_are_their_layers() {
        let (mut params, mut rng) = (Params::default(), rng());
        let norm = |params: &mut Params, name| Layer::LayerNorm(LayerNorm::new(params, name, 6));
        let among =
            vec![norm(&mut params, "a"), Layer::Attention(Attention::new(&mut params, "b", 6, 2, &mut rng))];
        let alone = vec![
            norm(&mut params, "c"),
            Layer::Linear(Linear::new(&mut params, "d", 6, 9, &mut rng)),
            Layer::Gelu,
            Layer::Linear(Linear::new(&mut params, "e", 9, 6, &mut rng)),
        ];
        for layers in [among, alone] {
            let (norm, half) = Half::of(&layers).unwrap();
            let whole = tensor::values(&half.forward(&params, norm, wave((3, 5, 1, 6)), 5));
            let x = wave((3, 5, 1, 6));
            let parts = Network(layers).forward(&params, Value::Images(x.clone()), Source::Op).images() + x;
            for (whole, parts) in whole.iter().zip(tensor::values(&parts)) {
                assert!((whole - parts).abs() < 1e-5, "{whole} {parts}");
            }
            check(&params, wave((3, 5, 1, 6)), |params, x| half.forward(params, norm, x, 5));
        }
    }
}
