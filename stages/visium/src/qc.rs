//! Stage type `visium/qc`: leaves out spots with too few counts and genes that hardly any spot expresses.

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Csr, Metrics, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
             spot, over all genes of the input, as calculate_qc_metrics does.",
        )
        .input::<Table>("table", "Raw counts.")
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
        let kept = filter(&table, &params)?;
        ctx.check_cancelled()?;
        tracing::info!(
            "kept {} of {} spots and {} of {} genes",
            kept.n_spots(),
            table.n_spots(),
            kept.n_genes(),
            table.n_genes()
        );
        ctx.write("summary", &summary(&table, &kept))?;
        ctx.write("table", &kept)
    }
}

/// The table without the spots and genes that `params` rule out.
fn filter(table: &Table, params: &Params) -> Result<Table> {
    check_counts(table)?;
    let totals = row_totals(&table.x);
    let genes_per_spot = row_expressed(&table.x);
    let mito_shares = mito_shares(table, &totals, &params.mito_prefixes);
    let in_tissue = in_tissue(table)?;
    let spots: Vec<usize> = (0..table.n_spots())
        .filter(|&spot| {
            (!params.in_tissue_only || in_tissue[spot])
                && totals[spot] >= params.min_counts as f64
                && genes_per_spot[spot] >= params.min_genes as i64
                && params.max_counts.is_none_or(|most| totals[spot] <= most as f64)
                && params.max_genes.is_none_or(|most| genes_per_spot[spot] <= most as i64)
                && params.max_mito_share.is_none_or(|most| mito_shares[spot] <= most)
        })
        .collect();
    if spots.is_empty() {
        return Err(Error::invalid(format!(
            "none of the {} spots passes min_counts = {}, min_genes = {} and the other limits; loosen them",
            table.n_spots(),
            params.min_counts,
            params.min_genes
        )));
    }

    let mut kept = table.select_spots(&spots);
    kept.obs.push("total_counts", Column::Float(spots.iter().map(|&spot| totals[spot]).collect()));
    kept.obs.push("n_genes_by_counts", Column::Int(spots.iter().map(|&spot| genes_per_spot[spot]).collect()));

    let percent = spots.iter().map(|&spot| 100.0 * mito_shares[spot]).collect();
    kept.obs.push("pct_counts_mt", Column::Float(percent));

    let (spots_per_gene, counts_per_gene) = column_expressed(&kept.x);
    let genes: Vec<usize> = (0..kept.n_genes())
        .filter(|&gene| {
            spots_per_gene[gene] >= params.min_cells && counts_per_gene[gene] >= params.min_gene_counts as f64
        })
        .collect();
    if genes.is_empty() {
        return Err(Error::invalid(format!(
            "no gene is expressed in min_cells = {} of the {} kept spots; lower it",
            params.min_cells,
            spots.len()
        )));
    }
    Ok(if genes.len() == kept.n_genes() { kept } else { kept.select_genes(&genes) })
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

fn row_totals(x: &Csr) -> Vec<f64> {
    (0..x.n_rows()).map(|row| x.row(row).1.iter().map(|&value| f64::from(value)).sum()).collect()
}

fn row_expressed(x: &Csr) -> Vec<i64> {
    (0..x.n_rows()).map(|row| x.row(row).1.iter().filter(|&&value| value > 0.0).count() as i64).collect()
}

/// Per gene, in how many spots it is expressed, and its counts.
fn column_expressed(x: &Csr) -> (Vec<u64>, Vec<f64>) {
    let (mut spots, mut counts) = (vec![0; x.n_cols], vec![0.0; x.n_cols]);
    for (&gene, &value) in x.indices.iter().zip(&x.data).filter(|(_, value)| **value > 0.0) {
        spots[gene as usize] += 1;
        counts[gene as usize] += f64::from(value);
    }
    (spots, counts)
}

/// The share of each spot's counts that is of genes with one of the prefixes; 0 of a spot without counts.
fn mito_shares(table: &Table, totals: &[f64], prefixes: &[String]) -> Vec<f64> {
    let is_mito: Vec<bool> = table
        .var
        .index
        .iter()
        .map(|gene| prefixes.iter().any(|prefix| gene.starts_with(prefix.as_str())))
        .collect();
    let share = |spot: usize| {
        let mito = table.x.entries(spot).filter(|&(gene, _)| is_mito[gene]);
        let mito: f64 = mito.map(|(_, value)| f64::from(value)).sum();
        if totals[spot] > 0.0 { mito / totals[spot] } else { 0.0 }
    };
    (0..table.n_spots()).map(share).collect()
}

/// Refuses what cannot be a count, by spot and gene.
fn check_counts(table: &Table) -> Result<()> {
    if table.n_spots() == 0 || table.n_genes() == 0 {
        let (spots, genes) = (table.n_spots(), table.n_genes());
        return Err(Error::invalid(format!("the table is empty: it has {spots} spots and {genes} genes")));
    }
    for spot in 0..table.n_spots() {
        if let Some((gene, value)) =
            table.x.entries(spot).find(|(_, value)| !(value.is_finite() && *value >= 0.0))
        {
            let (spot, gene) = (&table.obs.index[spot], &table.var.index[gene]);
            return Err(Error::invalid(format!("spot {spot} has a count of {value} for gene {gene}")));
        }
    }
    Ok(())
}

fn summary(before: &Table, after: &Table) -> Metrics {
    let mut values = BTreeMap::new();
    for (when, table) in [("before", before), ("after", after)] {
        let mut totals = row_totals(&table.x);
        values.insert(format!("spots_{when}"), table.n_spots() as f64);
        values.insert(format!("genes_{when}"), table.n_genes() as f64);
        values.insert(format!("counts_{when}"), totals.iter().sum());
        values.insert(format!("median_counts_{when}"), crate::quantile::median(&mut totals));
    }
    Metrics { values, ..Metrics::default() }
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
    };

    #[test]
    fn with_everything_off_all_stays() {
        let kept = filter(&table(), &OFF).unwrap();
        assert_eq!(kept.obs.index, table().obs.index);
        assert_eq!(kept.x, table().x);
        assert_eq!(kept.obs.column("total_counts"), Some(&Column::Float(vec![0.0, 4.0, 12.0, 9.0])));
        assert_eq!(kept.obs.column("n_genes_by_counts"), Some(&Column::Int(vec![0, 2, 1, 3])));
    }

    #[test]
    fn each_threshold_keeps_what_reaches_it() {
        let spots = |params: Params| filter(&table(), &params).unwrap().obs.index;
        assert_eq!(spots(Params { min_counts: 9, ..OFF }), ["s_2", "s_3"]);
        assert_eq!(spots(Params { min_genes: 2, ..OFF }), ["s_1", "s_3"]);
        assert_eq!(spots(Params { in_tissue_only: true, ..OFF }), ["s_0", "s_1", "s_2"]);
    }

    #[test]
    fn each_limit_keeps_what_does_not_exceed_it() {
        let spots = |params: Params| filter(&table(), &params).unwrap().obs.index;
        assert_eq!(spots(Params { max_counts: Some(9), ..OFF }), ["s_0", "s_1", "s_3"]);
        assert_eq!(spots(Params { max_genes: Some(1), ..OFF }), ["s_0", "s_2"]);
        // Gene `c` has 4 of the last spot's 9 counts.
        let mito = || Params { max_mito_share: Some(0.4), mito_prefixes: vec!["c".into()], ..OFF };
        assert_eq!(spots(mito()), ["s_0", "s_1", "s_2"]);
        let kept = filter(&table(), &Params { max_mito_share: Some(0.5), ..mito() }).unwrap();
        assert_eq!(kept.obs.column("pct_counts_mt"), Some(&Column::Float(vec![0.0, 0.0, 0.0, 400.0 / 9.0])));
        let genes = filter(&table(), &Params { min_gene_counts: 5, ..OFF }).unwrap().var.index;
        assert_eq!(genes, ["a"]);
    }

    #[test]
    fn what_is_no_count_is_named() {
        let mut broken = table();
        broken.x.data[1] = f32::NAN;
        let problem = filter(&broken, &OFF).unwrap_err().to_string();
        assert_eq!(problem, "spot s_1 has a count of NaN for gene b");
        assert!(filter(&Table::default(), &OFF).unwrap_err().to_string().contains("the table is empty"));
    }

    #[test]
    fn genes_are_judged_on_the_kept_spots() {
        let genes = |params: Params| filter(&table(), &params).unwrap().var.index;
        assert_eq!(genes(Params { min_cells: 2, ..OFF }), ["a", "b"]);
        assert_eq!(genes(Params { min_cells: 2, min_counts: 9, ..OFF }), ["a"]);
    }

    #[test]
    fn nothing_left_is_an_error_that_names_the_param() {
        let spots = filter(&table(), &Params { min_counts: 100, ..OFF }).unwrap_err().to_string();
        assert!(spots.contains("min_counts = 100"), "{spots}");
        let genes = filter(&table(), &Params { min_cells: 5, ..OFF }).unwrap_err().to_string();
        assert!(genes.contains("min_cells = 5"), "{genes}");
    }

    #[test]
    fn the_summary_counts_before_and_after() {
        let before = table();
        let after = filter(&before, &Params { min_counts: 9, min_cells: 2, ..OFF }).unwrap();
        let values = summary(&before, &after).values;
        assert_eq!((values["spots_before"], values["spots_after"]), (4.0, 2.0));
        assert_eq!((values["genes_before"], values["genes_after"]), (3.0, 1.0));
        assert_eq!((values["counts_before"], values["counts_after"]), (25.0, 14.0));
        assert_eq!(values["median_counts_before"], 6.5);
    }
}
