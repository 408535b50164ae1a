//! The largest eigenpairs of a symmetric matrix that is only known by what it does to a few vectors at a time.
//!
//! Block Lanczos' method with full reorthogonalisation and without restarts (Golub & Van Loan, *Matrix Computations*,
//! §10.3.6): the basis grows by a block until the wanted pairs have converged. Eight vectors are multiplied for little more
//! than one, as what costs is to fetch the matrix. Every sum runs in a fixed order, so the bytes do not depend on the
//! number of threads.

use pulp::{Arch, NullaryFnOnce};
use rand::Rng;
use rayon::prelude::*;
use restage_stage::{Result, context::rng};

use super::{
    band::{Band, Eigen},
    block::{Block, WIDTH, add},
};

/// A square of the products of two blocks' vectors.
type Square = [[f64; WIDTH]; WIDTH];

/// A pair has converged when its residual is this small against the largest eigenvalue.
const TOLERANCE: f64 = 1e-10;
/// A new basis vector this small against the largest eigenvalue is rounding noise: the space is exhausted.
const EXHAUSTED: f64 = 1e-13;
/// So many times longer, noise is too small a part of a vector to matter.
const WITHOUT_NOISE: f64 = 1e6;
/// A block's vector is its own if so much of it, against the longest, is not of those before it: of what is less, products do
/// not tell precisely.
const INDEPENDENT: f64 = 1e-5;
/// Vectors whose products with a block are summed up at once.
const AT_ONCE: usize = 4;
/// Rows of all blocks that one task multiplies at least: fewer are done before another thread has begun.
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
    // It takes five or six times as many vectors, and to look costs as much as some steps.
    let mut check_at = 5 * wanted;
    let mut last_check = (0, 1.0);
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
        let ritz = Eigen::largest(band(&diagonal, &below), wanted)?;
        let (left, top) = (products(&next, &next), ritz.values[0]);
        let last = ritz.rows(size - WIDTH);
        let worst = last.iter().map(|last| residual(&left, last)).fold(0.0, f64::max);
        if worst <= TOLERANCE * top {
            return Ok(Eigenpairs {
                values: at_least_0(&ritz.values),
                vectors: combine(&basis, &ritz.vectors()),
            });
        }
        check_at = next_check(size, worst / top, last_check);
        last_check = (size, worst / top);
    }
    step(n)?;
    whole(apply, n, wanted)
}

/// The size of the basis at which it pays to look again. Residuals fall faster and faster as the basis grows: at the rate of
/// the last two they will be small enough too late, so steps are short.
fn next_check(size: usize, residual: f64, (last_size, last_residual): (usize, f64)) -> usize {
    let longest = size / 5;
    // After the first look they fall some three times as fast as they did from the beginning.
    let faster = if last_size == 0 { 3.0 } else { 1.0 };
    let per_vector = faster * (last_residual / residual).ln() / (size - last_size) as f64;
    let growth = (residual / TOLERANCE).ln() / per_vector;
    // One that did not fall at all, or is not a number, says nothing.
    let growth = if per_vector > 0.0 { growth as usize } else { longest };
    size + growth.clamp(WIDTH, longest.max(WIDTH))
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
    let eigen = Eigen::largest(matrix, wanted)?;
    Ok(Eigenpairs { values: at_least_0(&eigen.values), vectors: eigen.vectors() })
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
    if let Some(lengths) = by_cholesky(block, WITHOUT_NOISE * noise) {
        return lengths;
    }
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

/// [`orthonormalise`] by the products of the block's vectors (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2
/// algorithm", 2015): four looks at them instead of dozens. Nothing where one is hardly longer than `noise`, or little more
/// than what those before it make.
fn by_cholesky(block: &mut Block, noise: f64) -> Option<Square> {
    let first = cholesky(&products(block, block))?;
    let longest = (0..WIDTH).map(|lane| first[lane][lane]).fold(0.0, f64::max);
    if (0..WIDTH).any(|lane| first[lane][lane] <= noise.max(INDEPENDENT * longest)) {
        return None;
    }
    let turned = |block: &Block, upper: &Square| {
        let mut turned = vec![[0.0; WIDTH]; block.len()];
        add_shares(&mut turned, std::slice::from_ref(block), &[inverse(upper)]);
        turned
    };
    let once = turned(block, &first);
    let second = cholesky(&products(&once, &once))?;
    *block = turned(&once, &second);
    let length = |row: usize, column: usize| (0..WIDTH).map(|at| second[row][at] * first[at][column]).sum();
    Some(std::array::from_fn(|row| std::array::from_fn(|column| length(row, column))))
}

/// The upper triangle whose columns have these products with each other, if there is one.
fn cholesky(products: &Square) -> Option<Square> {
    let mut upper = [[0.0; WIDTH]; WIDTH];
    for row in 0..WIDTH {
        for column in row..WIDTH {
            let known: f64 = (0..row).map(|at| upper[at][row] * upper[at][column]).sum();
            let left = products[row][column] - known;
            upper[row][column] = if column > row { left / upper[row][row] } else { left.sqrt() };
        }
        // What is not a number is not above 0 either.
        (upper[row][row] > 0.0).then_some(())?;
    }
    Some(upper)
}

/// The inverse of an upper triangle.
fn inverse(upper: &Square) -> Square {
    let mut inverse = [[0.0; WIDTH]; WIDTH];
    for column in 0..WIDTH {
        inverse[column][column] = upper[column][column].recip();
        for row in (0..column).rev() {
            let known: f64 = (row + 1..=column).map(|at| upper[row][at] * inverse[at][column]).sum();
            inverse[row][column] = -known / upper[row][row];
        }
    }
    inverse
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
    let less: Vec<Square> = shares.iter().map(|shares| shares.map(|row| row.map(|share| -share))).collect();
    add_shares(block, basis, &less);
    shares
}

/// Adds to a block the shares that its vectors have of the basis.
fn add_shares(block: &mut Block, basis: &[Block], shares: &[Square]) {
    // Some for each thread, if each gets enough of them; what a row becomes does not depend on those beside it.
    let tasks = (block.len() * basis.len() / SMALL).clamp(1, 4 * rayon::current_num_threads());
    let some = block.len().div_ceil(tasks).max(1);
    block.par_chunks_mut(some).enumerate().for_each(|(chunk, rows)| {
        Arch::new().dispatch(AddShares { rows, basis, first: chunk * some, shares });
    });
}

/// [`add_shares`] to some rows of a block.
struct AddShares<'a> {
    rows: &'a mut [[f64; WIDTH]],
    basis: &'a [Block],
    /// Where the rows begin in the basis.
    first: usize,
    shares: &'a [Square],
}

