//! Stage `visium/load`: one section, as spaceranger wrote it, becomes a table, an image and labels.

pub(crate) mod annotation;
pub(crate) mod counts;
#[cfg(test)]
mod formats_test;
#[cfg(test)]
mod generated_test;
mod h5;
pub(crate) mod images;
mod jpeg;
mod lzw;
mod mtx;
pub(crate) mod positions;
mod slide;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Categorical, Column, Frame, Image, ImageRows, Labels, Library, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::section::{self, Section};
use counts::Source;
pub(crate) use counts::unique;
pub(crate) use slide::Slide;

/// `visium/load`
pub(crate) struct Load;

/// What to load, and what to call it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The section's `outs` folder, as spaceranger wrote it: counts (`filtered_feature_bc_matrix.h5` or the folder of
    /// that name, else the `raw_` ones) and `spatial/`. Of Visium HD, a folder of `binned_outputs`.
    path: InputPath,
    /// Where the counts lie, if not in `path`: an HDF5 file, or a folder with `matrix.mtx`, `features.tsv` (or
    /// `genes.tsv`) and `barcodes.tsv`, gzipped or not. Default: found in `path`.
    #[serde(default)]
    counts: Option<InputPath>,
    /// The microscope's image at full resolution, which the coordinates are pixels of: TIFF, BigTIFF, OME-TIFF (of a
    /// pyramid the largest page), JPEG or PNG. Default: none, and `image` is `hires`, else `lowres`.
    #[serde(default)]
    fullres: Option<InputPath>,
    /// Which genome to read where a file has several. Default: all; a file of Cell Ranger 2 with several needs it.
    #[serde(default)]
    genome: Option<String>,
    /// Name of the section, unique in the workflow: spot ids are `<section>_<barcode>`.
    section: String,
    /// Patient (donor) that the section is from: splits keep a patient's sections together. Default: the section's
    /// name, so every section counts as a patient of its own.
    #[serde(default)]
    patient: Option<String>,
    /// CSV or TSV with a header: barcode, region; or more columns, of which `annotation_column` names one. Barcodes
    /// without a row have no label. Default: none, and `labels` is empty.
    #[serde(default)]
    annotation: Option<InputPath>,
    /// Column of `annotation` with the regions. Default: the second of two.
    #[serde(default)]
    annotation_column: Option<String>,
    /// Regions that mean "seen but not assigned": such spots are in `labels` without a region. Default:
    /// `[undetermined]`. An empty region always means it.
    #[serde(default = "undetermined")]
    undetermined: Vec<String>,
}

pub(crate) fn undetermined() -> Vec<String> {
    vec!["undetermined".into()]
}

impl Stage for Load {
    const NAME: &'static str = "load";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Loads one section from spaceranger's `outs` folder: counts with coordinates, the H&E image, and the \
             pathologist's regions where a CSV gives them. The table never holds the labels.",
        )
        .output::<Table>("table", "Counts of spots x genes with coordinates, images and scale factors.")
        .output::<Image>(
            "image",
            "The image at full resolution where `fullres` names it, else `hires`, else `lowres`, else one of no pixels.",
        )
        .output::<Labels>("labels", "The region of each annotated spot; empty without an annotation.")
        .output::<Section>("section", "The same as a SpatialData: table, image, and the spots as circles.")
    }

    fn validate(params: &Params) -> Result<()> {
        check_name("section", &params.section)?;
        params.patient.as_deref().map_or(Ok(()), |patient| check_name("patient", patient))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table = load_table(&params)?;
        ctx.check_cancelled()?;
        match &params.fullres {
            Some(path) => copy_slide(path.as_path(), &table, &params.section, ctx)?,
            None => ctx.write("image", &best_image(&table, &params.section))?,
        }
        ctx.write("labels", &load_labels(&params, &table)?)?;
        ctx.write("table", &table)?;
        section::of_outputs(ctx, &table)?;
        tracing::info!("{}: {} spots x {} genes", params.section, table.n_spots(), table.n_genes());
        Ok(())
    }
}

/// Names become folders of the table and parts of spot ids.
pub(crate) fn check_name(param: &str, name: &str) -> Result<()> {
    let bad =
        name.trim() != name || name.is_empty() || name.contains(['/', '\\']) || name.starts_with(['.', '_']);
    if bad {
        return Err(Error::invalid(format!(
            "`{param}: {name}` must be a name like `A1`, without slashes, and not begin with a dot or an underscore"
        )));
    }
    Ok(())
}

