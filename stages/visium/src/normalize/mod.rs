//! Stage type `visium/normalize`: counts to log-normalised expression of the highly variable genes.

mod loess;
mod seurat_v3;
mod variable_genes;

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Csr, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    fit::{self, FitOn},
    quantile, values,
};
use seurat_v3::Standardised;
pub(crate) use variable_genes::moments;
use variable_genes::{Dispersions, Kind};

/// The stage type.
pub(crate) struct Normalize;

/// Params of `visium/normalize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What the counts of each spot are scaled to sum to. Default 10000; null = the median of the spots' sums
    /// (of the training spots where a split is connected).
    pub(crate) target_sum: Option<f64>,
    /// Whether genes that take more than `max_fraction` of any spot's counts are left out of the sums that spots are
    /// scaled by; they are scaled with the rest. Default false.
    pub(crate) exclude_highly_expressed: bool,
    /// The share of a spot's counts beyond which a gene is highly expressed. Default 0.05.
    pub(crate) max_fraction: f64,
    /// Whether to take ln(1 + x) of the scaled counts. Default true.
    pub(crate) log1p: bool,
    /// Base of the logarithm; null = e. Default null.
    pub(crate) log_base: Option<f64>,
    /// How many highly variable genes to find; null = none are looked for and all genes stay. Genes that tie
    /// with the last one count too. Default 2000.
    pub(crate) n_top_genes: Option<usize>,
    /// How genes are ranked by variability. Default `seurat`.
    pub(crate) flavor: Flavor,
    /// For `seurat_v3`: the share of genes that each point of the curve of variance over mean is drawn from. Default 0.3.
    pub(crate) span: f64,
    /// Keep only the highly variable genes (true, default) or keep all and only mark them.
    pub(crate) subset: bool,
    /// Which spots the median, the highly expressed and the variable genes are found on. Default `train`.
    pub(crate) fit_on: FitOn,
}

/// How genes are ranked: by dispersion (variance / mean) or variance against genes of like mean expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Flavor {
    /// Z-score of the log dispersion in 20 bins of equal width (Satija et al. 2015).
    Seurat,
    /// Distance to the median dispersion in units of the MAD, in bins of equal size (Zheng et al. 2017).
    CellRanger,
    /// Variance of the clipped raw counts in units of what a local regression over the mean expects (Stuart et al.
    /// 2019).
    SeuratV3,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            target_sum: Some(10_000.0),
            exclude_highly_expressed: false,
            max_fraction: 0.05,
            log1p: true,
            log_base: None,
            n_top_genes: Some(2000),
            flavor: Flavor::Seurat,
            span: 0.3,
            subset: true,
            fit_on: FitOn::Train,
        }
    }
}

