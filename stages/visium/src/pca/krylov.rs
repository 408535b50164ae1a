//! The largest eigenpairs of a symmetric matrix that is only known by what it does to a few vectors at a time.
//!
//! Block Lanczos' method with full reorthogonalisation and without restarts (Golub & Van Loan, *Matrix Computations*,
//! §10.3.6): the basis grows by a block until the wanted pairs have converged. Four vectors are multiplied for little more
//! than one, as what costs is to fetch the matrix. Every sum runs in a fixed order, so the bytes do not depend on the
//! number of threads.

use pulp::{Arch, NullaryFnOnce};
use rand::Rng;
use rayon::prelude::*;
use restage_stage::{Result, context::rng};

use super::band::{Band, Eigen};

/// Vectors of a block.
pub(super) const WIDTH: usize = 4;
/// A few vectors: per row their values.
pub(super) type Block = Vec<[f64; WIDTH]>;
/// A square of the products of two blocks' vectors.
type Square = [[f64; WIDTH]; WIDTH];

/// A pair has converged when its residual is this small against the largest eigenvalue.
const TOLERANCE: f64 = 1e-10;
/// A new basis vector this small against the largest eigenvalue is rounding noise: the space is exhausted.
const EXHAUSTED: f64 = 1e-13;
/// So many times longer, noise is too small a part of a vector to matter.
const WITHOUT_NOISE: f64 = 1e6;
/// Rows per task where vectors are combined.
const CHUNK: usize = 512;
/// Rows of all blocks that one task multiplies at least: fewer are done before another thread has woken up.
const SMALL: usize = 1 << 13;

/// Eigenvalues, descending, each with its unit vector.
#[derive(Debug)]
pub(super) struct Eigenpairs {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Vec<Vec<f64>>,
}

/// The `wanted` largest eigenpairs of the positive semidefinite `n` x `n` matrix that `apply` multiplies by;
/// `wanted <= n`. `step` is told the size of the basis and may stop the search.
pub(super) fn largest(
    apply: impl Fn(&Block) -> Block,
    n: usize,
    wanted: usize,
    mut step: impl FnMut(usize) -> Result<()>,
) -> Result<Eigenpairs> {
    let mut check_at = 2 * wanted + 4 * WIDTH;
    let mut last_check = None;
    let mut random = rng(0, "lanczos");
    let mut basis: Vec<Block> = Vec::new();
    let mut next = vec![[0.0; WIDTH]; n];
    let (mut diagonal, mut below): (Vec<Square>, Vec<Square>) = (Vec::new(), Vec::new());
    // Too few dimensions for a basis that is larger than what is wanted: the whole matrix is small.
    while (basis.len() + 1) * WIDTH < n && check_at < n {
        let scale = diagonal.iter().flat_map(|square| (0..WIDTH).map(|i| square[i][i])).fold(0.0, f64::max);
        let lengths = orthonormalise(&mut next, &basis, EXHAUSTED * scale, || random.random_range(-1.0..1.0));
        if !basis.is_empty() {
            below.push(lengths);
        }
        basis.push(next);
        let newest = &basis[basis.len() - 1];
        next = apply(newest);
        // What the image has of the last two blocks is most of it; a second time, of all, takes what rounding left.
        let shares = remove_span(&mut next, &basis[basis.len().saturating_sub(2)..]);
        diagonal.extend(shares.last());
        remove_span(&mut next, &basis);

        let size = basis.len() * WIDTH;
        if size < check_at {
            continue;
        }
        step(size)?;
        let ritz = Eigen::of(band(&diagonal, &below))?;
        let (left, top) = (products(&next, &next), ritz.values[0]);
        let last = ritz.rows(size - WIDTH, wanted);
        let worst = last.iter().map(|last| residual(&left, last)).fold(0.0, f64::max);
        if worst <= TOLERANCE * top {
            let weights = ritz.vectors(wanted);
            return Ok(Eigenpairs {
                values: at_least_0(&ritz.values[..wanted]),
                vectors: weights.par_iter().map(|weights| combine(&basis, weights)).collect(),
            });
        }
        check_at = next_check(size, worst / top, last_check);
        last_check = Some((size, worst / top));
    }
    step(n)?;
    whole(apply, n, wanted)
}