impl NullaryFnOnce for AddShares<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        // A few rows at a time: their sums stay in registers, and so does each share while they take it.
        let (some, rest) = self.rows.as_chunks_mut::<4>();
        let rest_at = self.first + some.len() * 4;
        for (at, rows) in some.iter_mut().enumerate() {
            *rows = shares_of(self.basis, self.first + 4 * at, self.shares, *rows);
        }
        for (at, row) in rest.iter_mut().enumerate() {
            [*row] = shares_of(self.basis, rest_at + at, self.shares, [*row]);
        }
    }
}

/// Some rows, the first of which is `first` in the basis, and the shares' part of it.
#[inline(always)]
fn shares_of<const ROWS: usize>(
    basis: &[Block],
    first: usize,
    shares: &[Square],
    mut rows: [[f64; WIDTH]; ROWS],
) -> [[f64; WIDTH]; ROWS] {
    for (other, shares) in basis.iter().zip(shares) {
        let other = &other[first..first + ROWS];
        for vector in 0..WIDTH {
            for row in 0..ROWS {
                rows[row] = add(rows[row], other[row][vector], &shares[vector]);
            }
        }
    }
    rows
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
        // Some vectors of `a` at a time: their sums stay in registers.
        for (some, square) in square.chunks_exact_mut(AT_ONCE).enumerate() {
            let mut sums = [[0.0; WIDTH]; AT_ONCE];
            for (a, b) in self.a.iter().zip(self.b) {
                for at in 0..AT_ONCE {
                    sums[at] = add(sums[at], a[AT_ONCE * some + at], b);
                }
            }
            square.copy_from_slice(&sums);
        }
        square
    }
}

/// The vectors that these weights make of the basis: per vector one weight for each of the basis.
fn combine(basis: &[Block], weights: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let rows = basis.first().map_or(0, Vec::len);
    let some = |weights: &[Vec<f64>]| {
        let share =
            |vector: usize| std::array::from_fn(|lane| weights.get(lane).map_or(0.0, |of| of[vector]));
        let shares: Vec<Square> =
            (0..basis.len()).map(|block| std::array::from_fn(|lane| share(block * WIDTH + lane))).collect();
        let mut sums = vec![[0.0; WIDTH]; rows];
        add_shares(&mut sums, basis, &shares);
        let vector = |lane: usize| sums.iter().map(|row| row[lane]).collect();
        (0..weights.len()).map(vector).collect::<Vec<Vec<f64>>>()
    };
    weights.par_chunks(WIDTH).flat_map_iter(some).collect()
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