impl Params {
    /// What is fitted to spots with these params.
    fn fitted(&self) -> Option<&'static str> {
        match (self.n_top_genes, self.target_sum) {
            (Some(_), _) => Some("variable genes are chosen"),
            (None, None) => Some("the median of counts is taken"),
            (None, Some(_)) => self.exclude_highly_expressed.then_some("highly expressed genes are found"),
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
            "Normalised expression; genes carry `highly_variable`, `means`, `dispersions`, `dispersions_norm` (of \
             `seurat_v3`: `variances`, `variances_norm`).",
        )
    }

    fn validate(params: &Params) -> Result<()> {
        if params.target_sum.is_some_and(|target| !(target.is_finite() && target > 0.0)) {
            return Err(Error::invalid("target_sum should be above 0, or null for the median"));
        }
        if params.n_top_genes == Some(0) {
            return Err(Error::invalid("n_top_genes should be at least 1, or null to keep all genes"));
        }
        let shares = [("max_fraction", params.max_fraction), ("span", params.span)];
        if let Some((name, value)) = shares.into_iter().find(|(_, value)| !(*value > 0.0 && *value <= 1.0)) {
            return Err(Error::invalid(format!("{name}: {value} should be above 0 and at most 1")));
        }
        if params.log_base.is_some_and(|base| !(base.is_finite() && base > 1.0)) {
            return Err(Error::invalid("log_base should be above 1, or null for e"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let split: Option<Split> = ctx.read_optional("split")?;
        let train = fit::rows(&table.obs.index, split.as_ref(), params.fit_on)?;
        if let Some(what) = params.fitted() {
            let what = format!("visium/normalize: {what}");
            fit::tell(ctx, &what, &table.obs.index, split.as_ref(), params.fit_on);
        }
        ctx.check_cancelled()?;
        ctx.write("table", &normalize(table, &train, &params)?)
    }
}

/// The normalised table; what is fitted is fitted on the spots at `train`.
pub(crate) fn normalize(mut table: Table, train: &[usize], params: &Params) -> Result<Table> {
    let is_odd = |value| values::is_no_amount(value) || values::is_fraction(value);
    let odd = first(&table.x, is_odd).is_some();
    if let Some(value) = odd.then(|| first(&table.x, values::is_no_amount)).flatten() {
        return Err(Error::invalid(format!("the table should hold counts, but holds {value}")));
    }
    if odd {
        tracing::warn!("the table holds fractions, not counts: is it normalised already?");
    }
    // The one flavour that looks at the counts, before they are scaled.
    let by_variance = match (params.n_top_genes, params.flavor) {
        (Some(wanted), Flavor::SeuratV3) => {
            let found = Standardised::of(&table.x, train, params.span)?;
            let top = found.top(wanted);
            let columns = [
                ("means", found.means),
                ("variances", found.variances),
                ("variances_norm", found.normalized),
            ];
            Some((top, columns))
        }
        _ => None,
    };
    let factors = factors(&table.x, train, params);

    let mut chosen = None;
    if let Some(wanted) = params.n_top_genes {
        let by_dispersion = |kind| {
            let found = Dispersions::of(&table.x, train, &factors, kind);
            let top = found.top(wanted);
            let names = ["means", "dispersions", "dispersions_norm"];
            (top, [(names[0], found.means), (names[1], found.dispersions), (names[2], found.normalized)])
        };
        let (variable, columns) = by_variance.unwrap_or_else(|| match params.flavor {
            Flavor::CellRanger => by_dispersion(Kind::CellRanger),
            Flavor::Seurat | Flavor::SeuratV3 => by_dispersion(Kind::Seurat),
        });
        let genes: Vec<usize> = (0..variable.len()).filter(|&gene| variable[gene]).collect();
        tracing::info!("{} of {} genes are highly variable", genes.len(), variable.len());
        table.var.push("highly_variable", Column::Bool(variable));
        for (name, values) in columns {
            table.var.push(name, Column::Float(values));
        }
        chosen = params.subset.then_some(genes);
    }
    // From here on of the genes that stay only: a logarithm is the dearest thing that happens to a value.
    if let Some(genes) = chosen {
        table.x = table.x.select_cols(&genes);
        table.var = table.var.into_selected(&genes);
    }
    transform(&mut table.x, &factors, params);
    Ok(table)
}

/// The first stored value of which `is_wrong` holds.
fn first(x: &Csr, is_wrong: impl Fn(f32) -> bool + Sync) -> Option<f32> {
    x.data.par_chunks(VALUES).find_map_first(|part| values::first(part, &is_wrong).map(|place| part[place]))
}

/// Values and spots that a task looks at.
const VALUES: usize = 1 << 16;
const SPOTS: usize = 256;

/// What each spot is scaled by: the sum of its counts, without those of highly expressed genes where they are excluded.
fn totals(x: &Csr, train: &[usize], params: &Params) -> Vec<f64> {
    let sum = |row: usize, counts: &dyn Fn(usize) -> bool| -> f64 {
        x.entries(row).filter(|&(gene, _)| counts(gene)).map(|(_, value)| f64::from(value)).sum()
    };
    if !params.exclude_highly_expressed {
        let total = |row| values::total(x.row(row).1);
        return (0..x.n_rows()).into_par_iter().with_min_len(SPOTS).map(total).collect();
    }
    let mut counts = vec![true; x.n_cols];
    for &row in train {
        let most = params.max_fraction * sum(row, &|_| true);
        x.entries(row)
            .filter(|&(_, value)| f64::from(value) > most)
            .for_each(|(gene, _)| counts[gene] = false);
    }
    let excluded = counts.iter().filter(|counts| !**counts).count();
    tracing::info!("{excluded} genes are highly expressed and do not count for what spots are scaled by");
    (0..x.n_rows()).into_par_iter().map(|row| sum(row, &|gene| counts[gene])).collect()
}

/// The median over the spots at `rows` that have counts at all.
fn median_total(totals: &[f64], rows: &[usize]) -> f64 {
    let mut totals: Vec<f64> = rows.iter().map(|&row| totals[row]).filter(|&total| total > 0.0).collect();
    quantile::median(&mut totals)
}

/// What the counts of each spot are multiplied by; those of a spot without counts stay as they are.
fn factors(x: &Csr, train: &[usize], params: &Params) -> Vec<f64> {
    let totals = totals(x, train, params);
    let target = params.target_sum.unwrap_or_else(|| median_total(&totals, train));
    totals.into_iter().map(|total| if total > 0.0 { target / total } else { 1.0 }).collect()
}

/// Scales each spot's counts and takes logarithms.
fn transform(x: &mut Csr, factors: &[f64], params: &Params) {
    let log_factor = params.log1p.then(|| params.log_base.map_or(1.0, |base| base.ln().recip()));
    x.rows_mut().into_par_iter().zip(factors).with_min_len(SPOTS).for_each(|(values, factor)| {
        for value in values {
            // Rounded in between, as scanpy's steps are.
            let scaled = (f64::from(*value) * factor) as f32;
            *value = match log_factor {
                Some(log_factor) => (f64::from(scaled).ln_1p() * log_factor) as f32,
                None => scaled,
            };
        }
    });
}

#[cfg(test)]
pub(crate) use tests::closed_form_logs;

#[cfg(test)]
mod tests;
