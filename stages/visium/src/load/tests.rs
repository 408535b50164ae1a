//! Real sections load to the published counts; broken ones are named.

use std::{collections::BTreeMap, path::Path};

use restage_stage::artifact::{Artifact, Embedding, Table};
use serde_json::{Value, json};

use super::*;
use crate::golden;

fn params(path: &Path, more: Value) -> Params {
    let mut params = json!({"path": path, "section": path.file_name().unwrap().to_str().unwrap()});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(params).unwrap()
}

fn sum(table: &Table) -> f64 {
    table.x.data.iter().map(|&count| f64::from(count)).sum()
}

#[test]
fn her2st_sections_hold_the_published_counts_and_labels() {
    let Some(folder) = golden::shared("data/her2st") else { return };
    let mut sections = csv::Reader::from_path(folder.join("sections.csv")).unwrap();
    let mut seen = 0;
    for row in sections.deserialize() {
        let row: BTreeMap<String, String> = row.unwrap();
        let number = |name: &str| row[name].parse::<usize>().unwrap();
        let outs = folder.join(&row["section"]);
        let mut params = params(&outs, json!({"patient": row["patient"]}));
        let table = load_table(&params).unwrap();
        assert_eq!((table.n_spots(), table.n_genes()), (number("spots"), number("genes")), "{row:?}");
        assert_eq!(table.x.data.len(), number("nnz"));
        let mean = sum(&table) / table.n_spots() as f64;
        assert!((mean - row["mean_umi"].parse::<f64>().unwrap()).abs() <= 0.0501, "{row:?}: {mean}");
        assert_eq!(table.patient(0), Some(row["patient"].as_str()));
        assert!(table.obs.index[0].starts_with(&format!("{}_", row["section"])));

        if !row["label_counts"].is_empty() {
            params.annotation = serde_json::from_value(json!(outs.join("annotation.csv"))).unwrap();
            let labels = load_labels(&params, &table).unwrap();
            let mut counts = BTreeMap::<String, usize>::new();
            for region in &labels.regions {
                *counts.entry(region.clone().unwrap_or("undetermined".into())).or_default() += 1;
            }
            let published: BTreeMap<String, usize> = serde_json::from_str(&row["label_counts"]).unwrap();
            assert_eq!(counts, published);
            assert_eq!(labels.spots.len(), number("labelled"));
        }
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[test]
fn after_the_usual_filters_counts_are_scanpys() {
    for section in ["A1", "B1", "C1", "H1"] {
        let Some(golden) = golden::json(&format!("parity/parity_her2st_{section}.json")) else { return };
        let Some(outs) = golden::shared(&format!("data/her2st/{section}")) else { return };
        let table = load_table(&params(&outs, json!({}))).unwrap();
        assert_eq!(json!([table.n_spots(), table.n_genes()]), golden["shape_raw"]);
        let total =
            |table: &Table, spot| table.x.row(spot).1.iter().map(|&count| f64::from(count)).sum::<f64>();
        let spots: Vec<usize> = (0..table.n_spots()).filter(|&spot| total(&table, spot) >= 10.0).collect();
        let table = table.select_spots(&spots);
        let mut cells = vec![0; table.n_genes()];
        table.x.indices.iter().for_each(|&gene| cells[gene as usize] += 1);
        let genes: Vec<usize> = (0..cells.len()).filter(|&gene| cells[gene] >= 3).collect();
        let table = table.select_genes(&genes);
        assert_eq!(json!([table.n_spots(), table.n_genes()]), golden["shape_filtered"]);
        assert_eq!(table.x.data.len() as u64, golden["nnz_filtered"].as_u64().unwrap());
        assert_eq!(sum(&table), golden["sum_counts"].as_f64().unwrap());
        assert_eq!(
            json!((0..5).map(|spot| total(&table, spot)).collect::<Vec<_>>()),
            golden["total_counts_first5"]
        );
        assert_eq!(json!(table.var.index[..5]), golden["first_var"]);
        assert_eq!(json!(table.obs.text("barcode").unwrap()[..5]), golden["first_obs"]);
    }
}

#[test]
fn a_section_has_the_image_that_is_there() {
    let Some(outs) = golden::shared("data/her2st/A1") else { return };
    let table = load_table(&params(&outs, json!({}))).unwrap();
    let image = best_image(&table, "A1");
    assert_eq!((image.height, image.width, image.scale), (2138, 2000, 0.287_604_256_542_996_8));
    assert_eq!(table.spatial[0], [4550.31, 2394.07]);
    assert_eq!(table.libraries["A1"].images.keys().collect::<Vec<_>>(), ["hires", "lowres"]);

    let Some(outs) = golden::shared("data/her2st/B1") else { return };
    let table = load_table(&params(&outs, json!({}))).unwrap();
    assert!(best_image(&table, "B1").is_empty());
    assert_eq!(table.libraries["B1"].scale_factors.spot_diameter_fullres, 144.644_806_020_005_97);
}

#[test]
fn headerless_positions_and_visium_barcodes_load() {
    let Some(outs) = golden::shared("data/dlpfc/151673") else { return };
    let annotation = outs.join("annotation.csv");
    let params = params(&outs, json!({"annotation": annotation}));
    let table = load_table(&params).unwrap();
    assert_eq!((table.n_spots(), table.n_genes(), table.x.data.len()), (3639, 500, 118_617));
    assert_eq!(load_labels(&params, &table).unwrap().spots.len(), 3611);
    assert_eq!(best_image(&table, "151673").scale, 0.045_004_502);
}

/// `RESTAGE_KEEP` names a folder that keeps the artifacts, for Python's own readers to judge.
#[test]
fn sections_come_back_from_disk() {
    let Some(sections) = golden::shared("data/her2st") else { return };
    let folder = tempfile::tempdir().unwrap();
    let root =
        std::env::var_os("RESTAGE_KEEP").map_or_else(|| folder.path().to_owned(), std::path::PathBuf::from);
    for section in ["A1", "B1"] {
        let table = load_table(&params(&sections.join(section), json!({}))).unwrap();
        let path = root.join(format!("{section}.zarr"));
        table.write(&path).unwrap();
        assert!(Table::read(&path).unwrap() == table);

        let values = table.spatial.iter().flatten().map(|&pixel| pixel as f32).collect();
        let embedding = Embedding { spots: table.obs.index, dims: 2, values };
        let path = root.join(format!("{section}-embedding.zarr"));
        embedding.write(&path).unwrap();
        assert!(Embedding::read(&path).unwrap() == embedding);
    }
}

#[test]
fn a_folder_that_is_no_outs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = load_table(&params(folder.path(), json!({"section": "A1"}))).unwrap_err().to_string();
    assert!(
        message.contains("filtered_feature_bc_matrix/: `path` should be the `outs` folder of spaceranger"),
        "{message}"
    );
}

#[test]
fn names_that_cannot_be_folders_are_refused() {
    for name in ["", "a/b", " A1", ".", "__x"] {
        let params = params(Path::new("/outs"), json!({"section": name}));
        assert!(Load::validate(&params).unwrap_err().to_string().contains("`section: "));
    }
}

#[test]
fn an_annotation_of_another_section_is_refused() {
    let Some(outs) = golden::shared("data/her2st/A1") else { return };
    let params = params(&outs, json!({"annotation": outs.join("../../dlpfc/151673/annotation.csv")}));
    let table = load_table(&params).unwrap();
    assert!(load_labels(&params, &table).unwrap_err().to_string().contains("is it of another section?"));
}

/// Nobody's coordinates depend on how the image was scaled for finding where it lies: not squidpy's, nor ours.
#[test]
fn the_registration_s_scale_is_kept_and_moves_no_spot() {
    let Some(hd) = golden::shared("data/fixtures/seurat_visium_hd/binned_outputs/square_008um") else {
        return;
    };
    let others = images::read_scale_factors(&hd.join("spatial")).unwrap().others;
    let wanted = [
        ("bin_size_um", 8.0),
        ("microns_per_pixel", 0.273_761_267_153_152_74),
        ("regist_target_img_scalef", 0.254_043_52),
    ];
    assert_eq!(others, wanted.map(|(name, value)| (name.to_owned(), value)).into());

    let Some(outs) = golden::shared("data/mouse_embryo_cytassist/outs") else { return };
    let load = |outs: &std::path::Path| {
        load_table(&serde_json::from_value(json!({"path": outs, "section": "E"})).unwrap()).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let link = |name: &str| std::os::unix::fs::symlink(outs.join(name), folder.path().join(name)).unwrap();
    std::fs::create_dir(folder.path().join("spatial")).unwrap();
    for name in
        ["filtered_feature_bc_matrix", "spatial/tissue_positions.csv", "spatial/tissue_lowres_image.png"]
    {
        link(name);
    }
    let factors = std::fs::read_to_string(outs.join("spatial/scalefactors_json.json")).unwrap();
    let other = factors.replace(r#""regist_target_img_scalef": 1.0"#, r#""regist_target_img_scalef": 0.25"#);
    assert_ne!(factors, other);
    std::fs::write(folder.path().join("spatial/scalefactors_json.json"), other).unwrap();
    let (whole, scaled) = (load(&outs), load(folder.path()));
    assert!(whole.spatial == scaled.spatial);
    let library = &scaled.libraries["E"];
    assert_eq!(library.scale_factors.others["regist_target_img_scalef"], 0.25);
    assert_eq!(library.images["lowres"].scale, whole.libraries["E"].images["lowres"].scale);
}
