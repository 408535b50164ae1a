//! Stage `visium/concat`: the tables of several sections become one.

use std::collections::{HashMap, HashSet};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Categorical, Column, Csr, Frame, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `visium/concat`
pub(crate) struct Concat;

/// Which genes the result has.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// `inner` keeps the genes that every table has; `outer` keeps all, with zero counts where a table lacks one.
    /// Default: `inner`.
    join: Join,
}

/// How gene lists are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Join {
    /// The genes of every table, in the order of the first.
    #[default]
    Inner,
    /// The genes of any table, in order of appearance.
    Outer,
}

impl Stage for Concat {
    const NAME: &'static str = "concat";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new("Stacks the spots of several tables, joined by gene name.")
            .many::<Table>("tables", "Tables of different sections; spot ids must be unique over all.")
            .output::<Table>(
                "table",
                "All spots, in the order of the inputs; images and scale factors of every section.",
            )
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let tables = ctx.read_all::<Table>("tables")?;
        ctx.check_cancelled()?;
        ctx.write("table", &concat(tables, params.join)?)
    }
}

fn concat(mut tables: Vec<Table>, join: Join) -> Result<Table> {
    check_spots(&tables)?;
    let genes = joined_genes(&tables, join);
    if genes.is_empty() && tables.iter().any(|table| table.n_genes() > 0) {
        return Err(Error::invalid(
            "the tables have no gene in common: do all name genes by symbol, of one species?",
        ));
    }
    let place: HashMap<&str, i32> = genes.iter().map(String::as_str).zip(0..).collect();
    let x = Csr::from_rows(genes.len(), tables.iter().flat_map(|table| rows(table, &place)));
    let obs = stacked(tables.iter().map(|table| &table.obs).collect());
    let var = annotated(genes, &tables);
    let spatial = tables.iter().flat_map(|table| table.spatial.iter().copied()).collect();
    let mut libraries = std::collections::BTreeMap::new();
    for (section, library) in tables.iter_mut().flat_map(|table| std::mem::take(&mut table.libraries)) {
        if libraries.get(&section).is_some_and(|other| *other != library) {
            return Err(Error::invalid(format!(
                "two tables have different images or scales of section `{section}`"
            )));
        }
        libraries.insert(section, library);
    }
    Ok(Table { x, obs, var, spatial, libraries })
}

fn check_spots(tables: &[Table]) -> Result<()> {
    let mut seen = HashSet::new();
    match tables.iter().flat_map(|table| &table.obs.index).find(|spot| !seen.insert(spot.as_str())) {
        Some(spot) => Err(Error::invalid(format!(
            "spot `{spot}` is in two tables: connect each section once, and give each a `section` name of its own"
        ))),
        None => Ok(()),
    }
}

fn joined_genes(tables: &[Table], join: Join) -> Vec<String> {
    match join {
        Join::Inner => {
            let mut tables = tables.iter();
            let first = tables.next().map_or(&[][..], |table| &table.var.index);
            let others: Vec<HashSet<&String>> =
                tables.map(|table| table.var.index.iter().collect()).collect();
            first.iter().filter(|gene| others.iter().all(|other| other.contains(gene))).cloned().collect()
        }
        Join::Outer => {
            let mut seen = HashSet::new();
            tables
                .iter()
                .flat_map(|table| &table.var.index)
                .filter(|gene| seen.insert(*gene))
                .cloned()
                .collect()
        }
    }
}

/// A table's rows with each gene at its place in the result.
fn rows<'a>(table: &'a Table, place: &HashMap<&str, i32>) -> impl Iterator<Item = Vec<(i32, f32)>> + use<'a> {
    let places: Vec<Option<i32>> =
        table.var.index.iter().map(|gene| place.get(gene.as_str()).copied()).collect();
    (0..table.n_spots()).map(move |spot| {
        table.x.entries(spot).filter_map(|(gene, value)| Some((places[gene]?, value))).collect()
    })
}

/// The rows of all frames, with the columns that all of them have.
fn stacked(frames: Vec<&Frame>) -> Frame {
    let index = frames.iter().flat_map(|frame| frame.index.iter().cloned()).collect();
    let names = frames.first().map_or(&[][..], |frame| &frame.columns).iter().map(|(name, _)| name);
    let mut columns = Vec::new();
    for name in names {
        let parts: Option<Vec<&Column>> = frames.iter().map(|frame| frame.column(name)).collect();
        match parts.and_then(stacked_column) {
            Some(column) => columns.push((name.clone(), column)),
            None => tracing::warn!("column `{name}` is not of one kind in every table, so it is left out"),
        }
    }
    Frame { index, columns }
}

/// The values of all parts, if they are of one kind.
fn stacked_column(parts: Vec<&Column>) -> Option<Column> {
    macro_rules! stack {
        ($kind:ident) => {{
            let mut all = Vec::new();
            for part in parts {
                let Column::$kind(values) = part else { return None };
                all.extend_from_slice(values);
            }
            Column::$kind(all)
        }};
    }
    Some(match parts.first()? {
        Column::Text(_) => stack!(Text),
        Column::Float(_) => stack!(Float),
        Column::Int(_) => stack!(Int),
        Column::Bool(_) => stack!(Bool),
        Column::Categorical(_) => {
            let mut all = Vec::new();
            for part in parts {
                let Column::Categorical(values) = part else { return None };
                all.extend(values.iter());
            }
            Column::Categorical(Categorical::encode(all))
        }
    })
}

