//! Stage type `visium/pca`: each spot's expression as a few principal components.

mod band;
mod krylov;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Csr, Embedding, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    fit::{self, FitOn},
    normalize::moments,
};
use krylov::{Block, WIDTH};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// The stage type.
pub(crate) struct Pca;

/// Params of `visium/pca`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// How many components; below the number of (training) spots and at most the number of genes. Default 50.
    pub(crate) n_components: usize,
    /// Whether to scale each gene to unit variance first. Default false.
    pub(crate) scale: bool,
    /// Which spots the components are fitted on. Default `train`.
    pub(crate) fit_on: FitOn,
}

impl Default for Params {
    fn default() -> Self {
        Self { n_components: 50, scale: false, fit_on: FitOn::Train }
    }
}

impl Stage for Pca {
    const NAME: &'static str = "pca";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Principal components of the expression, of the highly variable genes where the table marks them. \
             Fitted on the training spots where a split is connected, then applied to all. The largest loading of \
             each component is positive.",
        )
        .input::<Table>("table", "Normalised expression.")
        .optional::<Split>("split", "Which spots train: components are fitted on them only.")
        .output::<Embedding>("embedding", "One score per component for every spot.")
    }

    fn validate(params: &Params) -> Result<()> {
        if params.n_components == 0 {
            return Err(Error::invalid("n_components should be at least 1"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let split: Option<Split> = ctx.read_optional("split")?;
        let train = fit::rows(&table.obs.index, split.as_ref(), params.fit_on)?;
        fit::tell(ctx, "visium/pca: components are fitted", &table.obs.index, split.as_ref(), params.fit_on);
        let genes = marked_genes(&table);
        let mut x = table.x;
        if let Some(genes) = genes {
            x = x.select_cols(&genes);
        }
        let components = Components::fit(&x, &train, &params, |step| {
            ctx.progress(step as u64, train.len().min(x.n_cols) as u64, "steps at most");
            ctx.check_cancelled()
        })?;
        let mut explained = 0.0;
        for (component, variance) in components.variances.iter().enumerate() {
            ctx.metric("explained_variance_ratio", component as u64, variance / components.total_variance);
            explained += variance / components.total_variance;
        }
        tracing::info!("{} components hold {:.1} % of the variance", params.n_components, 100.0 * explained);
        let values = components.scores(&x);
        ctx.write("embedding", &Embedding { spots: table.obs.index, dims: params.n_components, values })
    }
}

/// The scores of all spots on the components of those at `rows`.
pub(crate) fn scores(x: &Csr, rows: &[usize], params: &Params) -> Result<Vec<f32>> {
    Components::fit(x, rows, params, |_| Ok(())).map(|components| components.scores(x))
}

/// Positions of the genes marked `highly_variable`, where the table marks some and not all.
fn marked_genes(table: &Table) -> Option<Vec<usize>> {
    let Some(Column::Bool(marks)) = table.var.column("highly_variable") else { return None };
    marks.contains(&false).then(|| (0..marks.len()).filter(|&gene| marks[gene]).collect())
}

/// Fitted principal components.
#[derive(Debug)]
struct Components {
    /// Per gene.
    means: Vec<f64>,
    /// Per gene: 1 / standard deviation where genes are scaled, else 1.
    factors: Vec<f64>,
    /// Per component a unit vector over the genes.
    loadings: Vec<Vec<f64>>,
    /// Per component, descending (n - 1).
    variances: Vec<f64>,
    /// Of all genes together.
    total_variance: f64,
}

impl Components {
    /// Fits to the spots at `rows` of spots x genes; `step` is told how far it is and may stop it.
    fn fit(
        x: &Csr,
        rows: &[usize],
        params: &Params,
        mut step: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let (spots, genes) = (rows.len(), x.n_cols);
        let most = spots.saturating_sub(1).min(genes);
        if params.n_components > most {
            return Err(Error::invalid(format!(
                "{spots} spots to fit on and {genes} genes have {most} components at most; set n_components to \
                 {most} or less, not {}",
                params.n_components
            )));
        }
        let (means, variances): (Vec<f64>, Vec<f64>) = moments(x, rows, |_, value| value).into_iter().unzip();
        let factors: Vec<f64> = variances
            .iter()
            .map(|&variance| if params.scale && variance > 0.0 { variance.sqrt().recip() } else { 1.0 })
            .collect();
        let total_variance = variances.iter().zip(&factors).map(|(v, f)| v * f * f).sum();
        let data = Data { x, rows, means: &means, factors: &factors };
        // Spots x spots have the eigenvalues of genes x genes; the fewer of the two are the faster way.
        let by_spots = (spots < genes).then(|| data.by_spots(params.n_components, &mut step)).transpose()?;
        let by_genes =
            || krylov::largest(|block| data.covariance(block), genes, params.n_components, &mut step);
        let mut pairs = by_spots.flatten().map_or_else(by_genes, Ok)?;
        pairs.vectors.iter_mut().for_each(|loading| make_largest_positive(loading));
        Ok(Self { means, factors, loadings: pairs.vectors, variances: pairs.values, total_variance })
    }

    /// Scores of spots x genes, a spot's together.
    fn scores(&self, x: &Csr) -> Vec<f32> {
        let dims = self.loadings.len();
        // Per gene the weight of every component: a value of a spot is then looked at once.
        let mut weights = vec![0.0; x.n_cols * dims];
        for (component, loading) in self.loadings.iter().enumerate() {
            for (gene, (loading, factor)) in loading.iter().zip(&self.factors).enumerate() {
                weights[gene * dims + component] = loading * factor;
            }
        }
        let mut offsets = vec![0.0; dims];
        for (weights, mean) in weights.chunks_exact(dims).zip(&self.means) {
            offsets.iter_mut().zip(weights).for_each(|(offset, weight)| *offset -= weight * mean);
        }
        let mut scores = vec![0.0; x.n_rows() * dims];
        scores.par_chunks_mut(dims * ROWS).enumerate().for_each(|(part, scores)| {
            let first = part * ROWS;
            Arch::new().dispatch(Projection { x, first, weights: &weights, offsets: &offsets, scores });
        });
        scores
    }
}

/// Scores of some spots on all components.
struct Projection<'a> {
    x: &'a Csr,
    /// The first spot.
    first: usize,
    /// Per gene those of all components.
    weights: &'a [f64],
    /// Per component.
    offsets: &'a [f64],
    scores: &'a mut [f32],
}

impl NullaryFnOnce for Projection<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let dims = self.offsets.len();
        let mut sums = vec![0.0; dims];
        for (place, scores) in self.scores.chunks_exact_mut(dims).enumerate() {
            sums.copy_from_slice(self.offsets);
            let (genes, values) = self.x.row(self.first + place);
            for (&gene, &value) in genes.iter().zip(values) {
                let value = f64::from(value);
                let weights = &self.weights[gene as usize * dims..][..dims];
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            for (score, sum) in scores.iter_mut().zip(&sums) {
                *score = *sum as f32;
            }
        }
    }
}

