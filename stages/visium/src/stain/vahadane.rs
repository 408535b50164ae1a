//! Stain vectors of Vahadane et al. (2016), "Structure-preserving color normalization and sparse stain separation for
//! histological images": sparse non-negative factors of the optical densities. Of the two stains a pixel mostly has one, which
//! is what makes the factors unique.
//!
//! Minimises the sum of ½ |x - D c|² + λ |c|₁ over the tissue's pixels, D and c not negative, columns of D of length 1 at most:
//! spams' `trainDL` in its mode 2, as StainTools calls it, and scikit-learn's `DictionaryLearning`. By turns: exact codes of
//! all pixels, then the dictionary by coordinates (Mairal et al. 2010, algorithm 2), from fixed vectors, so that the same
//! pixels give the same stains.

use nalgebra::{Matrix2, Matrix3x2, Vector2};
use rayon::prelude::*;

use super::stains::{PART, Stains, Tissue};

/// λ of Vahadane et al.
const SPARSITY: f64 = 0.1;
/// Turns at most, and how little the dictionary changes when they end.
const TURNS: usize = 300;
const STILL: f64 = 1e-7;

/// The stain vectors of the tissue's densities, haematoxylin first, of length 1; `None` where there are not two.
pub(super) fn vectors(tissue: &[Tissue]) -> Option<Matrix3x2<f64>> {
    let mut dictionary = Stains::REFERENCE.matrix();
    for mut column in dictionary.column_iter_mut() {
        column.normalize_mut();
    }
    for _ in 0..TURNS {
        let (codes, products) = sums(tissue, &dictionary);
        let last = dictionary;
        update(&mut dictionary, &codes, &products);
        if (dictionary - last).amax() < STILL {
            break;
        }
    }
    let lengths = [0, 1].map(|stain| dictionary.column(stain).norm());
    if lengths.into_iter().any(|length| length.is_nan() || length <= 1e-6) {
        return None;
    }
    let unit = |stain: usize| dictionary.column(stain) / lengths[stain];
    let (a, b) = (unit(0), unit(1));
    // Two of one direction are one stain.
    if a.dot(&b) > 1.0 - 1e-6 {
        return None;
    }
    // Haematoxylin takes more of the red.
    Some(Matrix3x2::from_columns(&if a[0] > b[0] { [a, b] } else { [b, a] }))
}

/// Of all pixels' codes c: the sums of c cᵀ and of x cᵀ. In fixed parts, so that the order of additions is.
fn sums(tissue: &[Tissue], dictionary: &Matrix3x2<f64>) -> (Matrix2<f64>, Matrix3x2<f64>) {
    let gram = dictionary.transpose() * dictionary;
    let part = |part: &[Tissue]| {
        let (mut codes, mut products) = (Matrix2::zeros(), Matrix3x2::zeros());
        for Tissue { density, count } in part {
            let code = code(&gram, &(dictionary.transpose() * density));
            let counted = code.transpose() * f64::from(*count);
            codes += code * counted;
            products += density * counted;
        }
        (codes, products)
    };
    let parts: Vec<(Matrix2<f64>, Matrix3x2<f64>)> = tissue.par_chunks(PART).map(part).collect();
    parts
        .into_iter()
        .fold((Matrix2::zeros(), Matrix3x2::zeros()), |all, part| (all.0 + part.0, all.1 + part.1))
}

/// The exact code of a pixel, from the dictionary's products with itself and with the pixel.
fn code(gram: &Matrix2<f64>, products: &Vector2<f64>) -> Vector2<f64> {
    let wanted = products.add_scalar(-SPARSITY);
    let determinant = gram[(0, 0)] * gram[(1, 1)] - gram[(0, 1)] * gram[(1, 0)];
    if determinant > 1e-12 {
        let both = Vector2::new(
            (gram[(1, 1)] * wanted[0] - gram[(0, 1)] * wanted[1]) / determinant,
            (gram[(0, 0)] * wanted[1] - gram[(1, 0)] * wanted[0]) / determinant,
        );
        if both.min() >= 0.0 {
            return both;
        }
    }
    // On the edge only one stain is there: the one that explains more.
    let alone = |stain: usize| wanted[stain].max(0.0) / gram[(stain, stain)].max(1e-12);
    let gain = |stain: usize| wanted[stain].max(0.0) * alone(stain);
    if gain(0) >= gain(1) { Vector2::new(alone(0), 0.0) } else { Vector2::new(0.0, alone(1)) }
}

/// The best dictionary for these codes, one column after the other.
fn update(dictionary: &mut Matrix3x2<f64>, codes: &Matrix2<f64>, products: &Matrix3x2<f64>) {
    for _ in 0..10 {
        for stain in 0..2 {
            let weight = codes[(stain, stain)];
            if weight <= 0.0 {
                continue;
            }
            let step = (products.column(stain) - *dictionary * codes.column(stain)) / weight;
            let better = (dictionary.column(stain) + step).map(|value| value.max(0.0));
            dictionary.set_column(stain, &(better / better.norm().max(1.0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::Vector3;

    use super::*;

    /// A code is exact where no small change of it is better.
    #[test]
    fn codes_are_exact() {
        let dictionary = Stains::REFERENCE.matrix();
        let gram = dictionary.transpose() * dictionary;
        let worth = |density: &Vector3<f64>, code: &Vector2<f64>| {
            (density - dictionary * code).norm_squared() / 2.0 + SPARSITY * code.sum()
        };
        for a in 0..12 {
            for b in 0..12 {
                let density = Vector3::new(f64::from(a) * 0.2, f64::from(b) * 0.15, f64::from(a + b) * 0.05);
                let found = code(&gram, &(dictionary.transpose() * density));
                assert!(found.min() >= 0.0);
                for (da, db) in
                    [(1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3), (1e-3, -1e-3), (-1e-3, 1e-3)]
                {
                    let other = (found + Vector2::new(da, db)).map(|value| value.max(0.0));
                    assert!(worth(&density, &found) <= worth(&density, &other) + 1e-12, "{density} {found}");
                }
            }
        }
    }
}
