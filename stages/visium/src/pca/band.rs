//! All eigenpairs of a small symmetric matrix that has a few diagonals: what Lanczos' method has to find again and again.
//!
//! Plane rotations make it tridiagonal (Schwarz, "Tridiagonalization of a symmetric band matrix", 1968). Bisection by counts
//! of eigenvalues finds those that are wanted, QL with these as shifts makes the matrix diagonal as far as they need it (Golub
//! & Van Loan, *Matrix Computations*, §8.3 and §8.4.1). Rotations are noted, and done to as many rows of the vectors as somebody
//! asks for: by strips that stay in the processor's cache, all threads at once. What a strip becomes does not depend on who has
//! it.

use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use restage_stage::{Error, Result};

use super::block::{WIDTH, add};

/// [`WIDTH`]s of rows of a strip.
const STRIP: usize = 4;
/// Of squares: below it, one that is lost would have mattered.
const LEAST: f64 = 1e-250;
/// Tries per eigenvalue; one or two are usual.
const TRIES: usize = 100;

/// The lower half of a symmetric matrix that has nothing farther than `width` from its diagonal.
pub(super) struct Band {
    size: usize,
    width: usize,
    /// Row by row, from the diagonal leftwards; each with one place more than the band is wide.
    cells: Vec<f64>,
}

impl Band {
    pub(super) fn zeros(size: usize, width: usize) -> Self {
        Self { size, width, cells: vec![0.0; size * (width + 2)] }
    }

    /// The place at `row`, `column`; `column <= row`, which is at most one farther than the band is wide.
    pub(super) fn at(&mut self, row: usize, column: usize) -> &mut f64 {
        &mut self.cells[row * (self.width + 2) + row - column]
    }

    /// Turns rows and columns `row - 1` and `row` so that there is nothing left at `row`, `column`. One place may come to be
    /// that lies outside of the band, `width` rows below.
    fn turn(&mut self, row: usize, column: usize) -> Rotation {
        let (p, q) = (row - 1, row);
        let (kept, gone) = (*self.at(p, column), *self.at(q, column));
        let both = length(kept, gone);
        let rotation = Rotation { column: p, cosine: kept / both, sine: -gone / both };
        // Both rows to the left of the turned columns, from there leftwards.
        let length = self.width + 2;
        let (before, after) = self.cells.split_at_mut(q * length);
        let (of_p, of_q) = (&mut before[p * length + 1..][..p - column], &mut after[2..][..p - column]);
        for (of_p, of_q) in of_p.iter_mut().zip(of_q) {
            (*of_p, *of_q) = rotation.turn(*of_p, *of_q);
        }
        *self.at(q, column) = 0.0;
        // Both columns below the turned rows.
        for row in q + 1..self.size.min(q + self.width + 1) {
            let of_both = &mut self.cells[row * length + row - q..][..2];
            (of_both[1], of_both[0]) = rotation.turn(of_both[1], of_both[0]);
        }
        let Rotation { cosine: c, sine: s, .. } = rotation;
        let (pp, qp, qq) = (*self.at(p, p), *self.at(q, p), *self.at(q, q));
        *self.at(p, p) = c * c * pp - 2.0 * c * s * qp + s * s * qq;
        *self.at(q, q) = s * s * pp + 2.0 * c * s * qp + c * c * qq;
        *self.at(q, p) = c * s * (pp - qq) + (c * c - s * s) * qp;
        rotation
    }

    /// Makes it tridiagonal; the rotations that do it.
    fn reduce(&mut self) -> Vec<Rotation> {
        let mut rotations = Vec::new();
        for first in 0..self.size {
            for distance in (2..=self.width.min(self.size - 1 - first)).rev() {
                // What leaves the band is chased out of the matrix.
                let (mut row, mut column) = (first + distance, first);
                while row < self.size && *self.at(row, column) != 0.0 {
                    rotations.push(self.turn(row, column));
                    (row, column) = (row + self.width, row - 1);
                }
            }
        }
        rotations
    }
}

/// Of a vector in the plane. `f64::hypot` takes several times as long for its last bit.
fn length(x: f64, y: f64) -> f64 {
    let square = x * x + y * y;
    // Else something was lost below, or above, what numbers hold.
    if (LEAST..f64::MAX).contains(&square) { square.sqrt() } else { x.hypot(y) }
}

