//! Masked gene modelling: hide a share of the genes of a spot, or whole sets of them, predict them from the others.

use rand::Rng;
use rayon::prelude::*;
use restage_nn::{
    Network, ParamId, Params, Source,
    dfdx::prelude::{NoneTape, Trace},
    masked_mse, tensor,
};
use restage_stage::context::rng;

use crate::{
    encoder::GeneEncoder,
    expression::Expression,
    gene_sets::GeneSets,
    params::ErrorOf,
    train::{Memory, Objective, Step},
};

/// The objective on these training spots.
pub(crate) struct GeneMask<'a> {
    pub(crate) expression: Expression<'a>,
    pub(crate) encoder: GeneEncoder,
    /// One linear layer from the embedding to all genes: what it shall predict must lie open in the embedding.
    pub(crate) decoder: Network,
    pub(crate) mask_rate: f64,
    /// What is hidden as a whole; without, single genes are.
    pub(crate) sets: Option<GeneSets>,
    pub(crate) error_of: ErrorOf,
    pub(crate) seed: u64,
}

impl GeneMask<'_> {
    /// Draws which genes of a spot are hidden; gives what the others are multiplied with so that the input keeps its size.
    fn hide(&self, epoch: usize, item: usize, hidden: &mut [bool]) -> f32 {
        let mut rng = rng(self.seed, &format!("mask/{epoch}/{}", self.expression.id(item)));
        match &self.sets {
            None => {
                let below = (self.mask_rate * f64::from(u32::MAX)) as u32;
                hidden.iter_mut().for_each(|hidden| *hidden = rng.random::<u32>() < below);
                1.0 / (1.0 - self.mask_rate as f32)
            }
            Some(sets) => {
                sets.hide(self.mask_rate, &mut rng, hidden);
                let seen = hidden.iter().filter(|hidden| !**hidden).count();
                hidden.len() as f32 / seen.max(1) as f32
            }
        }
    }
}

impl Objective for GeneMask<'_> {
    fn items(&self) -> usize {
        self.expression.spots()
    }

    fn parameters(&self) -> Vec<ParamId> {
        [self.encoder.parameters(), self.decoder.parameters()].concat()
    }

    /// The mean squared error of the hidden genes only: averaged over all genes, copying the seen ones would pay. Or of all, where
    /// that is asked for. Hidden genes are set to 0, their mean; the others are scaled up so that the inputs keep their size.
    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let genes = self.expression.genes();
        let around = self.encoder.around(batch);
        let mut input = self.expression.values(&around.spots);
        let target = input[..batch.len() * genes].to_vec();
        let mut mask = vec![false; input.len()];
        let spots = input.par_chunks_mut(genes).zip(mask.par_chunks_mut(genes)).zip(&around.spots);
        spots.for_each(|((input, mask), item)| {
            let scale = self.hide(epoch, *item, mask);
            for (value, hidden) in input.iter_mut().zip(mask) {
                *value = if *hidden { 0.0 } else { *value * scale };
            }
        });
        // Neighbours' genes are hidden like a spot's own, and predicted when it is their turn.
        mask.truncate(target.len());
        if self.error_of == ErrorOf::All {
            mask.fill(true);
        }

        let x = tensor(input, (around.spots.len(), genes)).leaky_traced();
        let embeddings = self.encoder.forward(params, &around.edges, x, batch.len());
        let kept = embeddings.retaped::<NoneTape>();
        let prediction = self.decoder.forward(params, embeddings.into(), Source::Op).rows();
        let loss = masked_mse(prediction, target, mask);
        Step::new(loss, kept)
    }
}
