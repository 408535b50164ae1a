//! Blocks of features joined by spot: a spot's vector is its rows of all blocks, each block brought to equal weight.

use std::collections::HashMap;

use rayon::prelude::*;
use restage_stage::{Error, Result, artifact::Embedding};

/// The spots that every block knows, with their rows.
#[derive(Debug)]
pub(crate) struct Features {
    blocks: Vec<Embedding>,
    /// Per common spot, in the order of the first block, its row in each block.
    rows: Vec<Vec<usize>>,
}

impl Features {
    /// Joins blocks by spot.
    ///
    /// # Errors
    /// If there is no block, one is empty or holds a value that is not finite, or they share no spot.
    pub(crate) fn join(blocks: Vec<Embedding>) -> Result<Self> {
        for (number, block) in (1..).zip(&blocks) {
            check(block)
                .map_err(|problem| Error::invalid(format!("block {number} of `features` {problem}")))?;
        }
        let (first, others) =
            blocks.split_first().ok_or_else(|| Error::invalid("input `features` is not connected"))?;
        let others: Vec<HashMap<&str, usize>> = others.iter().map(Embedding::positions).collect();
        let rows: Vec<Vec<usize>> = (0..first.spots.len())
            .filter_map(|row| {
                let spot = first.spots[row].as_str();
                std::iter::once(Some(row))
                    .chain(others.iter().map(|block| block.get(spot).copied()))
                    .collect()
            })
            .collect();
        if rows.is_empty() {
            return Err(Error::invalid(
                "the blocks of `features` share no spot: they are placed side by side, so each must cover the same \
                 sections",
            ));
        }
        let most = blocks.iter().map(|block| block.spots.len()).max().unwrap_or(0);
        if rows.len() < most {
            tracing::warn!(
                "the blocks of `features` share {} spots, and one has {most}: what not all of them have is left out",
                rows.len()
            );
        }
        Ok(Self { rows, blocks })
    }

    /// How many spots every block knows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The width of each block.
    pub(crate) fn widths(&self) -> Vec<usize> {
        self.blocks.iter().map(|block| block.dims).collect()
    }

    /// The widths of two blocks, for a `kind` that is between two.
    ///
    /// # Errors
    /// If there are more, or is one.
    pub(crate) fn two_widths(&self, kind: &str) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(self.widths()).map_err(|widths| {
            Error::invalid(format!(
                "`{kind}` is between two blocks, and `features` lists {}: fuse some by `concat` first",
                widths.len()
            ))
        })
    }

    /// Length of a spot's vector.
    pub(crate) fn dims(&self) -> usize {
        self.blocks.iter().map(|block| block.dims).sum()
    }

    /// Ids of the common spots.
    pub(crate) fn spots(&self) -> impl ExactSizeIterator<Item = &str> {
        self.rows.iter().map(|rows| self.blocks[0].spots[rows[0]].as_str())
    }

    /// The values of a spot, block after block, as they came.
    fn raw(&self, spot: usize) -> impl Iterator<Item = f64> {
        self.blocks
            .iter()
            .zip(&self.rows[spot])
            .flat_map(|(block, &row)| block.row(row))
            .map(|&x| f64::from(x))
    }

    /// The mean of something over spots, per dimension.
    fn mean(&self, spots: &[usize], something: impl Fn(usize, f64) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.dims()];
        for &spot in spots {
            for ((dim, sum), x) in sums.iter_mut().enumerate().zip(self.raw(spot)) {
                *sum += something(dim, x);
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= spots.len() as f64);
        sums
    }

    /// The same spots, with other values: what `change` makes of each block, given its width and its values by spot.
    pub(crate) fn map(&self, change: impl Fn(usize, Vec<f64>) -> Vec<f64>) -> Self {
        let spots: Vec<String> = self.spots().map(str::to_owned).collect();
        let block = |(place, block): (usize, &Embedding)| {
            let rows = self.rows.iter().flat_map(|rows| block.row(rows[place])).map(|&x| f64::from(x));
            let values = change(block.dims, rows.collect()).into_iter().map(|x| x as f32).collect();
            Embedding { spots: spots.clone(), dims: block.dims, values }
        };
        let blocks: Vec<Embedding> = self.blocks.iter().enumerate().map(block).collect();
        Self { rows: (0..self.len()).map(|row| vec![row; blocks.len()]).collect(), blocks }
    }

    /// Writes the scaled vector of a spot.
    pub(crate) fn write(&self, spot: usize, scaling: &Scaling, to: &mut [f64]) {
        let scale = scaling.centre.iter().zip(&scaling.factor);
        for ((to, x), (centre, factor)) in to.iter_mut().zip(self.raw(spot)).zip(scale) {
            *to = (x - centre) * factor;
        }
    }

    /// The places of all spots.
    pub(crate) fn every(&self) -> Vec<usize> {
        (0..self.len()).collect()
    }

    /// The scaled vectors of all spots, one after the other.
    pub(crate) fn all(&self, scaling: &Scaling) -> Vec<f64> {
        self.matrix(&self.every(), scaling)
    }

    /// The scaled vectors of some spots, one after the other.
    pub(crate) fn matrix(&self, spots: &[usize], scaling: &Scaling) -> Vec<f64> {
        let dims = self.dims();
        let mut matrix = vec![0.0; spots.len() * dims];
        matrix.par_chunks_mut(dims).zip(spots).for_each(|(row, &spot)| self.write(spot, scaling, row));
        matrix
    }
}