/// The genes with the columns about which all tables agree (`gene_ids` do, `highly_variable` rarely does).
fn annotated(genes: Vec<String>, tables: &[Table]) -> Frame {
    let places: Vec<HashMap<&str, usize>> =
        tables.iter().map(|table| table.var.index.iter().map(String::as_str).zip(0..).collect()).collect();
    // Each gene's rows in the stacked frame of all genes of all tables.
    let mut offset = 0;
    let mut offsets = Vec::new();
    for table in tables {
        offsets.push(offset);
        offset += table.n_genes();
    }
    let rows_of = |gene: &String| -> Vec<usize> {
        let row =
            |(places, offset): (&HashMap<&str, usize>, &usize)| Some(offset + places.get(gene.as_str())?);
        places.iter().zip(&offsets).filter_map(row).collect()
    };
    let rows: Vec<Vec<usize>> = genes.iter().map(rows_of).collect();
    let all = stacked(tables.iter().map(|table| &table.var).collect());
    let nth = |n: usize| -> Vec<usize> {
        rows.iter().filter_map(|rows| rows.get(n).or(rows.first())).copied().collect()
    };
    let agrees =
        |column: &Column| (1..tables.len()).all(|n| column.select(&nth(n)) == column.select(&nth(0)));
    let columns = all.columns.iter().filter(|(_, column)| agrees(column));
    let columns = columns.map(|(name, column)| (name.clone(), column.select(&nth(0)))).collect();
    Frame { index: genes, columns }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(section: &str, genes: &[&str], counts: &[Vec<(i32, f32)>]) -> Table {
        let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let spots = counts.len();
        let sections = Column::Categorical(Categorical::encode(vec![Some(section); spots]));
        let ids = genes.iter().map(|gene| format!("ENS-{gene}")).collect();
        let rank = genes.iter().enumerate().map(|(rank, _)| rank as i64).collect();
        Table {
            x: Csr::from_rows(genes.len(), counts.iter().cloned()),
            obs: Frame {
                index: (0..spots).map(|spot| format!("{section}_{spot}")).collect(),
                columns: vec![("section".into(), sections)],
            },
            var: Frame {
                index: texts(genes),
                columns: vec![("gene_ids".into(), Column::Text(ids)), ("rank".into(), Column::Int(rank))],
            },
            spatial: vec![[1.0, 2.0]; spots],
            libraries: [(section.to_owned(), Default::default())].into(),
        }
    }

    fn two() -> Vec<Table> {
        let first = table("A", &["x", "y", "z"], &[vec![(0, 1.0), (1, 2.0), (2, 3.0)], vec![]]);
        let second = table("B", &["z", "w", "x"], &[vec![(0, 4.0), (1, 5.0)]]);
        vec![first, second]
    }

    fn dense(table: &Table) -> Vec<Vec<f32>> {
        let row = |spot| {
            let mut row = vec![0.0; table.n_genes()];
            table.x.dense_row(spot, &mut row);
            row
        };
        (0..table.n_spots()).map(row).collect()
    }

    #[test]
    fn inner_keeps_shared_genes_in_the_first_order() {
        let table = concat(two(), Join::Inner).unwrap();
        assert_eq!(table.var.index, ["x", "z"]);
        assert_eq!(dense(&table), [vec![1.0, 3.0], vec![0.0, 0.0], vec![0.0, 4.0]]);
        assert_eq!(table.obs.index, ["A_0", "A_1", "B_0"]);
        assert_eq!((table.section(1), table.section(2)), (Some("A"), Some("B")));
        assert_eq!(table.libraries.keys().collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(table.spatial.len(), 3);
    }

    #[test]
    fn outer_keeps_all_genes() {
        let table = concat(two(), Join::Outer).unwrap();
        assert_eq!(table.var.index, ["x", "y", "z", "w"]);
        assert_eq!(dense(&table)[2], [0.0, 0.0, 4.0, 5.0]);
        assert_eq!(table.var.text("gene_ids").unwrap()[3], "ENS-w");
    }

    #[test]
    fn only_gene_columns_that_agree_stay() {
        let names =
            |table: &Table| table.var.columns.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&concat(two(), Join::Inner).unwrap()), ["gene_ids"]);
        let one = concat(two().into_iter().take(1).collect(), Join::Inner).unwrap();
        assert_eq!(one, two()[0]);
    }

    #[test]
    fn a_spot_in_two_tables_is_refused() {
        let twice = vec![two().remove(0), two().remove(0)];
        assert!(concat(twice, Join::Inner).unwrap_err().to_string().contains("spot `A_0` is in two tables"));
        let apart = vec![table("A", &["x"], &[vec![]]), table("B", &["y"], &[vec![]])];
        assert!(concat(apart, Join::Inner).unwrap_err().to_string().contains("no gene in common"));
    }
}
