//! Self-attention over sequences of tokens: the pixels of small maps, or any, as images of one row.

use dfdx::prelude::*;
use pulp::NullaryFnOnce;
use rand::Rng;
use rayon::prelude::*;

use crate::{
    gemm::{View, gemm, view},
    op::{Back, Shared, Step, on_tape},
    params::{ParamId, Params},
    resident::Dims,
    scratch::Scratch,
    tensor::{Images, Source},
    weights::Weights,
    wide::{self, exp, largest, sum_of},
};

/// Multi-head self-attention (Vaswani et al. 2017): every token takes from all tokens of its sequence, and of no other, as much
/// as its query agrees with their keys. No dropout, no mask.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub(crate) heads: Heads,
    /// Weight and bias of what makes queries, keys and values.
    pub qkv: (ParamId, ParamId),
    /// Weight and bias of what joins the heads.
    pub proj: (ParamId, ParamId),
}

impl Attention {
    /// Adds `NAME.qkv.weight` (3 dim x dim: queries, keys, values, each head by head), `NAME.qkv.bias`, `NAME.proj.weight`
    /// (dim x dim) and `NAME.proj.bias` to `params`: names and layout as timm's, and the layout of `in_proj_weight`, `out_proj`
    /// of PyTorch's `MultiheadAttention`.
    ///
    /// # Panics
    /// If `dim` is no multiple of `heads`.
    pub fn new(params: &mut Params, name: &str, dim: usize, heads: usize, rng: &mut impl Rng) -> Self {
        assert!(heads > 0 && dim.is_multiple_of(heads), "width of an attention, a multiple of its heads");
        let mut linear = |layer: &str, outputs: usize| {
            let weight = params.weight(format!("{name}.{layer}.weight"), vec![outputs, dim], dim, rng);
            (weight, params.bias(format!("{name}.{layer}.bias"), outputs, dim, rng))
        };
        Self { heads: Heads { dim, heads }, qkv: linear("qkv", 3 * dim), proj: linear("proj", dim) }
    }

    /// Values of a token.
    pub fn dim(&self) -> usize {
        self.heads.dim
    }

    /// How many heads there are.
    pub fn heads(&self) -> usize {
        self.heads.heads
    }

    /// Images to sequences of the same shape.
    ///
    /// What the backward pass needs grows with the number of tokens, not with its square: weights of tokens by tokens are
    /// computed again.
    ///
    /// # Panics
    /// If tokens have another width.
    pub fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, x: Images<T>, source: Source) -> Images<T> {
        let shape @ (items, height, width, channels) = *x.shape();
        let run = |x| self.run(params, x, Dims { items, height, width, channels });
        on_tape(x, source, run, |_| shape)
    }

    pub(crate) fn run(&self, params: &Params, x: Shared, dims: Dims) -> Step {
        assert_eq!(dims.channels, self.heads.dim, "width of the tokens of an attention");
        let (heads, rows, tokens) = (self.heads, dims.pixels(), dims.height * dims.width);
        let (qkv_layer, proj) = (Weights::new(params, self.qkv), Weights::new(params, self.proj));
        let qkv = qkv_layer.apply(&x, rows);
        let context = heads.attend(&qkv, tokens);
        let y = proj.apply(&context, rows);
        let back: Back = Box::new(move |dy, gradients, wanted| {
            proj.back(gradients, &dy, &context)?;
            drop(context);
            let dqkv = heads.slopes(&qkv, &proj.slopes(&dy), tokens);
            drop(qkv);
            qkv_layer.back(gradients, &dqkv, &x)?;
            Ok(wanted.product(dims.values(), |dx, start| qkv_layer.by_input(&dqkv, start, dx)))
        });
        Step { values: y.into(), dims, back }
    }
}

/// How queries, keys and values lie: tokens x (queries, keys, values) x heads x width of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) dim: usize,
    heads: usize,
}

/// What one head sees of a sequence, tokens x width of a head each.
struct Head<'a> {
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
}

impl Heads {
    fn width(self) -> usize {
        self.dim / self.heads
    }

    /// What agreements are multiplied by: 1/√width.
    fn scale(self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }

