//! Stains against torchstain 1.4.1's on a tile of HER2ST; what has no stains passes.

use proptest::prelude::*;
use restage_stage::artifact::{Categorical, Column, Frame};
use serde_json::json;

use super::*;
use crate::golden;

fn tile() -> Option<Vec<[u8; 3]>> {
    let path = golden::shared("golden/her2st_C2_256.png")?;
    let pixels = image::open(path).unwrap().into_rgb8().into_raw();
    Some(pixels.as_chunks::<3>().0.to_vec())
}

fn palette(pixels: &[[u8; 3]]) -> Palette {
    Cube::new().palette([pixels.as_flattened()])
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    match value.as_array() {
        Some(values) => values.iter().flat_map(numbers).collect(),
        None => vec![value.as_f64().unwrap()],
    }
}

fn means(pixels: &[[u8; 3]]) -> [f64; 3] {
    let n = pixels.len() as f64;
    [0, 1, 2].map(|channel| pixels.iter().map(|pixel| f64::from(pixel[channel])).sum::<f64>() / n)
}

#[test]
fn a_tile_s_stains_are_torchstain_s() {
    let (Some(tile), Some(golden)) = (tile(), golden::json("stain.json")) else { return };
    let golden = &golden["torchstain_numpy_macenko"];
    let stains = Stains::of(&palette(&tile), 0.15, |tissue| macenko::vectors(tissue, 1.0)).unwrap();
    for (found, wanted) in stains.vectors.as_flattened().iter().zip(numbers(&golden["HE"])) {
        assert!((found - wanted).abs() < 1e-6, "{stains:?}");
    }
    for (found, wanted) in stains.strengths.iter().zip(numbers(&golden["maxC"])) {
        assert!((found - wanted).abs() < 1e-6, "{stains:?}");
    }
    let tables = stains.tables(&Stains::REFERENCE);
    let normalised: Vec<[u8; 3]> = tile.iter().map(|pixel| tables.apply(*pixel)).collect();
    for (found, wanted) in means(&normalised).into_iter().zip(numbers(&golden["norm_mean_rgb"])) {
        assert!((found - wanted).abs() < 0.01, "{:?}", means(&normalised));
    }
}

/// `DictionaryLearning(2, alpha=.1, tol=1e-9, fit_algorithm="cd", positive_code=True, positive_dict=True, dict_init=REFERENCE of
/// length 1, code_init=its least squares, transform_algorithm="lasso_cd")` of scikit-learn 1.9.1, on every 25th pixel of tissue.
#[test]
fn a_tile_s_sparse_factors_are_scikit_learn_s() {
    let Some(tile) = tile() else { return };
    let is_tissue = |pixel: &&[u8; 3]| pixel.iter().all(|&value| density(value) >= 0.15);
    let every_25th: Vec<[u8; 3]> = tile.iter().filter(is_tissue).step_by(25).copied().collect();
    assert_eq!(every_25th.len(), 2415);
    let stains = Stains::of(&palette(&every_25th), 0.15, vahadane::vectors).unwrap();
    let wanted = [[0.718_687, 0.461_861], [0.616_549, 0.796_54], [0.321_492, 0.390_138]];
    for (found, wanted) in stains.vectors.as_flattened().iter().zip(wanted.as_flattened()) {
        // Its turns end when the objective changes little, ours when the vectors do.
        assert!((found - wanted).abs() < 2e-3, "{stains:?}");
    }
}

#[test]
fn a_tile_s_colours_are_torchstain_s() {
    let (Some(tile), Some(golden)) = (tile(), golden::json("stain.json")) else { return };
    let colours = Colours::of(&palette(&tile)).unwrap();
    let found = colours.means.into_iter().chain(colours.deviations);
    let wanted =
        [&golden["reinhard_target_means"], &golden["reinhard_target_stds"]].into_iter().flat_map(numbers);
    for (found, wanted) in found.zip(wanted) {
        assert!((found - wanted).abs() < 2e-3, "{found} is not {wanted}");
    }
}

/// Two patches of the tile and one of an empty slide, of section `s`.
fn patches(tile: &[[u8; 3]]) -> (Patches, Table) {
    let (half, white) = (tile.len() / 4, vec![[243, 240, 245]; tile.len() / 4]);
    let pixels: Vec<[u8; 3]> = tile[..2 * half].iter().copied().chain(white).collect();
    let spots: Vec<String> = ["s_a", "s_b", "s_c"].map(str::to_owned).into();
    let mut obs = Frame { index: spots.clone(), ..Frame::default() };
    obs.push("section", Column::Categorical(Categorical::encode([Some("s"); 3])));
    (Patches { spots, size: 128, pixels: pixels.as_flattened().to_vec() }, Table { obs, ..Table::default() })
}

