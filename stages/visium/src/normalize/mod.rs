//! Stage type `visium/normalize`: counts to log-normalised expression of the highly variable genes.

mod variable_genes;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Csr, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{fit, quantile};
use variable_genes::Dispersions;

/// The stage type.
pub(crate) struct Normalize;

/// Params of `visium/normalize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What the counts of each spot are scaled to sum to. Default 10000; null = the median of the spots' sums
    /// (of the training spots where a split is connected).
    pub(crate) target_sum: Option<f64>,
    /// Whether to take ln(1 + x) of the scaled counts. Default true.
    pub(crate) log1p: bool,
    /// How many highly variable genes to find; null = none are looked for and all genes stay. Genes that tie
    /// with the last one count too. Default 2000.
    pub(crate) n_top_genes: Option<usize>,
    /// How genes are ranked by variability. Default `seurat`.
    pub(crate) flavor: Flavor,
    /// Keep only the highly variable genes (true, default) or keep all and only mark them.
    pub(crate) subset: bool,
}

/// How genes are ranked: by dispersion (variance / mean) against genes of like mean expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Flavor {
    /// Z-score of the log dispersion in 20 bins of equal width (Satija et al. 2015).
    Seurat,
    /// Distance to the median dispersion in units of the MAD, in bins of equal size (Zheng et al. 2017).
    CellRanger,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            target_sum: Some(10_000.0),
            log1p: true,
            n_top_genes: Some(2000),
            flavor: Flavor::Seurat,
            subset: true,
        }
    }
}

impl Stage for Normalize {
    const NAME: &'static str = "normalize";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Scales each spot to the same number of counts, takes logarithms and keeps the highly variable genes, \
             as scanpy's normalize_total, log1p and highly_variable_genes. What is fitted is fitted on the training \
             spots where a split is connected.",
        )
        .input::<Table>("table", "Raw counts.")
        .optional::<Split>("split", "Which spots train: variable genes are chosen on them only.")
        .output::<Table>(
            "table",
            "Normalised expression; genes carry `highly_variable`, `means`, `dispersions`, `dispersions_norm`.",
        )
    }

    fn validate(params: &Params) -> Result<()> {
        if params.target_sum.is_some_and(|target| !(target.is_finite() && target > 0.0)) {
            return Err(Error::invalid("target_sum should be above 0, or null for the median"));
        }
        if params.n_top_genes == Some(0) {
            return Err(Error::invalid("n_top_genes should be at least 1, or null to keep all genes"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let split: Option<Split> = ctx.read_optional("split")?;
        let train = fit::rows(&table.obs.index, split.as_ref())?;
        ctx.check_cancelled()?;
        ctx.write("table", &normalize(table, &train, &params)?)
    }
}

/// The normalised table; what is fitted is fitted on the spots at `train`.
fn normalize(mut table: Table, train: &[usize], params: &Params) -> Result<Table> {
    if let Some(value) = table.x.data.iter().find(|value| !value.is_finite() || **value < 0.0) {
        return Err(Error::invalid(format!("the table should hold counts, but holds {value}")));
    }
    if table.x.data.iter().any(|value| value.fract() != 0.0) {
        tracing::warn!("the table holds fractions, not counts: is it normalised already?");
    }
    let target = params.target_sum.unwrap_or_else(|| median_total(&table.x, train));
    scale_totals(&mut table.x, target);

    let mut chosen = None;
    if let Some(wanted) = params.n_top_genes {
        let dispersions = Dispersions::of(&table.x, train, params.flavor);
        let variable = dispersions.top(wanted);
        let genes: Vec<usize> = (0..variable.len()).filter(|&gene| variable[gene]).collect();
        tracing::info!("{} of {} genes are highly variable", genes.len(), variable.len());
        table.var.push("highly_variable", Column::Bool(variable));
        table.var.push("means", Column::Float(dispersions.means));
        table.var.push("dispersions", Column::Float(dispersions.dispersions));
        table.var.push("dispersions_norm", Column::Float(dispersions.normalized));
        chosen = params.subset.then_some(genes);
    }
    if params.log1p {
        log1p(&mut table.x);
    }
    Ok(match chosen {
        Some(genes) => table.select_genes(&genes),
        None => table,
    })
}

/// The sum of a spot.
fn total(x: &Csr, row: usize) -> f64 {
    x.row(row).1.iter().map(|&value| f64::from(value)).sum()
}

/// The median over the spots at `rows` that have counts at all.
fn median_total(x: &Csr, rows: &[usize]) -> f64 {
    let mut totals: Vec<f64> = rows.iter().map(|&row| total(x, row)).filter(|&total| total > 0.0).collect();
    quantile::median(&mut totals)
}

/// Scales each spot to a sum of `target`; a spot without counts stays as it is.
fn scale_totals(x: &mut Csr, target: f64) {
    for row in 0..x.n_rows() {
        let factor = target / total(x, row);
        let values = x.indptr[row] as usize..x.indptr[row + 1] as usize;
        for value in &mut x.data[values] {
            *value = (f64::from(*value) * factor) as f32;
        }
    }
}

fn log1p(x: &mut Csr) {
    for value in &mut x.data {
        *value = f64::from(*value).ln_1p() as f32;
    }
}

#[cfg(test)]
pub(crate) use tests::closed_form_logs;

#[cfg(test)]
mod tests;
