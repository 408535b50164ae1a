//! Random views of a patch: turned and mirrored, cropped, with other amounts of stain and light.

use rand::Rng;

use crate::optical_density::{Colours, DENSITY, STAINS, inverse};

/// How far views differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Augment {
    /// Smallest and largest side of a crop, as a share of the patch's.
    pub(crate) crop: (f32, f32),
    /// Largest change of a stain's amount, as a share.
    pub(crate) stain: f32,
    /// Largest change of contrast and of the logarithm of brightness.
    pub(crate) colour: f32,
}

impl Augment {
    /// Writes a standardised view of `patch` (`size` x `size` x 3 bytes) into a square of pixels of any side.
    pub(crate) fn view(
        &self,
        patch: &[u8],
        size: usize,
        colours: &Colours,
        rng: &mut impl Rng,
        into: &mut [f32],
    ) {
        let [turn, flip_rows, flip_columns] = rng.random::<[bool; 3]>();
        let side = size as f32 * rng.random_range(self.crop.0..=self.crop.1);
        let places = (into.len() / 3).isqrt();
        let mut axis = |flip| Axis::crop((size, places), side, rng.random_range(0.0..=1.0), flip);
        let (rows, columns) = (axis(flip_rows), axis(flip_columns));
        let colour = self.colour_change(colours, rng);

        let density = |row: usize, column: usize| {
            let at = (row * size + column) * 3;
            [0, 1, 2].map(|colour| DENSITY[usize::from(patch[at + colour])])
        };
        for (at, output) in into.chunks_exact_mut(3).enumerate() {
            let (row, column) = (rows.0[at / places], columns.0[at % places]);
            let pixel =
                |row: usize, column: usize| if turn { density(column, row) } else { density(row, column) };
            let corners = [
                (pixel(row.low, column.low), (1.0 - row.part) * (1.0 - column.part)),
                (pixel(row.low, column.high), (1.0 - row.part) * column.part),
                (pixel(row.high, column.low), row.part * (1.0 - column.part)),
                (pixel(row.high, column.high), row.part * column.part),
            ];
            let mixed =
                [0, 1, 2].map(|colour| corners.iter().map(|(pixel, part)| pixel[colour] * part).sum());
            output.copy_from_slice(&colour.apply(mixed));
        }
    }

    /// Draws one change of stains, contrast and brightness, and standardises after it: all linear in optical density.
    fn colour_change(&self, colours: &Colours, rng: &mut impl Rng) -> Affine {
        let mut draw = |limit: f32| rng.random_range(-limit..=limit);
        let amounts: [f32; 3] = std::array::from_fn(|_| 1.0 + draw(self.stain));
        let contrast = 1.0 + draw(self.colour);
        let brightness = draw(self.colour);
        let unmix = inverse(STAINS);
        let mut matrix = [[0.0; 3]; 3];
        for (output, row) in matrix.iter_mut().enumerate() {
            for (input, value) in row.iter_mut().enumerate() {
                let mixed: f32 = (0..3).map(|s| unmix[input][s] * amounts[s] * STAINS[s][output]).sum();
                *value = contrast * mixed / colours.sd[output];
            }
        }
        let shift = std::array::from_fn(|colour| (brightness - colours.mean[colour]) / colours.sd[colour]);
        Affine { matrix, shift }
    }
}

/// Where the rows or columns of a view come from.
struct Axis(Vec<Between>);

/// A place between two pixels.
#[derive(Clone, Copy)]
struct Between {
    low: usize,
    high: usize,
    /// How far it is from `low` to `high`.
    part: f32,
}

impl Axis {
    /// So many places spread over a window of length `side`, `offset` of the way along the free room of `size` pixels.
    fn crop((size, places): (usize, usize), side: f32, offset: f32, flip: bool) -> Self {
        let (step, start) = (side / places as f32, (size as f32 - side) * offset);
        let last = size - 1;
        let place = |at: usize| {
            let at = if flip { places - 1 - at } else { at };
            let position = (start + (at as f32 + 0.5) * step - 0.5).clamp(0.0, last as f32);
            let low = (position as usize).min(last);
            Between { low, high: (low + 1).min(last), part: position - low as f32 }
        };
        Self((0..places).map(place).collect())
    }
}

