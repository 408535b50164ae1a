//! Products of centred counts with a few vectors: what [`super::krylov`] finds components by.

use std::sync::{Mutex, PoisonError};

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use restage_stage::{Result, artifact::Csr};

use super::{
    block::{Block, WIDTH, add},
    krylov,
};

/// Rows that a task looks at, at least.
pub(super) const ROWS: usize = 64;
/// Genes whose sums a task adds up, at least.
const GENES: usize = 512;
/// Parts that the sums over the spots are added up of, at most. It is the values that say how many, so that the order of
/// additions does not depend on threads.
const PARTS: usize = 16;
/// Values of a part against the sums that it makes, at least: of fewer, to add parts up would cost more than to make them.
const VALUES_PER_SUM: usize = 8;

/// Up to so many spots their products with each other are formed: that takes a few looks at the values per vector that is
/// wanted, and saves many.
const FEW: usize = 1024;
/// Against the largest: below it, a vector over the spots does not tell precisely enough of one over the genes.
const SMALL: f64 = 1e-4;

/// What components are fitted to: (X - 1 m) F, spots x genes, with X sparse. It is never formed, and each value of X is
/// looked at once for a few vectors.
pub(super) struct Data<'a> {
    x: &'a Csr,
    rows: &'a [usize],
    /// m, per gene.
    means: &'a [f64],
    /// F, per gene.
    factors: &'a [f64],
    /// Parts that the sums over the spots are added up of.
    parts: usize,
    /// Sums of parts that were added up: to fetch new memory each time would cost as much as to fill it.
    spare: Mutex<Vec<Block>>,
}

impl<'a> Data<'a> {
    pub(super) fn new(x: &'a Csr, rows: &'a [usize], means: &'a [f64], factors: &'a [f64]) -> Self {
        let values: usize = rows.iter().map(|&row| x.row(row).0.len()).sum();
        let parts = (values / (VALUES_PER_SUM * x.n_cols).max(1)).clamp(1, PARTS);
        Self { x, rows, means, factors, parts, spare: Mutex::default() }
    }

    /// The largest eigenpairs of the covariance by way of the spots, or nothing where they would not be precise.
    pub(super) fn by_spots(
        &self,
        wanted: usize,
        step: impl FnMut(usize) -> Result<()>,
    ) -> Result<Option<krylov::Eigenpairs>> {
        let spots = self.rows.len();
        let of_spots = if spots <= FEW {
            let gram = self.gram();
            krylov::largest(|block| times(&gram, block), spots, wanted, step)?
        } else {
            let product = |block: &Block| self.scores(&self.sums(&Scores::Known(block)));
            krylov::largest(product, spots, wanted, step)?
        };
        let is_small = |value: &f64| *value <= SMALL * of_spots.values[0];
        if of_spots.values.iter().any(is_small) {
            return Ok(None);
        }
        let mut vectors = Vec::with_capacity(wanted);
        for some in of_spots.vectors.chunks(WIDTH) {
            let of_spot = |spot: usize| std::array::from_fn(|lane| some.get(lane).map_or(0.0, |v| v[spot]));
            let block: Block = (0..spots).map(of_spot).collect();
            let sums = self.sums(&Scores::Known(&block));
            vectors.extend((0..some.len()).map(|lane| {
                let length = sums.iter().map(|row| row[lane] * row[lane]).sum::<f64>().sqrt();
                sums.iter().map(|row| row[lane] / length).collect::<Vec<f64>>()
            }));
        }
        Ok(Some(krylov::Eigenpairs { values: of_spots.values, vectors }))
    }

