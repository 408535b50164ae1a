//! What a simulated section promises: held-out patients' regions need both modalities, and positions say nothing.

use nalgebra::DMatrix;

use super::*;
use crate::patches;

fn params(section: &str) -> Params {
    serde_json::from_value(serde_json::json!({ "section": section })).unwrap()
}

#[test]
fn the_same_params_give_the_same_section() {
    assert_eq!(simulate(&params("A")), simulate(&params("A")));
    let other = Params { seed: 1, ..params("A") };
    assert_ne!(simulate(&params("A")).labels.regions, simulate(&other).labels.regions);
    assert_ne!(simulate(&params("A")).labels.regions, simulate(&params("B")).labels.regions);
}

#[test]
fn every_spot_has_an_id_a_place_in_the_image_and_counts() {
    let Section { table, image, labels } = simulate(&params("A"));
    assert_eq!((table.n_spots(), table.n_genes()), (256, 300));
    assert_eq!(table.obs.index, labels.spots);
    let unique: std::collections::BTreeSet<_> = table.obs.index.iter().collect();
    assert_eq!(unique.len(), 256);
    assert_eq!(image.pixels.len(), image.height * image.width * 3);
    for [x, y] in &table.spatial {
        assert!((18.0..image.width as f64 - 18.0).contains(&(x * image.scale)));
        assert!((18.0..image.height as f64 - 18.0).contains(&(y * image.scale)));
    }
    let counts: f64 = table.x.data.iter().map(|&count| f64::from(count)).sum();
    assert!((1500.0..2700.0).contains(&(counts / 256.0)), "{}", counts / 256.0);
}

#[test]
fn all_four_regions_occur_and_a_few_spots_are_unassigned() {
    let labels = simulate(&params("A")).labels;
    assert_eq!(labels.regions.iter().filter(|region| region.is_none()).count(), 12);
    for region in ["invasive cancer", "cancer in situ", "immune infiltrate", "connective tissue"] {
        let spots = labels.regions.iter().filter(|other| other.as_deref() == Some(region)).count();
        assert!(spots >= 20, "{spots} spots of {region}");
    }
}

#[test]
fn sections_of_one_patient_share_the_batch_effect() {
    let of = |section: &str, patient: &str| {
        let params = Params { patient: Some(patient.into()), batch_effect: 1.0, ..params(section) };
        mean_logs(&simulate(&params).table)
    };
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let (first, second, stranger) = (of("A", "p"), of("B", "p"), of("C", "q"));
    assert!(3.0 * distance(&first, &second) < distance(&first, &stranger));
}

fn mean_logs(table: &Table) -> Vec<f64> {
    let mut means = vec![0.0; table.n_genes()];
    for spot in 0..table.n_spots() {
        logs(table, spot)
            .iter()
            .zip(&mut means)
            .for_each(|(log, mean)| *mean += log / table.n_spots() as f64);
    }
    means
}

fn logs(table: &Table, spot: usize) -> Vec<f64> {
    let mut row = vec![0.0; table.n_genes()];
    table.x.dense_row(spot, &mut row);
    let total: f64 = row.iter().map(|&count| f64::from(count)).sum();
    row.iter().map(|&count| (1e4 * f64::from(count) / total).ln_1p()).collect()
}

