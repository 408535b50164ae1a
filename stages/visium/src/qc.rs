//! Stage type `visium/qc`: leaves out spots with too few counts and genes that hardly any spot expresses.

use std::collections::BTreeMap;

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Csr, Metrics, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns,
    fit::{self, FitOn},
    values,
};

/// The stage type.
pub(crate) struct Qc;

/// Params of `visium/qc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// A spot is kept if it has at least this many counts, over all genes. Default 10; 0 = off.
    pub(crate) min_counts: u64,
    /// A spot is kept if at least this many genes are expressed in it. Default 0 = off.
    pub(crate) min_genes: u64,
    /// A spot is kept if it has at most this many counts; null = off. Default null.
    pub(crate) max_counts: Option<u64>,
    /// A spot is kept if at most this many genes are expressed in it; null = off. Default null.
    pub(crate) max_genes: Option<u64>,
    /// A spot is kept if at most this share (0 to 1) of its counts is of mitochondrial genes; null = off. Default null.
    pub(crate) max_mito_share: Option<f64>,
    /// How names of mitochondrial genes begin. Default `MT-` and `mt-`, for human and mouse.
    pub(crate) mito_prefixes: Vec<String>,
    /// A gene is kept if at least this many of the kept spots express it. Default 3; 0 = off.
    pub(crate) min_cells: u64,
    /// A gene is kept if it has at least this many counts in the kept spots. Default 0 = off.
    pub(crate) min_gene_counts: u64,
    /// Leave out spots that lie beside the tissue (`in_tissue` = 0), where the table says so. Default true.
    pub(crate) in_tissue_only: bool,
    /// Which spots `min_cells` and `min_gene_counts` count, where a split is connected. Default `train`.
    pub(crate) fit_on: FitOn,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            min_counts: 10,
            min_genes: 0,
            max_counts: None,
            max_genes: None,
            max_mito_share: None,
            mito_prefixes: vec!["MT-".into(), "mt-".into()],
            min_cells: 3,
            min_gene_counts: 0,
            in_tissue_only: true,
            fit_on: FitOn::Train,
        }
    }
}

impl Stage for Qc {
    const NAME: &'static str = "qc";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Leaves out poor spots, then genes that hardly any remaining spot expresses, in scanpy's order: \
             filter_cells, then filter_genes. Adds `total_counts`, `n_genes_by_counts` and `pct_counts_mt` per \
             spot, over all genes of the input, as calculate_qc_metrics does. Spots are judged one by one; genes on the \
             training spots where a split is connected.",
        )
        .input::<Table>("table", "Raw counts.")
        .optional::<Split>("split", "Which spots train: genes are judged on them only.")
        .output::<Table>("table", "The spots and genes that are kept.")
        .output::<Metrics>("summary", "How many spots, genes and counts there were and are.")
    }

    fn validate(params: &Params) -> Result<()> {
        match params.max_mito_share {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(Error::invalid(format!("max_mito_share: {share} should be a share, from 0 to 1")))
            }
            _ => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let split: Option<Split> = ctx.read_optional("split")?;
        if split.is_some() {
            let spots = &table.obs.index;
            fit::tell(ctx, "visium/qc: genes are judged", spots, split.as_ref(), params.fit_on);
        }
        let train = fit::rows(&table.obs.index, split.as_ref(), params.fit_on)?;
        let (kept, summary) = filter(table, &train, &params)?;
        ctx.check_cancelled()?;
        tracing::info!(
            "kept {} of {} spots and {} of {} genes",
            kept.n_spots(),
            summary["spots_before"],
            kept.n_genes(),
            summary["genes_before"]
        );
        ctx.write("summary", &Metrics { values: summary, ..Metrics::default() })?;
        ctx.write("table", &kept)
    }
}