    /// The products of all pairs of spots, / (n - 1); row by row.
    fn gram(&self) -> Vec<f64> {
        let spots = self.rows.len();
        let degrees = (spots - 1) as f64;
        let mut gram = vec![0.0; spots * spots];
        let some = gram.par_chunks_mut(WIDTH * spots).zip(self.rows.par_chunks(WIDTH)).enumerate();
        let none = || (Weights { of_genes: Block::new(), of_means: [0.0; WIDTH] }, Block::new());
        some.for_each_init(none, |(weights, scores), (at, (products, some))| {
            let block = &mut weights.of_genes;
            block.clear();
            block.extend(self.means.iter().map(|mean| [-mean; WIDTH]));
            for (lane, &row) in some.iter().enumerate() {
                self.x.entries(row).for_each(|(gene, value)| block[gene][lane] += f64::from(value));
            }
            for (row, factor) in block.iter_mut().zip(self.factors) {
                *row = row.map(|value| value * factor * factor / degrees);
            }
            weights.of_means = self.of_means(block);
            // With themselves and with those after them: the others have done theirs.
            let first = at * WIDTH;
            let rows = &self.rows[first..];
            scores.resize(rows.len(), [0.0; WIDTH]);
            Arch::new().dispatch(Forth { x: self.x, rows, weights, scores });
            for (lane, products) in products.chunks_exact_mut(spots).enumerate() {
                products[first..].iter_mut().zip(&*scores).for_each(|(to, scores)| *to = scores[lane]);
            }
        });
        for row in 0..spots {
            for column in row + 1..spots {
                gram[column * spots + row] = gram[row * spots + column];
            }
        }
        gram
    }

    /// The covariance times a few vectors over the genes.
    pub(super) fn covariance(&self, block: &Block) -> Block {
        self.sums(&Scores::Of(self.weights(block)))
    }

    /// F (X - 1 m)' times the scores of the spots, / (n - 1): over the genes.
    fn sums(&self, scores: &Scores) -> Block {
        let spots = self.rows.len();
        let size = spots.div_ceil(self.parts).max(1);
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<(Block, [f64; WIDTH])> = (0..spots.div_ceil(size))
            .into_par_iter()
            .map(|part| {
                let spots = part * size..((part + 1) * size).min(spots);
                let mut sums = spare().pop().unwrap_or_default();
                sums.clear();
                sums.resize(self.x.n_cols, [0.0; WIDTH]);
                Arch::new().dispatch(Part { x: self.x, rows: self.rows, spots, scores, sums })
            })
            .collect();
        let degrees = (spots - 1) as f64;
        let sum = |gene: usize| {
            let mut sums = [0.0; WIDTH];
            for (of_genes, all) in &parts {
                (0..WIDTH).for_each(|lane| sums[lane] += of_genes[gene][lane] - self.means[gene] * all[lane]);
            }
            sums.map(|sum| self.factors[gene] * sum / degrees)
        };
        let sums = (0..self.x.n_cols).into_par_iter().with_min_len(GENES).map(sum).collect();
        spare().extend(parts.into_iter().map(|(of_genes, _)| of_genes));
        sums
    }

    /// (X - 1 m) F times a few vectors over the genes: over the spots.
    fn scores(&self, block: &Block) -> Block {
        let weights = self.weights(block);
        let mut scores = vec![[0.0; WIDTH]; self.rows.len()];
        scores.par_chunks_mut(ROWS).zip(self.rows.par_chunks(ROWS)).for_each(|(scores, rows)| {
            Arch::new().dispatch(Forth { x: self.x, rows, weights: &weights, scores });
        });
        scores
    }

    fn weights(&self, block: &Block) -> Weights {
        let of_genes: Block =
            block.iter().zip(self.factors).map(|(row, factor)| row.map(|value| value * factor)).collect();
        Weights { of_means: self.of_means(&of_genes), of_genes }
    }

    /// What a spot of mean expression has by these weights of genes.
    fn of_means(&self, of_genes: &Block) -> [f64; WIDTH] {
        of_genes
            .iter()
            .zip(self.means)
            .fold([0.0; WIDTH], |sums, (row, mean)| std::array::from_fn(|lane| sums[lane] + row[lane] * mean))
    }
}

/// A square matrix, row by row, times a few vectors.
fn times(matrix: &[f64], block: &Block) -> Block {
    let mut products = vec![[0.0; WIDTH]; block.len()];
    let rows = matrix.par_chunks(ROWS * block.len());
    products.par_chunks_mut(ROWS).zip(rows).for_each(|(products, rows)| {
        Arch::new().dispatch(Times { rows, block, products });
    });
    products
}