    fn head(self, qkv: &[f32], tokens: usize, head: usize) -> Head<'_> {
        let part = |part: usize| {
            let first = part * self.dim + head * self.width();
            view(qkv, tokens, 3 * self.dim).columns(first, self.width())
        };
        Head { q: part(0), k: part(1), v: part(2) }
    }

    /// How much each token takes of each, tokens x tokens: softmax of (q kᵀ scale) over the keys.
    fn weights(self, head: &Head, weights: &mut [f32]) {
        gemm(head.q, head.k.reversed_axes(), 0.0, weights);
        wide::run(Softmax { rows: weights, columns: head.k.nrows(), scale: self.scale() });
    }

    /// What every token takes, rows x dim, from sequences of so many tokens.
    pub(crate) fn attend(self, qkv: &[f32], tokens: usize) -> Scratch {
        let mut context = Scratch::new(qkv.len() / 3);
        let sequences = context.par_chunks_mut(tokens * self.dim).zip(qkv.par_chunks(tokens * 3 * self.dim));
        sequences.for_each(|(context, qkv)| {
            let mut weights = Scratch::new(tokens * tokens);
            let mut taken = Scratch::new(tokens * self.width());
            for number in 0..self.heads {
                let head = self.head(qkv, tokens, number);
                self.weights(&head, &mut weights);
                gemm(view(&weights, tokens, tokens), head.v, 0.0, &mut taken);
                self.put(&taken, context, self.dim, number * self.width());
            }
        });
        context
    }

    /// The gradients of queries, keys and values by those of what was taken.
    pub(crate) fn slopes(self, qkv: &[f32], dcontext: &[f32], tokens: usize) -> Scratch {
        let mut dqkv = Scratch::new(qkv.len());
        let sequences = dqkv.par_chunks_mut(tokens * 3 * self.dim).zip(qkv.par_chunks(tokens * 3 * self.dim));
        sequences.zip(dcontext.par_chunks(tokens * self.dim)).for_each(|((dqkv, qkv), dcontext)| {
            let [mut weights, mut slopes] = [(); 2].map(|()| Scratch::new(tokens * tokens));
            let mut part = Scratch::new(tokens * self.width());
            for number in 0..self.heads {
                let head = self.head(qkv, tokens, number);
                let first = number * self.width();
                self.weights(&head, &mut weights);
                let taken = view(dcontext, tokens, self.dim).columns(first, self.width());
                let by_weights = view(&weights, tokens, tokens);
                gemm(by_weights.reversed_axes(), taken, 0.0, &mut part);
                self.put(&part, dqkv, 3 * self.dim, 2 * self.dim + first);
                gemm(taken, head.v.reversed_axes(), 0.0, &mut slopes);
                let scale = self.scale();
                wide::run(SoftmaxSlopes { slopes: &mut slopes, weights: &weights, columns: tokens, scale });
                let by_slopes = view(&slopes, tokens, tokens);
                gemm(by_slopes, head.k, 0.0, &mut part);
                self.put(&part, dqkv, 3 * self.dim, first);
                gemm(by_slopes.reversed_axes(), head.q, 0.0, &mut part);
                self.put(&part, dqkv, 3 * self.dim, self.dim + first);
            }
        });
        dqkv
    }

    /// Writes a head's rows among all heads', from this column on.
    fn put(self, part: &[f32], rows: &mut [f32], columns: usize, first: usize) {
        let width = self.width();
        for (row, part) in rows.chunks_exact_mut(columns).zip(part.chunks_exact(width)) {
            row[first..first + width].copy_from_slice(part);
        }
    }
}

/// Rows to the softmax of `scale` times them.
struct Softmax<'a> {
    rows: &'a mut [f32],
    columns: usize,
    scale: f32,
}

impl NullaryFnOnce for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let most = largest(row);
            row.iter_mut().for_each(|value| *value = exp((*value - most) * self.scale));
            let share = 1.0 / sum_of(row, row, |value, _| value);
            row.iter_mut().for_each(|value| *value *= share);
        }
    }
}

