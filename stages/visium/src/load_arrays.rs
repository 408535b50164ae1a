//! Stage type `visium/load-arrays`: a section that a benchmark ships as NumPy arrays of features, coordinates and labels.

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Categorical, Column, Csr, Embedding, Frame, Labels, Library, ScaleFactors, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    load::{check_name, undetermined},
    npy, quantile,
};

/// The stage type.
pub(crate) struct LoadArrays;

/// Params of `visium/load-arrays`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Features: a `.npy` of spots x features, e.g. principal components. What they were fitted on, its maker knows.
    features: InputPath,
    /// Coordinates: a `.npy` of spots x 2, x and y in pixels of one image.
    coordinates: InputPath,
    /// Regions: a `.npy` of a text or a whole number per spot. Default: none.
    #[serde(default)]
    labels: Option<InputPath>,
    /// Name of the section, unique in the workflow: spot ids are `<section>_<row>`.
    section: String,
    /// Patient (donor) that the section is from. Default: the section's name.
    #[serde(default)]
    patient: Option<String>,
    /// Regions that mean "seen but not assigned". Default: `[undetermined]`.
    #[serde(default = "undetermined")]
    undetermined: Vec<String>,
}

impl Stage for LoadArrays {
    const NAME: &'static str = "load-arrays";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Loads a section of NumPy arrays: features, coordinates and regions of the same spots, row by row. Features \
             stand in the table as if they were genes, and are an embedding as well.",
        )
        .output::<Table>("table", "Spots x features with coordinates.")
        .output::<Embedding>("embedding", "The features.")
        .output::<Labels>("labels", "The region of each spot; empty without `labels`.")
    }

    fn validate(params: &Params) -> Result<()> {
        check_name("section", &params.section)?;
        params.patient.as_deref().map_or(Ok(()), |patient| check_name("patient", patient))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let (table, embedding, labels) = load(&params)?;
        tracing::info!("{}: {} spots x {} features", params.section, table.n_spots(), embedding.dims);
        let spots = embedding.spots.iter().map(String::as_str);
        ctx.transductive("visium/load-arrays: features were fitted on what their maker chose", spots);
        ctx.write("table", &table)?;
        ctx.write("embedding", &embedding)?;
        ctx.write("labels", &labels)
    }
}

fn load(params: &Params) -> Result<(Table, Embedding, Labels)> {
    let features = npy::numbers(params.features.as_path())?;
    let coordinates = npy::numbers(params.coordinates.as_path())?;
    let regions = params.labels.as_ref().map(|labels| npy::texts(labels.as_path())).transpose()?;
    if coordinates.columns != 2 {
        return Err(Error::invalid(format!(
            "{} has {} columns; expected x and y",
            params.coordinates.as_path().display(),
            coordinates.columns
        )));
    }
    let sizes = [
        Some((&params.coordinates, coordinates.rows)),
        params.labels.as_ref().zip(regions.as_ref().map(|r| r.values.len())),
    ];
    for (path, rows) in sizes.into_iter().flatten() {
        if rows != features.rows {
            return Err(Error::invalid(format!(
                "{} has {rows} rows and {} has {}: they must be of the same spots, row by row",
                path.as_path().display(),
                params.features.as_path().display(),
                features.rows
            )));
        }
    }
    let bad = |values: &[f32]| values.iter().position(|value| !value.is_finite());
    for (path, values, columns) in [
        (&params.features, &features.values, features.columns),
        (&params.coordinates, &coordinates.values, 2),
    ] {
        if let Some(place) = bad(values) {
            return Err(Error::invalid(format!(
                "{} has {} in row {}, column {}: expected numbers that are finite",
                path.as_path().display(),
                values[place],
                place / columns.max(1),
                place % columns.max(1)
            )));
        }
    }
    if features.rows == 0 || features.columns == 0 {
        return Err(Error::invalid(format!("{} is empty", params.features.as_path().display())));
    }
    let (section, patient) = (&params.section, params.patient.as_ref().unwrap_or(&params.section));
    let spots: Vec<String> = (0..features.rows).map(|row| format!("{section}_{row}")).collect();
    let every = |value: &str| Column::Categorical(Categorical::encode(spots.iter().map(|_| Some(value))));
    let names: Vec<String> = (1..=features.columns).map(|column| format!("feature_{column}")).collect();
    let spatial: Vec<[f64; 2]> =
        coordinates.values.as_chunks().0.iter().map(|&[x, y]: &[f32; 2]| [x.into(), y.into()]).collect();
    let scale_factors = ScaleFactors { spot_diameter_fullres: diameter(&spatial), ..ScaleFactors::default() };
    let row = |row: &[f32]| (0_i32..).zip(row.iter().copied()).filter(|(_, value)| *value != 0.0).collect();
    let table = Table {
        x: Csr::from_rows(features.columns, features.values.chunks_exact(features.columns).map(row)),
        obs: Frame {
            index: spots.clone(),
            columns: vec![
                ("section".into(), every(section)),
                ("patient".into(), every(patient)),
                ("in_tissue".into(), Column::Int(vec![1; spots.len()])),
            ],
        },
        var: Frame { columns: vec![("gene_ids".into(), Column::Text(names.clone()))], index: names },
        spatial,
        libraries: BTreeMap::from([(section.clone(), Library { images: BTreeMap::new(), scale_factors })]),
    };
    let mut labels = Labels::default();
    if let Some(regions) = regions {
        let assigned =
            |region: String| (!region.is_empty() && !params.undetermined.contains(&region)).then_some(region);
        labels = Labels {
            sections: vec![section.clone(); spots.len()],
            patients: vec![patient.clone(); spots.len()],
            regions: regions.values.into_iter().map(assigned).collect(),
            spots: spots.clone(),
        };
    }
    let embedding = Embedding { spots, dims: features.columns, values: features.values };
    Ok((table, embedding, labels))
}

