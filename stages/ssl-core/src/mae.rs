//! `mae`: most of a patch's tokens are left out, and their pixels predicted from the few that the encoder sees (He et al. 2022).
//!
//! The decoder is a small transformer on what the encoder's last layer makes of each token, which is what the embedding is the mean
//! of: so that layer is trained too.

use rand::seq::index;
use rayon::prelude::*;
use restage_nn::{
    Images, Layer, LayerNorm, Linear, MaskToken, Matrix, Network, ParamId, Params, Recording, Source, Value,
    dfdx::prelude::{HasShape, NoneTape, ReshapeTo, Trace},
    global_average_pool, masked_mse, positions, tensor,
};
use restage_stage::context::rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    encoder::vit,
    pretext::by_places,
    train::{Memory, Objective, Step},
    views::{PatchViews, Views},
};

/// Added to the variance of a square's pixels before the root, as its authors do.
const EPSILON: f32 = 1e-6;

/// Sizes of the transformer that predicts pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaeDecoder {
    /// Length of a token: a multiple of 4 and of `heads`. Default 96.
    pub width: usize,
    /// Number of blocks. Default 2.
    pub depth: usize,
    /// Heads of each block's attention. Default 3.
    pub heads: usize,
}

impl Default for MaeDecoder {
    fn default() -> Self {
        Self { width: 96, depth: 2, heads: 3 }
    }
}

/// The objective on these patches, with a ViT as their encoder.
pub(crate) struct Mae<'a> {
    pub(crate) views: PatchViews<'a>,
    pub(crate) decoder: Decoder,
    /// Share of tokens that are left out.
    pub(crate) hidden: f64,
    /// Whether pixels are predicted in units of their square's spread, about its mean.
    pub(crate) normalised: bool,
}

/// From tokens that were seen to pixels of all.
pub(crate) struct Decoder {
    embed: Linear,
    token: MaskToken,
    network: Network,
    width: usize,
    /// Side in pixels of a token's square.
    side: usize,
}

impl Decoder {
    /// Adds `decoder.embed`, `.mask_token`, `.blocks`, `.norm` and `.pred`, on tokens of length `dim`.
    pub(crate) fn new(
        params: &mut Params,
        sizes: &MaeDecoder,
        (dim, side): (usize, usize),
        rng: &mut impl rand::Rng,
    ) -> Self {
        let MaeDecoder { width, depth, heads } = *sizes;
        let embed = Linear::new(params, "decoder.embed", dim, width, rng);
        let token = MaskToken::new(params, "decoder.mask_token", width);
        let mut layers = vit::blocks(params, "decoder.blocks", (width, depth, heads), rng);
        layers.push(Layer::LayerNorm(LayerNorm::new(params, "decoder.norm", width)));
        layers.push(Layer::Linear(Linear::new(params, "decoder.pred", width, side * side * 3, rng)));
        Self { embed, token, network: Network(layers), width, side }
    }

    /// Squares x their pixels, from those tokens of `map` x `map` of each patch that `seen` lists: patches x 1 x tokens x dim.
    pub(crate) fn forward(
        &self,
        params: &Params,
        tokens: Images<Recording>,
        seen: &[usize],
        map: usize,
    ) -> Matrix<Recording> {
        let (patches, _, kept, dim) = *tokens.shape();
        let tokens = self.embed.forward(params, tokens.reshape_like(&(patches * kept, dim)), Source::Op);
        let places = (&positions(map, map, self.width)[..], patches * map * map);
        let all =
            self.token.fill(params, tokens, seen, places).reshape_like(&(patches, map, map, self.width));
        let pixels = self.network.forward(params, Value::Images(all), Source::Op).images();
        pixels.reshape_like(&(patches * map * map, self.side * self.side * 3))
    }
}

impl Mae<'_> {
    /// Tokens along a side of a patch.
    fn map(&self) -> usize {
        self.views.patches.size / self.decoder.side
    }

    /// Which tokens of the batch's patches the encoder sees, patch by patch, of each as many.
    fn seen(&self, epoch: usize, batch: &[usize]) -> Vec<usize> {
        let tokens = self.map() * self.map();
        let kept = ((tokens as f64 * (1.0 - self.hidden)) as usize).clamp(1, tokens.max(2) - 1);
        let of_patch = |(patch, item): (usize, &usize)| {
            let spot = &self.views.patches.spots[self.views.positions[*item]];
            let mut rng = rng(self.views.seed, &format!("tokens/{epoch}/{spot}"));
            let mut drawn = index::sample(&mut rng, tokens, kept).into_vec();
            drawn.sort_unstable();
            drawn.into_iter().map(move |token| patch * tokens + token)
        };
        batch.iter().enumerate().flat_map(of_patch).collect()
    }
}

/// Squares of pixels, each less its mean and by its standard deviation.
pub(crate) fn normalise(squares: &mut [f32], pixels: usize) {
    squares.par_chunks_mut(pixels).for_each(|square| {
        let mean = square.iter().sum::<f32>() / pixels as f32;
        let squares = square.iter().map(|value| (value - mean) * (value - mean));
        let variance = squares.sum::<f32>() / (pixels - 1) as f32;
        let share = 1.0 / (variance + EPSILON).sqrt();
        square.iter_mut().for_each(|value| *value = (*value - mean) * share);
    });
}

impl Objective for Mae<'_> {
    fn items(&self) -> usize {
        self.views.items()
    }

    fn parameters(&self) -> Vec<ParamId> {
        [self.views.encoder.body_parameters(), self.decoder.network.parameters()].concat()
    }

    fn step(&self, params: &Params, _: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let (size, side, map) = (self.views.patches.size, self.decoder.side, self.map());
        let pixels = side * side * 3;
        let images = self.views.images(epoch, 0, batch);
        let mut target = by_places(&images, 3, size, side, map);
        if self.normalised {
            normalise(&mut target, pixels);
        }
        let seen = self.seen(epoch, batch);
        let mut counts = vec![true; target.len()];
        seen.iter().for_each(|token| counts[token * pixels..(token + 1) * pixels].fill(false));

        let images = tensor(images, self.views.shape(batch.len())).leaky_traced();
        let tokens = self.views.encoder.forward_seen(params, images, &seen);
        let embeddings = global_average_pool(tokens.retaped::<NoneTape>());
        let loss = masked_mse(self.decoder.forward(params, tokens, &seen, map), target, counts);
        Step::new(loss, embeddings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_normalised_by_itself() {
        let mut squares = vec![1.0, 2.0, 3.0, 4.0, 10.0, 10.0, 10.0, 10.0];
        normalise(&mut squares, 4);
        // Variance 5/3, with three degrees of freedom.
        let sd = (5.0_f32 / 3.0).sqrt();
        for (found, wanted) in
            squares.iter().zip([-1.5 / sd, -0.5 / sd, 0.5 / sd, 1.5 / sd, 0.0, 0.0, 0.0, 0.0])
        {
            assert!((found - wanted).abs() < 1e-5, "{squares:?}");
        }
    }
}