/// What keeps a block from being used.
fn check(block: &Embedding) -> Result<(), String> {
    if block.spots.is_empty() || block.dims == 0 {
        return Err(format!("is empty: {} spots x {} dimensions", block.spots.len(), block.dims));
    }
    match block.values.par_iter().position_first(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(format!(
            "holds {} at spot `{}`, dimension {}: a feature must be a finite number",
            block.values[at],
            block.spots[at / block.dims],
            at % block.dims,
        )),
    }
}

/// What is done to each dimension: `(x - centre) * factor`.
#[derive(Debug, PartialEq)]
pub(crate) struct Scaling {
    centre: Vec<f64>,
    factor: Vec<f64>,
}

impl Scaling {
    /// Leaves values as they are.
    pub(crate) fn none(dims: usize) -> Self {
        Self { centre: vec![0.0; dims], factor: vec![1.0; dims] }
    }

    /// Mean 0 and variance 1 of each dimension over the training spots (population variance, as scikit-learn's
    /// `StandardScaler`); a dimension that is constant there becomes 0. Blocks are then scaled such that their squared
    /// norms have the same expectation; one block alone is not.
    pub(crate) fn standard(features: &Features, train: &[usize]) -> Self {
        let dims = features.dims();
        let centre = features.mean(train, |_, x| x);
        let variance = features.mean(train, |dim, x| (x - centre[dim]).powi(2));
        let blocks = features.blocks.len() as f64;
        let balance = features.blocks.iter().flat_map(|block| {
            let factor = (dims as f64 / (blocks * block.dims as f64)).sqrt();
            std::iter::repeat_n(factor, block.dims)
        });
        let factor = variance
            .iter()
            .zip(&centre)
            .zip(balance)
            .map(|((variance, centre), balance)| {
                // Below this the variance is what rounding leaves of a constant.
                let constant = *variance <= (1e-12 * centre).powi(2);
                if constant { 0.0 } else { balance / variance.sqrt() }
            })
            .collect();
        Self { centre, factor }
    }
}

