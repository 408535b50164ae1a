//! Stain vectors of Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis", with
//! torchstain's conventions.

use nalgebra::{Matrix3, Matrix3x2, SymmetricEigen, Vector3};
use rayon::prelude::*;

use super::stains::PIXELS;
use crate::quantile::select;

/// The stain vectors of the tissue's densities, haematoxylin first, of length 1; `None` where they do not span a plane.
/// `alpha`: the percentile of angles, from each end, that the stains are.
pub(super) fn vectors(tissue: &[Vector3<f64>], alpha: f64) -> Option<Matrix3x2<f64>> {
    let count = tissue.len();
    if count < 2 {
        return None;
    }
    let mean = sum(tissue, |od| *od) / count as f64;
    let spread: Matrix3<f64> = sum(tissue, |od| (od - mean) * (od - mean).transpose());
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
    let mut at = |percent| {
        let angle: f64 = select(&mut angles, percent);
        first * angle.cos() + second * angle.sin()
    };
    let (low, high) = (at(alpha), at(100.0 - alpha));
    // Haematoxylin takes more of the red.
    let (h, e) = if low[0] > high[0] { (low, high) } else { (high, low) };
    Some(Matrix3x2::from_columns(&[h, e]))
}

/// The sum of what `of` makes of each pixel.
fn sum<T: Send + std::iter::Sum<T>>(tissue: &[Vector3<f64>], of: impl Fn(&Vector3<f64>) -> T + Sync) -> T {
    let parts: Vec<T> = tissue.par_chunks(PIXELS).map(|part| part.iter().map(&of).sum()).collect();
    parts.into_iter().sum()
}