fn load_table(params: &Params) -> Result<Table> {
    let outs = params.path.as_path();
    let source = match &params.counts {
        Some(path) => Source::named(path.as_path())?,
        None => Source::find(outs)?,
    };
    let counts = source.read(params.genome.as_deref())?;
    let spatial = outs.join("spatial");
    let spots = positions::read(&spatial)?.in_order_of(&counts.barcodes)?;
    let beside = spots.iter().filter(|spot| spot.in_tissue == 0).count();
    if source.is_filtered() && beside * 100 > spots.len() {
        tracing::warn!(
            "{}: {beside} of {} spots with filtered counts lie beside the tissue: are the positions of this section? \
             `visium/check` looks closer",
            params.section,
            spots.len()
        );
    }
    let library = Library { scale_factors: images::read_scale_factors(&spatial)?, images: BTreeMap::new() };
    let library = images::add_images(library, &spatial, &params.section)?;
    if let Some(problem) = images::contradiction(&library) {
        return Err(Error::invalid(format!("{}: {problem}; take away the one that is", spatial.display())));
    }

    let (section, patient) = (params.section.as_str(), patient(params));
    let every = |value| Column::Categorical(Categorical::encode(counts.barcodes.iter().map(|_| Some(value))));
    let index = counts.barcodes.iter().map(|barcode| format!("{section}_{barcode}")).collect();
    let columns = [
        ("section", every(section)),
        ("patient", every(patient)),
        ("in_tissue", Column::Int(spots.iter().map(|spot| spot.in_tissue).collect())),
        ("array_row", Column::Int(spots.iter().map(|spot| spot.array_row).collect())),
        ("array_col", Column::Int(spots.iter().map(|spot| spot.array_col).collect())),
        ("barcode", Column::Text(counts.barcodes)),
    ];
    Ok(Table {
        x: counts.x,
        obs: Frame {
            index,
            columns: columns.into_iter().map(|(name, column)| (name.into(), column)).collect(),
        },
        var: counts.genes,
        spatial: spots.iter().map(|spot| [spot.pxl_col, spot.pxl_row]).collect(),
        libraries: BTreeMap::from([(params.section.clone(), library)]),
    })
}

fn patient(params: &Params) -> &str {
    params.patient.as_deref().unwrap_or(&params.section)
}

/// Copies the full-resolution image to the port, never whole in memory.
pub(crate) fn copy_slide(path: &std::path::Path, table: &Table, section: &str, ctx: &Context) -> Result<()> {
    let slide = Slide::open(path)?;
    let library = table.libraries.get(section);
    for (name, small) in library.iter().flat_map(|library| &library.images) {
        let sides = [(slide.width, small.width), (slide.height, small.height)];
        let fits = |(full, side): (usize, usize)| images::is_side(full as f64, side, small.scale);
        if !sides.into_iter().all(fits) {
            return Err(Error::invalid(format!(
                "{} has {} x {} pixels, but the {name} image of {} x {} and its scale {} say {:.0} x {:.0}: is it of \
                 another section, or not at full resolution?",
                path.display(),
                slide.width,
                slide.height,
                small.width,
                small.height,
                small.scale,
                small.width as f64 / small.scale,
                small.height as f64 / small.scale
            )));
        }
    }
    let about = Image {
        section: section.into(),
        height: slide.height,
        width: slide.width,
        scale: 1.0,
        spot_diameter_fullres: library.map_or(0.0, |library| library.scale_factors.spot_diameter_fullres),
        pixels: Vec::new(),
    };
    let mut rows = ImageRows::create(ctx.output("image")?, &about)?;
    slide.copy(&mut rows, ctx)?;
    rows.finish()
}

/// The section's sharpest image; one without pixels where there is none.
pub(crate) fn best_image(table: &Table, section: &str) -> Image {
    let library = table.libraries.get(section);
    let image =
        library.and_then(|library| library.images.get("hires").or_else(|| library.images.get("lowres")));
    image.cloned().unwrap_or_else(|| {
        tracing::warn!("{section} has no image, neither `hires` nor `lowres`: `image` has no pixels");
        let spot_diameter_fullres =
            library.map_or(0.0, |library| library.scale_factors.spot_diameter_fullres);
        Image { section: section.into(), scale: 1.0, spot_diameter_fullres, ..Image::default() }
    })
}

fn load_labels(params: &Params, table: &Table) -> Result<Labels> {
    let Some(path) = &params.annotation else { return Ok(Labels::default()) };
    let path = path.as_path();
    let annotation = annotation::read(path, params.annotation_column.as_deref(), &params.undetermined)?;
    if let [other] = &annotation.sections[..]
        && *other != params.section
    {
        tracing::warn!("{} says that it is of section {other}, not {}", path.display(), params.section);
    }
    let mut regions = annotation.regions;
    let mut labels = Labels::default();
    for (spot, barcode) in table.obs.index.iter().zip(table.obs.text("barcode")?) {
        if let Some(region) = regions.remove(barcode) {
            labels.spots.push(spot.clone());
            labels.sections.push(params.section.clone());
            labels.patients.push(patient(params).to_owned());
            labels.regions.push(region);
        }
    }
    if labels.spots.is_empty() {
        return Err(Error::invalid(format!(
            "{}: none of its barcodes is in {}: is it of another section?",
            path.display(),
            params.path.as_path().display()
        )));
    }
    if !regions.is_empty() {
        let stray = regions.len();
        tracing::warn!(
            "{}: {stray} of {} annotated barcodes have no counts: is {} of this section? `visium/check` looks closer",
            params.section,
            stray + labels.spots.len(),
            path.display()
        );
    }
    Ok(labels)
}
