//! Products of centred counts with a few vectors: what [`super::krylov`] finds components by.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use restage_stage::{Result, artifact::Csr};

use super::{
    block::{Block, WIDTH, add},
    krylov,
};

/// Rows that a task looks at, at least.
pub(super) const ROWS: usize = 64;
/// Parts that the sums over the spots are added up of: fixed, so that the order of additions is.
const PARTS: usize = 16;

/// Up to so many spots their products with each other are formed: that takes a few looks at the values per vector that is
/// wanted, and saves many.
const FEW: usize = 1024;
/// Against the largest: below it, a vector over the spots does not tell precisely enough of one over the genes.
const SMALL: f64 = 1e-4;

/// What components are fitted to: (X - 1 m) F, spots x genes, with X sparse. It is never formed, and each value of X is
/// looked at once for a few vectors.
pub(super) struct Data<'a> {
    pub(super) x: &'a Csr,
    pub(super) rows: &'a [usize],
    /// m, per gene.
    pub(super) means: &'a [f64],
    /// F, per gene.
    pub(super) factors: &'a [f64],
}

impl Data<'_> {
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
        some.for_each(|(at, (products, some))| {
            let mut block: Block = self.means.iter().map(|mean| [-mean; WIDTH]).collect();
            for (lane, &row) in some.iter().enumerate() {
                self.x.entries(row).for_each(|(gene, value)| block[gene][lane] += f64::from(value));
            }
            for (row, factor) in block.iter_mut().zip(self.factors) {
                *row = row.map(|value| value * factor / degrees);
            }
            // With themselves and with those after them: the others have done theirs.
            let first = at * WIDTH;
            let (weights, rows) = (self.weights(&block), &self.rows[first..]);
            let mut scores = vec![[0.0; WIDTH]; rows.len()];
            Arch::new().dispatch(Forth { x: self.x, rows, weights: &weights, scores: &mut scores });
            for (lane, products) in products.chunks_exact_mut(spots).enumerate() {
                products[first..]
                    .iter_mut()
                    .zip(&scores)
                    .for_each(|(product, scores)| *product = scores[lane]);
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
        let size = spots.div_ceil(PARTS).max(ROWS);
        let parts: Vec<(Block, [f64; WIDTH])> = (0..spots.div_ceil(size))
            .into_par_iter()
            .map(|part| {
                let spots = part * size..((part + 1) * size).min(spots);
                Arch::new().dispatch(Part { x: self.x, rows: self.rows, spots, scores })
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
        (0..self.x.n_cols).into_par_iter().with_min_len(ROWS).map(sum).collect()
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
        let mut of_means = [0.0; WIDTH];
        for (row, mean) in of_genes.iter().zip(self.means) {
            (0..WIDTH).for_each(|lane| of_means[lane] += row[lane] * mean);
        }
        Weights { of_genes, of_means }
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
        let of_means = self.of_means.map(|offset| -offset);
        genes.iter().zip(values).fold(of_means, |scores, (&gene, &value)| {
            add(scores, f64::from(value), &self.of_genes[gene as usize])
        })
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
}

impl NullaryFnOnce for Part<'_> {
    type Output = (Block, [f64; WIDTH]);

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (mut sums, mut all) = (vec![[0.0; WIDTH]; self.x.n_cols], [0.0; WIDTH]);
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
