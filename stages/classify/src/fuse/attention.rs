//! Two blocks as one, by shares that are learnt from labels.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use restage_nn::{
    Linear, Matrix, Params as Weights, Recording, Source, blend, dfdx::prelude::*, tensor, values,
};
use restage_stage::{
    Context, Result,
    artifact::{Embedding, Metrics},
};

use super::{DIMS, Params, embedding};
use crate::{
    features::{Features, Scaling},
    network::{Network, drop_out, train},
    training::Training,
};

/// What is learnt: each block's way to the common width, its score, and regions from what is fused.
#[derive(Clone, Copy)]
struct Layers {
    ways: [Linear; 2],
    scores: [Linear; 2],
    head: Linear,
}

impl Layers {
    fn new(
        weights: &mut Weights,
        widths: [usize; 2],
        dims: usize,
        classes: usize,
        rng: &mut impl Rng,
    ) -> Self {
        let mut linear =
            |name: &str, inputs: usize, outputs: usize| Linear::new(weights, name, inputs, outputs, rng);
        Self {
            ways: [linear("way.0", widths[0], dims), linear("way.1", widths[1], dims)],
            scores: [linear("score.0", dims, 1), linear("score.1", dims, 1)],
            head: linear("head", dims, classes),
        }
    }

    /// softmax(s₀, s₁) · (h₀, h₁) of each spot, and how much higher s₀ is, with h = W x + b and s = v · tanh(h) + c.
    fn fuse(&self, weights: &Weights, blocks: [Matrix; 2]) -> (Matrix<Recording>, Vec<f32>) {
        let [first, second] = blocks.map(Tensor::leaky_traced);
        let first = self.ways[0].forward(weights, first, Source::Data);
        let second = self.ways[1].forward(weights, second, Source::Data);
        let score = |layer: &Linear, x: Matrix<Recording>| layer.forward(weights, x.tanh(), Source::Op);
        let apart = score(&self.scores[0], first.with_empty_tape())
            - score(&self.scores[1], second.with_empty_tape());
        let margins = values(&apart);
        (blend(first, second, apart), margins)
    }
}

/// The fused vectors; adds to the summary how training went, and the mean share of the first block.
pub(super) fn fuse(
    features: &Features,
    scaling: &Scaling,
    training: &Training,
    params: &Params,
    ctx: &Context,
    summary: &mut Metrics,
) -> Result<Embedding> {
    let widths = features.two_widths("kind: attention")?;
    let (dims, classes) = (params.dims.unwrap_or(DIMS), training.classes.len());
    let rows: Vec<f32> = features.all(scaling).into_iter().map(|x| x as f32).collect();
    let blocks = |spots: &[usize]| {
        let block = |start: usize, width: usize| {
            let row = |spot: &usize| &rows[spot * (widths[0] + widths[1]) + start..][..width];
            tensor(spots.iter().flat_map(row).copied().collect(), (spots.len(), width))
        };
        [block(0, widths[0]), block(widths[0], widths[1])]
    };
    let begin = || {
        let (mut weights, mut rng) = (Weights::default(), ctx.rng("init"));
        let layers = Layers::new(&mut weights, widths, dims, classes, &mut rng);
        let (blocks, dropout) = (&blocks, params.dropout);
        let scores = move |weights: &Weights, spots: &[usize], rng: Option<&mut ChaCha8Rng>| {
            let (fused, _) = layers.fuse(weights, blocks(spots));
            layers.head.forward(weights, drop_out(fused, dropout, rng), Source::Op)
        };
        (layers, Network { params: weights, scores })
    };
    let (layers, _) = begin();
    let trained = train(ctx, &params.plan(), training, || begin().1)?;
    let (fused, margins) = layers.fuse(&trained.network.params, blocks(&features.every()));
    let share = margins.iter().map(|&margin| 1.0 / (1.0 + (-f64::from(margin)).exp())).sum::<f64>()
        / margins.len() as f64;
    summary.values.insert("first_share".into(), share);
    summary.values.insert("epochs".into(), trained.epochs as f64);
    summary.values.insert("parameters".into(), trained.network.params.count() as f64);
    summary.curves = trained.curves;
    Ok(embedding(features, dims, values(&fused).into_iter().map(f64::from)))
}
