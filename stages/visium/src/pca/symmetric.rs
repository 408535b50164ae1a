//! All eigenpairs of a small dense symmetric matrix: what Lanczos' method has to find again and again.
//!
//! Householder's reduction to three diagonals, then QL with implicit shifts (Golub & Van Loan, *Matrix Computations*, §8.3).
//! The rotations of QL are noted first and done afterwards, by strips of rows that stay in the processor's cache, all
//! threads at once; a strip's sums do not depend on who has it.

use nalgebra::{DMatrix, linalg::SymmetricTridiagonal};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use restage_stage::{Error, Result};

/// Rows of a strip.
const STRIP: usize = 32;
/// Tries per eigenvalue; one or two are usual.
const TRIES: usize = 100;

/// Eigenvalues, descending, and as columns their unit vectors.
pub(super) fn eigen(matrix: DMatrix<f64>) -> Result<(Vec<f64>, DMatrix<f64>)> {
    let size = matrix.nrows();
    let is_finite = matrix.iter().all(|value| value.is_finite());
    if size == 0 {
        return Ok((Vec::new(), matrix));
    }
    let found = is_finite.then(|| {
        let (basis, diagonal, below) = SymmetricTridiagonal::new(matrix).unpack();
        let mut values = diagonal.as_slice().to_vec();
        let rotations = rotations(&mut values, below.as_slice())?;
        Some((values, rotations, basis))
    });
    let (values, rotations, basis) = found.flatten().ok_or_else(|| {
        Error::invalid("the principal components do not converge; does the table hold NaN or infinity?")
    })?;
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let strips: Vec<Strip> = (0..size.div_ceil(STRIP))
        .into_par_iter()
        .map(|strip| {
            let mut columns = cut(&basis, strip * STRIP);
            Arch::new().dispatch(Turn { columns: &mut columns, rotations: &rotations });
            columns
        })
        .collect();
    let vectors = DMatrix::from_fn(size, size, |row, column| strips[row / STRIP][order[column]][row % STRIP]);
    Ok((order.iter().map(|&pair| values[pair]).collect(), vectors))
}

/// Some rows of a matrix, column by column.
type Strip = Vec<[f64; STRIP]>;

fn cut(matrix: &DMatrix<f64>, first: usize) -> Strip {
    let rows = first..matrix.nrows().min(first + STRIP);
    let cut = |column: usize| {
        let mut values = [0.0; STRIP];
        values[..rows.len()].copy_from_slice(&matrix.column(column).as_slice()[rows.clone()]);
        values
    };
    (0..matrix.ncols()).map(cut).collect()
}

/// A turn of a column and the one after it.
struct Rotation {
    column: usize,
    cosine: f64,
    sine: f64,
}

/// Turns the columns of a strip.
struct Turn<'a> {
    columns: &'a mut Strip,
    rotations: &'a [Rotation],
}

impl NullaryFnOnce for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for &Rotation { column, cosine, sine } in self.rotations {
            let (before, after) = self.columns.split_at_mut(column + 1);
            let (left, right) = (&mut before[column], &mut after[0]);
            for (left, right) in left.iter_mut().zip(right) {
                (*left, *right) = (cosine * *left - sine * *right, sine * *left + cosine * *right);
            }
        }
    }
}

/// QL with implicit shifts: the eigenvalues take the diagonal's place. The rotations, in their order, or nothing where it
/// does not converge.
fn rotations(diagonal: &mut [f64], below: &[f64]) -> Option<Vec<Rotation>> {
    let size = diagonal.len();
    let mut below: Vec<f64> = below.iter().copied().chain([0.0]).collect();
    let mut rotations = Vec::with_capacity(size * size);
    for first in 0..size {
        let mut tries = 0;
        loop {
            let is_apart =
                |&at: &usize| below[at].abs() <= f64::EPSILON * (diagonal[at].abs() + diagonal[at + 1].abs());
            let last = (first..size - 1).find(is_apart).unwrap_or(size - 1);
            if last == first {
                break;
            }
            tries += 1;
            if tries > TRIES {
                return None;
            }
            sweep(diagonal, &mut below, first, last, &mut rotations);
        }
    }
    Some(rotations)
}

/// One step of QL on the rows from `first` to `last`, which nothing couples to those after them.
fn sweep(d: &mut [f64], e: &mut [f64], first: usize, last: usize, rotations: &mut Vec<Rotation>) {
    let half = (d[first + 1] - d[first]) / (2.0 * e[first]);
    let mut g = d[last] - d[first] + e[first] / (half + half.hypot(1.0).copysign(half));
    let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
    for column in (first..last).rev() {
        let (f, b) = (sine * e[column], cosine * e[column]);
        let r = f.hypot(g);
        e[column + 1] = r;
        if r == 0.0 {
            // The rest is apart already.
            d[column + 1] -= shift;
            e[last] = 0.0;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        g = d[column + 1] - shift;
        let turned = (d[column] - g) * sine + 2.0 * cosine * b;
        shift = sine * turned;
        d[column + 1] = g + shift;
        g = cosine * turned - b;
        rotations.push(Rotation { column, cosine, sine });
    }
    d[first] -= shift;
    e[first] = g;
    e[last] = 0.0;
}

#[cfg(test)]
mod tests {
    use nalgebra::SymmetricEigen;
    use proptest::prelude::*;
    use rand::Rng;
    use restage_stage::context::rng;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Of any rank, with a band of any width, as large as several strips.
        #[test]
        fn pairs_are_those_of_nalgebra(size in 1_usize..90, band in 0_usize..90, rank in 1_usize..90, seed in 0_u64..1000) {
            let mut random = rng(seed, "symmetric");
            let a = DMatrix::from_fn(size, rank, |_, _| random.random_range(-1.0..1.0));
            let mut matrix = &a * a.transpose();
            for ((row, column), value) in (0..size * size).map(|at| (at % size, at / size)).zip(matrix.iter_mut()) {
                if row.abs_diff(column) > band {
                    *value = 0.0;
                }
            }
            let mut expected = SymmetricEigen::new(matrix.clone()).eigenvalues.as_slice().to_vec();
            expected.sort_by(|a, b| b.total_cmp(a));
            let scale = matrix.norm().max(f64::MIN_POSITIVE);
            let (values, vectors) = eigen(matrix.clone()).unwrap();
            for (value, expected) in values.iter().zip(&expected) {
                prop_assert!((value - expected).abs() <= 1e-13 * scale * size as f64, "{value} {expected}");
            }
            let images = &matrix * &vectors;
            let expected = &vectors * DMatrix::from_diagonal(&nalgebra::DVector::from_vec(values));
            prop_assert!((images - expected).norm() <= 1e-12 * scale * size as f64);
            let products = vectors.transpose() * &vectors;
            prop_assert!((products - DMatrix::identity(size, size)).norm() <= 1e-12 * size as f64);
        }
    }

    #[test]
    fn zero_has_zeros_and_one_row_is_its_own() {
        let (values, vectors) = eigen(DMatrix::zeros(40, 40)).unwrap();
        assert!(values.iter().all(|&value| value == 0.0));
        assert_eq!(vectors.transpose() * &vectors, DMatrix::identity(40, 40));
        assert_eq!(eigen(DMatrix::from_element(1, 1, -3.0)).unwrap().0, [-3.0]);
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let error = eigen(DMatrix::from_element(3, 3, f64::NAN)).unwrap_err().to_string();
        assert!(error.contains("NaN"), "{error}");
    }
}
