//! Highly variable genes by normalised dispersion, step by step as scanpy 1.12's `highly_variable_genes` (pandas'
//! bins and missing values included).

use restage_stage::artifact::Csr;

use crate::{
    columns,
    quantile::{median, percentile},
};

/// Bins of equal width that `Seurat` compares genes in.
const BINS: usize = 20;
/// What makes the median absolute deviation estimate a standard deviation: the normal distribution's 75 % point.
const MAD_OF_NORMAL: f64 = 0.674_489_750_196_081_7;

/// How dispersions of genes of like mean are compared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// As Seurat's first versions did.
    Seurat,
    /// As Cell Ranger does.
    CellRanger,
}

/// Per gene: mean, dispersion, and dispersion against genes of like mean. NaN: no dispersion (never expressed).
#[derive(Debug, Default)]
pub(super) struct Dispersions {
    /// `Seurat`: ln(1 + mean expression); `CellRanger`: mean of the log expression.
    pub(super) means: Vec<f64>,
    /// Variance / mean; for `Seurat` its natural logarithm.
    pub(super) dispersions: Vec<f64>,
    /// Against the genes of the same bin.
    pub(super) normalized: Vec<f64>,
}

impl Dispersions {
    /// Of the spots at `rows` of counts that are to be scaled by `factors`, one a spot, and are *not* logarithms.
    pub(super) fn of(counts: &Csr, rows: &[usize], factors: &[f64], flavor: Kind) -> Self {
        let scaled = |row: usize, value: f64| f64::from((value * factors[row]) as f32);
        let moments = match flavor {
            Kind::Seurat => moments(counts, rows, scaled),
            Kind::CellRanger => moments(counts, rows, |row, value| scaled(row, value).ln_1p()),
        };
        let (means, dispersions): (Vec<f64>, Vec<f64>) = moments
            .into_iter()
            .map(|(mean, variance)| {
                let mean = if mean == 0.0 { 1e-12 } else { mean };
                let dispersion = variance / mean;
                match flavor {
                    Kind::Seurat if dispersion == 0.0 => (mean.ln_1p(), f64::NAN),
                    Kind::Seurat => (mean.ln_1p(), dispersion.ln()),
                    Kind::CellRanger => (mean, dispersion),
                }
            })
            .unzip();
        let edges = match flavor {
            Kind::Seurat => equal_width_edges(&means),
            Kind::CellRanger => percentile_edges(&means),
        };
        let mut normalized = vec![f64::NAN; means.len()];
        for genes in bins(&means, &edges) {
            let (centre, spread) = match flavor {
                Kind::Seurat => mean_and_sd(&genes, &dispersions),
                Kind::CellRanger => median_and_mad(&genes, &dispersions),
            };
            for gene in genes {
                normalized[gene] = (dispersions[gene] - centre) / spread;
            }
        }
        Self { means, dispersions, normalized }
    }

    /// Whether each gene is among the `wanted` most variable; genes that tie with the last are.
    pub(super) fn top(&self, wanted: usize) -> Vec<bool> {
        let mut ranked: Vec<f64> = self.normalized.iter().copied().filter(|value| !value.is_nan()).collect();
        ranked.sort_by(|a, b| b.total_cmp(a));
        let last = wanted.min(ranked.len()).checked_sub(1).and_then(|place| ranked.get(place));
        self.normalized.iter().map(|value| last.is_some_and(|last| value >= last)).collect()
    }
}

/// Per gene the mean and the variance (n - 1) of `map(row, value)`, over the spots at `rows`; `map(_, 0)` must be 0.
pub(crate) fn moments(x: &Csr, rows: &[usize], map: impl Fn(usize, f64) -> f64 + Sync) -> Vec<(f64, f64)> {
    let n = rows.len() as f64;
    let sums = columns::fold(
        x,
        rows,
        |(sum, square): &mut (f64, f64), row, value| {
            let value = map(row, value.into());
            *sum += value;
            *square += value * value;
        },
        |all, part| *all = (all.0 + part.0, all.1 + part.1),
    );
    let moments = |(sum, square): (f64, f64)| {
        let mean = sum / n;
        let spread = square - mean * sum;
        // What is left of equal values is rounding: values differ by 1e-7 of their size, or not at all.
        (mean, if spread > ROUNDING * square { spread / (n - 1.0) } else { 0.0 })
    };
    sums.into_iter().map(moments).collect()
}

/// A part of the sum of squares that means nothing.
const ROUNDING: f64 = 1e-13;

/// Edges of bins of equal width, as `pandas.cut` lays them: the first one lies 0.1 % of the range lower.
fn equal_width_edges(means: &[f64]) -> Vec<f64> {
    let mut low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let mut high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low == high {
        let margin = if low == 0.0 { 0.001 } else { 0.001 * low.abs() };
        (low, high) = (low - margin, high + margin);
    }
    let step = (high - low) / BINS as f64;
    let mut edges: Vec<f64> = (0..BINS).map(|bin| low + bin as f64 * step).chain([high]).collect();
    edges[0] -= (high - low) * 0.001;
    edges
}

/// Edges at the 10th, 15th, … 100th percentile and at infinity; equal ones once.
fn percentile_edges(means: &[f64]) -> Vec<f64> {
    let mut sorted = means.to_vec();
    sorted.sort_by(f64::total_cmp);
    let percentiles = (10..=100).step_by(5).map(|percent| percentile(&sorted, f64::from(percent)));
    let mut edges: Vec<f64> =
        [f64::NEG_INFINITY].into_iter().chain(percentiles).chain([f64::INFINITY]).collect();
    edges.dedup();
    edges
}

/// The genes of each bin; a bin holds its upper edge and not its lower one.
fn bins(means: &[f64], edges: &[f64]) -> Vec<Vec<usize>> {
    let mut bins = vec![Vec::new(); edges.len() + 1];
    for (gene, &mean) in means.iter().enumerate() {
        bins[edges.partition_point(|&edge| edge < mean)].push(gene);
    }
    bins
}

/// Mean and standard deviation (n - 1) of the dispersions there are. Of a bin with one gene: 0 and its dispersion,
/// so that it ends up at 1.
fn mean_and_sd(genes: &[usize], dispersions: &[f64]) -> (f64, f64) {
    let values: Vec<f64> =
        genes.iter().map(|&gene| dispersions[gene]).filter(|value| !value.is_nan()).collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (0.0, mean);
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// Median and scaled median absolute deviation.
fn median_and_mad(genes: &[usize], dispersions: &[f64]) -> (f64, f64) {
    let mut values: Vec<f64> = genes.iter().map(|&gene| dispersions[gene]).collect();
    let centre = median(&mut values);
    values.iter_mut().for_each(|value| *value = (*value - centre).abs());
    (centre, median(&mut values) / MAD_OF_NORMAL)
}
