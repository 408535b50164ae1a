//! Real sections from loading to components, against scanpy 1.12.4's numbers for the same steps.

use std::collections::BTreeSet;

use restage_stage::artifact::{Artifact, Column, Embedding, Table};
use serde_json::{Value, json};

use crate::{golden, load::Load, normalize::Normalize, pca::Pca, qc::Qc, stages_test::run};

/// Logarithms, and their sum: both sides keep `f32`, whose numbers are 1.2e-7 apart, and round it after each of three steps in
/// their own order; the golden file has seven digits.
const LOGS: f64 = 1e-6;
/// Variances of components: squares of scores that are kept as `f32`, over all spots.
const VARIANCES: f64 = 1e-4;
/// A spot's scores, of magnitude 1 to 50: scanpy's solver stops earlier than ours, and a component turns a little towards its
/// neighbours of nearly the same variance.
const SCORES: f64 = 1e-3;

fn assert_close(what: &str, found: f64, wanted: &Value, tolerance: f64) {
    let wanted = wanted.as_f64().unwrap();
    assert!((found / wanted - 1.0).abs() <= tolerance, "{what}: {found} is not {wanted}");
}

fn sum(table: &Table) -> f64 {
    table.x.data.iter().map(|&value| f64::from(value)).sum()
}

fn check_counts(table: &Table, golden: &Value) {
    assert_eq!(json!([table.n_spots(), table.n_genes()]), golden["shape_filtered"]);
    assert_eq!(json!(table.x.data.len()), golden["nnz_filtered"]);
    assert_eq!(json!(sum(table)), golden["sum_counts"]);
}

fn check_logs(table: &Table, golden: &Value) {
    assert_close("sum of logarithms", sum(table), &golden["lognorm_sum"], LOGS);
    let barcodes = table.obs.text("barcode").unwrap();
    for cell in golden["lognorm_first_cells"].as_array().unwrap() {
        let spot = barcodes.iter().position(|barcode| *barcode == cell["obs"]).unwrap();
        for (gene, value) in cell["genes"].as_array().unwrap().iter().zip(cell["values"].as_array().unwrap())
        {
            let gene = table.var.index.iter().position(|name| gene == name).unwrap();
            let (_, found) = table.x.entries(spot).find(|&(other, _)| other == gene).unwrap();
            assert_close("logarithm", f64::from(found), value, LOGS);
        }
    }
}

fn check_variable_genes(table: &Table, golden: &Value) {
    let found: BTreeSet<&str> = table.var.index.iter().map(String::as_str).collect();
    let wanted: BTreeSet<&str> =
        golden["hvg_seurat"].as_array().unwrap().iter().map(|gene| gene.as_str().unwrap()).collect();
    assert_eq!(found.symmetric_difference(&wanted).collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// Genes with equal counts in other spots have equal scores; which of those at the cut scanpy takes is up to an unstable
/// sort. All that differs must stand exactly there.
fn check_but_for_ties(table: &Table, golden: &Value) {
    let Some(Column::Bool(chosen)) = table.var.column("highly_variable") else { panic!("no marks") };
    let Some(Column::Float(scores)) = table.var.column("variances_norm") else { panic!("no scores") };
    let wanted: BTreeSet<&str> =
        golden["hvg_seurat_v3"].as_array().unwrap().iter().map(|gene| gene.as_str().unwrap()).collect();
    let mut ranked = scores.clone();
    ranked.sort_by(|a, b| b.total_cmp(a));
    let cut = ranked[wanted.len() - 1];
    let mut differing = 0;
    for (gene, name) in table.var.index.iter().enumerate() {
        if chosen[gene] != wanted.contains(name.as_str()) {
            assert!((scores[gene] / cut - 1.0).abs() < 1e-7, "{name}: {} at a cut of {cut}", scores[gene]);
            differing += 1;
        }
    }
    println!("{differing} genes differ, all of them ties at the cut");
}

fn check_components(embedding: &Embedding, golden: &Value) {
    let n = embedding.spots.len() as f64;
    for component in 0..embedding.dims {
        let scores = embedding.values.iter().skip(component).step_by(embedding.dims);
        let variance = scores.map(|&score| f64::from(score).powi(2)).sum::<f64>() / (n - 1.0);
        assert_close("variance", variance, &golden["pca_variance"][component], VARIANCES);
    }
    for (score, wanted) in
        embedding.row(0).iter().zip(golden["pca_abs_first_cell"].as_array().unwrap()).take(20)
    {
        assert!(
            (f64::from(score.abs()) - wanted.as_f64().unwrap()).abs() < SCORES,
            "{score} is not {wanted}"
        );
    }
}

fn check(section: &str, folder: &str) {
    let Some(golden) = golden::json(&format!("parity/parity_{section}.json")) else { return };
    let Some(data) = golden::shared(&format!("data/{folder}")) else { return };
    let home = tempfile::tempdir().unwrap();
    let at = |place: &str| vec![home.path().join(place)];
    let table = |stage: &str| Table::read(&home.path().join(stage).join("table")).unwrap();
    let load = json!({ "path": data, "section": section });
    // Without `hvg_seurat`, scanpy's components were computed on all genes.
    let n_top_genes = golden["hvg_seurat"].as_array().map(|_| 2000);

    run::<Load>(home.path(), load, &[], &["table", "image", "labels", "section"]);
    run::<Qc>(home.path(), json!({}), &[("table", &at("load/table"))], &["table", "summary"]);
    check_counts(&table("qc"), &golden);
    let mark = json!({ "n_top_genes": null });
    run::<Normalize>(home.path(), mark, &[("table", &at("qc/table"))], &["table"]);
    check_logs(&table("normalize"), &golden);
    std::fs::remove_dir_all(home.path().join("normalize")).unwrap();
    run::<Normalize>(
        home.path(),
        json!({ "n_top_genes": n_top_genes }),
        &[("table", &at("qc/table"))],
        &["table"],
    );
    if n_top_genes.is_some() {
        check_variable_genes(&table("normalize"), &golden);
        let by_variance = home.path().join("by_variance");
        let params = json!({ "n_top_genes": 2000, "flavor": "seurat_v3", "subset": false });
        run::<Normalize>(&by_variance, params, &[("table", &at("qc/table"))], &["table"]);
        check_but_for_ties(&Table::read(&by_variance.join("normalize/table")).unwrap(), &golden);
    }
    run::<Pca>(home.path(), json!({}), &[("table", &at("normalize/table"))], &["embedding"]);
    check_components(&Embedding::read(&home.path().join("pca/embedding")).unwrap(), &golden);
}

#[test]
fn a_breast_cancer_section_is_as_scanpy_has_it() {
    check("her2st_A1", "her2st/A1");
}

#[test]
fn another_patient_s_section_is_as_scanpy_has_it() {
    check("her2st_G2", "her2st/G2");
}

#[test]
fn sections_of_other_makers_are_as_scanpy_has_them() {
    check("mouse_embryo", "mouse_embryo_cytassist/outs");
    check("msti", "msti_breast/outs");
}

#[test]
fn a_cortex_slice_with_all_genes_is_as_scanpy_has_it() {
    check("dlpfc_151673", "dlpfc/151673");
}
