//! Stain vectors of Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis", with
//! torchstain's conventions.

use nalgebra::{Matrix3, Matrix3x2, SymmetricEigen, Vector3};
use rayon::prelude::*;

use super::stains::{PART, Tissue};
use crate::quantile::Weighted;

/// The stain vectors of the tissue's densities, haematoxylin first, of length 1; `None` where they do not span a plane.
/// `alpha`: the percentile of angles, from each end, that the stains are.
pub(super) fn vectors(tissue: &[Tissue], alpha: f64) -> Option<Matrix3x2<f64>> {
    let count: f64 = tissue.iter().map(|of| f64::from(of.count)).sum();
    if count < 2.0 {
        return None;
    }
    let mean = sum(tissue, |density| *density) / count;
    let spread: Matrix3<f64> = sum(tissue, |density| (density - mean) * (density - mean).transpose());
    let eigen = SymmetricEigen::new(spread / (count - 1.0));
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
    let turn = |of: &Tissue| (turn(of.density.dot(&second), of.density.dot(&first)), of.count);
    let turns = Weighted::new(tissue.iter().map(turn).collect());
    let at = |percent| {
        let angle = turns.percentile_of(percent, angle);
        first * angle.cos() + second * angle.sin()
    };
    let (low, high) = (at(alpha), at(100.0 - alpha));
    // Haematoxylin takes more of the red.
    let (h, e) = if low[0] > high[0] { (low, high) } else { (high, low) };
    Some(Matrix3x2::from_columns(&[h, e]))
}

/// What grows with the angle of a direction, and takes no arc tangent: from -2 to 2.
fn turn(y: f64, x: f64) -> f64 {
    let share = y / (x.abs() + y.abs());
    match (x >= 0.0, y >= 0.0) {
        (true, _) => share,
        (false, true) => 2.0 - share,
        (false, false) => -2.0 - share,
    }
}

/// The angle of a [`turn`].
fn angle(turn: f64) -> f64 {
    let right = turn.abs() <= 1.0;
    let y = if right { turn } else { turn.signum() * (2.0 - turn.abs()) };
    let x = if right { 1.0 - y.abs() } else { y.abs() - 1.0 };
    y.atan2(x)
}

/// The sum of what `of` makes of each pixel's density.
fn sum<T>(tissue: &[Tissue], of: impl Fn(&Vector3<f64>) -> T + Sync) -> T
where
    T: Send + std::iter::Sum<T> + std::ops::Mul<f64, Output = T>,
{
    let of = |pixels: &Tissue| of(&pixels.density) * f64::from(pixels.count);
    let parts: Vec<T> = tissue.par_chunks(PART).map(|part| part.iter().map(of).sum()).collect();
    parts.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_angles_without_an_arc_tangent() {
        let mut last = f64::NEG_INFINITY;
        for step in -179..180 {
            let (y, x) = f64::from(step).to_radians().sin_cos();
            let turned = turn(3.0 * y, 3.0 * x);
            assert!(turned > last && (angle(turned) - y.atan2(x)).abs() < 1e-12, "{step}°");
            last = turned;
        }
    }
}
