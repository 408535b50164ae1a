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
