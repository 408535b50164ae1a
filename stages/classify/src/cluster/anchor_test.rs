//! A figure that was measured elsewhere: smoothing and k-means on the twelve DLPFC slices, from principal components as
//! published with a benchmark (`dlpfc/SLICE/pcs50.npy` under `RESTAGE_SHARED`).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::*;
use crate::{neighbours::nearest, scores::Confusion, testing::Bench};

/// A NumPy array of two dimensions at most: its shape, and the bytes of each item.
fn npy(path: &Path) -> (Vec<usize>, Vec<Vec<u8>>) {
    let bytes = std::fs::read(path).unwrap();
    let length = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..length]).into_owned();
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let shape: Vec<usize> = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let size = (bytes.len() - length) / shape.iter().product::<usize>();
    (shape, bytes[length..].chunks_exact(size).map(<[u8]>::to_vec).collect())
}

fn floats(path: &Path) -> (usize, Vec<f32>) {
    let (shape, items) = npy(path);
    (shape[1], items.iter().map(|item| f32::from_le_bytes(item[..].try_into().unwrap())).collect())
}

/// Texts of four bytes a character.
fn texts(path: &Path) -> Vec<String> {
    let character = |bytes: &[u8]| char::from_u32(u32::from_le_bytes(bytes.try_into().unwrap())).unwrap();
    let text = |item: &Vec<u8>| item.chunks_exact(4).map(character).filter(|&c| c != '\0').collect();
    npy(path).1.iter().map(text).collect()
}

/// The adjusted Rand index of three rounds of averaging with the six nearest spots, 30 components, and k-means for as many
/// clusters as there are layers.
fn ari(folder: &Path) -> f64 {
    let (dims, values) = floats(&folder.join("pcs50.npy"));
    let (_, places) = floats(&folder.join("pcs_coordinates.npy"));
    let truth = texts(&folder.join("pcs_labels.npy"));
    let layers = truth.iter().collect::<BTreeSet<_>>().len();
    let spots: Vec<String> = (0..truth.len()).map(|i| format!("S_{i}")).collect();
    let places: Vec<f64> = places.into_iter().map(f64::from).collect();
    let rows = nearest(2, &places, &places, 6, true).into_iter();
    let rows = rows.map(|near| near.into_iter().map(|(other, _)| (other as i32, 1.0)).collect());
    let edges = Csr::from_rows(spots.len(), rows.collect::<Vec<Vec<_>>>());
    let done = Bench::new()
        .input("features", &Embedding { spots: spots.clone(), dims, values })
        .input("graph", &Graph { spots, edges })
        .run::<Cluster>(json!({ "n_clusters": layers, "dims": 30, "smooth": 3 }))
        .unwrap();
    let found: Predictions = done.output("predictions");
    let pairs: Vec<(&str, &str)> =
        truth.iter().enumerate().map(|(spot, layer)| (layer.as_str(), found.predicted(spot))).collect();
    Confusion::count(pairs).scores()["ari"]
}

/// scikit-learn 1.9.1 (`KMeans(k, n_init=10, random_state=seed)` on the same averages) gives a mean of 0.469 over twelve slices
/// and seeds 0 to 4; 0.462 with seed 0. Slices with two nearly equal optima move it: the means of single seeds are 0.46 to 0.49.
#[test]
fn smoothing_and_k_means_find_the_layers_of_twelve_slices() {
    let shared = std::env::var_os("RESTAGE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let slices = [
        "151507", "151508", "151509", "151510", "151669", "151670", "151671", "151672", "151673", "151674",
        "151675", "151676",
    ];
    let folders = slices.map(|slice| shared.join("data/dlpfc").join(slice));
    if !folders.iter().all(|folder| folder.join("pcs50.npy").exists()) {
        println!("skipped: no pcs50.npy of the twelve slices under {}", shared.display());
        return;
    }
    let found: Vec<f64> = folders.iter().map(|folder| ari(folder)).collect();
    let mean = found.iter().sum::<f64>() / 12.0;
    println!("{slices:?} {found:.3?}: mean {mean:.3}");
    assert!((0.45..0.50).contains(&mean), "{mean}");
    // Slices of which every seed of scikit-learn's gives the same, to 0.01.
    for (slice, expected) in [(4, 0.606), (5, 0.610), (6, 0.635), (10, 0.411), (11, 0.3182)] {
        assert!(
            (found[slice] - expected).abs() < 0.01,
            "{}: {} is not {expected}",
            slices[slice],
            found[slice]
        );
    }
}
