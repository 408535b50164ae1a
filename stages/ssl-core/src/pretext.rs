//! What the course's brief names for images: to predict a segment of a patch (`inpaint`), to give a grey one its colours
//! (`colorize`), or haematoxylin its eosin.
//!
//! The decoder is linear, and sees two things of each place of the encoder's last map: the place's own embedding and the patch's,
//! which is the mean of its places'. So what it shall predict must lie open in the embedding.

use rand::Rng;
use rayon::prelude::*;
use restage_nn::{
    Linear, Matrix, ParamId, Params, Recording, Source,
    dfdx::prelude::{Axis, BroadcastTo, HasShape, NoneTape, ReshapeTo, Trace},
    masked_mse, tensor,
};
use restage_stage::context::rng;

use crate::{
    optical_density::Sees,
    train::{Memory, Objective, Step},
    views::{PatchViews, Views},
};

/// What is predicted from what.
pub(crate) enum Pretext {
    /// A square of this share of the patch from the rest; the error counts in the square only.
    Inpaint { hidden: f64 },
    /// The colours from what the encoder sees; of haematoxylin alone the eosin.
    Colorize,
}

/// The objective on these patches.
pub(crate) struct Reconstruct<'a> {
    pub(crate) views: PatchViews<'a>,
    pub(crate) pretext: Pretext,
    pub(crate) sees: Sees,
    pub(crate) decoder: Decoder,
}

/// From embeddings to pixels: those of the square that a place of the last map stands for.
pub(crate) struct Decoder {
    of_place: Linear,
    of_patch: Linear,
    /// Side of the square.
    block: usize,
}

impl Decoder {
    /// Adds `decoder.place` and `decoder.patch`, of an encoder whose places stand for squares of so many pixels' side.
    pub(crate) fn new(params: &mut Params, dim: usize, block: usize, rng: &mut impl Rng) -> Self {
        let pixels = block * block * 3;
        let of_place = Linear::new(params, "decoder.place", dim, pixels, rng);
        let of_patch = Linear::new(params, "decoder.patch", dim, pixels, rng);
        Self { of_place, of_patch, block }
    }
}

impl Reconstruct<'_> {
    /// Per pixel of the batch's patches whether its error counts; what is hidden is no longer in the input.
    fn hide(&self, input: &mut [f32], epoch: usize, batch: &[usize]) -> Vec<bool> {
        let size = self.views.patches.size;
        let mut counts = vec![true; batch.len() * size * size];
        let Pretext::Inpaint { hidden } = self.pretext else { return counts };
        let side = ((hidden.sqrt() * size as f64).round() as usize).clamp(1, size);
        let images = input.par_chunks_mut(size * size * 3).zip(counts.par_chunks_mut(size * size));
        images.zip(batch).for_each(|((image, counts), item)| {
            let spot = &self.views.patches.spots[self.views.positions[*item]];
            let mut rng = rng(self.views.seed, &format!("segment/{epoch}/{spot}"));
            let [top, left] = [(); 2].map(|()| rng.random_range(0..=size - side));
            for (at, (pixel, counts)) in image.chunks_exact_mut(3).zip(counts).enumerate() {
                *counts =
                    (top..top + side).contains(&(at / size)) && (left..left + side).contains(&(at % size));
                if *counts {
                    // The mean of all pixels.
                    pixel.fill(0.0);
                }
            }
        });
        counts
    }

    /// Places x pixels of each.
    fn decode(
        &self,
        params: &Params,
        embeddings: Matrix<Recording>,
        places: restage_nn::Images<Recording>,
    ) -> Matrix<Recording> {
        let (patches, height, width, dim) = *places.shape();
        let pixels = self.decoder.block.pow(2) * 3;
        let count = height * width;
        let of_places =
            self.decoder.of_place.forward(params, places.reshape_like(&(patches * count, dim)), Source::Op);
        let of_patches = self.decoder.of_patch.forward(params, embeddings, Source::Op);
        let of_patches = of_patches.broadcast_like::<_, Axis<1>>(&(patches, count, pixels));
        let both = of_places.reshape_like(&(patches, count, pixels)) + of_patches;
        both.reshape_like(&(patches * count, pixels))
    }
}

impl Objective for Reconstruct<'_> {
    fn items(&self) -> usize {
        self.views.items()
    }

    fn parameters(&self) -> Vec<ParamId> {
        self.views.encoder.body_parameters()
    }

    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let mut target = self.views.images(epoch, 0, batch);
        let mut input = target.clone();
        self.sees.apply(&mut input, &self.views.colours);
        self.sees.asks(&mut target, &self.views.colours);
        let counts = self.hide(&mut input, epoch, batch);
        let images = tensor(input, self.views.shape(batch.len())).leaky_traced();
        let (embeddings, places) = self.views.encoder.forward_places(params, images);
        let kept = embeddings.retaped::<NoneTape>();
        let (_, map, _, _) = *places.shape();
        let prediction = self.decode(params, embeddings, places);
        let (size, block) = (self.views.patches.size, self.decoder.block);
        let (target, counts) =
            (by_places(&target, 3, size, block, map), by_places(&counts, 1, size, block, map));
        let loss = masked_mse(prediction, target, counts);
        Step::new(loss, kept)
    }
}

/// Where the pixels of patches of side `size` lie, square by square of `map` x `map`, in each row by row. Pixels outside of a patch,
/// which a last square may have, are nowhere.
pub(crate) fn by_places<T: Copy + Default + Send + Sync>(
    images: &[T],
    channels: usize,
    size: usize,
    block: usize,
    map: usize,
) -> Vec<T> {
    let count = images.len() / (size * size * channels);
    let mut places = vec![T::default(); count * map * map * block * block * 3];
    places
        .par_chunks_mut(map * map * block * block * 3)
        .zip(images.par_chunks(size * size * channels))
        .for_each(|(places, image)| {
            for (at, pixel) in places.chunks_exact_mut(3).enumerate() {
                let (place, within) = (at / (block * block), at % (block * block));
                let row = place / map * block + within / block;
                let column = place % map * block + within % block;
                if row < size && column < size {
                    for (channel, value) in pixel.iter_mut().enumerate() {
                        *value = image[(row * size + column) * channels + channel.min(channels - 1)];
                    }
                }
            }
        });
    places
}