/// Visium's spots of 55 µm stand 100 µm apart: so much of the distance to the nearest spot, the median of some.
fn diameter(spatial: &[[f64; 2]]) -> f64 {
    const ASKED: usize = 200;
    let step = spatial.len().div_ceil(ASKED).max(1);
    let nearest = |(place, at): (usize, &[f64; 2])| {
        let others = spatial.iter().enumerate().filter(|(other, _)| *other != place);
        others.map(|(_, to)| (at[0] - to[0]).hypot(at[1] - to[1])).fold(f64::INFINITY, f64::min)
    };
    let mut distances: Vec<f64> = spatial.iter().enumerate().step_by(step).map(nearest).collect();
    let median = quantile::median(&mut distances);
    if median.is_finite() { 0.55 * median } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn write(&self, name: &str, descr: &str, shape: &str, data: Vec<u8>) -> String {
            let path = self.0.path().join(name);
            std::fs::write(&path, npy::tests::npy(descr, shape, &data)).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn rows_become_spots_and_what_does_not_fit_is_said() {
        let files = Files(tempfile::tempdir().unwrap());
        let features = files.write("f.npy", "<f4", "(3, 2)", floats(&[1.0, 0.0, 2.0, 3.0, 4.0, -5.0]));
        let xy = files.write("xy.npy", "<f4", "(3, 2)", floats(&[0.0, 0.0, 100.0, 0.0, 200.0, 0.0]));
        let text: Vec<u8> = "L1WM\0\0".chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
        let labels = files.write("l.npy", "<U2", "(3,)", text);
        let loaded = |params: serde_json::Value| load(&serde_json::from_value(params).unwrap());
        let params = json!({ "features": features, "coordinates": xy, "labels": labels, "section": "S", "patient": "P" });
        let (table, embedding, regions) = loaded(params.clone()).unwrap();
        assert_eq!(table.obs.index, ["S_0", "S_1", "S_2"]);
        assert_eq!((table.n_genes(), table.spatial[2], table.patient(1)), (2, [200.0, 0.0], Some("P")));
        assert_eq!(table.x.row(0), (&[0][..], &[1.0][..]));
        assert!((table.libraries["S"].scale_factors.spot_diameter_fullres - 55.0).abs() < 1e-9);
        assert_eq!(embedding.row(2), [4.0, -5.0]);
        assert_eq!(regions.regions, [Some("L1".into()), Some("WM".into()), None]);

        let changed = |key: &str, value: String| {
            let mut params = params.clone();
            params[key] = value.into();
            loaded(params).unwrap_err().to_string()
        };
        let two = files.write("two.npy", "<f4", "(2, 2)", floats(&[0.0; 4]));
        assert!(changed("coordinates", two).contains("has 2 rows"));
        let wide = files.write("wide.npy", "<f4", "(3, 1)", floats(&[0.0; 3]));
        assert!(changed("coordinates", wide).contains("has 1 columns; expected x and y"));
        let nan = files.write("nan.npy", "<f4", "(3, 2)", floats(&[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]));
        assert!(changed("features", nan).contains("has NaN in row 1, column 1"));
    }
}