/// Colour means and variances, and how rough the green channel is at two distances.
fn image_features(patch: &[u8], side: usize) -> Vec<f64> {
    let value =
        |row: usize, column: usize, colour: usize| f64::from(patch[(row * side + column) * 3 + colour]);
    let n = (side * side) as f64;
    let mut features = Vec::new();
    for colour in 0..3 {
        let all = || (0..side * side).map(|pixel| value(pixel / side, pixel % side, colour));
        let mean = all().sum::<f64>() / n;
        features.extend([mean, (all().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()]);
    }
    for step in [1, 4] {
        let steps = (0..side).flat_map(|row| (0..side - step).map(move |column| (row, column)));
        let rough: f64 = steps.map(|(r, c)| (value(r, c, 1) - value(r, c + step, 1)).abs()).sum();
        features.push(rough / n);
    }
    features
}

/// Features of some kind of a section's assigned spots, and their regions.
type Spots = Vec<(Vec<f64>, String)>;

/// One kind of features after the other: positions, image, expression, both.
fn features(name: &str) -> [Spots; 4] {
    let section = simulate(&params(name));
    let patches = patches::of_one(&section.table, section.image);
    let mut kinds: [Spots; 4] = Default::default();
    for (spot, region) in section.labels.regions.into_iter().enumerate() {
        let Some(region) = region else { continue };
        let [x, y] = section.table.spatial[spot].map(|at| at / 1000.0);
        let image = image_features(patches.patch(spot), patches.size);
        let expression = logs(&section.table, spot);
        let both = [image.clone(), expression.clone()].concat();
        let position = vec![x, y, x * y, x * x, y * y];
        for (kind, features) in kinds.iter_mut().zip([position, image, expression, both]) {
            kind.push((features, region.clone()));
        }
    }
    kinds
}

/// Accuracy on `test` of ridge regression to one column per region, on standardised features.
fn accuracy(train: &[&Spots], test: &Spots) -> f64 {
    let train: Vec<&(Vec<f64>, String)> = train.iter().flat_map(|spots| spots.iter()).collect();
    let regions = ["invasive cancer", "cancer in situ", "immune infiltrate", "connective tissue"];
    let (n, dims) = (train.len(), test[0].0.len());
    let mean = |d: usize| train.iter().map(|(f, _)| f[d]).sum::<f64>() / n as f64;
    let means: Vec<f64> = (0..dims).map(mean).collect();
    let sd = |d: usize| (train.iter().map(|(f, _)| (f[d] - means[d]).powi(2)).sum::<f64>() / n as f64).sqrt();
    let sds: Vec<f64> = (0..dims).map(|d| sd(d).max(1e-9)).collect();
    let standard = |f: &[f64], d: usize| (f[d] - means[d]) / sds[d];
    let x = DMatrix::from_fn(n, dims, |spot, d| standard(&train[spot].0, d));
    let y =
        DMatrix::from_fn(n, 4, |spot, region| f64::from(u8::from(train[spot].1 == regions[region])) - 0.25);
    let gram = x.transpose() * &x + DMatrix::identity(dims, dims) * 100.0;
    let weights = gram.cholesky().unwrap().solve(&(x.transpose() * y));
    let scores = DMatrix::from_fn(test.len(), dims, |spot, d| standard(&test[spot].0, d)) * weights;
    let right =
        (0..test.len()).filter(|&spot| regions[scores.row(spot).transpose().argmax().0] == test[spot].1);
    right.count() as f64 / test.len() as f64
}

#[test]
fn held_out_patients_need_both_modalities_and_positions_say_nothing() {
    let sections: Vec<[Spots; 4]> = ["A", "B", "C", "D", "E", "F"].map(features).into();
    let [position, image, expression, both] = [0, 1, 2, 3].map(|kind| {
        let folds = (0..sections.len()).map(|held_out| {
            let train: Vec<&Spots> =
                sections.iter().enumerate().filter(|(s, _)| *s != held_out).map(|(_, s)| &s[kind]).collect();
            accuracy(&train, &sections[held_out][kind])
        });
        folds.sum::<f64>() / sections.len() as f64
    });
    println!("position {position:.3}, image {image:.3}, expression {expression:.3}, both {both:.3}");
    assert!(position < 0.35, "chance is 0.25, positions reach {position}");
    assert!((0.35..0.55).contains(&image), "image alone reaches {image}");
    assert!((0.35..0.55).contains(&expression), "expression alone reaches {expression}");
    assert!(both > image.max(expression) + 0.15, "both reach {both}, image {image}, expression {expression}");
    assert!(both < 0.95, "too easy: both reach {both}");
}

#[test]
fn without_an_effect_the_image_shows_nothing() {
    // Another map of the tissue, the same drawing.
    let params = Params { image_effect: 0.0, ..params("A") };
    let grid = Grid::new(&params);
    let maps = Maps::new(&params, &grid);
    assert_eq!(tissue::draw(&params, &grid, &maps.epithelial), tissue::draw(&params, &grid, &maps.active));
}

#[test]
fn without_an_effect_the_expression_shows_nothing() {
    let params = Params { expression_effect: 0.0, ..params("A") };
    let grid = Grid::new(&params);
    let maps = Maps::new(&params, &grid);
    let of = |map| expression::counts(&params, "p", &grid, map);
    assert_eq!(of(&maps.epithelial), of(&maps.active));
}

#[test]
fn unreasonable_params_are_refused_with_their_range() {
    let error = Simulate::validate(&Params { rows: 1, ..params("A") }).unwrap_err().to_string();
    assert!(error.contains("rows should be from 4"), "{error}");
    assert!(Simulate::validate(&Params { section: "a/b".into(), ..params("A") }).is_err());
    assert!(Simulate::validate(&Params { image_effect: f64::NAN, ..params("A") }).is_err());
}