#[test]
fn an_empty_patch_passes_unchanged_and_is_told() {
    let Some(tile) = tile() else { return };
    let (mut patches, table) = patches(&tile);
    let tissue = tissue_shares(&patches, 0.15);
    assert!(tissue[0] > 0.5 && tissue[2] == 0.0);
    let params: Params = serde_json::from_value(json!({})).unwrap();
    assert_eq!(groups(&mut patches, &table, &tissue, &params).unwrap()["s"].patches, [0, 1]);
    let own = Params { per: Per::Patch, ..params };
    assert_eq!(groups(&mut patches, &table, &tissue, &own).unwrap().len(), 2);
}

/// Her2st's A1 comes cut out, on black.
#[test]
fn what_is_cut_out_has_no_part_in_the_stains() {
    let Some(mut tile) = tile() else { return };
    for method in [Method::Macenko, Method::Vahadane, Method::Reinhard] {
        let params = Params { method, ..Params::default() };
        let (mut whole, table) = patches(&tile);
        let mut cut = whole.clone();
        // In its third patch a cut-out of black, in the first one pixel of it.
        cut.pixels[2 * 3 * 128 * 128..].fill(0);
        cut.pixels[..3].fill(0);
        normalize(&mut whole, &table, None, &params, |_, _| Ok(())).unwrap();
        let done = normalize(&mut cut, &table, None, &params, |_, _| Ok(())).unwrap();
        assert_eq!((done.tissue[2], &done.is_normalised[..]), (0.0, &[true, true, false][..]));
        assert_eq!(cut.pixels[..3], [0; 3]);
        assert!(cut.pixels[2 * 3 * 128 * 128..].iter().all(|&value| value == 0));
        let differ = cut.pixels[3..2 * 3 * 128 * 128].iter().zip(&whole.pixels[3..]);
        assert!(
            differ.clone().all(|(a, b)| a.abs_diff(*b) <= 1),
            "{:?}",
            differ.max_by_key(|(a, b)| a.abs_diff(**b))
        );
    }
    // Of a hundredth of black, nothing changes either.
    let sound = Look::of(&palette(&tile).lit(), &Params::default());
    tile.extend([BLACK; 655]);
    assert!(matches!((sound, Look::of(&palette(&tile).lit(), &Params::default())),
        (Some(Look::Stains(a)), Some(Look::Stains(b))) if a == b));
}

#[test]
fn what_has_no_two_stains_has_no_look() {
    let flat = vec![[120, 60, 130]; 5000];
    for method in [Method::Macenko, Method::Vahadane, Method::Reinhard] {
        let params = Params { method, ..Params::default() };
        assert!(Look::of(&palette(&flat), &params).is_none());
        assert!(Look::of(&palette(&[[255; 3]; 5000]), &params).is_none());
        assert!(Look::of(&palette(&[]), &params).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Pixels that are mixtures of two known stains give these stains back.
    #[test]
    fn known_stains_are_found(h in 0.55..0.75_f64, e in 0.05..0.25_f64, seed: u32) {
        let unit = |v: [f64; 3]| { let n = v.iter().map(|x| x * x).sum::<f64>().sqrt(); v.map(|x| x / n) };
        let (hv, ev) = (unit([h, 0.70, 0.29]), unit([e, 0.95, 0.25]));
        let mut state = u64::from(seed) | 1;
        let mut random = || { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407); (state >> 40) as f64 / f64::from(1 << 24) };
        let pixels: Vec<[u8; 3]> = (0..20_000).map(|_| {
            // Nearly pure pixels of both kinds, so that the outermost angles are the stains'.
            let (a, b) = if random() < 0.5 { (0.6 + random(), 0.02 * random()) } else { (0.02 * random(), 0.6 + random()) };
            [0, 1, 2].map(|c| (240.0 * (-(a * hv[c] + b * ev[c])).exp() - 1.0).round().clamp(0.0, 255.0) as u8)
        }).collect();
        let colours = palette(&pixels);
        let by_macenko = Stains::of(&colours, 0.02, |tissue| macenko::vectors(tissue, 1.0)).unwrap();
        let by_vahadane = Stains::of(&colours, 0.02, vahadane::vectors).unwrap();
        for found in [&by_macenko, &by_vahadane] {
            for c in 0..3 {
                prop_assert!((found.vectors[c][0] - hv[c]).abs() < 0.04, "{found:?} {hv:?}");
                prop_assert!((found.vectors[c][1] - ev[c]).abs() < 0.04, "{found:?} {ev:?}");
            }
        }
        let found = by_macenko;
        // Brought to themselves, pixels stay: of two stains, nothing lies beside their plane but rounding.
        let tables = found.tables(&found);
        for pixel in &pixels[..200] {
            let new = tables.apply(*pixel);
            prop_assert!(new.iter().zip(pixel).all(|(a, b)| a.abs_diff(*b) <= 6), "{new:?} {pixel:?}");
        }
    }
}
