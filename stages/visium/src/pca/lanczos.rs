//! The largest eigenpairs of a symmetric matrix that is only known by what it does to a vector.
//!
//! Lanczos' method with full reorthogonalisation and without restarts (Golub & Van Loan, *Matrix Computations*,
//! §10.3): the basis grows until the wanted pairs have converged, at worst to the whole space. Every sum runs in a
//! fixed order, so the bytes do not depend on the number of threads.

use nalgebra::{DMatrix, SymmetricEigen};
use rand::Rng;
use rayon::prelude::*;
use restage_stage::{Error, Result, context::rng};

/// A pair has converged when its residual is this small against the largest eigenvalue.
const TOLERANCE: f64 = 1e-11;
/// A new basis vector this small against the largest eigenvalue is rounding noise: the space is exhausted.
const EXHAUSTED: f64 = 1e-13;
/// Numbers per task where vectors are combined.
const CHUNK: usize = 1024;

/// Eigenvalues, descending, each with its unit vector.
#[derive(Debug)]
pub(super) struct Eigenpairs {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Vec<Vec<f64>>,
}

/// The `wanted` largest eigenpairs of the positive semidefinite `n` x `n` matrix that `apply` multiplies by;
/// `wanted <= n`. `step` is told the size of the basis and may stop the search.
pub(super) fn largest(
    apply: impl Fn(&[f64]) -> Vec<f64>,
    n: usize,
    wanted: usize,
    mut step: impl FnMut(usize) -> Result<()>,
) -> Result<Eigenpairs> {
    let mut random = rng(0, "lanczos");
    let mut fresh = |basis: &[Vec<f64>]| {
        let mut vector: Vec<f64> = (0..n).map(|_| random.random_range(-1.0..1.0)).collect();
        remove_span(&mut vector, basis);
        normalize(&mut vector);
        vector
    };
    let mut basis = vec![fresh(&[])];
    let (mut diagonal, mut off_diagonal) = (Vec::new(), Vec::new());
    let mut check_at = (2 * wanted + 32).min(n);
    loop {
        let newest = &basis[basis.len() - 1];
        let mut next = apply(newest);
        diagonal.push(dot(&next, newest));
        remove_span(&mut next, &basis);
        let scale = diagonal.iter().copied().fold(0.0, f64::max);
        let mut length = normalize(&mut next);
        if length <= EXHAUSTED * scale {
            length = 0.0;
        }

        let size = basis.len();
        if size == n || size >= check_at {
            step(size)?;
            let ritz = ritz(&diagonal, &off_diagonal)?;
            let order = descending(&ritz.eigenvalues);
            let residual = |&pair: &usize| (length * ritz.eigenvectors[(size - 1, pair)]).abs();
            let top = order.first().map_or(0.0, |&pair| ritz.eigenvalues[pair]);
            if size == n || order[..wanted].iter().all(|pair| residual(pair) <= TOLERANCE * top) {
                return Ok(Eigenpairs {
                    values: order[..wanted].iter().map(|&pair| ritz.eigenvalues[pair].max(0.0)).collect(),
                    vectors: order[..wanted]
                        .par_iter()
                        .map(|&pair| combine(&basis, ritz.eigenvectors.column(pair).as_slice()))
                        .collect(),
                });
            }
            check_at = (size + size / 2).min(n);
        }
        off_diagonal.push(length);
        let next = if length > 0.0 { next } else { fresh(&basis) };
        basis.push(next);
    }
}

/// Eigenpairs of the tridiagonal matrix of the basis.
fn ritz(diagonal: &[f64], off_diagonal: &[f64]) -> Result<SymmetricEigen<f64, nalgebra::Dyn>> {
    let size = diagonal.len();
    let mut tridiagonal = DMatrix::from_diagonal(&diagonal.to_vec().into());
    for (i, &value) in off_diagonal.iter().enumerate() {
        tridiagonal[(i, i + 1)] = value;
        tridiagonal[(i + 1, i)] = value;
    }
    SymmetricEigen::try_new(tridiagonal, f64::EPSILON, 100 * size)
        .ok_or_else(|| Error::invalid("the principal components do not converge; does the table hold NaN?"))
}

