//! Rows scaled to length 1, which cosines are the products of.

use rayon::prelude::*;

/// Rows that one task takes.
const ROWS: usize = 64;
/// What is shorter has no direction.
const SHORTEST: f64 = 1e-12;

/// Rows of length 1, and how long they were.
pub(crate) struct Unit {
    pub(crate) rows: Vec<f32>,
    lengths: Vec<f64>,
    dims: usize,
}

impl Unit {
    /// Scales rows of `dims` values.
    pub(crate) fn of(values: &[f32], dims: usize) -> Self {
        let length =
            |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(SHORTEST);
        let lengths: Vec<f64> = values.par_chunks(dims).with_min_len(ROWS).map(length).collect();
        let mut rows = values.to_vec();
        rows.par_chunks_mut(dims).zip(&lengths).with_min_len(ROWS).for_each(|(row, length)| {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
        });
        Self { rows, lengths, dims }
    }

    /// The gradient by the rows as they were, from that by the scaled ones: (g − u (u · g)) / length.
    pub(crate) fn back(&self, mut gradient: Vec<f32>) -> Vec<f32> {
        let rows = self.rows.par_chunks(self.dims).zip(&self.lengths);
        gradient.par_chunks_mut(self.dims).zip(rows).with_min_len(ROWS).for_each(
            |(gradient, (row, length))| {
                let along = dot(gradient, row);
                for (gradient, row) in gradient.iter_mut().zip(row) {
                    *gradient = ((f64::from(*gradient) - along * f64::from(*row)) / length) as f32;
                }
            },
        );
        gradient
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
