//! Stage type `visium/section`, and the artifact of `section` ports: a section as SpatialData has it, which napari and
//! spatialdata-plot open.

pub(crate) mod shapes;
mod write;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Categorical, Column, Embedding, Image, Labels, Predictions, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use write::Section;

/// The stage type.
pub(crate) struct MakeSection;

/// Params of `visium/section`: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {}

impl Stage for MakeSection {
    const NAME: &'static str = "section";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Puts what is known of one or more sections into one SpatialData: counts, image, spots as circles, regions, \
             predictions and embedding. For looking at it in napari or with spatialdata-plot.",
        )
        .input::<Table>("table", "Spots x genes, of one section or several.")
        .optional_many::<Image>("images", "Images of its sections.")
        .optional_many::<Labels>("labels", "Regions: the column `label` of `obs`.")
        .optional_many::<Predictions>(
            "predictions",
            "The columns `prediction` and `probability_<region>` of `obs`.",
        )
        .optional::<Embedding>("embedding", "`embedding` of `obsm`; all zeros for spots that it lacks.")
        .output::<Section>("section", "The SpatialData.")
    }

    fn run(_: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let path = ctx.inputs("table").first().cloned().unwrap_or_default();
        let mut section = Section::new(path, &table, ctx.inputs("images").to_vec())?;
        let labels: Vec<Labels> = ctx.read_all("labels")?;
        // Without an annotation `visium/load` gives labels of no spot.
        if labels.iter().any(|labels| !labels.spots.is_empty()) {
            let all = labels.iter().flat_map(|labels| labels.spots.iter().zip(&labels.regions));
            let regions: std::collections::HashMap<&String, &Option<String>> = all.collect();
            found("labels", table.obs.index.iter().filter(|spot| regions.contains_key(spot)).count())?;
            let of = |spot| regions.get(spot).and_then(|region| region.as_deref());
            let column = Categorical::encode(table.obs.index.iter().map(of));
            section.obs.push("label", Column::Categorical(column));
        }
        let predictions: Vec<Predictions> = ctx.read_all("predictions")?;
        if !predictions.is_empty() {
            add_predictions(&mut section, &table, &predictions)?;
        }
        if let Some(embedding) = ctx.read_optional::<Embedding>("embedding")? {
            let positions = embedding.positions();
            let rows: Vec<Option<usize>> =
                table.obs.index.iter().map(|spot| positions.get(spot.as_str()).copied()).collect();
            found("embedding", rows.iter().flatten().count())?;
            let zeros = vec![0.0; embedding.dims];
            let row = |row: &Option<usize>| row.map_or(&zeros[..], |row| embedding.row(row)).to_vec();
            section.embedding = Some((embedding.dims, rows.iter().flat_map(row).collect()));
        }
        ctx.check_cancelled()?;
        ctx.write("section", &section)
    }
}

/// Refuses an input that says nothing of the table's spots.
fn found(input: &str, spots: usize) -> Result<()> {
    if spots > 0 {
        return Ok(());
    }
    Err(Error::invalid(format!("`{input}` has none of the table's spots: is it of other sections?")))
}

/// A fold predicts some of the spots; where two speak of one, the later one holds.
fn add_predictions(section: &mut Section, table: &Table, predictions: &[Predictions]) -> Result<()> {
    let spots = &table.obs.index;
    let positions: Vec<_> = predictions.iter().map(Predictions::positions).collect();
    let place = |spot: &String| {
        let mut places = positions.iter().zip(predictions).rev();
        places.find_map(|(positions, of)| Some((of, *positions.get(spot.as_str())?)))
    };
    let places: Vec<Option<(&Predictions, usize)>> = spots.iter().map(place).collect();
    found("predictions", places.iter().flatten().count())?;
    let predicted = places.iter().map(|place| place.map(|(of, row)| of.predicted(row)));
    section.obs.push("prediction", Column::Categorical(Categorical::encode(predicted)));
    let classes: std::collections::BTreeSet<&String> =
        predictions.iter().flat_map(|of| &of.classes).collect();
    for class in classes {
        let probability = |place: &Option<(&Predictions, usize)>| {
            let (of, row) = (*place)?;
            let column = of.classes.iter().position(|known| known == class)?;
            Some(f64::from(of.row(row)[column]))
        };
        let values = places.iter().map(|place| probability(place).unwrap_or(f64::NAN)).collect();
        section.obs.push(format!("probability_{class}"), Column::Float(values));
    }
    Ok(())
}

/// Writes the `section` output of a stage that wrote `table` and `image` just now.
pub(crate) fn of_outputs(ctx: &Context, table: &Table) -> Result<()> {
    let images: Vec<PathBuf> = vec![ctx.output("image")?.to_owned()];
    ctx.write("section", &Section::new(ctx.output("table")?.to_owned(), table, images)?)
}
