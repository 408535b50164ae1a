//! Stage type `visium/pca`: each spot's expression as a few principal components.

mod lanczos;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Csr, Embedding, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fit::{self, FitOn};
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
        let x = match marked_genes(&table) {
            Some(genes) => &table.x.select_cols(&genes),
            None => &table.x,
        };
        let components = Components::fit(&x.select_rows(&train), &params, |step| {
            ctx.progress(step as u64, train.len().min(x.n_cols) as u64, "steps at most");
            ctx.check_cancelled()
        })?;
        let mut explained = 0.0;
        for (component, variance) in components.variances.iter().enumerate() {
            ctx.metric("explained_variance_ratio", component as u64, variance / components.total_variance);
            explained += variance / components.total_variance;
        }
        tracing::info!("{} components hold {:.1} % of the variance", params.n_components, 100.0 * explained);
        let values = components.scores(x);
        ctx.write("embedding", &Embedding { spots: table.obs.index, dims: params.n_components, values })
    }
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
    /// Fits to spots x genes; `step` is told how far it is and may stop it.
    fn fit(x: &Csr, params: &Params, step: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        let (spots, genes) = (x.n_rows(), x.n_cols);
        let most = spots.saturating_sub(1).min(genes);
        if params.n_components > most {
            return Err(Error::invalid(format!(
                "{spots} spots to fit on and {genes} genes have {most} components at most; set n_components to \
                 {most} or less, not {}",
                params.n_components
            )));
        }
        let by_gene = x.transpose();
        let n = spots as f64;
        let means: Vec<f64> = (0..genes).map(|gene| sum(by_gene.row(gene).1, |value| value) / n).collect();
        let variances: Vec<f64> = (0..genes)
            .map(|gene| {
                let (_, values) = by_gene.row(gene);
                let zeros = (spots - values.len()) as f64;
                (sum(values, |value| (value - means[gene]).powi(2)) + zeros * means[gene].powi(2)) / (n - 1.0)
            })
            .collect();
        let factors: Vec<f64> = variances
            .iter()
            .map(|&variance| if params.scale && variance > 0.0 { variance.sqrt().recip() } else { 1.0 })
            .collect();
        let total_variance = variances.iter().zip(&factors).map(|(v, f)| v * f * f).sum();

        // The covariance is never formed: it maps v to F (X - 1 m)' (X - 1 m) F v / (n - 1), with X sparse.
        let covariance = |v: &[f64]| -> Vec<f64> {
            let weighted: Vec<f64> = v.iter().zip(&factors).map(|(v, f)| v * f).collect();
            let offset: f64 = weighted.iter().zip(&means).map(|(w, m)| w * m).sum();
            let scores: Vec<f64> =
                (0..spots).into_par_iter().map(|spot| dot(x, spot, &weighted) - offset).collect();
            let all: f64 = scores.iter().sum();
            (0..genes)
                .into_par_iter()
                .map(|gene| factors[gene] * (dot(&by_gene, gene, &scores) - means[gene] * all) / (n - 1.0))
                .collect()
        };
        let mut pairs = lanczos::largest(covariance, genes, params.n_components, step)?;
        pairs.vectors.iter_mut().for_each(|loading| make_largest_positive(loading));
        Ok(Self { means, factors, loadings: pairs.vectors, variances: pairs.values, total_variance })
    }

    /// Scores of spots x genes, a spot's together.
    fn scores(&self, x: &Csr) -> Vec<f32> {
        let weighted: Vec<Vec<f64>> = self
            .loadings
            .iter()
            .map(|loading| loading.iter().zip(&self.factors).map(|(l, f)| l * f).collect())
            .collect();
        let offsets: Vec<f64> = weighted
            .iter()
            .map(|weights| weights.iter().zip(&self.means).map(|(w, m)| w * m).sum())
            .collect();
        (0..x.n_rows())
            .into_par_iter()
            .flat_map_iter(|spot| {
                weighted
                    .iter()
                    .zip(&offsets)
                    .map(move |(weights, offset)| (dot(x, spot, weights) - offset) as f32)
            })
            .collect()
    }
}

fn sum(values: &[f32], map: impl Fn(f64) -> f64) -> f64 {
    values.iter().map(|&value| map(f64::from(value))).sum()
}

/// A row times a dense vector. Four partial sums, so that an addition need not wait for the one before.
fn dot(x: &Csr, row: usize, vector: &[f64]) -> f64 {
    let (columns, values) = x.row(row);
    let (column_lanes, last_columns) = columns.as_chunks::<4>();
    let (value_lanes, last_values) = values.as_chunks::<4>();
    let product = |column: i32, value: f32| f64::from(value) * vector[column as usize];
    let mut sums = [0.0; 4];
    for (columns, values) in column_lanes.iter().zip(value_lanes) {
        for lane in 0..4 {
            sums[lane] += product(columns[lane], values[lane]);
        }
    }
    let rest: f64 =
        last_columns.iter().zip(last_values).map(|(&column, &value)| product(column, value)).sum();
    sums.iter().sum::<f64>() + rest
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