/// A turn of a column and the one after it.
struct Rotation {
    column: usize,
    cosine: f64,
    sine: f64,
}

impl Rotation {
    #[inline(always)]
    fn turn(&self, left: f64, right: f64) -> (f64, f64) {
        (self.cosine * left - self.sine * right, self.sine * left + self.cosine * right)
    }
}

/// Eigenvalues, and what makes their vectors.
pub(super) struct Eigen {
    /// Descending.
    pub(super) values: Vec<f64>,
    /// Which column of the turned matrix belongs to each.
    columns: Vec<usize>,
    /// What makes the matrix tridiagonal, then what makes of that the eigenvalues.
    rotations: [Vec<Rotation>; 2],
    /// Of the matrix.
    size: usize,
}

impl Eigen {
    /// The `wanted` largest of them.
    ///
    /// # Errors
    /// If the matrix holds what is not finite.
    pub(super) fn largest(mut matrix: Band, wanted: usize) -> Result<Self> {
        let size = matrix.size;
        let is_finite = matrix.cells.iter().all(|value| value.is_finite());
        let found = is_finite.then(|| {
            let reduction = matrix.reduce();
            let mut values: Vec<f64> = (0..size).map(|row| *matrix.at(row, row)).collect();
            let below: Vec<f64> = (1..size).map(|row| *matrix.at(row, row - 1)).chain([0.0]).collect();
            // Who knows the values finds the vectors that are wanted first.
            let known = largest_values(&values, &below, wanted);
            let mut turns = Vec::with_capacity(size * wanted);
            let columns = diagonalise(&mut values, below, wanted, &known, &mut turns)?;
            let rotations = [reduction, turns];
            Some(Self { values: columns.iter().map(|&at| values[at]).collect(), columns, rotations, size })
        });
        found.flatten().ok_or_else(|| {
            Error::invalid("the principal components do not converge; does the table hold NaN or infinity?")
        })
    }

    /// [`WIDTH`] rows of the vectors: of each its entries from `first` on, and zeros beyond its end.
    pub(super) fn rows(&self, first: usize) -> Vec<[f64; WIDTH]> {
        let [reduction, turns] = &self.rotations;
        turned_axes::<1>(self.size, first, &[reduction, turns], &self.columns).map(|[row]| row).collect()
    }

    /// All vectors. Those of the tridiagonal matrix first: so the turns that made it are done to as many columns as are
    /// wanted, not to all.
    pub(super) fn vectors(&self) -> Vec<Vec<f64>> {
        let [reduction, turns] = &self.rotations;
        let strips = (0..self.size.div_ceil(STRIP * WIDTH)).into_par_iter().map(|strip| {
            turned_axes::<STRIP>(self.size, strip * STRIP * WIDTH, &[turns], &self.columns).collect()
        });
        let strips: Vec<Vec<[[f64; WIDTH]; STRIP]>> = strips.collect();
        let entry = |pair: usize, row: usize| {
            let (strip, place) = (row / (STRIP * WIDTH), row % (STRIP * WIDTH));
            strips[strip].get(pair).map_or(0.0, |rows| rows[place / WIDTH][place % WIDTH])
        };
        let some = |first: usize| {
            let pairs = first..self.columns.len().min(first + STRIP * WIDTH);
            let of_row = |row| {
                std::array::from_fn(|part| {
                    std::array::from_fn(|lane| entry(first + part * WIDTH + lane, row))
                })
            };
            let mut rows: Vec<[[f64; WIDTH]; STRIP]> = (0..self.size).map(of_row).collect();
            Arch::new().dispatch(TurnBack { rows: &mut rows, rotations: reduction });
            let vector = |place: usize| rows.iter().map(|row| row[place / WIDTH][place % WIDTH]).collect();
            (0..pairs.len()).map(vector).collect::<Vec<Vec<f64>>>()
        };
        let parts = self.columns.len().div_ceil(STRIP * WIDTH);
        (0..parts).into_par_iter().flat_map_iter(|part| some(part * STRIP * WIDTH)).collect()
    }
}

