//! Stage type `visium/load-legacy`: a section of Spatial Transcriptomics, as it was before Visium (HER2ST and its like):
//! a gene table with rows `XxY`, a selection of spots, a file of labels.

use std::{
    collections::{BTreeMap, HashMap},
    io::BufRead,
    path::Path,
};

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Categorical, Column, Csr, Frame, Image, Labels, Library, ScaleFactors, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    load::{best_image, check_name, copy_slide, undetermined, unique},
    quantile,
    section::{self, Section},
    text,
};

/// The stage type.
pub(crate) struct LoadLegacy;

/// Params of `visium/load-legacy`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Counts: a TSV, gzipped or not, of a header with gene names and rows that begin with `XxY`.
    counts: InputPath,
    /// The selection: a TSV with `x`, `y` (array position), `new_x`, `new_y`, `pixel_x`, `pixel_y` and `selected`.
    positions: InputPath,
    /// The labels: a TSV with `x`, `y` (the selection's `new_x`, `new_y`) and `label`. They are joined by position on the
    /// array: their pixels are of an image of another scale. Default: none.
    #[serde(default)]
    labels: Option<InputPath>,
    /// The image that `pixel_x` and `pixel_y` are pixels of. Default: none.
    #[serde(default)]
    image: Option<InputPath>,
    /// Name of the section, unique in the workflow: spot ids are `<section>_<XxY>`.
    section: String,
    /// Patient (donor) that the section is from. Default: the section's name.
    #[serde(default)]
    patient: Option<String>,
    /// Regions that mean "seen but not assigned". Default: `[undetermined]`.
    #[serde(default = "undetermined")]
    undetermined: Vec<String>,
}

impl Stage for LoadLegacy {
    const NAME: &'static str = "load-legacy";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Loads one section of legacy Spatial Transcriptomics: selected spots with counts, coordinates and regions. \
             Spots that are selected and have no counts are left out, and named in the log.",
        )
        .output::<Table>("table", "Counts of spots x genes with coordinates.")
        .output::<Image>("image", "The image; one of no pixels without `image`.")
        .output::<Labels>("labels", "The region of each annotated spot; empty without `labels`.")
        .output::<Section>("section", "The same as a SpatialData: table, image, and the spots as circles.")
    }

    fn validate(params: &Params) -> Result<()> {
        check_name("section", &params.section)?;
        params.patient.as_deref().map_or(Ok(()), |patient| check_name("patient", patient))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let (table, labels) = load(&params)?;
        ctx.check_cancelled()?;
        match &params.image {
            Some(path) => copy_slide(path.as_path(), &table, &params.section, ctx)?,
            None => ctx.write("image", &best_image(&table, &params.section))?,
        }
        tracing::info!("{}: {} spots x {} genes", params.section, table.n_spots(), table.n_genes());
        ctx.write("labels", &labels)?;
        ctx.write("table", &table)?;
        section::of_outputs(ctx, &table)
    }
}

/// Table and labels.
fn load(params: &Params) -> Result<(Table, Labels)> {
    let (mut rows, genes) = read_counts(params.counts.as_path())?;
    let selection = read_selection(params.positions.as_path())?;
    let regions = match &params.labels {
        Some(path) => read_labels(path.as_path())?,
        None => HashMap::new(),
    };
    let (mut spots, mut counts, mut without) = (Vec::new(), Vec::new(), 0);
    for spot in selection {
        match rows.remove(&spot.name) {
            Some(row) => {
                counts.push(row);
                spots.push(spot);
            }
            None => without += 1,
        }
    }
    if spots.is_empty() {
        return Err(Error::invalid(format!(
            "no spot of {} has counts in {}: are they of the same section?",
            params.positions.as_path().display(),
            params.counts.as_path().display()
        )));
    }
    if without > 0 {
        tracing::warn!("{}: {without} selected spots have no counts and are left out", params.section);
    }
    let (section, patient) = (&params.section, params.patient.as_ref().unwrap_or(&params.section));
    let mut labels = Labels::default();
    for spot in &spots {
        if let Some(region) = regions.get(&spot.array_key) {
            labels.spots.push(format!("{section}_{}", spot.name));
            labels.sections.push(section.clone());
            labels.patients.push(patient.clone());
            let assigned = !region.is_empty() && !params.undetermined.contains(region);
            labels.regions.push(assigned.then(|| region.clone()));
        }
    }
    if let Some(path) = params.labels.as_ref().filter(|_| labels.spots.is_empty()) {
        return Err(Error::invalid(format!(
            "none of the positions of {} is a spot of the selection: is it of another section?",
            path.as_path().display()
        )));
    }
    let every = |value: &str| Column::Categorical(Categorical::encode(spots.iter().map(|_| Some(value))));
    let columns = [
        ("section", every(section)),
        ("patient", every(patient)),
        ("in_tissue", Column::Int(vec![1; spots.len()])),
        ("array_row", Column::Int(spots.iter().map(|spot| spot.y).collect())),
        ("array_col", Column::Int(spots.iter().map(|spot| spot.x).collect())),
        ("barcode", Column::Text(spots.iter().map(|spot| spot.name.clone()).collect())),
    ];
    let spatial: Vec<[f64; 2]> = spots.iter().map(|spot| spot.pixel).collect();
    let scale_factors = ScaleFactors { spot_diameter_fullres: diameter(&spots), ..ScaleFactors::default() };
    let table = Table {
        x: Csr::from_rows(genes.len(), counts),
        obs: Frame {
            index: spots.iter().map(|spot| format!("{section}_{}", spot.name)).collect(),
            columns: columns.into_iter().map(|(name, column)| (name.into(), column)).collect(),
        },
        var: Frame { columns: vec![("gene_ids".into(), Column::Text(genes.clone()))], index: unique(genes) },
        spatial,
        libraries: BTreeMap::from([(section.clone(), Library { images: BTreeMap::new(), scale_factors })]),
    };
    Ok((table, labels))
}

