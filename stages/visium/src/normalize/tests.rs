//! Normalisation and variable genes against scanpy 1.12.4, on counts given in closed form and on real sections.

use restage_stage::artifact::Frame;
use serde_json::Value;

use super::*;
use crate::golden;

/// The counts that `golden/scanpy.json` describes under `def`: 120 spots x 300 genes.
fn closed_form() -> Table {
    let mut x = Csr { n_cols: 300, indptr: vec![0], ..Csr::default() };
    for i in 0_u64..120 {
        for j in 0_u64..300 {
            let h = (7919 * i + 104_729 * j + 31 * i * j + 13 * (i / 40) * (j % 7)) % 1000;
            let programme = i / 40 == j % 3 && j % 11 == 0;
            let lambda = 0.35 * (j % 23 + 1) as f64 * if programme { 4.0 } else { 1.0 };
            let count = (-lambda * ((h as f64 + 0.5) / 1000.0).ln()).floor();
            if count > 0.0 {
                x.indices.push(j as i32);
                x.data.push(count as f32);
            }
        }
        x.indptr.push(x.indices.len() as i64);
    }
    Table {
        x,
        obs: Frame { index: (0..120).map(|i| format!("s_{i}")).collect(), ..Frame::default() },
        var: Frame { index: (0..300).map(|j| j.to_string()).collect(), ..Frame::default() },
        spatial: vec![[0.0; 2]; 120],
        ..Table::default()
    }
}

/// Their logarithms at 10,000 counts a spot.
pub(crate) fn closed_form_logs() -> Csr {
    let table = closed_form();
    let rows = all(&table);
    normalize(table, &rows, &Params { n_top_genes: None, ..Params::default() }).unwrap().x
}

fn all(table: &Table) -> Vec<usize> {
    (0..table.n_spots()).collect()
}

fn head(x: &Csr) -> Vec<f64> {
    let mut row = vec![0.0; x.n_cols];
    x.dense_row(0, &mut row);
    row[..5].iter().map(|&value| f64::from(value)).collect()
}

fn floats(table: &Table, name: &str) -> Vec<f64> {
    match table.var.column(name) {
        Some(Column::Float(values)) => values.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_close(found: &[f64], wanted: &Value, tolerance: f64) {
    let wanted: Vec<f64> = serde_json::from_value(wanted.clone()).unwrap();
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found - wanted).abs() <= tolerance * wanted.abs().max(1e-3), "{found} is not {wanted}");
    }
}

fn most_variable(table: &Table, n: usize) -> Vec<String> {
    let norm = floats(table, "dispersions_norm");
    let mut genes: Vec<usize> = (0..norm.len()).filter(|&gene| !norm[gene].is_nan()).collect();
    genes.sort_by(|&a, &b| norm[b].total_cmp(&norm[a]));
    genes[..n].iter().map(|&gene| table.var.index[gene].clone()).collect()
}

#[test]
fn totals_and_logs_are_scanpy_s() {
    let Some(golden) = golden::json("scanpy.json") else { return };
    let table = closed_form();
    let everything = Params { n_top_genes: None, ..Params::default() };
    let median = Params { target_sum: None, log1p: false, ..everything.clone() };
    let rows = all(&table);

    assert_eq!(
        median_total(&totals(&table.x, &rows, &Params::default()), &rows),
        golden["normalize_total_default_median_target"]
    );
    let scaled = normalize(table.clone(), &rows, &median).unwrap();
    assert_close(&head(&scaled.x), &golden["norm_default[0,:5]"], 1e-6);

    let logs = normalize(table, &rows, &everything).unwrap();
    assert_close(&head(&logs.x), &golden["log1p_1e4[0,:5]"], 1e-6);
    let sum: f64 = logs.x.data.iter().map(|&value| f64::from(value)).sum();
    assert_close(&[sum], &serde_json::json!([golden["log1p_1e4_sum"]]), 1e-6);
}

#[test]
fn variable_genes_are_scanpy_s() {
    let Some(golden) = golden::json("scanpy.json") else { return };
    for (flavor, name) in [(Flavor::Seurat, "seurat"), (Flavor::CellRanger, "cell_ranger")] {
        let params = Params { n_top_genes: Some(30), flavor, subset: false, ..Params::default() };
        let table = closed_form();
        let rows = all(&table);
        let table = normalize(table, &rows, &params).unwrap();
        let chosen = table.var.flags("highly_variable").unwrap().iter().filter(|&&chosen| chosen).count();
        assert_eq!(chosen, golden[format!("{name}_n")]);
        assert_eq!(serde_json::json!(most_variable(&table, 10)), golden[format!("{name}_top10")], "{name}");
        let norm = floats(&table, "dispersions_norm");
        assert_close(&norm[..5], &golden[format!("{name}_dispersions_norm[0:5]")], 1e-5);
    }
}

