//! Whether embeddings still differ from spot to spot.

use nalgebra::DMatrix;
use restage_nn::{Matrix, dfdx::prelude::HasShape, values};

/// Below this, training has collapsed: it gives every spot the same embedding.
pub(crate) const COLLAPSED: f64 = 0.01;
/// Below this, what the loss compares is so much alike that it has nothing left to learn: it ends so, though it may pass through.
pub(crate) const ALIKE: f64 = 0.05;
/// Below this, embeddings as they are kept are the same: of whole inputs they differ less than of augmented ones.
pub(crate) const SAME: f64 = 0.001;
/// Spots of a batch whose distances are looked at, at most.
const PAIRED: usize = 256;
/// Of embeddings that are longer, the effective rank is that of so many spots: pairs of spots are fewer than pairs of dimensions.
const WIDE: usize = 512;

/// Running sums over rows, one a spot, each scaled to length 1.
#[derive(Default)]
pub(crate) struct Deviations {
    count: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Deviations {
    /// Takes in a batch.
    pub(crate) fn add(&mut self, rows: &Matrix) {
        self.add_unit(&unit(rows), rows.shape().1);
    }

    fn add_unit(&mut self, rows: &[f64], dim: usize) {
        self.sums.resize(dim, 0.0);
        self.squares.resize(dim, 0.0);
        for row in rows.chunks_exact(dim) {
            self.sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            self.squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
            self.count += 1.0;
        }
    }

    fn join(&mut self, other: &Self) {
        self.count += other.count;
        add_to(&mut self.sums, &other.sums);
        add_to(&mut self.squares, &other.squares);
    }

    /// The mean over the dimensions of the sd over spots, times √dimensions: 1 when rows point everywhere alike, 0 when all
    /// are the same.
    pub(crate) fn mean(&self) -> f64 {
        self.each().iter().sum::<f64>() / self.sums.len() as f64
    }

    /// Per dimension the sd over spots, times √dimensions.
    fn each(&self) -> Vec<f64> {
        let std = |(sum, square): (&f64, &f64)| {
            let mean = sum / self.count;
            ((square / self.count - mean * mean).max(0.0) * self.sums.len() as f64).sqrt()
        };
        self.sums.iter().zip(&self.squares).map(std).collect()
    }
}

/// Running sums over the embeddings of an epoch, each scaled to length 1.
#[derive(Default)]
pub(crate) struct Spread {
    deviations: Deviations,
    /// Sums of the products of all pairs of dimensions, where these are few.
    products: Vec<f64>,
    /// Else the first embeddings.
    some: Vec<f64>,
    /// Of exp(-2 distance²) over pairs of spots, and their number.
    close: (f64, f64),
    /// Of distance² over pairs of views, and their number.
    apart: (f64, f64),
}

impl Spread {
    /// Takes in a batch: embeddings, and those of other views of the same spots, where there are such.
    pub(crate) fn add(&mut self, embeddings: &Matrix, others: Option<&Matrix>) {
        let (_, dim) = *embeddings.shape();
        let rows = unit(embeddings);
        self.deviations.add_unit(&rows, dim);
        if dim <= WIDE {
            self.products.resize(dim * dim, 0.0);
            for row in rows.chunks_exact(dim) {
                for (products, value) in self.products.chunks_exact_mut(dim).zip(row) {
                    products.iter_mut().zip(row).for_each(|(sum, other)| *sum += value * other);
                }
            }
        } else {
            self.some.extend(&rows);
            self.some.truncate(WIDE * dim);
        }
        let some = &rows[..rows.len().min(PAIRED * dim)];
        for (place, row) in some.chunks_exact(dim).enumerate() {
            for other in some[(place + 1) * dim..].chunks_exact(dim) {
                self.close.0 += (-2.0 * distance(row, other)).exp();
                self.close.1 += 1.0;
            }
        }
        if let Some(others) = others.map(unit) {
            for (row, other) in rows.chunks_exact(dim).zip(others.chunks_exact(dim)) {
                self.apart.0 += distance(row, other);
                self.apart.1 += 1.0;
            }
        }
    }