/// The table without the spots and genes that `params` rule out, and how much there was and is; genes are judged on what is
/// kept of the spots at `train`, which ascend.
pub(crate) fn filter(
    table: Table,
    train: &[usize],
    params: &Params,
) -> Result<(Table, BTreeMap<String, f64>)> {
    let spots = of_spots(&table, &params.mito_prefixes)?;
    let in_tissue = in_tissue(&table)?;
    let kept: Vec<usize> = (0..table.n_spots())
        .filter(|&spot| {
            let Spot { total, genes, mito } = spots[spot];
            (!params.in_tissue_only || in_tissue[spot])
                && total >= params.min_counts as f64
                && genes >= params.min_genes as i64
                && params.max_counts.is_none_or(|most| total <= most as f64)
                && params.max_genes.is_none_or(|most| genes <= most as i64)
                && params.max_mito_share.is_none_or(|most| share(mito, total) <= most)
        })
        .collect();
    if kept.is_empty() {
        return Err(Error::invalid(format!(
            "none of the {} spots passes min_counts = {}, min_genes = {} and the other limits; loosen them",
            table.n_spots(),
            params.min_counts,
            params.min_genes
        )));
    }
    let genes_before = table.n_genes();
    let judged: Vec<usize> = kept.iter().copied().filter(|spot| train.binary_search(spot).is_ok()).collect();
    let of_genes = of_genes(&table.x, &judged);
    let genes: Vec<usize> = (0..genes_before)
        .filter(|&gene| {
            of_genes[gene].spots >= params.min_cells && of_genes[gene].counts >= params.min_gene_counts as f64
        })
        .collect();
    if genes.is_empty() {
        return Err(Error::invalid(format!(
            "no gene is expressed in min_cells = {} of the {} kept spots that genes are judged on; lower it",
            params.min_cells,
            judged.len()
        )));
    }
    let mut table = table.into_selected(&kept, &genes);
    let mut summary = summary("before", spots.iter().map(|spot| spot.total).collect(), genes_before);
    summary.extend(self::summary("after", row_totals(&table.x), table.n_genes()));
    let spots: Vec<Spot> = kept.into_iter().map(|spot| spots[spot]).collect();
    table.obs.push("total_counts", Column::Float(spots.iter().map(|spot| spot.total).collect()));
    table.obs.push("n_genes_by_counts", Column::Int(spots.iter().map(|spot| spot.genes).collect()));
    let percent = spots.iter().map(|spot| 100.0 * share(spot.mito, spot.total)).collect();
    table.obs.push("pct_counts_mt", Column::Float(percent));
    Ok((table, summary))
}

/// Per spot whether it lies on tissue; all do in a table that does not say.
fn in_tissue(table: &Table) -> Result<Vec<bool>> {
    match table.obs.column("in_tissue") {
        None => Ok(vec![true; table.n_spots()]),
        Some(Column::Bool(flags)) => Ok(flags.clone()),
        Some(Column::Int(flags)) => Ok(flags.iter().map(|&flag| flag != 0).collect()),
        Some(_) => Err(Error::invalid("the column `in_tissue` of the table should hold 0 and 1")),
    }
}

