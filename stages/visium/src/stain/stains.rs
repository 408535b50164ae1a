//! Two stains of an image, and what turns its pixels into those of another: density -ln((I + 1) / 240), haematoxylin first,
//! concentrations by least squares, strengths by their 99th percentile, as torchstain has it.

use super::palette::Palette;
use crate::quantile::Weighted;
use nalgebra::{Matrix3, Matrix3x2, Vector3};

/// Colours of a part of a sum: fixed, so that the order of additions is.
pub(super) const PART: usize = 1 << 12;
/// Light that passes an empty slide.
const LIGHT: f64 = 240.0;
/// Percentile of a stain's concentrations that two images are brought to share.
const STRENGTH: f64 = 99.0;
/// Fewer pixels of tissue than this have no stains.
const FEWEST: u64 = 10;

/// The optical density of a colour's value.
pub(crate) fn density(value: u8) -> f64 {
    -((f64::from(value) + 1.0) / LIGHT).ln()
}

/// A colour of the tissue.
pub(super) struct Tissue {
    pub(super) density: Vector3<f64>,
    /// How many pixels have it.
    pub(super) count: u32,
}

/// Two stains and how strongly an image is stained with them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stains {
    /// Densities of red, green and blue (rows) of haematoxylin and eosin (columns), of length 1.
    pub(crate) vectors: [[f64; 2]; 3],
    /// 99th percentile of the concentrations of each.
    pub(crate) strengths: [f64; 2],
}

impl Stains {
    /// What torchstain normalises to where it is given no image.
    pub(crate) const REFERENCE: Self =
        Self { vectors: [[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]], strengths: [1.9705, 1.0308] };

    /// The stains of an image: those of its tissue, whose pixels are at least `beta` dense in each colour, as `vectors` finds
    /// them, and how strong they are; `None` where there are not two.
    pub(super) fn of(
        palette: &Palette,
        beta: f64,
        vectors: impl FnOnce(&[Tissue]) -> Option<Matrix3x2<f64>>,
    ) -> Option<Self> {
        let density: Vec<f64> = (0..=255).map(density).collect();
        let densities = |colour: &[u8; 3]| Vector3::from(colour.map(|value| density[usize::from(value)]));
        let all =
            palette.0.iter().map(|(colour, count)| Tissue { density: densities(colour), count: *count });
        let tissue: Vec<Tissue> =
            all.filter(|of| of.density.iter().all(|&density| density >= beta)).collect();
        if tissue.iter().map(|of| u64::from(of.count)).sum::<u64>() < FEWEST {
            return None;
        }
        let vectors = vectors(&tissue)?;
        let inverse = vectors.pseudo_inverse(1e-9).ok()?;
        let strength = |stain: usize| {
            let row = inverse.row(stain).transpose();
            let concentration = |(colour, count): &([u8; 3], u32)| (row.dot(&densities(colour)), *count);
            Weighted::new(palette.0.iter().map(concentration).collect()).percentile(STRENGTH)
        };
        let (of_h, of_e) = rayon::join(|| strength(0), || strength(1));
        let strengths = [of_h, of_e];
        let vectors = [0, 1, 2].map(|row| [vectors[(row, 0)], vectors[(row, 1)]]);
        strengths.iter().all(|strength| *strength > 1e-6).then_some(Self { vectors, strengths })
    }

    /// The vectors as columns.
    pub(super) fn matrix(&self) -> Matrix3x2<f64> {
        Matrix3x2::from_fn(|row, column| self.vectors[row][column])
    }

    /// What turns this image's pixels into the target's.
    ///
    /// Densities are mapped by a matrix, M = target diag(ratio) own⁺, and light is exp(-density): so each new value is a
    /// product of three numbers that depend on one old value each. There are 9 x 256 of them, and no exponential is
    /// taken for a pixel.
    pub(super) fn tables(&self, target: &Self) -> Tables {
        let ratio = [0, 1].map(|stain| target.strengths[stain] / self.strengths[stain]);
        let inverse = self.matrix().pseudo_inverse(1e-9).unwrap_or_default();
        let scaled = Matrix3x2::from_fn(|row, stain| target.vectors[row][stain] * ratio[stain]);
        Tables::of(&(scaled * inverse))
    }

    /// As [`Stains::tables`]; but what of a pixel is of neither stain stays as it is.
    pub(crate) fn tables_beside(&self, target: &Self) -> Tables {
        let ratio = [0, 1].map(|stain| target.strengths[stain] / self.strengths[stain]);
        let inverse = self.matrix().pseudo_inverse(1e-9).unwrap_or_default();
        let more = Matrix3x2::from_fn(|row, stain| {
            target.vectors[row][stain] * ratio[stain] - self.vectors[row][stain]
        });
        Tables::of(&(Matrix3::identity() + more * inverse))
    }
}

/// Factors of the new values, by new colour, old colour and old value.
pub(crate) struct Tables {
    factors: [[[f32; 256]; 3]; 3],
}

impl Tables {
    /// Of what maps old densities to new ones.
    fn of(map: &Matrix3<f64>) -> Self {
        let mut factors = [[[0.0; 256]; 3]; 3];
        for (new, of_new) in factors.iter_mut().enumerate() {
            for (old, of_old) in of_new.iter_mut().enumerate() {
                for (value, factor) in (0..=255).zip(of_old) {
                    let light = if old == 0 { LIGHT } else { 1.0 };
                    *factor = (light * (-map[(new, old)] * density(value)).exp()) as f32;
                }
            }
        }
        Self { factors }
    }

    /// The light of each colour, which is one more than its value.
    pub(crate) fn light(&self, pixel: [u8; 3]) -> [f32; 3] {
        let [r, g, b] = pixel.map(usize::from);
        self.factors.each_ref().map(|of| of[0][r] * of[1][g] * of[2][b])
    }

    /// A pixel's new values; what is brighter than white is 254, as in torchstain.
    pub(super) fn apply(&self, pixel: [u8; 3]) -> [u8; 3] {
        self.light(pixel).map(|value| if value > 255.0 { 254 } else { value as u8 })
    }
}