impl Scaling {
    /// Mean 0 of each dimension over the training spots, and nothing else: directions and distances stay, but that several
    /// blocks are brought to squared norms of the same mean.
    pub(crate) fn centred(features: &Features, train: &[usize]) -> Self {
        let centre = features.mean(train, |_, x| x);
        let blocks = features.blocks.len();
        if blocks == 1 {
            return Self { factor: vec![1.0; centre.len()], centre };
        }
        let variance = features.mean(train, |dim, x| (x - centre[dim]).powi(2));
        let mut start = 0;
        let factor = features.blocks.iter().flat_map(|block| {
            let norm: f64 = variance[start..start + block.dims].iter().sum();
            start += block.dims;
            let factor = if norm > 0.0 { (blocks as f64 * norm).sqrt().recip() } else { 0.0 };
            std::iter::repeat_n(factor, block.dims)
        });
        Self { factor: factor.collect(), centre }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(spots: &[&str], dims: usize, values: &[f32]) -> Embedding {
        Embedding {
            spots: spots.iter().map(|&spot| spot.to_owned()).collect(),
            dims,
            values: values.to_vec(),
        }
    }

    fn row(features: &Features, spot: usize, scaling: &Scaling) -> Vec<f64> {
        features.matrix(&[spot], scaling)
    }

    #[test]
    fn blocks_meet_by_spot_id_in_the_order_of_the_first() {
        let features = Features::join(vec![
            block(&["a", "b", "c"], 1, &[1.0, 2.0, 3.0]),
            block(&["x", "c", "a"], 2, &[9.0, 9.0, 30.0, 31.0, 10.0, 11.0]),
        ])
        .unwrap();
        assert_eq!(features.spots().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!((features.len(), features.dims()), (2, 3));
        assert_eq!(row(&features, 0, &Scaling::none(3)), [1.0, 10.0, 11.0]);
        assert_eq!(row(&features, 1, &Scaling::none(3)), [3.0, 30.0, 31.0]);
    }

    #[test]
    fn one_block_is_standardised_as_by_scikit_learn() {
        let features =
            Features::join(vec![block(&["a", "b", "c"], 2, &[1.0, 5.0, 3.0, 5.0, 100.0, 7.0])]).unwrap();
        let scaling = Scaling::standard(&features, &[0, 1]);
        assert_eq!(row(&features, 0, &scaling), [-1.0, 0.0]);
        assert_eq!(row(&features, 1, &scaling), [1.0, 0.0]);
        assert_eq!(row(&features, 2, &scaling), [98.0, 0.0], "test spots have no say, constants no effect");
    }

    #[test]
    fn blocks_of_any_width_weigh_the_same() {
        let wide = block(&["a", "b"], 4, &[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        let narrow = block(&["a", "b"], 1, &[10.0, -10.0]);
        let features = Features::join(vec![wide, narrow]).unwrap();
        let scaling = Scaling::standard(&features, &[0, 1]);
        let squares: Vec<f64> = row(&features, 0, &scaling).iter().map(|x| x * x).collect();
        assert!((squares[..4].iter().sum::<f64>() - 2.5).abs() < 1e-12);
        assert!((squares[4] - 2.5).abs() < 1e-12);
    }

    #[test]
    fn centring_alone_keeps_directions() {
        let one = Features::join(vec![block(&["a", "b"], 2, &[1.0, 5.0, 3.0, 1.0])]).unwrap();
        let scaling = Scaling::centred(&one, &[0, 1]);
        assert_eq!((row(&one, 0, &scaling), row(&one, 1, &scaling)), (vec![-1.0, 2.0], vec![1.0, -2.0]));
        let two = Features::join(vec![
            block(&["a", "b"], 2, &[1.0, 5.0, 3.0, 1.0]),
            block(&["a", "b"], 1, &[7.0, 9.0]),
        ])
        .unwrap();
        let scaled = row(&two, 0, &Scaling::centred(&two, &[0, 1]));
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        assert!(
            (norm(&scaled[..2]) - 0.5).abs() < 1e-12 && (norm(&scaled[2..]) - 0.5).abs() < 1e-12,
            "{scaled:?}"
        );
        assert!((scaled[1] / scaled[0] + 2.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_joined_is_said() {
        let refused = |blocks| Features::join(blocks).unwrap_err().to_string();
        assert!(refused(vec![]).contains("not connected"));
        assert!(refused(vec![block(&["a"], 1, &[1.0]), block(&["b"], 1, &[1.0])]).contains("share no spot"));
        assert!(refused(vec![block(&["a"], 0, &[])]).contains("block 1 of `features` is empty"));
        let error =
            refused(vec![block(&["a"], 1, &[1.0]), block(&["a", "b"], 2, &[0.0, 0.0, 0.0, f32::NAN])]);
        assert_eq!(
            error,
            "block 2 of `features` holds NaN at spot `b`, dimension 1: a feature must be a finite number"
        );
    }
}