/// What a spot has.
#[derive(Debug, Clone, Copy)]
struct Spot {
    /// Counts.
    total: f64,
    /// Genes with counts.
    genes: i64,
    /// Counts of mitochondrial genes.
    mito: f64,
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// What each spot has; refuses what cannot be a count, by spot and gene.
fn of_spots(table: &Table, mito_prefixes: &[String]) -> Result<Vec<Spot>> {
    if table.n_spots() == 0 || table.n_genes() == 0 {
        let (spots, genes) = (table.n_spots(), table.n_genes());
        return Err(Error::invalid(format!("the table is empty: it has {spots} spots and {genes} genes")));
    }
    let is_mito: Vec<bool> = table
        .var
        .index
        .iter()
        .map(|gene| mito_prefixes.iter().any(|prefix| gene.starts_with(prefix.as_str())))
        .collect();
    let has_mito = is_mito.contains(&true);
    let spot = |spot: usize| {
        let (genes, values) = table.x.row(spot);
        if let Some(wrong) = values::first(values, values::is_no_amount) {
            let (name, gene) = (&table.obs.index[spot], &table.var.index[genes[wrong] as usize]);
            return Err(Error::invalid(format!(
                "spot {name} has a count of {} for gene {gene}",
                values[wrong]
            )));
        }
        let mut mito = 0.0;
        if has_mito {
            let counts = genes.iter().zip(values).filter(|(gene, _)| is_mito[**gene as usize]);
            mito = counts.map(|(_, &value)| f64::from(value)).sum();
        }
        let expressed: u32 = values.iter().map(|&value| u32::from(value > 0.0)).sum();
        Ok(Spot { total: values::total(values), genes: expressed.into(), mito })
    };
    (0..table.n_spots()).into_par_iter().with_min_len(SPOTS).map(spot).collect()
}

/// Spots that a task looks at.
const SPOTS: usize = 256;

fn row_totals(x: &Csr) -> Vec<f64> {
    (0..x.n_rows()).into_par_iter().with_min_len(SPOTS).map(|row| values::total(x.row(row).1)).collect()
}

/// What a gene has in some spots.
#[derive(Debug, Clone, Copy, Default)]
struct Gene {
    /// Spots that express it.
    spots: u64,
    /// Its counts.
    counts: f64,
}

fn of_genes(x: &Csr, spots: &[usize]) -> Vec<Gene> {
    columns::fold(
        x,
        spots,
        |gene: &mut Gene, _, value| {
            gene.spots += u64::from(value > 0.0);
            gene.counts += f64::from(value);
        },
        |all, part| {
            all.spots += part.spots;
            all.counts += part.counts;
        },
    )
}

fn summary(when: &str, mut totals: Vec<f64>, genes: usize) -> BTreeMap<String, f64> {
    [
        ("spots", totals.len() as f64),
        ("genes", genes as f64),
        ("counts", totals.iter().sum()),
        ("median_counts", crate::quantile::median(&mut totals)),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{name}_{when}"), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Frame;

    use super::*;

    /// Four spots of 0, 4, 12, 9 counts over three genes; the last spot lies beside the tissue.
    fn table() -> Table {
        let rows = [vec![], vec![(0, 3.0), (1, 1.0)], vec![(0, 12.0)], vec![(0, 2.0), (1, 3.0), (2, 4.0)]];
        let mut obs = Frame { index: (0..4).map(|spot| format!("s_{spot}")).collect(), ..Frame::default() };
        obs.push("in_tissue", Column::Int(vec![1, 1, 1, 0]));
        Table {
            x: Csr::from_rows(3, rows),
            obs,
            var: Frame { index: ["a", "b", "c"].map(str::to_owned).into(), ..Frame::default() },
            spatial: vec![[0.0; 2]; 4],
            ..Table::default()
        }
    }

    const OFF: Params = Params {
        min_counts: 0,
        min_genes: 0,
        max_counts: None,
        max_genes: None,
        max_mito_share: None,
        mito_prefixes: Vec::new(),
        min_cells: 0,
        min_gene_counts: 0,
        in_tissue_only: false,
        fit_on: FitOn::Train,
    };

    fn filter_all(table: Table, params: &Params) -> Result<(Table, BTreeMap<String, f64>)> {
        let every: Vec<usize> = (0..table.n_spots()).collect();
        filter(table, &every, params)
    }

    fn kept(table: Table, params: &Params) -> Table {
        filter_all(table, params).unwrap().0
    }

    #[test]
    fn with_everything_off_all_stays() {
        let kept = kept(table(), &OFF);
        assert_eq!(kept.obs.index, table().obs.index);
        assert_eq!(kept.x, table().x);
        assert_eq!(kept.obs.column("total_counts"), Some(&Column::Float(vec![0.0, 4.0, 12.0, 9.0])));
        assert_eq!(kept.obs.column("n_genes_by_counts"), Some(&Column::Int(vec![0, 2, 1, 3])));
    }

    #[test]
    fn each_threshold_keeps_what_reaches_it() {
        let spots = |params: Params| kept(table(), &params).obs.index;
        assert_eq!(spots(Params { min_counts: 9, ..OFF }), ["s_2", "s_3"]);
        assert_eq!(spots(Params { min_genes: 2, ..OFF }), ["s_1", "s_3"]);
        assert_eq!(spots(Params { in_tissue_only: true, ..OFF }), ["s_0", "s_1", "s_2"]);
    }

    #[test]
    fn each_limit_keeps_what_does_not_exceed_it() {
        let spots = |params: Params| kept(table(), &params).obs.index;
        assert_eq!(spots(Params { max_counts: Some(9), ..OFF }), ["s_0", "s_1", "s_3"]);
        assert_eq!(spots(Params { max_genes: Some(1), ..OFF }), ["s_0", "s_2"]);
        // Gene `c` has 4 of the last spot's 9 counts.
        let mito = || Params { max_mito_share: Some(0.4), mito_prefixes: vec!["c".into()], ..OFF };
        assert_eq!(spots(mito()), ["s_0", "s_1", "s_2"]);
        let kept = kept(table(), &Params { max_mito_share: Some(0.5), ..mito() });
        assert_eq!(kept.obs.column("pct_counts_mt"), Some(&Column::Float(vec![0.0, 0.0, 0.0, 400.0 / 9.0])));
        let genes = self::kept(table(), &Params { min_gene_counts: 5, ..OFF }).var.index;
        assert_eq!(genes, ["a"]);
    }

    #[test]
    fn what_is_no_count_is_named() {
        let mut broken = table();
        broken.x.data[1] = f32::NAN;
        let problem = filter_all(broken, &OFF).unwrap_err().to_string();
        assert_eq!(problem, "spot s_1 has a count of NaN for gene b");
        assert!(filter_all(Table::default(), &OFF).unwrap_err().to_string().contains("the table is empty"));
    }

    #[test]
    fn genes_are_judged_on_the_kept_spots() {
        let genes = |params: Params| kept(table(), &params).var.index;
        assert_eq!(genes(Params { min_cells: 2, ..OFF }), ["a", "b"]);
        assert_eq!(genes(Params { min_cells: 2, min_counts: 9, ..OFF }), ["a"]);
    }

    #[test]
    fn genes_are_judged_on_training_spots_only() {
        let (kept, summary) = filter(table(), &[0, 1, 2], &Params { min_cells: 1, ..OFF }).unwrap();
        // The last spot alone expresses `c`; it stays, and `c` goes.
        assert_eq!(
            (kept.var.index, kept.obs.index.len(), summary["genes_after"]),
            (vec!["a".into(), "b".into()], 4, 2.0)
        );
        let problem = filter(table(), &[0], &Params { min_cells: 1, ..OFF }).unwrap_err().to_string();
        assert!(problem.contains("of the 1 kept spots that genes are judged on"), "{problem}");
    }

    #[test]
    fn nothing_left_is_an_error_that_names_the_param() {
        let spots = filter_all(table(), &Params { min_counts: 100, ..OFF }).unwrap_err().to_string();
        assert!(spots.contains("min_counts = 100"), "{spots}");
        let genes = filter_all(table(), &Params { min_cells: 5, ..OFF }).unwrap_err().to_string();
        assert!(genes.contains("min_cells = 5"), "{genes}");
    }

    #[test]
    fn the_summary_counts_before_and_after() {
        let (_, values) = filter_all(table(), &Params { min_counts: 9, min_cells: 2, ..OFF }).unwrap();
        assert_eq!((values["spots_before"], values["spots_after"]), (4.0, 2.0));
        assert_eq!((values["genes_before"], values["genes_after"]), (3.0, 1.0));
        assert_eq!((values["counts_before"], values["counts_after"]), (25.0, 14.0));
        assert_eq!(values["median_counts_before"], 6.5);
    }
}
