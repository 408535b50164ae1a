//! Random views of spots, and the encoder that embeds them: of patches for the image objectives, of genes for
//! `gene_contrast`, of both for `fused_contrast`. A view depends on seed, epoch and spot only, so neither threads nor the order of a batch change it.

use rand::{Rng, seq::index};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use restage_nn::{
    Matrix, ParamId, Params,
    dfdx::prelude::{Cpu, NoneTape, OwnedTape, Trace},
    tensor,
};
use restage_stage::{artifact::Patches, context::rng};

use crate::{
    augment::Augment,
    encoder::{Around, Fuse, GeneEncoder, Net},
    expression::Expression,
    optical_density::Colours,
};

/// Spots of which there are random views.
pub(crate) trait Views: Sync {
    /// What an encoder takes of a batch.
    type View;

    /// Number of training spots.
    fn items(&self) -> usize;

    /// Parameters of their encoder.
    fn parameters(&self) -> Vec<ParamId>;

    /// One view of each spot of the batch, as an encoder takes it.
    fn draw(&self, epoch: usize, view: usize, batch: &[usize]) -> Self::View;

    /// Small crops of each spot of the batch, all first ones first, and how many there are of each.
    fn crops(&self, _epoch: usize, _batch: &[usize]) -> Option<(Self::View, usize)> {
        None
    }

    /// Their embeddings, to learn from.
    fn embed(&self, params: &Params, view: &Self::View) -> Matrix<OwnedTape<f32, Cpu>>;

    /// Their embeddings by a teacher, which nobody asks for gradients.
    fn look(&self, teacher: &Params, view: &Self::View) -> Matrix<NoneTape>;
}

/// What an encoder of patches takes of a batch.
pub(crate) struct View {
    values: Vec<f32>,
    spots: usize,
    /// Side in pixels.
    side: usize,
}

/// What an encoder of genes takes of a batch.
pub(crate) struct GeneView {
    pub(crate) values: Vec<f32>,
    /// Spots of the batch.
    batch: usize,
    around: Around,
}

/// Small crops of patches.
pub(crate) struct Crops {
    pub(crate) count: usize,
    /// Side in pixels.
    pub(crate) side: usize,
    pub(crate) augment: Augment,
}

/// Patches, turned, cropped, in other stain and light.
pub(crate) struct PatchViews<'a> {
    pub(crate) patches: &'a Patches,
    /// Positions of the patches to train on.
    pub(crate) positions: &'a [usize],
    pub(crate) colours: Colours,
    pub(crate) augment: Augment,
    pub(crate) crops: Option<Crops>,
    pub(crate) encoder: Net,
    pub(crate) seed: u64,
}

impl PatchViews<'_> {
    /// A random view of each patch: patches x rows x columns x colours.
    pub(crate) fn images(&self, epoch: usize, view: usize, batch: &[usize]) -> Vec<f32> {
        let mut images = vec![0.0; batch.len() * self.patches.size.pow(2) * 3];
        self.fill(&self.augment, &format!("view/{epoch}/{view}"), batch, &mut images);
        images
    }

    /// Writes a random view of each patch; `stream` is what its random numbers are called, before the spot.
    fn fill(&self, augment: &Augment, stream: &str, batch: &[usize], images: &mut [f32]) {
        let image = images.len() / batch.len().max(1);
        images.par_chunks_mut(image.max(1)).zip(batch).for_each(|(image, item)| {
            let position = self.positions[*item];
            let mut rng = rng(self.seed, &format!("{stream}/{}", self.patches.spots[position]));
            augment.view(self.patches.patch(position), self.patches.size, &self.colours, &mut rng, image);
        });
    }

    pub(crate) fn shape(&self, spots: usize) -> (usize, usize, usize, usize) {
        (spots, self.patches.size, self.patches.size, 3)
    }
}

impl Views for PatchViews<'_> {
    type View = View;

    fn items(&self) -> usize {
        self.positions.len()
    }

    fn parameters(&self) -> Vec<ParamId> {
        self.encoder.parameters()
    }

    fn draw(&self, epoch: usize, view: usize, batch: &[usize]) -> View {
        View { values: self.images(epoch, view, batch), spots: batch.len(), side: self.patches.size }
    }

    fn crops(&self, epoch: usize, batch: &[usize]) -> Option<(View, usize)> {
        let Crops { count, side, augment } = self.crops.as_ref()?;
        let spots = count * batch.len();
        let mut values = vec![0.0; spots * side * side * 3];
        for (number, images) in values.chunks_exact_mut(batch.len() * side * side * 3).enumerate() {
            self.fill(augment, &format!("crop/{epoch}/{number}"), batch, images);
        }
        Some((View { values, spots, side: *side }, *count))
    }

    fn embed(&self, params: &Params, view: &View) -> Matrix<OwnedTape<f32, Cpu>> {
        let images = tensor(view.values.clone(), (view.spots, view.side, view.side, 3));
        self.encoder.forward(params, images.leaky_traced())
    }

    fn look(&self, teacher: &Params, view: &View) -> Matrix<NoneTape> {
        self.encoder.forward(teacher, tensor(view.values.clone(), (view.spots, view.side, view.side, 3)))
    }
}