/// The axes from `first` on, as rows of `size` columns, after these rotations: of each of `columns` its entries.
fn turned_axes<const N: usize>(
    size: usize,
    first: usize,
    rotations: &[&[Rotation]],
    columns: &[usize],
) -> impl Iterator<Item = [[f64; WIDTH]; N]> {
    let mut axes = vec![[[0.0; WIDTH]; N]; size];
    for (place, axis) in axes.iter_mut().skip(first).take(N * WIDTH).enumerate() {
        axis[place / WIDTH][place % WIDTH] = 1.0;
    }
    for rotations in rotations {
        Arch::new().dispatch(Turn { columns: &mut axes, rotations });
    }
    columns.iter().map(move |&column| axes[column])
}

/// Turns the columns of a strip.
struct Turn<'a, const N: usize> {
    columns: &'a mut [[[f64; WIDTH]; N]],
    rotations: &'a [Rotation],
}

impl<const N: usize> NullaryFnOnce for Turn<'_, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        // Most turn the column before the last one's: what they share stays in registers.
        for run in self.rotations.chunk_by(|one, next| next.column + 1 == one.column) {
            let mut right = self.columns[run[0].column + 1];
            for rotation in run {
                let left = self.columns[rotation.column];
                let mut turned = left;
                for part in 0..N {
                    turned[part] = scaled(rotation.sine, left[part], rotation.cosine, right[part]);
                    right[part] = scaled(rotation.cosine, left[part], -rotation.sine, right[part]);
                }
                self.columns[rotation.column + 1] = turned;
            }
            self.columns[run[run.len() - 1].column] = right;
        }
    }
}

/// Undoes turns of columns, the last first, to rows of a few vectors.
struct TurnBack<'a, const N: usize> {
    rows: &'a mut [[[f64; WIDTH]; N]],
    rotations: &'a [Rotation],
}

impl<const N: usize> NullaryFnOnce for TurnBack<'_, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for rotation in self.rotations.iter().rev() {
            let [upper, lower] = &mut self.rows[rotation.column..][..2] else { continue };
            for part in 0..N {
                let (up, low) = (upper[part], lower[part]);
                upper[part] = scaled(rotation.cosine, up, rotation.sine, low);
                lower[part] = scaled(-rotation.sine, up, rotation.cosine, low);
            }
        }
    }
}

/// `a * left + b * right`; the right one, which was there last, is waited for least.
#[inline(always)]
fn scaled(a: f64, left: [f64; WIDTH], b: f64, right: [f64; WIDTH]) -> [f64; WIDTH] {
    add(left.map(|left| a * left), b, &right)
}

/// QL with implicit shifts: the eigenvalues take the diagonal's place, and each rotation is noted in `turns`. The places of the
/// `wanted` largest, descending; nothing if it does not converge. The first to be found are those that are `known`, as far as the
/// matrix does not fall apart.
fn diagonalise(
    diagonal: &mut [f64],
    mut below: Vec<f64>,
    wanted: usize,
    known: &[f64],
    turns: &mut Vec<Rotation>,
) -> Option<Vec<usize>> {
    let size = diagonal.len();
    // Beside the whole matrix, not beside their neighbours: of a matrix without full rank those are rounding noise as well.
    let scale = diagonal.iter().zip(&below).map(|(d, e)| d.abs() + e.abs()).fold(0.0, f64::max);
    let mut largest: Vec<usize> = Vec::with_capacity(wanted + 1);
    for first in 0..size {
        let mut tries = 0;
        loop {
            let is_apart = |&at: &usize| below[at].abs() <= f64::EPSILON * scale;
            let last = (first..size - 1).find(is_apart).unwrap_or(size - 1);
            if last == first {
                break;
            }
            tries += 1;
            if tries > TRIES {
                return None;
            }
            // Rounding may leave something of it the first time.
            let shift = known.get(first).copied().filter(|_| tries <= 2);
            sweep(diagonal, &mut below, first..last, shift, turns);
        }
        let place = largest.partition_point(|&at| diagonal[at] >= diagonal[first]);
        largest.insert(place, first);
        largest.truncate(wanted);
        let rest = first + 1..size;
        let is_above =
            |&least: &usize| is_any_above(diagonal[least], &diagonal[rest.clone()], &below[rest.clone()]);
        if largest.len() == wanted && wanted < size && !largest.last().is_some_and(is_above) {
            break;
        }
    }
    Some(largest)
}