    /// Takes in what another one took in.
    fn join(&mut self, other: &Self) {
        self.deviations.join(&other.deviations);
        add_to(&mut self.products, &other.products);
        self.some.extend(&other.some);
        self.some.truncate(WIDE * self.dims());
        for (own, other) in [(&mut self.close, other.close), (&mut self.apart, other.apart)] {
            *own = (own.0 + other.0, own.1 + other.1);
        }
    }

    fn dims(&self) -> usize {
        self.deviations.sums.len()
    }

    /// The mean over the dimensions of the sd over spots, times √dimensions: 1 when embeddings point everywhere
    /// alike, 0 when all are the same.
    pub(crate) fn std(&self) -> f64 {
        self.deviations.mean()
    }

    /// The same of the dimension in which spots differ least.
    pub(crate) fn least_std(&self) -> f64 {
        self.stds().into_iter().reduce(f64::min).unwrap_or(0.0)
    }

    /// Per dimension the sd over spots, times √dimensions.
    pub(crate) fn stds(&self) -> Vec<f64> {
        self.deviations.each()
    }

    /// RankMe (Garrido et al. 2023): exp of the entropy of the singular values, as shares of their sum. As many dimensions as
    /// embeddings use; of more than 512 dimensions, by the first 512 embeddings.
    pub(crate) fn effective_rank(&self) -> f64 {
        let dims = self.dims();
        let products = if self.some.is_empty() {
            DMatrix::from_row_slice(dims, dims, &self.products)
        } else {
            let some = DMatrix::from_column_slice(dims, self.some.len() / dims, &self.some);
            some.tr_mul(&some)
        };
        let eigenvalues = products.symmetric_eigenvalues();
        let singular: Vec<f64> = eigenvalues.iter().map(|value| value.max(0.0).sqrt()).collect();
        let sum: f64 = singular.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let entropy = |value: &f64| match value / sum {
            share if share > 0.0 => -share * share.ln(),
            _ => 0.0,
        };
        singular.iter().map(entropy).sum::<f64>().exp()
    }

    /// The logarithm of the mean of exp(-2 distance²) over pairs of spots of a batch (Wang & Isola 2020): 0 when all are the
    /// same, lower the more evenly they are spread.
    pub(crate) fn uniformity(&self) -> f64 {
        (self.close.0 / self.close.1.max(1.0)).max(f64::MIN_POSITIVE).ln()
    }

    /// The mean distance² of two views of a spot (Wang & Isola 2020); nothing where there is one view.
    pub(crate) fn alignment(&self) -> Option<f64> {
        (self.apart.1 > 0.0).then(|| self.apart.0 / self.apart.1)
    }
}

/// The embeddings of an epoch in two halves: what collapses in its course still looks well over all of it.
#[derive(Default)]
pub(crate) struct Halves {
    early: Spread,
    late: Spread,
}

impl Halves {
    /// Takes in batch number `batch` of `batches`.
    pub(crate) fn add(
        &mut self,
        (batch, batches): (usize, usize),
        embeddings: &Matrix,
        others: Option<&Matrix>,
    ) {
        let half = if batch < batches / 2 { &mut self.early } else { &mut self.late };
        half.add(embeddings, others);
    }

    /// The spread over the epoch, and the deviation of its second half.
    pub(crate) fn ended(self) -> (Spread, f64) {
        let Self { early: mut whole, late } = self;
        let ends_with = late.std();
        whole.join(&late);
        (whole, ends_with)
    }
}

fn add_to(own: &mut Vec<f64>, others: &[f64]) {
    own.resize(others.len(), 0.0);
    own.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
}

/// Rows scaled to length 1.
fn unit(embeddings: &Matrix) -> Vec<f64> {
    let (_, dim) = *embeddings.shape();
    let mut rows: Vec<f64> = values(embeddings).into_iter().map(f64::from).collect();
    for row in rows.chunks_exact_mut(dim) {
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-12);
        row.iter_mut().for_each(|value| *value /= length);
    }
    rows
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(rows: Vec<f32>, others: Option<Vec<f32>>) -> Spread {
        let mut spread = Spread::default();
        let matrix = |rows: Vec<f32>| {
            let count = rows.len() / 2;
            restage_nn::tensor(rows, (count, 2))
        };
        spread.add(&matrix(rows), others.map(matrix).as_ref());
        spread
    }

