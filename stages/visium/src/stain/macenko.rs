//! Stain vectors of Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis", with
//! torchstain's conventions.

use nalgebra::{Matrix3, Matrix3x2, SymmetricEigen, Vector3};
use rayon::prelude::*;

use super::stains::PIXELS;
use crate::quantile::select_by;

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
    let turn = |od: &Vector3<f64>| turn(od.dot(&second), od.dot(&first));
    let mut turns: Vec<f64> = tissue.par_iter().with_min_len(PIXELS).map(turn).collect();
    let mut at = |percent| {
        let angle: f64 = select_by(&mut turns, percent, angle);
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

/// The sum of what `of` makes of each pixel.
fn sum<T: Send + std::iter::Sum<T>>(tissue: &[Vector3<f64>], of: impl Fn(&Vector3<f64>) -> T + Sync) -> T {
    let parts: Vec<T> = tissue.par_chunks(PIXELS).map(|part| part.iter().map(&of).sum()).collect();
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