/// The `wanted` largest eigenvalues of a tridiagonal matrix, descending, each as precise as the largest can be.
fn largest_values(diagonal: &[f64], below: &[f64], wanted: usize) -> Vec<f64> {
    // By Gershgorin: no eigenvalue is farther from its entry than the entries beside it.
    let before = |at: usize| at.checked_sub(1).map_or(0.0, |before| below[before].abs());
    let reach = |at: usize| (diagonal[at], before(at) + below[at].abs());
    let all = || (0..diagonal.len()).map(reach);
    let least = all().map(|(centre, reach)| centre - reach).fold(f64::INFINITY, f64::min);
    let most = all().map(|(centre, reach)| centre + reach).fold(f64::NEG_INFINITY, f64::max);
    let squares: Vec<f64> = below.iter().map(|below| below * below).collect();
    let some = (0..wanted.div_ceil(AT_ONCE)).into_par_iter().map(|some| {
        Arch::new().dispatch(Bisect { diagonal, squares: &squares, first: some * AT_ONCE, least, most })
    });
    some.flatten_iter().collect::<Vec<f64>>().into_iter().take(wanted).collect()
}

/// Eigenvalues that are looked for at once: so many that none waits for its own last division.
const AT_ONCE: usize = 4 * WIDTH;
/// Halvings of an interval: what is left of it is less than rounding leaves of the numbers at its ends.
const HALVINGS: usize = 60;

/// Eigenvalues of a tridiagonal matrix between `least` and `most`, from that on which `first` are larger.
struct Bisect<'a> {
    diagonal: &'a [f64],
    /// Of what is beside it, one row lower.
    squares: &'a [f64],
    first: usize,
    least: f64,
    most: f64,
}

impl NullaryFnOnce for Bisect<'_> {
    type Output = [f64; AT_ONCE];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (mut low, mut high) = ([self.least; AT_ONCE], [self.most; AT_ONCE]);
        let mut middle = [0.0; AT_ONCE];
        for _ in 0..HALVINGS {
            for at in 0..AT_ONCE {
                middle[at] = f64::midpoint(low[at], high[at]);
            }
            // Eigenvalues above: the positive pivots (Sylvester's law of inertia).
            let mut above = [0.0; AT_ONCE];
            let mut pivots = [f64::NEG_INFINITY; AT_ONCE];
            let mut square = 0.0;
            for (diagonal, next) in self.diagonal.iter().zip(self.squares) {
                for at in 0..AT_ONCE {
                    let pivot = diagonal - middle[at] - square / pivots[at];
                    // One that is 0 stands for one that is hardly below.
                    pivots[at] = if pivot == 0.0 { -f64::MIN_POSITIVE } else { pivot };
                    above[at] += if pivots[at] > 0.0 { 1.0 } else { 0.0 };
                }
                square = *next;
            }
            for at in 0..AT_ONCE {
                let is_above = above[at] > (self.first + at) as f64;
                low[at] = if is_above { middle[at] } else { low[at] };
                high[at] = if is_above { high[at] } else { middle[at] };
            }
        }
        middle
    }
}

/// Whether a tridiagonal matrix has an eigenvalue above this one: whether one of its pivots is (Sylvester's law of inertia).
fn is_any_above(value: f64, diagonal: &[f64], below: &[f64]) -> bool {
    let mut pivot = f64::NEG_INFINITY;
    let mut before = 0.0;
    diagonal.iter().zip(below).any(|(diagonal, below)| {
        pivot = diagonal - value - before / pivot;
        // One that is 0 stands for one that is hardly below.
        pivot = if pivot == 0.0 { -f64::MIN_POSITIVE } else { pivot };
        before = below * below;
        pivot > 0.0
    })
}

