//! Patches as an encoder sees them: optical density per colour, standardised on the training spots.
//!
//! By the law of Beer and Lambert the amount of a stain adds to optical density, so that stains and brightness vary
//! by sums and factors there.

use std::sync::LazyLock;

use rayon::prelude::*;
use restage_stage::artifact::Patches;
use serde::{Deserialize, Serialize};

/// Optical density of every 8-bit value: −ln((value + 1) / 256).
pub(crate) static DENSITY: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|value| -((value as f32 + 1.0) / 256.0).ln()));

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
}