/// The gradient of a softmax to that of what it was of: w (dw − Σ w dw) scale.
struct SoftmaxSlopes<'a> {
    slopes: &'a mut [f32],
    weights: &'a [f32],
    columns: usize,
    scale: f32,
}

impl NullaryFnOnce for SoftmaxSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.slopes.chunks_exact_mut(self.columns).zip(self.weights.chunks_exact(self.columns));
        for (slopes, weights) in rows {
            let mean = sum_of(slopes, weights, |slope, weight| slope * weight);
            let values = slopes.iter_mut().zip(weights);
            values.for_each(|(slope, weight)| *slope = weight * (*slope - mean) * self.scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradcheck::{check, rng, wave},
        tensor,
    };

    /// The definition, in `f64`, of one sequence.
    fn direct(params: &Params, x: &[f32], tokens: usize, dim: usize, heads: usize) -> Vec<f64> {
        let named = |name: &str| -> Vec<f64> {
            let param = params.iter().find(|param| param.name == name).unwrap();
            param.values().into_iter().map(f64::from).collect()
        };
        let linear = |x: &[f64], name: &str, outputs: usize| -> Vec<f64> {
            let (w, b) = (named(&format!("a.{name}.weight")), named(&format!("a.{name}.bias")));
            let row = |x: &[f64]| -> Vec<f64> {
                let sum = |o: usize| (0..dim).map(|i| x[i] * w[o * dim + i]).sum::<f64>() + b[o];
                (0..outputs).map(sum).collect()
            };
            x.chunks_exact(dim).flat_map(row).collect()
        };
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let (qkv, width) = (linear(&x, "qkv", 3 * dim), dim / heads);
        let mut context = vec![0.0; tokens * dim];
        for (head, query) in (0..heads).flat_map(|head| (0..tokens).map(move |query| (head, query))) {
            let at =
                |token: usize, part: usize, i: usize| qkv[token * 3 * dim + part * dim + head * width + i];
            let agreement = |key: usize| (0..width).map(|i| at(query, 0, i) * at(key, 1, i)).sum::<f64>();
            let weights: Vec<f64> =
                (0..tokens).map(|key| (agreement(key) / (width as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..width {
                let taken = weights.iter().zip(0..).map(|(weight, key)| weight * at(key, 2, i)).sum::<f64>();
                context[query * dim + head * width + i] = taken / total;
            }
        }
        linear(&context, "proj", dim)
    }

    #[test]
    fn is_the_attention_of_its_definition() {
        for (tokens, dim, heads) in [(5, 6, 2), (20, 8, 1), (1, 4, 4), (33, 12, 3)] {
            let mut params = Params::default();
            let attention = Attention::new(&mut params, "a", dim, heads, &mut rng());
            let x = wave((3, 1, tokens, dim));
            let found = tensor::values(&attention.forward(&params, x.clone(), Source::Data));
            let expected = tensor::values(&x);
            let expected =
                expected.chunks_exact(tokens * dim).flat_map(|x| direct(&params, x, tokens, dim, heads));
            assert_eq!(found.len(), 3 * tokens * dim);
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    /// Tokens have no order: another order of the input is that order of the output.
    #[test]
    fn tokens_are_a_set() {
        let mut params = Params::default();
        let attention = Attention::new(&mut params, "a", 6, 2, &mut rng());
        let values = tensor::values(&wave((1, 1, 7, 6)));
        let turned = |values: &[f32]| values.chunks_exact(6).rev().flatten().copied().collect::<Vec<_>>();
        let of = |values: Vec<f32>| {
            tensor::values(&attention.forward(&params, tensor::tensor(values, (1, 1, 7, 6)), Source::Data))
        };
        let (straight, other) = (of(values.clone()), turned(&of(turned(&values))));
        assert!(straight.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (count, (height, width), dim, heads) in [(3, (5, 1), 6, 2), (2, (9, 2), 4, 1)] {
            let mut params = Params::default();
            let attention = Attention::new(&mut params, "a", dim, heads, &mut rng());
            check(&params, wave((count, height, width, dim)), |params, x| {
                attention.forward(params, x, Source::Op)
            });
        }
    }
}