/// The size of the basis at which it pays to look again. Residuals fall faster and faster as the basis grows: at the rate of
/// the last two they will be small enough too late, so steps are short.
fn next_check(size: usize, residual: f64, last: Option<(usize, f64)>) -> usize {
    let longest = size / 5;
    let growth = match last {
        Some((last_size, last_residual)) if residual < last_residual && residual > 0.0 => {
            let per_vector = (last_residual / residual).ln() / (size - last_size) as f64;
            (residual / TOLERANCE).ln() / per_vector
        }
        _ => longest as f64,
    };
    size + (growth as usize).clamp(WIDTH, longest.max(WIDTH))
}

/// The eigenpairs of the matrix itself, column by column what it does to the axes.
fn whole(apply: impl Fn(&Block) -> Block, n: usize, wanted: usize) -> Result<Eigenpairs> {
    let mut matrix = Band::zeros(n, n.saturating_sub(1));
    for first in (0..n).step_by(WIDTH) {
        let mut axes = vec![[0.0; WIDTH]; n];
        let count = WIDTH.min(n - first);
        (0..count).for_each(|lane| axes[first + lane][lane] = 1.0);
        for (row, values) in apply(&axes).into_iter().enumerate().skip(first) {
            (0..count.min(row + 1 - first)).for_each(|lane| *matrix.at(row, first + lane) = values[lane]);
        }
    }
    let eigen = Eigen::of(matrix)?;
    Ok(Eigenpairs { values: at_least_0(&eigen.values[..wanted]), vectors: eigen.vectors(wanted) })
}

/// Rounding makes of 0 a little less.
fn at_least_0(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.max(0.0)).collect()
}

/// The matrix as the basis sees it: blocks on the diagonal and, upper triangles, beside it.
fn band(diagonal: &[Square], below: &[Square]) -> Band {
    let mut matrix = Band::zeros(diagonal.len() * WIDTH, WIDTH);
    let places = || (0..WIDTH * WIDTH).map(|at| (at / WIDTH, at % WIDTH));
    for (block, square) in diagonal.iter().enumerate() {
        for (row, column) in places().filter(|(row, column)| column <= row) {
            // Half of it and half of its transpose, which rounding makes different.
            let mean = (square[row][column] + square[column][row]) / 2.0;
            *matrix.at(block * WIDTH + row, block * WIDTH + column) = mean;
        }
    }
    for (block, square) in below.iter().enumerate() {
        for (row, column) in places().filter(|(row, column)| column >= row) {
            *matrix.at((block + 1) * WIDTH + row, block * WIDTH + column) = square[row][column];
        }
    }
    matrix
}

/// How far a Ritz vector is from an eigenvector: the length of what the newest block leaves beside the basis (`left`: its
/// products with itself), weighted by the vector's last entries.
fn residual(left: &Square, last: &[f64; WIDTH]) -> f64 {
    let square: f64 = (0..WIDTH).flat_map(|a| (0..WIDTH).map(move |b| last[a] * left[a][b] * last[b])).sum();
    square.max(0.0).sqrt()
}

