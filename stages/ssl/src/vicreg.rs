//! VICReg on patches: two random views of a patch should have one embedding, those of different patches should not.

use rayon::prelude::*;
use restage_nn::{
    Params, VicRegWeights,
    dfdx::prelude::{NoneTape, Trace},
    tensor, vicreg,
};
use restage_stage::{artifact::Patches, context::rng};

use crate::{
    augment::Augment,
    encoder::{Cnn, Projector},
    optical_density::Colours,
    train::{Objective, Step},
};

/// The objective on these training patches.
pub(crate) struct VicRegObjective<'a> {
    pub(crate) patches: &'a Patches,
    /// Positions of the patches to train on.
    pub(crate) positions: &'a [usize],
    pub(crate) colours: Colours,
    pub(crate) augment: Augment,
    pub(crate) encoder: Cnn,
    pub(crate) projector: Projector,
    pub(crate) weights: VicRegWeights,
    pub(crate) seed: u64,
}

impl VicRegObjective<'_> {
    /// A random view of each patch: patches x rows x columns x colours.
    fn views(&self, epoch: usize, view: usize, batch: &[usize]) -> Vec<f32> {
        let size = self.patches.size;
        let mut images = vec![0.0; batch.len() * size * size * 3];
        images.par_chunks_mut(size * size * 3).zip(batch).for_each(|(image, item)| {
            let position = self.positions[*item];
            let mut rng = rng(self.seed, &format!("view/{epoch}/{view}/{}", self.patches.spots[position]));
            self.augment.view(self.patches.patch(position), size, &self.colours, &mut rng, image);
        });
        images
    }
}

impl Objective for VicRegObjective<'_> {
    fn items(&self) -> usize {
        self.positions.len()
    }

    fn step(&self, params: &Params, epoch: usize, batch: &[usize]) -> Step {
        let shape = (batch.len(), self.patches.size, self.patches.size, 3);
        let [(a, embeddings), (b, _)] = [0, 1].map(|view| {
            let images = tensor(self.views(epoch, view, batch), shape);
            let embeddings = self.encoder.forward(params, images.leaky_traced());
            let kept = embeddings.retaped::<NoneTape>();
            (self.projector.forward(params, embeddings), kept)
        });
        let result = vicreg(a, b, self.weights);
        let terms = vec![
            ("invariance", result.invariance),
            ("variance", result.variance),
            ("covariance", result.covariance),
        ];
        Step { loss: result.loss, terms, embeddings }
    }
}
