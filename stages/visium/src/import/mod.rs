//! Stage type `visium/import`: a table that Python wrote — `.h5ad`, AnnData-Zarr, or a SpatialData-Zarr — with its image
//! and regions.

mod affine;
mod anndata;
mod spatialdata;
pub(crate) mod tree;

#[cfg(test)]
mod tests;

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Categorical, Column, Frame, Image, Labels, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    load::{check_name, undetermined},
    section,
};
use anndata::{AnnData, Choice};

/// The stage type.
pub(crate) struct Import;

/// Params of `visium/import`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The `.h5ad` file, or the folder of an AnnData-Zarr or SpatialData-Zarr.
    path: InputPath,
    /// Name of the section, unique in the workflow: spot ids are `<section>_<name in the file>`.
    section: String,
    /// Column of `obs` that says which section a spot is of, in a file of several (`library_id`): those of `section` are read.
    /// Default: all are.
    #[serde(default)]
    section_column: Option<String>,
    /// Patient (donor) that the section is from. Default: what the column `patient` says, where that is one, else the section's
    /// name.
    #[serde(default)]
    patient: Option<String>,
    /// Where the counts stand: null = `X`; `raw` = the file's `raw`; else the name of a layer. Default null.
    #[serde(default)]
    layer: Option<String>,
    /// Which table of a SpatialData. Default: its only one.
    #[serde(default)]
    table: Option<String>,
    /// Which image of a SpatialData. Default: the largest that lies as the spots do.
    #[serde(default)]
    image: Option<String>,
    /// Name of the coordinates in `obsm`: x, y in full-resolution pixels. Default `spatial`. A SpatialData without them has
    /// the spots where its shapes are.
    #[serde(default = "spatial")]
    coordinates: String,
    /// Column of `obs` with the pathologist's regions; it goes to the port `labels` and leaves the table. Default:
    /// none, and `labels` is empty.
    #[serde(default)]
    regions: Option<String>,
    /// Regions that mean "seen but not assigned", as for `visium/load`. Default: `[undetermined]`.
    #[serde(default = "undetermined")]
    undetermined: Vec<String>,
}

fn spatial() -> String {
    "spatial".into()
}

impl Stage for Import {
    const NAME: &'static str = "import";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Reads a section that Python's tools wrote: `.h5ad`, AnnData-Zarr (version 2 or 3) or a table of a \
             SpatialData-Zarr. Elements that a table has no place for are left out, and named in the log.",
        )
        .output::<Table>("table", "Spots x genes with coordinates, images and scale factors.")
        .output::<Image>("image", "Of a SpatialData the image; else `hires`, else `lowres`, else one of no pixels.")
        .output::<Labels>("labels", "The region of each spot; empty without `regions`.")
        .output::<section::Section>("section", "The same as a SpatialData: table, image, and the spots as circles.")
    }

    fn validate(params: &Params) -> Result<()> {
        check_name("section", &params.section)?;
        params.patient.as_deref().map_or(Ok(()), |patient| check_name("patient", patient))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let read = read(&params)?;
        ctx.check_cancelled()?;
        tracing::info!("{}: {} spots x {} genes", params.section, read.table.n_spots(), read.table.n_genes());
        match &read.image {
            Some(image) => image.copy(ctx.output("image")?, ctx)?,
            None => ctx.write("image", &crate::load::best_image(&read.table, &params.section))?,
        }
        ctx.write("labels", &read.labels)?;
        ctx.write("table", &read.table)?;
        section::of_outputs(ctx, &read.table)
    }
}

struct Section {
    table: Table,
    /// Of a SpatialData; else the table has it.
    image: Option<spatialdata::Found>,
    labels: Labels,
}