/// Spots of 100 µm stand 200 µm apart: half the median distance between neighbours on the array.
fn diameter(spots: &[Spot]) -> f64 {
    let places: HashMap<(i64, i64), [f64; 2]> =
        spots.iter().map(|spot| ((spot.x, spot.y), spot.pixel)).collect();
    let to = |spot: &Spot, place| {
        let [x, y]: [f64; 2] = *places.get(&place)?;
        Some((x - spot.pixel[0]).hypot(y - spot.pixel[1]))
    };
    let mut distances: Vec<f64> = spots
        .iter()
        .flat_map(|spot| [to(spot, (spot.x + 1, spot.y)), to(spot, (spot.x, spot.y + 1))])
        .flatten()
        .collect();
    if distances.is_empty() { 0.0 } else { quantile::median(&mut distances) / 2.0 }
}

/// Rows of (gene, count) by spot, and the names of the genes.
type Counts = (HashMap<String, Vec<(i32, f32)>>, Vec<String>);

fn read_counts(path: &Path) -> Result<Counts> {
    let wrong = |problem: String| Error::invalid(format!("{}: {problem}", path.display()));
    let mut lines = text::open(path)?.lines();
    let header = lines.next().transpose().map_err(Error::io(path))?.unwrap_or_default();
    let genes: Vec<String> = header.split('\t').skip(1).map(|gene| gene.trim().to_owned()).collect();
    if genes.is_empty() {
        return Err(wrong("the first line should name the genes, divided by tabs".into()));
    }
    let mut rows = HashMap::new();
    for (number, line) in (2..).zip(lines) {
        let line = line.map_err(Error::io(path))?;
        let mut fields = line.split('\t').map(str::trim);
        let spot = fields.next().unwrap_or_default().to_owned();
        let mut row = Vec::new();
        let mut length = 0;
        for (gene, field) in (0_i32..).zip(fields) {
            let count = field.parse::<f32>().ok().filter(|count| count.is_finite() && *count >= 0.0);
            let count =
                count.ok_or_else(|| wrong(format!("line {number} has `{field}`; expected a count")))?;
            if count > 0.0 {
                row.push((gene, count));
            }
            length += 1;
        }
        if length != genes.len() {
            return Err(wrong(format!("line {number} has {length} counts for {} genes", genes.len())));
        }
        if rows.insert(spot.clone(), row).is_some() {
            return Err(wrong(format!("line {number} gives spot `{spot}` a second time")));
        }
    }
    Ok((rows, genes))
}

struct Spot {
    /// `XxY`.
    name: String,
    x: i64,
    y: i64,
    /// Where the spot truly lies on the array, as the label file writes it.
    array_key: (i64, i64),
    pixel: [f64; 2],
}

/// Positions with three decimals, compared without their rounding.
fn key(x: f64, y: f64) -> (i64, i64) {
    ((x * 1000.0).round() as i64, (y * 1000.0).round() as i64)
}

/// A TSV as rows by column name.
fn read_tsv(path: &Path, columns: &[&str]) -> Result<Vec<Vec<String>>> {
    let wrong = |problem: String| Error::invalid(format!("{}: {problem}", path.display()));
    let text = text::read(path)?;
    let mut reader =
        csv::ReaderBuilder::new().delimiter(b'\t').trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| wrong(error.to_string()))?.clone();
    let places: Vec<usize> = columns
        .iter()
        .map(|column| {
            let place = header.iter().position(|field| field == *column);
            place.ok_or_else(|| wrong(format!("lacks the column `{column}`; it has {}", columns.join(", "))))
        })
        .collect::<Result<_>>()?;
    let row = |record: csv::StringRecord| places.iter().map(|&place| record[place].to_owned()).collect();
    reader.records().map(|record| Ok(row(record.map_err(|error| wrong(error.to_string()))?))).collect()
}

