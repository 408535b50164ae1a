//! Sections from folder to folder.

use std::path::{Path, PathBuf};

use restage_stage::artifact::{Artifact, Embedding, Image, Labels, Predictions, Table, zarr::Reader};
use serde_json::json;

use super::{MakeSection, Section};
use crate::{simulate::Simulate, stages_test::run};

const OUTPUTS: [&str; 4] = ["table", "image", "labels", "section"];

fn simulated(folder: &Path) {
    run::<Simulate>(folder, json!({"section": "A 1", "rows": 8, "cols": 8, "genes": 40}), &[], &OUTPUTS);
}

#[test]
fn a_section_holds_its_table_and_image() {
    let folder = tempfile::tempdir().unwrap();
    simulated(folder.path());
    let (at, section) = (folder.path().join("simulate"), folder.path().join("simulate/section"));
    let image = section.join("images/A_1_hires_image");
    assert!(Image::read(&image).unwrap() == Image::read(&at.join("image")).unwrap());
    let (mut found, table) =
        (Table::read(&section.join("tables/table")).unwrap(), Table::read(&at.join("table")).unwrap());
    let region = found.obs.categorical("region").unwrap().get(5).map(str::to_owned);
    assert_eq!(region.as_deref(), Some("A_1"));
    found.obs.columns.retain(|(name, _)| name != "region" && name != "spot_id");
    assert!(found == table);
    assert!(section.join("shapes/A_1/shapes.parquet").is_file());

    // Read and written again it is the same.
    let again = folder.path().join("again");
    Section::read(&section).unwrap().write(&again).unwrap();
    let file = "shapes/A_1/shapes.parquet";
    assert_eq!(std::fs::read(section.join(file)).unwrap(), std::fs::read(again.join(file)).unwrap());
    assert!(
        Table::read(&again.join("tables/table")).unwrap()
            == Table::read(&section.join("tables/table")).unwrap()
    );
}

/// As `visium/load` leaves them where there is no annotation.
#[test]
fn labels_of_no_spot_add_no_column() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulated(folder);
    Labels::default().write(&folder.join("labels")).unwrap();
    let inputs: [(&str, &[PathBuf]); 2] =
        [("table", &[folder.join("simulate/table")]), ("labels", &[folder.join("labels")])];
    run::<MakeSection>(folder, json!({}), &inputs, &["section"]);
    let obs = Table::read(&folder.join("section/section/tables/table")).unwrap().obs;
    assert_eq!(obs.column("label"), None);
}

#[test]
fn what_was_learnt_comes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulated(folder);
    let at = |place: &str| vec![folder.join(place)];
    let labels = Labels::read(&folder.join("simulate/labels")).unwrap();
    let spots = labels.spots[..10].to_vec();
    let predictions = Predictions {
        spots: spots.clone(),
        classes: vec!["cancer in situ".into(), "other".into()],
        probabilities: [0.25, 0.75].repeat(10),
    };
    predictions.write(&folder.join("predictions")).unwrap();
    let embedding = Embedding { spots, dims: 3, values: (0..30).map(|value| value as f32).collect() };
    embedding.write(&folder.join("embedding")).unwrap();
    let inputs: [(&str, &[PathBuf]); 5] = [
        ("table", &at("simulate/table")),
        ("images", &at("simulate/image")),
        ("labels", &at("simulate/labels")),
        ("predictions", &at("predictions")),
        ("embedding", &at("embedding")),
    ];
    run::<MakeSection>(folder, json!({}), &inputs, &["section"]);
    let table = folder.join("section/section/tables/table");
    let obs = Table::read(&table).unwrap().obs;
    let column = |name: &str| obs.categorical(name).unwrap();
    assert_eq!(column("label").get(3), labels.regions[3].as_deref());
    assert_eq!((column("prediction").get(9), column("prediction").get(10)), (Some("other"), None));
    let names: Vec<&str> = obs.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.ends_with(&["probability_cancer_in_situ", "probability_other"]), "{names:?}");
    let obsm = Reader::open(&table.join("obsm")).unwrap();
    let (shape, values) = obsm.array::<f32>("embedding", &[None, None]).unwrap();
    assert_eq!((&shape[..], values[29], values[30]), (&[64, 3][..], 29.0, 0.0));
}
