//! `classify/coordinates`: where a spot lies, as if that were a feature.

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// x and y of each spot within its section.
pub enum Coordinates {}

/// `classify/coordinates` has no params.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {}

impl Stage for Coordinates {
    const NAME: &'static str = "coordinates";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "x and y of each spot, brought to mean 0 and variance 1 within its section. A classifier on them knows nothing of the \
             tissue: one that does not beat it has learnt where regions lie, or the split lets it.",
        )
        .input::<Table>("table", "the spots, with their coordinates and `section`")
        .output::<Embedding>("embedding", "x and y of every spot of the table")
    }

    fn run(_: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        ctx.named_only("table");
        let embedding = coordinates(&table)?;
        embedding.write_named(ctx.output("embedding")?, &["x".into(), "y".into()])
    }
}

/// Places of the spots of each section.
///
/// # Errors
/// If the table does not say which section a spot is of.
pub(crate) fn sections(table: &Table) -> Result<BTreeMap<&str, Vec<usize>>> {
    let column = table.obs.categorical("section")?;
    let mut sections = BTreeMap::<&str, Vec<usize>>::new();
    for (spot, section) in column.iter().enumerate() {
        let section = section.ok_or_else(|| {
            Error::invalid(format!(
                "spot `{}` has no section: set it where the section is loaded",
                table.obs.index[spot]
            ))
        })?;
        sections.entry(section).or_default().push(spot);
    }
    Ok(sections)
}

/// Refuses spots whose place is not known.
///
/// # Errors
/// If there is one.
pub(crate) fn check_places(table: &Table) -> Result<()> {
    match table.spatial.iter().position(|place| !place.iter().all(|x| x.is_finite())) {
        Some(spot) => Err(Error::invalid(format!(
            "spot `{}` has no finite coordinates: leave it out with visium/qc, or mend its positions",
            table.obs.index[spot]
        ))),
        None => Ok(()),
    }
}

fn coordinates(table: &Table) -> Result<Embedding> {
    check_places(table)?;
    let mut values = vec![0.0_f32; 2 * table.n_spots()];
    for spots in sections(table)?.values() {
        for axis in 0..2 {
            let place = |spot: usize| table.spatial[spot][axis];
            let mean = spots.iter().map(|&spot| place(spot)).sum::<f64>() / spots.len() as f64;
            let square = |&spot: &usize| (place(spot) - mean).powi(2);
            let deviation = (spots.iter().map(square).sum::<f64>() / spots.len() as f64).sqrt();
            for &spot in spots {
                let z = if deviation > 0.0 { (place(spot) - mean) / deviation } else { 0.0 };
                values[2 * spot + axis] = z as f32;
            }
        }
    }
    Ok(Embedding { spots: table.obs.index.clone(), dims: 2, values })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, table};

    #[test]
    fn each_section_is_its_own_measure() {
        let mut table = table(&[("A", "P"), ("B", "P"), ("A", "P"), ("B", "P"), ("C", "Q")]);
        table.spatial = vec![[0.0, 5.0], [100.0, 1000.0], [4.0, 5.0], [300.0, 3000.0], [7.0, 7.0]];
        let found: Embedding =
            Bench::new().input("table", &table).run::<Coordinates>(json!({})).unwrap().output("embedding");
        assert_eq!((found.dims, &found.spots), (2, &table.obs.index));
        assert_eq!(found.values, [-1.0, 0.0, -1.0, -1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_spot_without_a_place_is_named() {
        let mut table = table(&[("A", "P"), ("A", "P")]);
        table.spatial[1][0] = f64::NAN;
        let error = coordinates(&table).unwrap_err().to_string();
        assert!(error.starts_with("spot `A_1` has no finite coordinates"), "{error}");
    }
}