fn descending(values: &nalgebra::DVector<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// Makes `vector` orthogonal to the orthonormal `basis`; twice, since once leaves rounding behind.
fn remove_span(vector: &mut [f64], basis: &[Vec<f64>]) {
    for _ in 0..2 {
        let shares: Vec<f64> = basis.par_iter().map(|other| dot(vector, other)).collect();
        vector.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, part)| {
            for (other, share) in basis.iter().zip(&shares) {
                let other = &other[chunk * CHUNK..][..part.len()];
                part.iter_mut().zip(other).for_each(|(v, o)| *v -= share * o);
            }
        });
    }
}

fn combine(basis: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut vector = vec![0.0; basis.first().map_or(0, Vec::len)];
    for (other, weight) in basis.iter().zip(weights) {
        vector.iter_mut().zip(other).for_each(|(v, o)| *v += weight * o);
    }
    vector
}

/// Scales to unit length and returns the length it had.
fn normalize(vector: &mut [f64]) -> f64 {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v /= length);
    }
    length
}

/// Eight partial sums: the compiler may then use wide registers, and the order stays fixed.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::Rng;

    use super::*;

    fn go_on(_: usize) -> Result<()> {
        Ok(())
    }

    fn times(matrix: &DMatrix<f64>) -> impl Fn(&[f64]) -> Vec<f64> + Sync {
        move |v| (matrix * nalgebra::DVector::from_column_slice(v)).as_slice().to_vec()
    }

    /// A positive semidefinite `n` x `n` matrix of the given rank.
    fn gram(n: usize, rank: usize, seed: u64) -> DMatrix<f64> {
        let mut random = rng(seed, "gram");
        let a = DMatrix::from_fn(n, rank, |_, column| random.random_range(-1.0..1.0) / (1.0 + column as f64));
        &a * a.transpose()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn equals_a_full_decomposition(n in 2_usize..140, rank in 1_usize..140, seed in 0_u64..1000) {
            let matrix = gram(n, rank.min(n), seed);
            let wanted = n.div_ceil(4);
            let found = largest(times(&matrix), n, wanted, go_on).unwrap();
            let full = SymmetricEigen::new(matrix.clone());
            let mut values = full.eigenvalues.as_slice().to_vec();
            values.sort_by(|a, b| b.total_cmp(a));
            for (pair, vector) in found.vectors.iter().enumerate() {
                prop_assert!((found.values[pair] - values[pair]).abs() < 1e-9 * values[0]);
                // A vector is checked by what makes it one: eigenvalues may tie.
                let image = times(&matrix)(vector);
                for (image, v) in image.iter().zip(vector) {
                    prop_assert!((image - found.values[pair] * v).abs() < 1e-8 * values[0]);
                }
                for (other, second) in found.vectors.iter().enumerate() {
                    let unit = if other == pair { 1.0 } else { 0.0 };
                    prop_assert!((dot(vector, second) - unit).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn an_eigenvalue_found_as_often_as_it_occurs() {
        let found = largest(|v| v.iter().map(|v| 3.0 * v).collect(), 6, 4, go_on).unwrap();
        assert!(found.values.iter().all(|value| (value - 3.0).abs() < 1e-12), "{:?}", found.values);
    }

    #[test]
    fn the_threads_change_nothing() {
        let matrix = gram(300, 250, 1);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| largest(times(&matrix), 300, 20, go_on).unwrap())
        };
        let (one, three) = (with(1), with(3));
        assert_eq!(one.values, three.values);
        assert_eq!(one.vectors, three.vectors);
    }

    #[test]
    fn it_stops_when_told() {
        let matrix = gram(60, 50, 2);
        let stopped = largest(times(&matrix), 60, 5, |_| Err(Error::Cancelled));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