fn read(params: &Params) -> Result<Section> {
    let path = params.path.as_path();
    let tree = tree::open(path)?;
    let choice = Choice {
        path,
        regions: params.regions.as_ref(),
        layer: params.layer.as_deref(),
        table: params.table.as_deref(),
        coordinates: &params.coordinates,
        section: &params.section,
        of_several: params.section_column.is_some(),
    };
    let AnnData { mut x, mut obs, mut var, mut spatial, library, places } = anndata::read(&*tree, &choice)?;
    if let Some(rows) = rows_of_section(&obs, params)? {
        (x, obs) = (x.select_rows(&rows), obs.into_selected(&rows));
        spatial = rows.iter().map(|&row| spatial[row]).collect();
    }
    let regions = params.regions.as_deref().map(|name| take_regions(&mut obs, name, path)).transpose()?;
    let mut library = library;
    let mut image = None;
    if let Some(places) = places {
        image = spatialdata::image(path, params.image.as_deref(), &params.section, &places)?;
        library = spatialdata::library(library, &places, image.as_mut())?;
    } else if params.image.is_some() {
        return Err(Error::invalid(format!("`image` is of a SpatialData, and {} is none", path.display())));
    }
    let told = patient_of(&obs);
    let patient = params.patient.as_deref().or(told.as_deref()).unwrap_or(&params.section);
    let every = |value: &str| Column::Categorical(Categorical::encode(obs.index.iter().map(|_| Some(value))));
    let (section_column, patient_column) = (every(&params.section), every(patient));
    // As our own tables have them, the section stands before the barcode already.
    let prefix = format!("{}_", params.section);
    let ours = obs.index.iter().all(|spot| spot.starts_with(&prefix));
    let bare = |spot: &String| if ours { spot[prefix.len()..].to_owned() } else { spot.clone() };
    let barcodes: Vec<String> = obs.index.iter().map(bare).collect();
    obs.columns.retain(|(name, _)| !["section", "patient", "barcode"].contains(&name.as_str()));
    obs.index = barcodes.iter().map(|barcode| format!("{}_{barcode}", params.section)).collect();
    obs.push("section", section_column);
    obs.push("patient", patient_column);
    obs.push("barcode", Column::Text(barcodes));
    var.index = crate::load::unique(var.index);
    let libraries = library.map(|library| (params.section.clone(), library)).into_iter().collect();
    let labels = regions.map_or_else(Labels::default, |regions| Labels {
        spots: obs.index.clone(),
        sections: vec![params.section.clone(); obs.len()],
        patients: vec![patient.to_owned(); obs.len()],
        regions: regions
            .into_iter()
            .map(|region| region.filter(|region| !region.is_empty() && !params.undetermined.contains(region)))
            .collect(),
    });
    Ok(Section { table: Table { x, obs, var, spatial, libraries }, image, labels })
}

/// The one patient that a table of ours says its spots are of.
fn patient_of(obs: &Frame) -> Option<String> {
    let Column::Categorical(patients) = obs.column("patient")? else { return None };
    let mut patients = patients.iter();
    let first = patients.next()??;
    let is_one = patients.all(|patient| patient == Some(first)) && check_name("patient", first).is_ok();
    is_one.then(|| first.to_owned())
}

/// The spots of the section, where not all are.
fn rows_of_section(obs: &Frame, params: &Params) -> Result<Option<Vec<usize>>> {
    let (path, section) = (params.path.as_path().display(), &params.section);
    let name = params.section_column.as_deref().unwrap_or("section");
    let values: Vec<Option<&str>> = match (obs.column(name), &params.section_column) {
        (Some(Column::Categorical(values)), _) => values.iter().collect(),
        (Some(Column::Text(values)), _) => values.iter().map(|value| Some(value.as_str())).collect(),
        (_, None) => return Ok(None),
        (Some(_), Some(name)) => {
            return Err(Error::invalid(format!(
                "`section_column: {name}` should name a column of texts or categories"
            )));
        }
        (None, Some(name)) => {
            let names: Vec<&str> = obs.columns.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            return Err(Error::invalid(format!(
                "`section_column: {name}` is no column of `obs` of {path}, which has {names}"
            )));
        }
    };
    let sections: Vec<&str> =
        values.iter().flatten().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let listed = sections.join(", ");
    if params.section_column.is_none() {
        return if sections.len() < 2 {
            Ok(None)
        } else {
            Err(Error::invalid(format!(
                "{path} has spots of the sections {listed}: set `section_column: section`, and `section` to one of them"
            )))
        };
    }
    let rows: Vec<usize> = (0..values.len()).filter(|&row| values[row] == Some(section.as_str())).collect();
    if rows.is_empty() {
        return Err(Error::invalid(format!(
            "no spot of {path} has `{section}` as its {name}: it has {listed}"
        )));
    }
    Ok(Some(rows))
}

/// The regions of all spots; their column leaves the frame, as a table never holds labels.
fn take_regions(obs: &mut Frame, name: &str, path: &std::path::Path) -> Result<Vec<Option<String>>> {
    let Some(at) = obs.columns.iter().position(|(column, _)| column == name) else {
        let names: Vec<&str> = obs.columns.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::invalid(format!(
            "`regions: {name}` is no column of `obs` of {}, which has {}",
            path.display(),
            names.join(", ")
        )));
    };
    match obs.columns.remove(at).1 {
        Column::Text(values) => Ok(values.into_iter().map(Some).collect()),
        Column::Categorical(values) => Ok(values.iter().map(|value| value.map(str::to_owned)).collect()),
        Column::Int(values) => Ok(values.into_iter().map(|value| Some(value.to_string())).collect()),
        Column::Float(_) | Column::Bool(_) => {
            Err(Error::invalid(format!("`regions: {name}` should name a column of texts or categories")))
        }
    }
}
