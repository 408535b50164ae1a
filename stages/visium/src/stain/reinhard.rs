//! Colour transfer of Reinhard et al. (2001): mean and standard deviation of each channel. In CIELab (D65), as
//! torchstain computes it; Reinhard's own Ruderman space, which squidpy uses, gives other numbers.

use std::sync::LazyLock;

use nalgebra::{Matrix3, Vector3};

use super::palette::Palette;

/// sRGB to XYZ, and the white of D65.
const XYZ: Matrix3<f64> = Matrix3::new(
    0.412_453, 0.357_580, 0.180_423, 0.212_671, 0.715_160, 0.072_169, 0.019_334, 0.119_193, 0.950_227,
);
const WHITE: [f64; 3] = [0.950_47, 1.0, 1.088_83];

/// The colours of an image in CIELab.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours {
    pub(super) means: [f64; 3],
    /// Standard deviations (n).
    pub(super) deviations: [f64; 3],
}

impl Colours {
    /// Of the tile of H&E that the project's golden values describe; torchstain has no default.
    pub(super) const REFERENCE: Self =
        Self { means: [54.747, 17.122, -21.950], deviations: [15.060, 7.213, 7.250] };

    /// Of some pixels; `None` where a channel does not vary.
    pub(super) fn of(palette: &Palette) -> Option<Self> {
        let n = palette.pixels() as f64;
        let (mut sums, mut squares) = ([0.0; 3], [0.0; 3]);
        for (colour, count) in &palette.0 {
            for (channel, value) in lab(*colour).into_iter().enumerate() {
                sums[channel] += value * f64::from(*count);
                squares[channel] += value * value * f64::from(*count);
            }
        }
        let means = sums.map(|sum| sum / n);
        let deviations =
            [0, 1, 2].map(|channel| (squares[channel] / n - means[channel] * means[channel]).max(0.0).sqrt());
        deviations.iter().all(|deviation| *deviation > 1e-3).then_some(Self { means, deviations })
    }

    /// A pixel of an image of these colours as one of the target's.
    pub(super) fn transferred(&self, pixel: [u8; 3], target: &Self) -> [u8; 3] {
        let own = lab(pixel);
        rgb([0, 1, 2].map(|channel| {
            (own[channel] - self.means[channel]) / self.deviations[channel] * target.deviations[channel]
                + target.means[channel]
        }))
    }
}

/// Light of each value of sRGB, as a share of white's.
static LINEAR: LazyLock<[f64; 256]> = LazyLock::new(|| {
    std::array::from_fn(|value| {
        let value = value as f64 / 255.0;
        if value > 0.040_45 { ((value + 0.055) / 1.055).powf(2.4) } else { value / 12.92 }
    })
});

/// CIELab's lightness of an sRGB pixel, from 0 to 100.
pub(crate) fn lightness(pixel: [u8; 3]) -> f64 {
    let linear = pixel.map(|value| LINEAR[usize::from(value)]);
    // The other two coordinates would cost a root each.
    let y = XYZ[(1, 0)] * linear[0] + XYZ[(1, 1)] * linear[1] + XYZ[(1, 2)] * linear[2];
    116.0 * response(y / WHITE[1]) - 16.0
}

fn response(share: f64) -> f64 {
    if share > 0.008_856 { share.cbrt() } else { 7.787 * share + 16.0 / 116.0 }
}

/// CIELab of an sRGB pixel.
fn lab(pixel: [u8; 3]) -> [f64; 3] {
    let linear = pixel.map(|value| LINEAR[usize::from(value)]);
    let xyz = XYZ * Vector3::from(linear);
    let [x, y, z] = [0, 1, 2].map(|place| response(xyz[place] / WHITE[place]));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// sRGB of a point of CIELab, cut off where no screen shows it.
fn rgb([l, a, b]: [f64; 3]) -> [u8; 3] {
    let y = (l + 16.0) / 116.0;
    let shares = [y + a / 500.0, y, y - b / 200.0];
    let xyz = [0, 1, 2].map(|place| {
        let share = shares[place];
        let share = if share > 0.206_893 { share.powi(3) } else { (share - 16.0 / 116.0) / 7.787 };
        share.max(0.0) * WHITE[place]
    });
    let linear = XYZ.try_inverse().unwrap_or_default() * Vector3::from(xyz);
    let value = |linear: f64| {
        let value =
            if linear > 0.003_130_8 { 1.055 * linear.powf(1.0 / 2.4) - 0.055 } else { 12.92 * linear };
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    };
    [value(linear[0]), value(linear[1]), value(linear[2])]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lightness_is_that_of_lab(pixel: [u8; 3]) {
            prop_assert_eq!(lightness(pixel), lab(pixel)[0]);
        }
    }
}
