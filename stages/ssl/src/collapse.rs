//! Whether embeddings still differ from spot to spot.

use restage_nn::{Matrix, values};

/// Below this, training has collapsed: it gives every spot the same embedding.
pub(crate) const COLLAPSED: f64 = 0.01;

/// Running sums over the embeddings of an epoch, each scaled to length 1.
#[derive(Default)]
pub(crate) struct Spread {
    count: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Spread {
    /// Takes in a batch.
    pub(crate) fn add(&mut self, embeddings: &Matrix) {
        let (_, dim) = *restage_nn::dfdx::prelude::HasShape::shape(embeddings);
        self.sums.resize(dim, 0.0);
        self.squares.resize(dim, 0.0);
        for row in values(embeddings).chunks_exact(dim) {
            let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
            let sums = self.sums.iter_mut().zip(&mut self.squares);
            for ((sum, square), value) in sums.zip(row) {
                let value = f64::from(*value) / length;
                *sum += value;
                *square += value * value;
            }
            self.count += 1.0;
        }
    }

    /// The mean over the dimensions of the sd over spots, times √dimensions: 1 when embeddings point everywhere
    /// alike, 0 when all are the same.
    pub(crate) fn value(&self) -> f64 {
        let sd =
            |(sum, square): (&f64, &f64)| (square / self.count - (sum / self.count).powi(2)).max(0.0).sqrt();
        let total: f64 = self.sums.iter().zip(&self.squares).map(sd).sum();
        total / (self.sums.len() as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(rows: Vec<f32>) -> f64 {
        let mut spread = Spread::default();
        let count = rows.len() / 2;
        spread.add(&restage_nn::tensor(rows, (count, 2)));
        spread.value()
    }

    #[test]
    fn is_0_for_equal_directions_and_1_for_all_directions() {
        assert!(spread(vec![1.0, 2.0, 2.0, 4.0, 0.5, 1.0]) < 1e-7);
        assert!((spread(vec![3.0, 0.0, -1.0, 0.0, 0.0, 2.0, 0.0, -5.0]) - 1.0).abs() < 1e-12);
    }
}