/// Makes a block's vectors orthonormal; what they were is the new ones times the upper triangle that is returned. One that
/// is no longer than `noise` is nothing, and another takes its place.
fn orthonormalise(block: &mut Block, basis: &[Block], noise: f64, mut random: impl FnMut() -> f64) -> Square {
    let mut lengths = [[0.0; WIDTH]; WIDTH];
    for lane in 0..WIDTH {
        let length = remove_earlier(block, lane, Some(&mut lengths));
        if length > noise {
            lengths[lane][lane] = length;
        } else {
            block.iter_mut().for_each(|row| row[lane] = random());
        }
        if length > WITHOUT_NOISE * noise {
            block.iter_mut().for_each(|row| row[lane] /= length);
        } else {
            // Of what is short, rounding noise is a large part, and that lies along the basis too.
            let length = remove_earlier(block, lane, None);
            block.iter_mut().for_each(|row| row[lane] /= length);
            remove_span_of_lane(block, basis, lane);
            let length = remove_earlier(block, lane, None);
            block.iter_mut().for_each(|row| row[lane] /= length);
        }
    }
    lengths
}

/// Makes a vector orthogonal to those before it in its block, twice, and returns the length that is left.
fn remove_earlier(block: &mut Block, lane: usize, mut shares: Option<&mut Square>) -> f64 {
    for _ in 0..2 {
        for earlier in 0..lane {
            let share: f64 = block.iter().map(|row| row[earlier] * row[lane]).sum();
            block.iter_mut().for_each(|row| row[lane] -= share * row[earlier]);
            if let Some(shares) = &mut shares {
                shares[earlier][lane] += share;
            }
        }
    }
    block.iter().map(|row| row[lane] * row[lane]).sum::<f64>().sqrt()
}

/// [`remove_span`] for one vector of a block, twice.
fn remove_span_of_lane(block: &mut Block, basis: &[Block], lane: usize) {
    for _ in 0..2 {
        for other in basis {
            let mut shares = [0.0; WIDTH];
            for (row, other) in block.iter().zip(other) {
                (0..WIDTH).for_each(|place| shares[place] += row[lane] * other[place]);
            }
            for (row, other) in block.iter_mut().zip(other) {
                row[lane] -= (0..WIDTH).map(|place| shares[place] * other[place]).sum::<f64>();
            }
        }
    }
}

/// Makes a block's vectors orthogonal to the orthonormal `basis`, but for rounding; the shares of the basis that they had.
fn remove_span(block: &mut Block, basis: &[Block]) -> Vec<Square> {
    let few = SMALL / block.len().max(1) + 1;
    let shares: Vec<Square> =
        basis.par_iter().with_min_len(few).map(|other| products(other, block)).collect();
    block.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, rows)| {
        let first = chunk * CHUNK;
        Arch::new().dispatch(Subtract { rows, basis, first, shares: &shares });
    });
    shares
}

/// Subtracts the basis's shares from some rows of a block.
struct Subtract<'a> {
    rows: &'a mut [[f64; WIDTH]],
    basis: &'a [Block],
    /// Where the rows begin in the basis.
    first: usize,
    shares: &'a [Square],
}

impl NullaryFnOnce for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (other, shares) in self.basis.iter().zip(self.shares) {
            let other = &other[self.first..self.first + self.rows.len()];
            for (row, other) in self.rows.iter_mut().zip(other) {
                for (weight, shares) in other.iter().zip(shares) {
                    for lane in 0..WIDTH {
                        row[lane] -= weight * shares[lane];
                    }
                }
            }
        }
    }
}

/// The products of each vector of `a` with each of `b`.
fn products(a: &Block, b: &Block) -> Square {
    Arch::new().dispatch(Products { a, b })
}

struct Products<'a> {
    a: &'a Block,
    b: &'a Block,
}

impl NullaryFnOnce for Products<'_> {
    type Output = Square;

    #[inline(always)]
    fn call(self) -> Square {
        let mut square = [[0.0; WIDTH]; WIDTH];
        // Two vectors of `a` at a time: their sums stay in registers.
        for pair in 0..WIDTH / 2 {
            let mut sums = [[0.0; WIDTH]; 2];
            for (a, b) in self.a.iter().zip(self.b) {
                for lane in 0..WIDTH {
                    sums[0][lane] += a[2 * pair] * b[lane];
                    sums[1][lane] += a[2 * pair + 1] * b[lane];
                }
            }
            square[2 * pair..2 * pair + 2].copy_from_slice(&sums);
        }
        square
    }
}

