//! Stain separation of Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis",
//! with torchstain's conventions: density -ln((I + 1) / 240), haematoxylin first, strengths by the 99th percentile.

use nalgebra::{Matrix3, Matrix3x2, SymmetricEigen, Vector3};
use rayon::prelude::*;

use crate::quantile::select;

/// Pixels of a task; also of a part of a sum: fixed, so that the order of additions is.
const PIXELS: usize = 1 << 14;

/// Light that passes an empty slide.
const LIGHT: f64 = 240.0;
/// Percentile of a stain's concentrations that two images are brought to share.
const STRENGTH: f64 = 99.0;
/// Fewer pixels of tissue than this have no plane of stains.
const FEWEST: usize = 10;

/// The sum of what `of` makes of each pixel.
fn sum<T: Send + std::iter::Sum<T>>(tissue: &[Vector3<f64>], of: impl Fn(&Vector3<f64>) -> T + Sync) -> T {
    let parts: Vec<T> = tissue.par_chunks(PIXELS).map(|part| part.iter().map(&of).sum()).collect();
    parts.into_iter().sum()
}

/// The optical density of a colour's value.
pub(super) fn density(value: u8) -> f64 {
    -((f64::from(value) + 1.0) / LIGHT).ln()
}

/// Two stains and how strongly an image is stained with them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stains {
    /// Densities of red, green and blue (rows) of haematoxylin and eosin (columns), of length 1.
    pub(super) vectors: [[f64; 2]; 3],
    /// 99th percentile of the concentrations of each.
    pub(super) strengths: [f64; 2],
}

impl Stains {
    /// What torchstain normalises to where it is given no image.
    pub(super) const REFERENCE: Self =
        Self { vectors: [[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]], strengths: [1.9705, 1.0308] };

    /// The stains of an image; `None` where its tissue does not span a plane of densities.
    pub(super) fn of(pixels: &[[u8; 3]], beta: f64, alpha: f64) -> Option<Self> {
        let density: Vec<f64> = (0..=255).map(density).collect();
        let densities = |pixel: &[u8; 3]| Vector3::from(pixel.map(|value| density[usize::from(value)]));
        let tissue: Vec<Vector3<f64>> = pixels
            .par_chunks(PIXELS)
            .flat_map_iter(|part| part.iter().map(densities).filter(|od| od.iter().all(|&od| od >= beta)))
            .collect();
        let count = tissue.len();
        if count < FEWEST {
            return None;
        }
        let mean = sum(&tissue, |od| *od) / count as f64;
        let spread: Matrix3<f64> = sum(&tissue, |od| (od - mean) * (od - mean).transpose());
        let eigen = SymmetricEigen::new(spread / (count - 1) as f64);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b]));
        // NaN of no pixels is no plane either.
        if eigen.eigenvalues[order[1]].partial_cmp(&1e-9) != Some(std::cmp::Ordering::Greater) {
            return None;
        }
        // Of either direction the one that points to more density: angles must not jump from one end to the other.
        let upwards = |place: usize| {
            let vector: Vector3<f64> = eigen.eigenvectors.column(place).into();
            if vector.sum() < 0.0 { -vector } else { vector }
        };
        let (second, first) = (upwards(order[1]), upwards(order[2]));
        let angle = |od: &Vector3<f64>| od.dot(&second).atan2(od.dot(&first));
        let mut angles: Vec<f64> = tissue.par_iter().with_min_len(PIXELS).map(angle).collect();
        drop(tissue);
        let mut at = |percent| {
            let angle: f64 = select(&mut angles, percent);
            first * angle.cos() + second * angle.sin()
        };
        let (low, high) = (at(alpha), at(100.0 - alpha));
        // Haematoxylin takes more of the red.
        let (h, e) = if low[0] > high[0] { (low, high) } else { (high, low) };
        let vectors = Matrix3x2::from_columns(&[h, e]);
        let inverse = vectors.pseudo_inverse(1e-9).ok()?;
        let strength = |stain: usize| {
            let row = inverse.row(stain).transpose();
            let concentration = |pixel: &[u8; 3]| row.dot(&densities(pixel));
            let mut found: Vec<f64> = pixels.par_iter().with_min_len(PIXELS).map(concentration).collect();
            select(&mut found, STRENGTH)
        };
        let (of_h, of_e) = rayon::join(|| strength(0), || strength(1));
        let strengths = [of_h, of_e];
        let vectors = [0, 1, 2].map(|row| [vectors[(row, 0)], vectors[(row, 1)]]);
        strengths.iter().all(|strength| *strength > 1e-6).then_some(Self { vectors, strengths })
    }

    fn matrix(&self) -> Matrix3x2<f64> {
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
        let map = scaled * inverse;
        let mut factors = [[[0.0; 256]; 3]; 3];
        for (new, of_new) in factors.iter_mut().enumerate() {
            for (old, of_old) in of_new.iter_mut().enumerate() {
                for (value, factor) in (0..=255).zip(of_old) {
                    let light = if old == 0 { LIGHT } else { 1.0 };
                    *factor = (light * (-map[(new, old)] * density(value)).exp()) as f32;
                }
            }
        }
        Tables { factors }
    }
}

/// Factors of the new values, by new colour, old colour and old value.
pub(super) struct Tables {
    factors: [[[f32; 256]; 3]; 3],
}

impl Tables {
    /// A pixel's new values; what is brighter than white is 254, as in torchstain.
    pub(super) fn apply(&self, pixel: [u8; 3]) -> [u8; 3] {
        let [r, g, b] = pixel.map(usize::from);
        self.factors.each_ref().map(|of| {
            let value = of[0][r] * of[1][g] * of[2][b];
            if value > 255.0 { 254 } else { value as u8 }
        })
    }
}