/// Expression with some of it hidden, disturbed and exchanged, as in ConGI (Zeng et al. 2023): each with probability ½.
pub(crate) struct GeneViews<'a> {
    pub(crate) expression: Expression<'a>,
    pub(crate) encoder: GeneEncoder,
    /// Share of genes that are set to their mean.
    pub(crate) hidden: f64,
    /// Standard deviation, in those of the gene, of what is added to four genes of five.
    pub(crate) noise: f64,
    /// Share of genes whose values change places.
    pub(crate) swapped: f64,
    pub(crate) seed: u64,
}

/// Share of genes that noise is added to.
const NOISY: f64 = 0.8;

impl GeneViews<'_> {
    fn tensor(&self, view: &GeneView) -> Matrix {
        tensor(view.values.clone(), (view.around.spots.len(), self.expression.genes()))
    }

    fn disturb(&self, values: &mut [f32], rng: &mut impl Rng) {
        let [hide, disturb, swap] = rng.random::<[bool; 3]>();
        if hide {
            values.iter_mut().for_each(|value| {
                if rng.random_bool(self.hidden) {
                    *value = 0.0;
                }
            });
        }
        if disturb {
            for value in values.iter_mut() {
                if rng.random_bool(NOISY) {
                    let draw: f64 = StandardNormal.sample(rng);
                    *value += (self.noise * draw) as f32;
                }
            }
        }
        if swap {
            let pairs = (self.swapped * values.len() as f64 / 2.0) as usize;
            let places = index::sample(rng, values.len(), 2 * pairs).into_vec();
            places.chunks_exact(2).for_each(|pair| values.swap(pair[0], pair[1]));
        }
    }
}

impl Views for GeneViews<'_> {
    type View = GeneView;

    fn items(&self) -> usize {
        self.expression.spots()
    }

    fn parameters(&self) -> Vec<ParamId> {
        self.encoder.parameters()
    }

    /// Neighbours that an encoder sees are disturbed as well, each in its own way.
    fn draw(&self, epoch: usize, view: usize, batch: &[usize]) -> GeneView {
        let around = self.encoder.around(batch);
        let mut values = self.expression.values(&around.spots);
        values.par_chunks_mut(self.expression.genes()).zip(&around.spots).for_each(|(values, item)| {
            let mut rng = rng(self.seed, &format!("view/{epoch}/{view}/{}", self.expression.id(*item)));
            self.disturb(values, &mut rng);
        });
        GeneView { values, batch: batch.len(), around }
    }

    fn embed(&self, params: &Params, view: &GeneView) -> Matrix<OwnedTape<f32, Cpu>> {
        let genes = self.tensor(view).leaky_traced();
        self.encoder.forward(params, &view.around.edges, genes, view.batch)
    }

    fn look(&self, teacher: &Params, view: &GeneView) -> Matrix<NoneTape> {
        self.encoder.forward(teacher, &view.around.edges, self.tensor(view), view.batch)
    }
}

/// Both modalities of a spot, each disturbed by itself, as one. The n-th of the patches' and of the genes' are the same spot.
pub(crate) struct FusedViews<'a> {
    pub(crate) patches: PatchViews<'a>,
    pub(crate) genes: GeneViews<'a>,
    pub(crate) fuse: Fuse,
}

impl Views for FusedViews<'_> {
    type View = (View, GeneView);

    fn items(&self) -> usize {
        self.patches.items()
    }

    fn parameters(&self) -> Vec<ParamId> {
        [self.patches.parameters(), self.genes.parameters()].concat()
    }

    fn draw(&self, epoch: usize, view: usize, batch: &[usize]) -> (View, GeneView) {
        (self.patches.draw(epoch, view, batch), self.genes.draw(epoch, view, batch))
    }

    fn embed(&self, params: &Params, (patches, genes): &(View, GeneView)) -> Matrix<OwnedTape<f32, Cpu>> {
        self.fuse.forward(params, self.patches.embed(params, patches), self.genes.embed(params, genes))
    }

    fn look(&self, teacher: &Params, (patches, genes): &(View, GeneView)) -> Matrix<NoneTape> {
        self.fuse.forward(teacher, self.patches.look(teacher, patches), self.genes.look(teacher, genes))
    }
}
