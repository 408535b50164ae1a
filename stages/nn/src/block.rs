//! A transformer's block, half by half: `x + f(norm(x))` as one op. What is cheap to compute again is not kept for the way back:
//! normalised tokens, weights of tokens by tokens. GELU's exponentials are dearer, and its derivatives are kept.

use std::sync::Arc;

use dfdx::prelude::*;

use crate::{
    activation::{gelu_and_slopes, scale_slopes},
    attention::Attention,
    layer_norm::{Moments, moments, normalise, slopes},
    linear::Linear,
    network::Layer,
    norm::LayerNorm,
    op::{Back, Shared, Slopes, Step},
    params::Params,
    resident::Dims,
    scratch::Scratch,
    tensor::{add_all, gradient_mut},
    weights::Weights,
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
    pub(crate) fn run(&self, params: &Params, norm: LayerNorm, x: Shared, dims: Dims) -> Step {
        let (rows, tokens) = (dims.pixels(), dims.height * dims.width);
        let start = Tokens::new(params, norm, x);
        assert_eq!(dims.channels, start.columns, "width of the tokens of a block");
        match *self {
            Self::Among(attention) => {
                let heads = attention.heads;
                let (qkv_layer, proj) =
                    (Weights::new(params, attention.qkv), Weights::new(params, attention.proj));
                let qkv = qkv_layer.apply(&start.normalised(), rows);
                let context = heads.attend(&qkv, tokens);
                let y = proj.apply_beside(&start.x, &context);
                let back: Back = Box::new(move |dy, gradients, wanted| {
                    proj.back(gradients, &dy, &context)?;
                    drop(context);
                    let dqkv = heads.slopes(&qkv, &proj.slopes(&dy), tokens);
                    drop(qkv);
                    qkv_layer.back(gradients, &dqkv, &start.normalised())?;
                    let dz = qkv_layer.slopes(&dqkv);
                    drop(dqkv);
                    Ok(wanted.of(start.back(gradients, dy, &dz)?))
                });
                Step { values: y.into(), dims, back }
            }
            Self::Alone(first, second) => {
                let [first, second] =
                    [first, second].map(|layer| Weights::new(params, (layer.weight, layer.bias)));
                let mut curved = first.apply(&start.normalised(), rows);
                let active = gelu_and_slopes(&mut curved);
                let y = second.apply_beside(&start.x, &active);
                let back: Back = Box::new(move |dy, gradients, wanted| {
                    second.back(gradients, &dy, &active)?;
                    drop(active);
                    let mut dhidden = second.slopes(&dy);
                    scale_slopes(&mut dhidden, &curved, |slope| slope);
                    drop(curved);
                    first.back(gradients, &dhidden, &start.normalised())?;
                    let dz = first.slopes(&dhidden);
                    drop(dhidden);
                    Ok(wanted.of(start.back(gradients, dy, &dz)?))
                });
                Step { values: y.into(), dims, back }
            }
        }
    }
}

/// Tokens as they were, and what normalises them.
struct Tokens {
    x: Shared,
    columns: usize,
    moments: Vec<Moments>,
    weight: Tensor<(usize,), f32, Cpu>,
    bias: Tensor<(usize,), f32, Cpu>,
    gamma: Arc<Vec<f32>>,
    beta: Arc<Vec<f32>>,
}

impl Tokens {
    fn new(params: &Params, LayerNorm(norm): LayerNorm, x: Shared) -> Self {
        let (weight, bias) = (params[norm.weight].key.clone(), params[norm.bias].key.clone());
        let (gamma, beta) = (params[norm.weight].shared(), params[norm.bias].shared());
        let columns = norm.channels;
        let moments = moments(&x, columns);
        Self { x, columns, moments, weight, bias, gamma, beta }
    }

    fn normalised(&self) -> Scratch {
        let mut z = Scratch::new(self.x.len());
        normalise(&self.x, &self.moments, [&self.gamma, &self.beta], &mut z);
        z
    }

    /// Adds the norm's gradients; that of the tokens: what came along the shortcut, and what came through the norm.
    fn back(self, gradients: &mut Slopes, mut dy: Scratch, dz: &[f32]) -> Result<Scratch, CpuError> {
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
        network::{Network, Value},
        tensor::{self, Source},
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
            let beside = |body| Network(vec![Layer::Residual { body, shortcut: Network::default() }]);
            let x = wave((3, 5, 1, 6));
            assert!(Half::of(&layers).is_some());
            let parts = Network(layers.clone()).forward(&params, Value::Images(x.clone()), Source::Op);
            let parts = tensor::values(&(parts.images() + x.clone()));
            let half = beside(Network(layers));
            let whole = tensor::values(&half.forward(&params, Value::Images(x), Source::Op).images());
            for (whole, parts) in whole.iter().zip(parts) {
                assert!((whole - parts).abs() < 1e-5, "{whole} {parts}");
            }
            check(&params, wave((3, 5, 1, 6)), |params, x| {
                half.forward(params, Value::Images(x), Source::Op).images()
            });
        }
    }
}