    #[test]
    fn of_equal_directions_there_is_no_spread() {
        let spread = spread(vec![1.0, 2.0, 2.0, 4.0, 0.5, 1.0], Some(vec![1.0, 2.0, -1.0, -2.0, 1.0, 2.0]));
        assert!(spread.std() < 1e-7 && (spread.effective_rank() - 1.0).abs() < 1e-6);
        assert!(spread.uniformity().abs() < 1e-9);
        // One of three views points the other way: distance 2, squared.
        assert!((spread.alignment().unwrap() - 4.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_dimension_in_which_spots_do_not_differ_is_seen_beside_one_in_which_they_do() {
        let spread = spread(vec![1.0, 0.0, -1.0, 0.0, 2.0, 0.0, -3.0, 0.0], None);
        assert!(spread.stds()[1] < 1e-12 && (spread.stds()[0] - 2.0_f64.sqrt()).abs() < 1e-12);
        assert!(spread.least_std() < 1e-12 && (spread.std() - 0.5_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn of_many_dimensions_the_rank_is_that_of_spots() {
        let axes = |from: usize, count: usize| {
            let rows =
                (0..count).flat_map(|row| (0..600).map(move |dim| f32::from(u8::from(dim == from + row))));
            restage_nn::tensor(rows.collect::<Vec<f32>>(), (count, 600))
        };
        let mut halves = Halves::default();
        halves.add((0, 2), &axes(0, 3), None);
        halves.add((1, 2), &axes(2, 3), None);
        let (whole, _) = halves.ended();
        // Six spots on five axes: four of length 1, one of √2.
        let sum = 4.0 + 2.0_f64.sqrt();
        let entropy = 4.0 * sum.ln() / sum + 2.0_f64.sqrt() / sum * (sum / 2.0_f64.sqrt()).ln();
        assert!((whole.effective_rank() - entropy.exp()).abs() < 1e-9, "{}", whole.effective_rank());
    }

    #[test]
    fn halves_tell_how_an_epoch_ends_and_are_one_whole() {
        let batches = [vec![1.0, 0.0, 0.0, 3.0], vec![-2.0, 0.0, 0.0, -1.0], vec![1.0, 1.0, 2.0, 2.0]];
        let mut halves = Halves::default();
        for (batch, rows) in batches.iter().enumerate() {
            halves.add((batch, 3), &restage_nn::tensor(rows.clone(), (2, 2)), None);
        }
        let (whole, ends_with) = halves.ended();
        let wanted = spread(batches.concat(), None);
        assert!((whole.std() - wanted.std()).abs() < 1e-12);
        assert!((whole.effective_rank() - wanted.effective_rank()).abs() < 1e-9);
        assert!((ends_with - spread(batches[1..].concat(), None).std()).abs() < 1e-12);
        // What ends at one point is spread over the epoch all the same.
        let mut halves = Halves::default();
        for (batch, rows) in [(0, &batches[0]), (1, &batches[2])] {
            halves.add((batch, 2), &restage_nn::tensor(rows.clone(), (2, 2)), None);
        }
        let (whole, ends_with) = halves.ended();
        assert!(whole.std() > 0.3 && ends_with < 1e-7, "{} {ends_with}", whole.std());
    }

    #[test]
    fn of_all_directions_there_is_all_spread() {
        let spread = spread(vec![3.0, 0.0, -1.0, 0.0, 0.0, 2.0, 0.0, -5.0], None);
        assert!((spread.std() - 1.0).abs() < 1e-12 && (spread.effective_rank() - 2.0).abs() < 1e-9);
        assert!((spread.least_std() - 1.0).abs() < 1e-12);
        // Four pairs at distance² 2, two at 4.
        let wanted = ((4.0 * (-4.0_f64).exp() + 2.0 * (-8.0_f64).exp()) / 6.0).ln();
        assert!((spread.uniformity() - wanted).abs() < 1e-9 && spread.alignment().is_none());
    }
}