#[test]
fn variable_genes_are_chosen_on_training_spots_only() {
    let params = Params { n_top_genes: Some(30), ..Params::default() };
    let train: Vec<usize> = (0..60).collect();
    let mut other = closed_form();
    // Whatever the test spots hold, the choice stays.
    let first_test_value = other.x.indptr[60] as usize;
    other.x.data[first_test_value..].iter_mut().step_by(3).for_each(|value| *value += 40.0);

    let chosen = normalize(closed_form(), &train, &params).unwrap().var;
    assert_eq!(chosen.index, normalize(other.clone(), &train, &params).unwrap().var.index);
    let rows = all(&other);
    assert_ne!(chosen.index, normalize(other, &rows, &params).unwrap().var.index);
}

#[test]
fn a_gene_that_no_training_spot_expresses_is_never_chosen() {
    let genes = |table: Table| {
        let rows = all(&table);
        normalize(table, &rows, &Params { n_top_genes: Some(5000), ..Params::default() }).unwrap().var.index
    };
    let mut silenced = closed_form();
    for (value, _) in silenced.x.data.iter_mut().zip(&silenced.x.indices).filter(|(_, gene)| **gene == 7) {
        *value = 0.0;
    }
    let others: Vec<String> = genes(closed_form()).into_iter().filter(|gene| gene != "7").collect();
    assert_eq!(genes(silenced), others);
    assert!(genes(closed_form()).contains(&"7".to_owned()));
}

#[test]
fn negative_values_are_refused() {
    let mut table = closed_form();
    table.x.data[0] = -1.0;
    let rows = all(&table);
    let error = normalize(table, &rows, &Params::default()).unwrap_err().to_string();
    assert!(error.contains("counts") && error.contains("-1"), "{error}");
}

#[test]
fn a_spot_without_counts_stays_zero() {
    let mut x = Csr { n_cols: 2, indptr: vec![0, 0, 1], indices: vec![1], data: vec![4.0] };
    let params = Params { target_sum: Some(10.0), log1p: false, ..Params::default() };
    let factors = factors(&x, &[], &params);
    transform(&mut x, &factors, &params);
    assert_eq!(x.data, [10.0]);
}

#[test]
fn standardised_variances_are_scanpy_s() {
    let Some(golden) = golden::json("scanpy.json") else { return };
    let table = closed_form();
    let rows = all(&table);
    let params =
        Params { n_top_genes: Some(30), flavor: Flavor::SeuratV3, subset: false, ..Params::default() };
    let normalized = normalize(table, &rows, &params).unwrap();
    let found = floats(&normalized, "variances_norm");
    assert_close(&found[..5], &golden["seurat_v3_variances_norm[0:5]"], 1e-9);
    let mut ranked: Vec<usize> = (0..found.len()).collect();
    ranked.sort_by(|&a, &b| found[b].total_cmp(&found[a]));
    let top: Vec<String> = ranked[..10].iter().map(ToString::to_string).collect();
    assert_eq!(serde_json::json!(top), golden["seurat_v3_top10"]);
}

#[test]
fn highly_expressed_genes_need_not_count() {
    let Some(golden) = golden::json("scanpy.json") else { return };
    // As the golden file's: scanpy's defaults, but a target of 1.
    let params = Params {
        target_sum: Some(1.0),
        exclude_highly_expressed: true,
        log1p: false,
        n_top_genes: None,
        ..Params::default()
    };
    let table = closed_form();
    let rows = all(&table);
    let x = normalize(table, &rows, &params).unwrap().x;
    assert_close(&head(&x), &golden["norm_excl_highly(target1)[0,:5]"], 1e-6);
}

#[test]
fn another_base_divides_the_logarithm() {
    let table = closed_form();
    let rows = all(&table);
    let with = |log_base| {
        normalize(closed_form(), &rows, &Params { log_base, n_top_genes: None, ..Params::default() })
    };
    let (natural, binary) = (with(None).unwrap().x, with(Some(2.0)).unwrap().x);
    assert!((natural.data[7] / binary.data[7] - std::f32::consts::LN_2).abs() < 1e-6);
}

#[test]
fn too_few_genes_for_a_curve_are_an_error() {
    let table = closed_form().select_genes(&[0, 1, 2]);
    let rows = all(&table);
    let params = Params { n_top_genes: Some(2), flavor: Flavor::SeuratV3, ..Params::default() };
    let problem = normalize(table, &rows, &params).unwrap_err().to_string();
    assert!(problem.contains("through 3 genes that vary, with span: 0.3"), "{problem}");
}
