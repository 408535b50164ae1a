//! `dgi`: spots are told from spots with other spots' genes by a summary of where they are (Deep Graph Infomax; Veličković et al.
//! 2019). The summary is of the whole section, as there, or of the spot and its neighbours, as in GraphST (Long et al. 2023),
//! whose corrupted spots are told from true ones as well.

use std::sync::Arc;

use rand::seq::SliceRandom;
use restage_nn::{
    Matrix, ParamId, Params, Projection, Recording, Source,
    dfdx::prelude::{NoneTape, Trace, WithEmptyTape},
    infomax, sigmoid, tensor,
};
use restage_stage::context::rng;

use crate::{
    encoder::GraphNet,
    expression::Expression,
    params::Readout,
    sections::{Batch, Sections},
    train::{Memory, Objective, Step},
};

/// The objective on these sections.
pub(crate) struct Dgi<'a> {
    pub(crate) expression: Expression<'a>,
    pub(crate) sections: Arc<Sections>,
    pub(crate) encoder: GraphNet,
    /// The bilinear discriminator's weights: an embedding's score is its product with what this makes of the summary.
    pub(crate) discriminator: Projection,
    pub(crate) readout: Readout,
    pub(crate) seed: u64,
}

impl Dgi<'_> {
    /// The genes of each spot, and those of another one of its section.
    pub(crate) fn inputs(&self, epoch: usize, batch: &Batch) -> [Vec<f32>; 2] {
        let genes = self.expression.genes();
        let values = self.expression.values(&batch.spots);
        let others = batch.shuffled(|section, places| {
            places.shuffle(&mut rng(self.seed, &format!("shuffle/{epoch}/{section}")));
        });
        let corrupted = others.iter().flat_map(|other| &values[other * genes..(other + 1) * genes]);
        let corrupted = corrupted.copied().collect();
        [values, corrupted]
    }

    /// Per spot what its embedding is multiplied with for its score.
    fn summaries(&self, params: &Params, batch: &Batch, embeddings: &Matrix<Recording>) -> Matrix<Recording> {
        let embeddings = embeddings.with_empty_tape();
        let mean = match self.readout {
            Readout::Section => batch.section_mean(),
            Readout::Neighbours => batch.neighbours_mean(),
        };
        let summaries = sigmoid(mean.product(embeddings));
        let summaries = self.discriminator.forward(params, summaries, Source::Op);
        match self.readout {
            Readout::Section => batch.of_section().product(summaries),
            Readout::Neighbours => summaries,
        }
    }
}

impl Objective for Dgi<'_> {
    fn parameters(&self) -> Vec<ParamId> {
        self.encoder.parameters()
    }

    fn items(&self) -> usize {
        self.sections.count()
    }

    fn batches(&self, spots: usize) -> usize {
        self.sections.batches(spots)
    }

    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let batch = self.sections.batch(batch);
        let shape = (batch.spots.len(), self.expression.genes());
        let [real, corrupted] = self.inputs(epoch, &batch).map(|values| {
            let x = tensor(values, shape).leaky_traced();
            self.encoder.forward(params, &batch.edges, x, Source::Data)
        });
        let kept = real.retaped::<NoneTape>();
        let of_real = self.summaries(params, &batch, &real);
        let loss = match self.readout {
            Readout::Section => infomax(real, corrupted, of_real),
            Readout::Neighbours => {
                let of_corrupted = self.summaries(params, &batch, &corrupted);
                let fork = |x: &Matrix<Recording>| x.with_empty_tape();
                let back = infomax(fork(&corrupted), fork(&real), of_corrupted);
                (infomax(real, corrupted, of_real) + back) * 0.5
            }
        };
        Step::new(loss, kept)
    }
}