/// Some rows of a matrix times a few vectors.
struct Times<'a> {
    rows: &'a [f64],
    block: &'a Block,
    products: &'a mut [[f64; WIDTH]],
}

impl NullaryFnOnce for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.block.len();
        let (some, rest) = self.products.as_chunks_mut::<8>();
        let (rows, rest_rows) = self.rows.split_at(some.len() * 8 * width);
        for (products, rows) in some.iter_mut().zip(rows.chunks_exact(8 * width)) {
            *products = several(self.block, std::array::from_fn(|row| &rows[row * width..][..width]));
        }
        for (product, row) in rest.iter_mut().zip(rest_rows.chunks_exact(width)) {
            [*product] = several(self.block, [row]);
        }
    }
}

/// A few rows times a few vectors: so many sums at once that none waits for its own last addition.
#[inline(always)]
fn several<const ROWS: usize>(block: &Block, rows: [&[f64]; ROWS]) -> [[f64; WIDTH]; ROWS] {
    let rows = rows.map(|row| &row[..block.len()]);
    let mut sums = [[0.0; WIDTH]; ROWS];
    for (at, vectors) in block.iter().enumerate() {
        for row in 0..ROWS {
            sums[row] = add(sums[row], rows[row][at], vectors);
        }
    }
    sums
}

/// Vectors over the genes that a spot's values are multiplied by.
struct Weights {
    of_genes: Block,
    /// What a spot of mean expression has.
    of_means: [f64; WIDTH],
}

impl Weights {
    #[inline(always)]
    fn score(&self, genes: &[i32], values: &[f32]) -> [f64; WIDTH] {
        let weighted =
            |scores, gene: i32, value: f32| add(scores, value.into(), &self.of_genes[gene as usize]);
        // Two sums: one would wait for its own last addition.
        let mut sums = [self.of_means.map(|offset| -offset), [0.0; WIDTH]];
        let ((genes, last_gene), (values, last_value)) = (genes.as_chunks::<2>(), values.as_chunks::<2>());
        for (genes, values) in genes.iter().zip(values) {
            for at in 0..2 {
                sums[at] = weighted(sums[at], genes[at], values[at]);
            }
        }
        for (&gene, &value) in last_gene.iter().zip(last_value) {
            sums[0] = weighted(sums[0], gene, value);
        }
        add(sums[0], 1.0, &sums[1])
    }
}

/// What the spots' values are multiplied by.
enum Scores<'a> {
    Known(&'a Block),
    Of(Weights),
}

/// The scores of some spots.
struct Forth<'a> {
    x: &'a Csr,
    rows: &'a [usize],
    weights: &'a Weights,
    scores: &'a mut [[f64; WIDTH]],
}

impl NullaryFnOnce for Forth<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (scores, &row) in self.scores.iter_mut().zip(self.rows) {
            let (genes, values) = self.x.row(row);
            *scores = self.weights.score(genes, values);
        }
    }
}

/// What some spots add to the sums: per gene, and for all genes.
struct Part<'a> {
    x: &'a Csr,
    rows: &'a [usize],
    /// Their places in `rows`.
    spots: std::ops::Range<usize>,
    scores: &'a Scores<'a>,
    /// What they are added to, per gene.
    sums: Block,
}

impl NullaryFnOnce for Part<'_> {
    type Output = (Block, [f64; WIDTH]);

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (mut sums, mut all) = (self.sums, [0.0; WIDTH]);
        for spot in self.spots {
            let (genes, values) = self.x.row(self.rows[spot]);
            let scores = match self.scores {
                Scores::Known(scores) => scores[spot],
                Scores::Of(weights) => weights.score(genes, values),
            };
            for lane in 0..WIDTH {
                all[lane] += scores[lane];
            }
            for (&gene, &value) in genes.iter().zip(values) {
                let sums = &mut sums[gene as usize];
                *sums = add(*sums, f64::from(value), &scores);
            }
        }
        (sums, all)
    }
}
