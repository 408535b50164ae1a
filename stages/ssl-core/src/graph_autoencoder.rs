//! Expression from the embeddings of a spot and its neighbours. `graph_ae`: of every spot, as STAGATE (Dong & Zhang 2022) and
//! GraphST do. `graph_mask`: of spots whose own genes are hidden, from the others around them (GraphMAE; Hou et al. 2022).
//!
//! The decoder is one layer of the encoder's kind on the same edges. Its weights are its own; STAGATE's are the encoder's.

use std::sync::Arc;

use rand::Rng;
use restage_nn::{
    MaskToken, Matrix, ParamId, Params, Projection, Recording, Source, Sparse,
    dfdx::prelude::{NoneTape, Trace},
    masked_mse, scaled_cosine_error, tensor,
};
use restage_stage::context::rng;

use crate::{
    encoder::{GraphLayer, GraphNet},
    expression::Expression,
    sections::{Batch, Sections},
    train::{Memory, Objective, Step},
};

/// The objective on these sections.
pub(crate) struct GraphAutoencoder<'a> {
    pub(crate) expression: Expression<'a>,
    pub(crate) sections: Arc<Sections>,
    pub(crate) encoder: GraphNet,
    pub(crate) decoder: GraphLayer,
    /// Of `graph_mask`.
    pub(crate) mask: Option<Mask>,
    pub(crate) seed: u64,
}

/// How spots are hidden, and what counts.
pub(crate) struct Mask {
    /// Share of a section's spots.
    pub(crate) rate: f64,
    /// In place of a hidden spot's genes.
    pub(crate) token: MaskToken,
    /// Between encoder and decoder, before hidden spots' embeddings are set to 0.
    pub(crate) bridge: Projection,
    /// The power of 1 − cos.
    pub(crate) gamma: f64,
}

impl GraphAutoencoder<'_> {
    /// Of each section as many spots as the rate says, those with the smallest draws of their own; one at least.
    pub(crate) fn hidden(&self, rate: f64, epoch: usize, batch: &Batch) -> Vec<usize> {
        let draw = |place: usize| {
            let spot = self.expression.id(batch.spots[place]);
            rng(self.seed, &format!("mask/{epoch}/{spot}")).random::<u64>()
        };
        let mut hidden = Vec::new();
        for section in batch.places() {
            let count = ((rate * section.len() as f64).round() as usize).max(1);
            let mut drawn: Vec<(u64, usize)> = section.map(|place| (draw(place), place)).collect();
            drawn.sort_unstable();
            hidden.extend(drawn.into_iter().take(count).map(|(_, place)| place));
        }
        hidden.sort_unstable();
        hidden
    }
}

impl Objective for GraphAutoencoder<'_> {
    fn parameters(&self) -> Vec<ParamId> {
        [self.encoder.parameters(), self.decoder.parameters()].concat()
    }

    fn items(&self) -> usize {
        self.sections.count()
    }

    fn batches(&self, spots: usize) -> usize {
        self.sections.batches(spots)
    }

    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let batch = self.sections.batch(batch);
        let (spots, genes) = (batch.spots.len(), self.expression.genes());
        let target = self.expression.values(&batch.spots);
        let x = tensor(target.clone(), (spots, genes)).leaky_traced();
        let (kept, loss) = match &self.mask {
            None => {
                let embeddings = self.encoder.forward(params, &batch.edges, x, Source::Data);
                let kept = embeddings.retaped::<NoneTape>();
                let prediction = self.decoder.forward(params, &batch.edges, embeddings, Source::Op);
                let every = vec![true; target.len()];
                (kept, masked_mse(prediction, target, every))
            }
            Some(mask) => {
                let hidden = self.hidden(mask.rate, epoch, &batch);
                let x = mask.token.hide(params, x, &hidden, Source::Data);
                // The token is learned, so that the first layer's input has a gradient.
                let embeddings = self.encoder.forward(params, &batch.edges, x, Source::Op);
                let kept = embeddings.retaped::<NoneTape>();
                let seen = mask.bridge.forward(params, embeddings, Source::Op);
                let seen = visible(spots, &hidden).product(seen);
                let prediction: Matrix<Recording> =
                    self.decoder.forward(params, &batch.edges, seen, Source::Op);
                let chosen = Sparse::from_rows(spots, hidden.iter().map(|place| vec![(*place, 1.0)]));
                let target: Vec<f32> = hidden
                    .iter()
                    .flat_map(|place| &target[place * genes..(place + 1) * genes])
                    .copied()
                    .collect();
                (kept, scaled_cosine_error(chosen.product(prediction), &target, mask.gamma))
            }
        };
        Step::new(loss, kept)
    }
}

/// Spots x spots: each as it is, but hidden ones 0.
fn visible(spots: usize, hidden: &[usize]) -> std::sync::Arc<Sparse> {
    let mut rows: Vec<_> = (0..spots).map(|spot| vec![(spot, 1.0)]).collect();
    hidden.iter().for_each(|place| rows[*place].clear());
    Sparse::from_rows(spots, rows)
}
