//! Stage type `visium/pca`: each spot's expression as a few principal components.

mod band;
mod block;
mod krylov;
mod products;

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
use products::{Data, ROWS};
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
            // Of spots that are all alike there is nothing to explain.
            let total = components.total_variance;
            let share = if total > 0.0 { variance / total } else { 0.0 };
            ctx.metric("explained_variance_ratio", component as u64, share);
            explained += share;
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
        step: impl FnMut(usize) -> Result<()> + Send,
    ) -> Result<Self> {
        // On a thread of the pool: hundreds of short products would each wait to be taken over by one.
        rayon::scope(|_| Self::fit_here(x, rows, params, step))
    }

    fn fit_here(
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
        let data = Data::new(x, rows, &means, &factors);
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