/// A linear map of colours and a shift.
struct Affine {
    matrix: [[f32; 3]; 3],
    shift: [f32; 3],
}

impl Affine {
    fn apply(&self, [r, g, b]: [f32; 3]) -> [f32; 3] {
        std::array::from_fn(|colour| {
            let row = self.matrix[colour];
            row[0] * r + row[1] * g + row[2] * b + self.shift[colour]
        })
    }
}

#[cfg(test)]
mod tests {
    use restage_stage::{artifact::Patches, context::rng};

    use super::*;

    const NONE: Augment = Augment { crop: (1.0, 1.0), stain: 0.0, colour: 0.0 };

    fn patch() -> Patches {
        let pixels = (0..8 * 8 * 3_u32).map(|i| (i * i * 13 % 251) as u8).collect();
        Patches { spots: vec!["s_1".into()], size: 8, pixels }
    }

    #[test]
    fn without_changes_a_view_is_the_patch_turned_or_mirrored() {
        let patch = patch();
        let colours = Colours::fit(&patch, &[0]);
        let sorted = |mut image: Vec<f32>| {
            image.iter_mut().for_each(|value| *value = (*value * 1e3).round());
            image.sort_by(f32::total_cmp);
            image
        };
        let plain = colours.patches(&patch, &[0]);
        let mut views: Vec<Vec<f32>> = (0..40)
            .map(|seed| {
                let mut view = vec![0.0; plain.len()];
                NONE.view(patch.patch(0), 8, &colours, &mut rng(seed, "view"), &mut view);
                view.iter_mut().for_each(|value| *value = (*value * 1e3).round());
                view
            })
            .collect();
        assert!(
            views.iter().all(|view| sorted(view.iter().map(|v| v / 1e3).collect()) == sorted(plain.clone()))
        );
        views.sort_by(|a, b| a.partial_cmp(b).unwrap());
        views.dedup();
        assert_eq!(views.len(), 8, "every turn and mirror image is drawn");
    }

    #[test]
    fn jitter_changes_the_colours_and_the_same_stream_gives_the_same_view() {
        let patch = patch();
        let colours = Colours::fit(&patch, &[0]);
        let view = |augment: Augment, stream: &str| {
            let mut view = vec![0.0; 192];
            augment.view(patch.patch(0), 8, &colours, &mut rng(1, stream), &mut view);
            view
        };
        let all = Augment { crop: (0.5, 1.0), stain: 0.2, colour: 0.2 };
        assert_eq!(view(all, "a"), view(all, "a"));
        assert_ne!(view(all, "a"), view(all, "b"));
        assert_ne!(view(Augment { stain: 0.2, ..NONE }, "a"), view(NONE, "a"));
    }

    /// Of a patch whose density rises by columns, a small crop has as many values between its darkest and brightest as it is wide.
    #[test]
    fn a_small_crop_is_a_part_of_the_patch() {
        let pixels = (0..16 * 16_u32).flat_map(|at| [(10 * (at % 16)) as u8; 3]).collect();
        let patch = Patches { spots: vec!["s_1".into()], size: 16, pixels };
        let colours = Colours { mean: [0.0; 3], sd: [1.0; 3] };
        let spread = |share: f32, places: usize| {
            let mut view = vec![0.0; places * places * 3];
            let augment = Augment { crop: (share, share), ..NONE };
            augment.view(patch.patch(0), 16, &colours, &mut rng(4, "view"), &mut view);
            // Brightness: of what lies along one side it is even.
            let bright: Vec<f32> = view.iter().map(|density| 256.0 * (-density).exp() - 1.0).collect();
            bright.iter().copied().fold(f32::MIN, f32::max) - bright.iter().copied().fold(f32::MAX, f32::min)
        };
        // Centres of 8 places over 4 of 16 pixels are 3.5 pixels apart.
        assert!((spread(1.0, 16) - 150.0).abs() < 0.1, "{}", spread(1.0, 16));
        assert!((spread(0.25, 8) - 35.0).abs() < 2.0, "{}", spread(0.25, 8));
    }
}