/// The vector that these weights make of the basis.
fn combine(basis: &[Block], weights: &[f64]) -> Vec<f64> {
    Arch::new().dispatch(Combine { basis, weights })
}

struct Combine<'a> {
    basis: &'a [Block],
    weights: &'a [f64],
}

impl NullaryFnOnce for Combine<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn call(self) -> Vec<f64> {
        let mut sums: Block = vec![[0.0; WIDTH]; self.basis.first().map_or(0, Vec::len)];
        let (weights, _) = self.weights.as_chunks::<WIDTH>();
        for (block, weights) in self.basis.iter().zip(weights) {
            for (sums, row) in sums.iter_mut().zip(block) {
                for lane in 0..WIDTH {
                    sums[lane] += weights[lane] * row[lane];
                }
            }
        }
        sums.into_iter().map(|lanes| lanes.into_iter().sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::{DMatrix, SymmetricEigen};
    use proptest::prelude::*;
    use rand::Rng;
    use restage_stage::Error;

    use super::*;

    fn go_on(_: usize) -> Result<()> {
        Ok(())
    }

    fn times(matrix: &DMatrix<f64>) -> impl Fn(&Block) -> Block + Sync {
        move |block| {
            let mut image = vec![[0.0; WIDTH]; block.len()];
            for lane in 0..WIDTH {
                let vector = nalgebra::DVector::from_iterator(block.len(), block.iter().map(|row| row[lane]));
                (matrix * vector).iter().zip(&mut image).for_each(|(value, row)| row[lane] = *value);
            }
            image
        }
    }

    /// A positive semidefinite `n` x `n` matrix of the given rank.
    fn gram(n: usize, rank: usize, seed: u64) -> DMatrix<f64> {
        let mut random = rng(seed, "gram");
        let a = DMatrix::from_fn(n, rank, |_, column| random.random_range(-1.0..1.0) / (1.0 + column as f64));
        &a * a.transpose()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn equals_a_full_decomposition(n in 2_usize..240, rank in 1_usize..240, share in 2_usize..12, seed in 0_u64..1000) {
            let matrix = gram(n, rank.min(n), seed);
            let wanted = n.div_ceil(share);
            let found = largest(times(&matrix), n, wanted, go_on).unwrap();
            let full = SymmetricEigen::new(matrix.clone());
            let mut values = full.eigenvalues.as_slice().to_vec();
            values.sort_by(|a, b| b.total_cmp(a));
            for (pair, vector) in found.vectors.iter().enumerate() {
                prop_assert!((found.values[pair] - values[pair]).abs() < 1e-9 * values[0]);
                // A vector is checked by what makes it one: eigenvalues may tie.
                let image = &matrix * nalgebra::DVector::from_column_slice(vector);
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
    fn an_eigenvalue_is_found_as_often_as_it_occurs() {
        for n in [6, 300] {
            let tripled = |block: &Block| block.iter().map(|row| row.map(|value| 3.0 * value)).collect();
            let found = largest(tripled, n, 4, go_on).unwrap();
            assert!(found.values.iter().all(|value| (value - 3.0).abs() < 1e-12), "{:?}", found.values);
        }
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
        for n in [60, 600] {
            let matrix = gram(n, 50, 2);
            let stopped = largest(times(&matrix), n, 5, |_| Err(Error::Cancelled));
            assert!(matches!(stopped, Err(Error::Cancelled)));
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let broken = |block: &Block| block.iter().map(|row| row.map(|_| f64::NAN)).collect();
        for n in [6, 300] {
            assert!(largest(broken, n, 4, go_on).unwrap_err().to_string().contains("NaN"));
        }
    }
}
