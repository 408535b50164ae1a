//! Masked gene modelling: hide a share of the genes of a spot, predict them from the others.

use rand::Rng;
use rayon::prelude::*;
use restage_nn::{
    Network, ParamId, Params, Source,
    dfdx::prelude::{NoneTape, Trace},
    masked_mse, tensor,
};
use restage_stage::context::rng;

use crate::{
    encoder::Net,
    expression::Expression,
    train::{Memory, Objective, Step},
};

/// The objective on these training spots.
pub(crate) struct GeneMask<'a> {
    pub(crate) expression: Expression<'a>,
    pub(crate) encoder: Net,
    /// One linear layer from the embedding to all genes: what it shall predict must lie open in the embedding.
    pub(crate) decoder: Network,
    pub(crate) mask_rate: f64,
    pub(crate) seed: u64,
}

impl Objective for GeneMask<'_> {
    fn items(&self) -> usize {
        self.expression.spots()
    }

    fn parameters(&self) -> Vec<ParamId> {
        [self.encoder.parameters(), self.decoder.parameters()].concat()
    }

    /// The mean squared error of the hidden genes only: averaged over all genes, copying the seen ones would pay.
    /// Hidden genes are set to 0, their mean; the others are scaled up so that the inputs keep their size.
    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let genes = self.expression.genes();
        let target = self.expression.values(batch);
        let mut input = target.clone();
        let mut mask = vec![false; target.len()];
        let scale = 1.0 / (1.0 - self.mask_rate as f32);
        let below = (self.mask_rate * f64::from(u32::MAX)) as u32;
        input.par_chunks_mut(genes).zip(mask.par_chunks_mut(genes)).zip(batch).for_each(
            |((input, mask), item)| {
                let mut rng = rng(self.seed, &format!("mask/{epoch}/{}", self.expression.id(*item)));
                for (value, hidden) in input.iter_mut().zip(mask) {
                    *hidden = rng.random::<u32>() < below;
                    *value = if *hidden { 0.0 } else { *value * scale };
                }
            },
        );

        let embeddings = self.encoder.forward(params, tensor(input, (batch.len(), genes)).leaky_traced());
        let kept = embeddings.retaped::<NoneTape>();
        let prediction = self.decoder.forward(params, embeddings.into(), Source::Op).rows();
        let loss = masked_mse(prediction, target, mask);
        Step { loss, terms: Vec::new(), embeddings: kept, others: None, of_genes: None, seen: Vec::new() }
    }
}
