//! Features against scikit-image 0.26 and SciPy on the upper left 64 x 64 pixels of a tile of HER2ST.
//!
//! `rgb2hed`, `rgb2hsv`, `scipy.stats.skew`; `graycomatrix(grey * 32 // 256, [1, 4], [0, π/4, π/2, 3π/4], 32, symmetric=True,
//! normed=True)` and the mean of `graycoprops` over the directions; `local_binary_pattern(grey, 8, 1, "uniform")`, with grey =
//! round(rgb @ [.2125, .7154, .0721]).

use super::*;
use crate::golden;

const SIZE: usize = 64;

fn tile() -> Option<Vec<[u8; 3]>> {
    let image = image::open(golden::shared("golden/her2st_C2_256.png")?).unwrap().into_rgb8();
    let corner = image::imageops::crop_imm(&image, 0, 0, SIZE as u32, SIZE as u32).to_image();
    Some(corner.into_raw().as_chunks::<3>().0.to_vec())
}

fn of(families: &[Family]) -> Option<Vec<f64>> {
    let params = Params { families: families.to_vec(), ..Params::default() };
    let found = measure(&tile()?, SIZE, &params);
    assert_eq!(found.len(), names(&params).len());
    Some(found)
}

fn assert_close(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (place, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-2), "{place}: {found} is not {wanted}");
    }
}

#[test]
fn stains_and_colours_are_scikit_image_s() {
    let Some(found) = of(&[Family::OpticalDensity, Family::Colour]) else { return };
    let wanted = [
        [0.071_868_718, 0.047_293_729, 1.240_485_417],
        [0.000_835_995, 0.001_616_844, 2.287_929_03],
        [138.729_492_188, 46.381_159_772, -0.385_983_642],
        [133.446_777_344, 37.715_132_896, -0.334_673_164],
        [173.398_925_781, 27.683_435_417, -0.551_420_863],
        [0.702_696_36, 0.056_339_267, 0.476_137_186],
        [0.267_307_963, 0.138_095_173, 0.968_675_554],
        [0.680_095_358, 0.108_702_44, -0.545_735_366],
    ];
    assert_close(&found, wanted.as_flattened());
}

#[test]
fn textures_are_scikit_image_s() {
    let Some(found) = of(&[Family::Glcm, Family::Lbp]) else { return };
    let glcm = [
        [2.583_748_662, 0.989_069_586, 0.633_649_14, 0.146_505_704, 0.944_231_751, 0.021_715_611],
        [13.903_662_647, 2.514_196_82, 0.396_529_274, 0.105_429_813, 0.689_169_493, 0.011_196_039],
    ];
    let lbp = [
        0.020_996_094,
        0.058_349_609,
        0.051_513_672,
        0.123_046_875,
        0.343_994_141,
        0.189_697_266,
        0.065_429_688,
        0.051_513_672,
        0.038_818_359,
        0.056_640_625,
    ];
    assert_close(&found, &[glcm.as_flattened(), &lbp].concat());
}

#[test]
fn what_does_not_vary_has_numbers_all_the_same() {
    let params = Params::default();
    for value in [0, 128, 255] {
        let found = measure(&vec![[value; 3]; SIZE * SIZE], SIZE, &params);
        assert!(found.iter().all(|value| value.is_finite()), "{found:?}");
    }
    let names = names(&params);
    let found = measure(&vec![[60, 40, 120]; SIZE * SIZE], SIZE, &params);
    let of = |name: &str| found[names.iter().position(|other| other == name).unwrap()];
    assert_eq!((of("nuclei"), of("glcm_contrast_1"), of("red_sd"), of("red_skew")), (1.0, 0.0, 0.0, 0.0));
    assert_eq!(of("glcm_correlation_4"), 1.0);
}

#[test]
fn params_that_cannot_be_are_named() {
    let problem = |params: Params| ImageFeatures::validate(&params).unwrap_err().to_string();
    let default = Params::default;
    assert!(problem(Params { families: Vec::new(), ..default() }).contains("families"));
    assert!(problem(Params { families: vec![Family::Lbp; 2], ..default() }).contains("Lbp comes twice"));
    assert!(problem(Params { grey_levels: 1, ..default() }).contains("grey_levels"));
    assert!(problem(Params { distances: vec![0], ..default() }).contains("distances"));
    assert!(ImageFeatures::validate(&default()).is_ok());
}