fn read_selection(path: &Path) -> Result<Vec<Spot>> {
    let rows = read_tsv(path, &["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"])?;
    let mut spots = Vec::with_capacity(rows.len());
    for (line, row) in (2..).zip(rows) {
        let numbers: Option<Vec<f64>> =
            row.iter().map(|field| field.parse().ok().filter(|value: &f64| value.is_finite())).collect();
        let numbers = numbers.ok_or_else(|| {
            Error::invalid(format!("{}: line {line} has a field that is no number", path.display()))
        })?;
        if numbers[6] != 0.0 {
            spots.push(Spot {
                name: format!("{}x{}", row[0], row[1]),
                x: numbers[0] as i64,
                y: numbers[1] as i64,
                array_key: key(numbers[2], numbers[3]),
                pixel: [numbers[4], numbers[5]],
            });
        }
    }
    Ok(spots)
}

/// Region by position on the array. Rows without a position, which the published files have, cannot be joined.
fn read_labels(path: &Path) -> Result<HashMap<(i64, i64), String>> {
    let rows = read_tsv(path, &["x", "y", "label"])?;
    let (mut labels, mut lost) = (HashMap::new(), 0);
    for row in rows {
        let number = |field: &String| field.parse::<f64>().ok().filter(|value| value.is_finite());
        match (number(&row[0]), number(&row[1])) {
            (Some(x), Some(y)) => drop(labels.insert(key(x, y), row[2].clone())),
            _ => lost += 1,
        }
    }
    if lost > 0 {
        tracing::warn!("{}: {lost} rows have no position and are left out", path.display());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{golden, load::Load, stages_test::run};

    /// The same sections exist re-encoded as spaceranger's folders: both ways lead to the same table.
    #[test]
    fn published_files_give_the_table_of_the_re_encoded_ones() {
        use restage_stage::artifact::Artifact;
        let Some(legacy) = golden::shared("data/her2st_legacy") else { return };
        let home = tempfile::tempdir().unwrap();
        for section in ["B1", "G2"] {
            let file = |name: &str| legacy.join(format!("{section}{name}"));
            let params = json!({
                "counts": file(".counts.tsv.gz"), "positions": file("_selection.tsv"),
                "labels": file("_labeled_coordinates.tsv"), "section": section, "patient": "p",
            });
            let (table, labels) = load(&serde_json::from_value(params).unwrap()).unwrap();

            let Some(outs) = golden::shared(&format!("data/her2st/{section}")) else { return };
            let folder = home.path().join(section);
            let params = json!({
                "path": outs, "section": section, "patient": "p", "annotation": outs.join("annotation.csv"),
            });
            run::<Load>(&folder, params, &[], &["table", "image", "labels", "section"]);
            let wanted = Table::read(&folder.join("load/table")).unwrap();
            assert_eq!(table.obs.index, wanted.obs.index);
            assert_eq!(table.var.index, wanted.var.index);
            assert!(table.x == wanted.x && table.spatial == wanted.spatial);
            assert_eq!(table.obs.column("array_row"), wanted.obs.column("array_row"));
            assert_eq!(labels, Labels::read(&folder.join("load/labels")).unwrap());
            let diameter = |table: &Table| table.libraries[section].scale_factors.spot_diameter_fullres;
            assert!((diameter(&table) / diameter(&wanted) - 1.0).abs() < 0.02);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let positions = write(
            "selection.tsv",
            "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n1\t2\t1.1\t2.1\t9\t9\t1\n",
        );
        let problem = |counts: &str, positions: &Path| {
            let counts = write("counts.tsv", counts);
            let params = json!({"counts": counts, "positions": positions, "section": "S"});
            load(&serde_json::from_value(params).unwrap()).unwrap_err().to_string()
        };
        assert!(problem("\tA\tB\n1x2\t1\n", &positions).contains("line 2 has 1 counts for 2 genes"));
        assert!(problem("\tA\n1x2\tnan\n", &positions).contains("line 2 has `nan`; expected a count"));
        assert!(problem("\tA\n3x3\t1\n", &positions).contains("are they of the same section?"));
        let other = write("other.tsv", "a\tb\n1\t2\n");
        assert!(problem("\tA\n1x2\t1\n", &other).contains("lacks the column `x`"));
    }
}
