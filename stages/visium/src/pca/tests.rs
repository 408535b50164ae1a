//! Principal components against scanpy 1.12.4 and against what defines them.

use super::*;
use crate::{golden, normalize};

fn all(x: &Csr) -> Vec<usize> {
    (0..x.n_rows()).collect()
}

fn fit(x: &Csr, n_components: usize, scale: bool) -> Components {
    Components::fit(x, &all(x), &Params { n_components, scale, ..Params::default() }, |_| Ok(())).unwrap()
}

#[test]
fn variances_and_scores_are_scanpy_s() {
    let Some(golden) = golden::json("scanpy.json") else { return };
    let x = normalize::closed_form_logs();
    let components = fit(&x, 5, false);
    let scores = components.scores(&x);
    for component in 0..5 {
        let variance = golden["pca5_variance"][component].as_f64().unwrap();
        assert!(
            (components.variances[component] / variance - 1.0).abs() < 1e-5,
            "{:?}",
            components.variances
        );
        let score = golden["pca_abs[0,:5]"][component].as_f64().unwrap();
        assert!((f64::from(scores[component].abs()) / score - 1.0).abs() < 1e-4, "{:?}", &scores[..5]);
    }
}

#[test]
fn the_largest_loading_is_positive() {
    let components = fit(&normalize::closed_form_logs(), 20, false);
    for loading in &components.loadings {
        let low = loading.iter().copied().fold(f64::INFINITY, f64::min);
        let high = loading.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(high >= -low);
    }
}

#[test]
fn scores_of_the_fitted_spots_have_the_variances_and_mean_0() {
    for scale in [false, true] {
        let x = normalize::closed_form_logs();
        let components = fit(&x, 10, scale);
        let scores = components.scores(&x);
        for component in 0..10 {
            let of_spots = scores.iter().skip(component).step_by(10).map(|&score| f64::from(score));
            let mean = of_spots.clone().sum::<f64>() / 120.0;
            let variance = of_spots.map(|score| (score - mean).powi(2)).sum::<f64>() / 119.0;
            assert!(mean.abs() < 1e-5, "{mean}");
            assert!((variance / components.variances[component] - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn scaled_genes_have_a_variance_of_one_each() {
    let x = normalize::closed_form_logs();
    let expressed = (0..x.n_cols as i32).filter(|gene| x.indices.contains(gene)).count();
    assert!((fit(&x, 2, true).total_variance - expressed as f64).abs() < 1e-9);
}

#[test]
fn more_components_than_there_are_is_an_error_that_says_how_many() {
    let x = normalize::closed_form_logs();
    let error = Components::fit(&x, &[0, 1, 2, 3], &Params::default(), |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("set n_components to 3 or less"), "{error}");
}

/// 120 spots x 200 genes go by way of the spots, the first 40 genes of them by way of the genes; both are what the whole
/// covariance says.
#[test]
fn both_ways_find_the_eigenpairs_of_the_covariance() {
    let whole = normalize::closed_form_logs();
    assert!(whole.n_rows() < whole.n_cols);
    let narrow = whole.select_cols(&(0..40).collect::<Vec<_>>());
    for x in [whole, narrow] {
        let components = fit(&x, 15, true);
        let centred = nalgebra::DMatrix::from_fn(x.n_rows(), x.n_cols, |row, gene| {
            let (genes, values) = x.row(row);
            let value = genes.binary_search(&(gene as i32)).map_or(0.0, |at| f64::from(values[at]));
            (value - components.means[gene]) * components.factors[gene]
        });
        let covariance = centred.transpose() * &centred / (x.n_rows() - 1) as f64;
        let mut values = covariance.clone().symmetric_eigenvalues().as_slice().to_vec();
        values.sort_by(|a, b| b.total_cmp(a));
        for (loading, (value, expected)) in
            components.loadings.iter().zip(components.variances.iter().zip(&values))
        {
            assert!((value - expected).abs() < 1e-9 * values[0]);
            let loading = nalgebra::DVector::from_column_slice(loading);
            assert!((loading.norm() - 1.0).abs() < 1e-9);
            assert!((&covariance * &loading - &loading * *value).norm() < 1e-7 * values[0]);
        }
    }
}

/// As many components as there can be, of spots of which some are the same: the last have no variance.
#[test]
fn components_without_variance_are_still_unit_vectors() {
    let x = normalize::closed_form_logs();
    let rows: Vec<usize> = (0..30).chain(0..10).collect();
    let params = Params { n_components: 35, ..Params::default() };
    let components = Components::fit(&x, &rows, &params, |_| Ok(())).unwrap();
    assert!(components.variances[34] < 1e-9 * components.variances[0]);
    for loading in &components.loadings {
        assert!((loading.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