/// One step of QL on some rows and the one after them, to which nothing couples what follows; its shift is the eigenvalue of
/// the first two rows that is nearer to the first, if nobody knows a better one.
fn sweep(d: &mut [f64], e: &mut [f64], rows: Range<usize>, shift: Option<f64>, turns: &mut Vec<Rotation>) {
    let Range { start: first, end: last } = rows;
    let mut g = match shift {
        Some(shift) => d[last] - shift,
        None => {
            let half = (d[first + 1] - d[first]) / (2.0 * e[first]);
            d[last] - d[first] + e[first] / (half + length(half, 1.0).copysign(half))
        }
    };
    let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
    for column in rows.rev() {
        let (f, b) = (sine * e[column], cosine * e[column]);
        let r = length(f, g);
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
        turns.push(Rotation { column, cosine, sine });
    }
    d[first] -= shift;
    e[first] = g;
    e[last] = 0.0;
}

#[cfg(test)]
mod tests {
    use nalgebra::{DMatrix, DVector, SymmetricEigen};
    use proptest::prelude::*;
    use rand::Rng;
    use restage_stage::context::rng;

    use super::*;

    fn band(matrix: &DMatrix<f64>, width: usize) -> Band {
        let mut band = Band::zeros(matrix.nrows(), width);
        for row in 0..matrix.nrows() {
            (row.saturating_sub(width)..=row)
                .for_each(|column| *band.at(row, column) = matrix[(row, column)]);
        }
        band
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Of any rank, with a band of any width, as large as several strips; any number of them.
        #[test]
        fn pairs_are_those_of_nalgebra(
            size in 1_usize..90, width in 0_usize..90, rank in 1_usize..90, wanted in 1_usize..90, seed in 0_u64..1000,
        ) {
            let (mut random, width, wanted) = (rng(seed, "band"), width.min(size - 1), wanted.min(size));
            let a = DMatrix::from_fn(size, rank, |_, _| random.random_range(-1.0..1.0));
            let mut matrix = &a * a.transpose();
            for (at, value) in matrix.iter_mut().enumerate() {
                if (at % size).abs_diff(at / size) > width {
                    *value = 0.0;
                }
            }
            let mut expected = SymmetricEigen::new(matrix.clone()).eigenvalues.as_slice().to_vec();
            expected.sort_by(|a: &f64, b: &f64| b.total_cmp(a));
            let allowed = 1e-13 * matrix.norm() * size as f64;
            let eigen = Eigen::largest(band(&matrix, width), wanted).unwrap();
            prop_assert_eq!(eigen.values.len(), wanted);
            for (value, expected) in eigen.values.iter().zip(&expected) {
                prop_assert!((value - expected).abs() <= allowed, "{value} {expected}");
            }
            let vectors = DMatrix::from_columns(&eigen.vectors().into_iter().map(DVector::from_vec).collect::<Vec<_>>());
            let expected = &vectors * DMatrix::from_diagonal(&DVector::from_vec(eigen.values.clone()));
            prop_assert!((&matrix * &vectors - expected).norm() <= allowed);
            let unit = DMatrix::identity(wanted, wanted);
            prop_assert!((vectors.transpose() * &vectors - unit).norm() <= 1e-13 * size as f64);
            let last = eigen.rows(size - 1);
            prop_assert!((0..wanted).all(|pair| (last[pair][0] - vectors[(size - 1, pair)]).abs() <= 1e-13 * size as f64));
        }
    }

    #[test]
    fn zero_has_zeros_and_one_row_is_its_own() {
        let eigen = Eigen::largest(Band::zeros(40, 3), 40).unwrap();
        assert!(eigen.values.iter().all(|&value| value == 0.0));
        let vectors = eigen.vectors();
        assert!(
            (0..40).all(|pair| (0..40).all(|row| vectors[pair][row] == f64::from(u8::from(row == pair))))
        );
        assert_eq!(Eigen::largest(band(&DMatrix::from_element(1, 1, -3.0), 0), 1).unwrap().values, [-3.0]);
        assert!(Eigen::largest(Band::zeros(0, 4), 0).unwrap().values.is_empty());
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let error =
            Eigen::largest(band(&DMatrix::from_element(3, 3, f64::NAN), 2), 1).err().unwrap().to_string();
        assert!(error.contains("NaN"), "{error}");
    }
}
