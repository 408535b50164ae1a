//! Colours of a patch: their moments, taken apart into stains, as hue, saturation and value, as grey.

use std::sync::LazyLock;

use nalgebra::Matrix3;

use crate::stain::density;

/// Mean, standard deviation (n) and skewness (g1) of each channel that `of` makes of a pixel; a channel that does not vary
/// has no skewness: 0.
pub(super) fn moments<const N: usize>(pixels: &[[u8; 3]], of: impl Fn([u8; 3]) -> [f64; N]) -> Vec<[f64; 3]> {
    let values: Vec<[f64; N]> = pixels.iter().map(|&pixel| of(pixel)).collect();
    let n = values.len().max(1) as f64;
    let channel = |channel: usize| {
        let values = || values.iter().map(|values| values[channel]);
        let mean = values().sum::<f64>() / n;
        let power = |exponent| values().map(|value| (value - mean).powi(exponent)).sum::<f64>() / n;
        let variance = power(2);
        // Rounding alone is no variance.
        let varies = variance > 1e-20 * (1.0 + mean * mean);
        [mean, variance.sqrt(), if varies { power(3) / variance.powf(1.5) } else { 0.0 }]
    };
    (0..N).map(channel).collect()
}

/// Haematoxylin and eosin of a pixel, as scikit-image's `rgb2hed`: densities are logarithms to the base of 1e-6, by the
/// vectors of Ruifrok & Johnston (2001), negative ones 0.
pub(super) fn stains(pixel: [u8; 3]) -> [f64; 2] {
    static TABLE: LazyLock<(Matrix3<f64>, Vec<f64>)> = LazyLock::new(|| {
        let stains = Matrix3::new(0.65, 0.70, 0.29, 0.07, 0.99, 0.11, 0.27, 0.57, 0.78);
        let density = |value: u16| (f64::from(value) / 255.0).max(1e-6).ln() / 1e-6_f64.ln();
        (stains.try_inverse().unwrap_or_default(), (0..256).map(density).collect())
    });
    let (inverse, densities) = &*TABLE;
    let density = pixel.map(|value| densities[usize::from(value)]);
    [0, 1].map(|stain| (0..3).map(|colour| density[colour] * inverse[(colour, stain)]).sum::<f64>().max(0.0))
}

/// Hue, saturation and value, each from 0 to 1.
pub(super) fn hsv(pixel: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = pixel.map(|value| f64::from(value) / 255.0);
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let range = high - low;
    if range <= 0.0 {
        return [0.0, 0.0, high];
    }
    let sixths = if high == r {
        (g - b) / range
    } else if high == g {
        2.0 + (b - r) / range
    } else {
        4.0 + (r - g) / range
    };
    [(sixths / 6.0).rem_euclid(1.0), range / high, high]
}

/// Luminance, as scikit-image's `rgb2gray` weighs it, rounded.
pub(super) fn grey(pixel: [u8; 3]) -> u8 {
    let [r, g, b] = pixel.map(f64::from);
    (0.2125 * r + 0.7154 * g + 0.0721 * b).round() as u8
}

/// The share of pixels whose optical density in red is at least `least`.
pub(super) fn dark_share(pixels: &[[u8; 3]], least: f64) -> f64 {
    let is_dark: Vec<bool> = (0..=255).map(|red| density(red) >= least).collect();
    let dark = pixels.iter().filter(|[red, _, _]| is_dark[usize::from(*red)]).count();
    dark as f64 / pixels.len().max(1) as f64
}
