//! Patches as an encoder sees them: optical density per colour, standardised on the training spots.
//!
//! By the law of Beer and Lambert the amount of a stain adds to optical density, so that stains and brightness vary
//! by sums and factors there.

use std::sync::LazyLock;

use rayon::prelude::*;
use restage_stage::artifact::Patches;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Optical density of every 8-bit value: −ln((value + 1) / 256).
pub(crate) static DENSITY: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|value| -((value as f32 + 1.0) / 256.0).ln()));

/// Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001).
pub(crate) const STAINS: [[f32; 3]; 3] =
    [[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]];

/// What an encoder sees of a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// Its colours.
    #[default]
    Colour,
    /// The mean of its colours.
    Grey,
    /// How much haematoxylin there is, and nothing of eosin.
    Haematoxylin,
}

impl Sees {
    /// Leaves of standardised images what is seen: one value in all three places of a pixel, unless it is the colours.
    pub(crate) fn apply(self, images: &mut [f32], colours: &Colours) {
        match self {
            Self::Colour => {}
            Self::Grey => by_pixel(images, |pixel| pixel.iter().sum::<f32>() / 3.0),
            Self::Haematoxylin => by_pixel(images, amount_of(0, colours)),
        }
    }

    /// Leaves of standardised images what is to be told from what is seen: the colours, but of haematoxylin how much eosin there is.
    pub(crate) fn asks(self, images: &mut [f32], colours: &Colours) {
        if self == Self::Haematoxylin {
            by_pixel(images, amount_of(1, colours));
        }
    }
}

/// One value in all three places of a pixel.
fn by_pixel(images: &mut [f32], value: impl Fn(&[f32; 3]) -> f32 + Sync) {
    images.par_chunks_mut(3 << 12).for_each(|part| {
        part.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = [value(pixel); 3]);
    });
}

/// How much of a stain there is in a standardised pixel, in units of the stain: about 0 to 1.
fn amount_of(stain: usize, colours: &Colours) -> impl Fn(&[f32; 3]) -> f32 {
    let unmix = inverse(STAINS).map(|of_colour| of_colour[stain]);
    move |pixel| (0..3).map(|at| (pixel[at] * colours.sd[at] + colours.mean[at]) * unmix[at]).sum()
}

/// The inverse of a matrix, by cross products of its rows.
pub(crate) fn inverse([a, b, c]: [[f32; 3]; 3]) -> [[f32; 3]; 3] {
    let cross = |u: [f32; 3], v: [f32; 3]| {
        [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]]
    };
    let columns = [cross(b, c), cross(c, a), cross(a, b)];
    let determinant: f32 = a.iter().zip(columns[0]).map(|(a, b)| a * b).sum();
    std::array::from_fn(|row| std::array::from_fn(|column| columns[column][row] / determinant))
}

/// Mean and sd of each colour's optical density.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Colours {
    /// Of red, green and blue, on the training patches.
    pub(crate) mean: [f32; 3],
    /// As above; 1 for a colour that does not vary.
    pub(crate) sd: [f32; 3],
}

impl Colours {
    /// Fits them to the patches at these positions, from how often each value occurs.
    pub(crate) fn fit(patches: &Patches, positions: &[usize]) -> Self {
        let mut counts = [[0_u64; 256]; 3];
        for pixel in positions.iter().flat_map(|position| patches.patch(*position).chunks_exact(3)) {
            counts.iter_mut().zip(pixel).for_each(|(counts, value)| counts[usize::from(*value)] += 1);
        }
        let average = |counts: &[u64; 256], of: &dyn Fn(f64) -> f64| {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            let values = counts.iter().zip(&*DENSITY);
            values.map(|(count, density)| *count as f64 * of(f64::from(*density))).sum::<f64>() / total
        };
        let mean = counts.map(|counts| average(&counts, &|density| density));
        let sd: [f32; 3] = std::array::from_fn(|colour| {
            let sd = average(&counts[colour], &|density| (density - mean[colour]).powi(2)).sqrt() as f32;
            if sd > 1e-4 { sd } else { 1.0 }
        });
        Self { mean: mean.map(|mean| mean as f32), sd }
    }

    /// Standardised patches at these positions: patches x rows x columns x colours.
    pub(crate) fn patches(&self, patches: &Patches, positions: &[usize]) -> Vec<f32> {
        let length = patches.size * patches.size * 3;
        let mut images = vec![0.0; positions.len() * length];
        images.par_chunks_mut(length.max(1)).zip(positions).for_each(|(image, position)| {
            let pixels = image.chunks_exact_mut(3).zip(patches.patch(*position).chunks_exact(3));
            for (image, pixel) in pixels {
                for colour in 0..3 {
                    let density = DENSITY[usize::from(pixel[colour])];
                    image[colour] = (density - self.mean[colour]) / self.sd[colour];
                }
            }
        });
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_patches_come_out_with_mean_0_and_variance_1() {
        let pixels: Vec<u8> = (0..4 * 4 * 4 * 3_u32).map(|i| (i * i * 7 % 251) as u8).collect();
        let patches = Patches { spots: (0..4).map(|i| format!("s_{i}")).collect(), size: 4, pixels };
        let images = Colours::fit(&patches, &[0, 1, 2, 3]).patches(&patches, &[0, 1, 2, 3]);
        for colour in 0..3 {
            let values: Vec<f32> = images.iter().skip(colour).step_by(3).copied().collect();
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let variance =
                values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        }
    }

    /// A pixel of haematoxylin alone is all seen, one of eosin alone is not.
    #[test]
    fn haematoxylin_is_told_from_eosin() {
        let colours = Colours { mean: [0.3, 0.4, 0.2], sd: [0.5, 0.6, 0.7] };
        let mut pixels: Vec<f32> = [0, 1]
            .into_iter()
            .flat_map(|stain| (0..3).map(move |colour| (stain, colour)))
            .map(|(stain, colour)| (0.8 * STAINS[stain][colour] - colours.mean[colour]) / colours.sd[colour])
            .collect();
        let mut grey = pixels.clone();
        Sees::Haematoxylin.apply(&mut pixels, &colours);
        for (found, wanted) in pixels.iter().zip([0.8, 0.8, 0.8, 0.0, 0.0, 0.0]) {
            assert!((found - wanted).abs() < 1e-5, "{pixels:?}");
        }
        let (whole, mean) = (grey.clone(), grey[..3].iter().sum::<f32>() / 3.0);
        // And the other way round of what is to be predicted.
        let mut eosin = grey.clone();
        Sees::Haematoxylin.asks(&mut eosin, &colours);
        for (found, wanted) in eosin.iter().zip([0.0, 0.0, 0.0, 0.8, 0.8, 0.8]) {
            assert!((found - wanted).abs() < 1e-5, "{eosin:?}");
        }
        Sees::Grey.asks(&mut grey, &colours);
        assert_eq!(grey, whole);
        Sees::Colour.apply(&mut grey, &colours);
        assert_eq!(grey, whole);
        Sees::Grey.apply(&mut grey, &colours);
        assert_eq!(grey[..3], [mean; 3]);
    }
}