/// Rows that a task looks at, at least.
const ROWS: usize = 64;
/// Parts that the sums over the spots are added up of: fixed, so that the order of additions is.
const PARTS: usize = 16;

/// Up to so many spots their products with each other are formed: that takes a few looks at the values per vector that is
/// wanted, and saves many.
const FEW: usize = 1024;
/// Against the largest: below it, a vector over the spots does not tell precisely enough of one over the genes.
const SMALL: f64 = 1e-4;

/// What components are fitted to: (X - 1 m) F, spots x genes, with X sparse. It is never formed, and each value of X is
/// looked at once for a few vectors.
struct Data<'a> {
    x: &'a Csr,
    rows: &'a [usize],
    /// m, per gene.
    means: &'a [f64],
    /// F, per gene.
    factors: &'a [f64],
}

impl Data<'_> {
    /// The largest eigenpairs of the covariance by way of the spots, or nothing where they would not be precise.
    fn by_spots(
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
        gram.par_chunks_mut(WIDTH * spots).zip(self.rows.par_chunks(WIDTH)).for_each(|(products, some)| {
            let mut block: Block = self.means.iter().map(|mean| [-mean; WIDTH]).collect();
            for (lane, &row) in some.iter().enumerate() {
                self.x.entries(row).for_each(|(gene, value)| block[gene][lane] += f64::from(value));
            }
            for (row, factor) in block.iter_mut().zip(self.factors) {
                *row = row.map(|value| value * factor / degrees);
            }
            let weights = self.weights(&block);
            let mut scores = vec![[0.0; WIDTH]; spots];
            Arch::new().dispatch(Forth {
                x: self.x,
                rows: self.rows,
                weights: &weights,
                scores: &mut scores,
            });
            for (lane, products) in products.chunks_exact_mut(spots).enumerate() {
                products.iter_mut().zip(&scores).for_each(|(product, scores)| *product = scores[lane]);
            }
        });
        gram
    }

    /// The covariance times a few vectors over the genes.
    fn covariance(&self, block: &Block) -> Block {
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
        for (product, row) in self.products.iter_mut().zip(self.rows.chunks_exact(self.block.len())) {
            // Four sums at once: one would wait for its own last addition.
            let mut sums = [[0.0; WIDTH]; 4];
            let (values, values_left) = row.as_chunks::<4>();
            let (blocks, blocks_left) = self.block.as_chunks::<4>();
            for (values, blocks) in values.iter().zip(blocks) {
                for part in 0..4 {
                    for lane in 0..WIDTH {
                        sums[part][lane] += values[part] * blocks[part][lane];
                    }
                }
            }
            for (value, block) in values_left.iter().zip(blocks_left) {
                for lane in 0..WIDTH {
                    sums[0][lane] += value * block[lane];
                }
            }
            for lane in 0..WIDTH {
                product[lane] = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]);
            }
        }
    }
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
        let mut scores = self.of_means.map(|offset| -offset);
        for (&gene, &value) in genes.iter().zip(values) {
            let (value, weights) = (f64::from(value), &self.of_genes[gene as usize]);
            for lane in 0..WIDTH {
                scores[lane] += value * weights[lane];
            }
        }
        scores
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
                let (value, sums) = (f64::from(value), &mut sums[gene as usize]);
                for lane in 0..WIDTH {
                    sums[lane] += value * scores[lane];
                }
            }
        }
        (sums, all)
    }
}

/// An eigenvector's sign is arbitrary: this one does not depend on the route to it.
fn make_largest_positive(vector: &mut [f64]) {
    let largest =
        vector.iter().copied().fold(0.0, |largest: f64, v| if v.abs() > largest.abs() { v } else { largest });
    if largest < 0.0 {
        vector.iter_mut().for_each(|v| *v = -*v);
    }
}

#[cfg(test)]
mod tests;
