//! The drawn tissue: stained by Beer-Lambert's law, with nuclei in haematoxylin on eosin.

use rand::Rng;
use rayon::prelude::*;

use super::{
    Grid, Params,
    field::{Field, Grain},
    normal, stream,
};

/// Optical density of haematoxylin and of eosin in red, green, blue (Ruifrok & Johnston 2001).
const HAEMATOXYLIN: [f64; 3] = [0.65, 0.70, 0.29];
const EOSIN: [f64; 3] = [0.07, 0.99, 0.11];
/// Where nuclei may lie: one per cell of this side in pixels, at a random place in it.
const CELL: f64 = 7.0;
/// Width of a border in units of the map.
const BORDER: f64 = 0.25;
/// How strongly the density of nuclei varies without regard to regions (of its logarithm).
const UNRELATED: f64 = 0.3;

/// What a kind of tissue looks like; `mix` lies between two kinds.
#[derive(Clone, Copy)]
struct Look {
    /// Probability that a cell of the lattice has a nucleus.
    nuclei: f64,
    /// Half axes of a nucleus in pixels, along and across the fibres.
    long: f64,
    short: f64,
    /// Mean eosin, and how strongly fibres show in it.
    eosin: f64,
    fibres: f64,
}

const STROMA: Look = Look { nuclei: 0.28, long: 2.7, short: 1.1, eosin: 0.46, fibres: 0.20 };
const EPITHELIUM: Look = Look { nuclei: 0.52, long: 2.5, short: 2.1, eosin: 0.38, fibres: 0.05 };

impl Look {
    /// At `side` = -1 stroma, at 1 epithelium, with `effect` of the difference.
    fn mix(side: f64, effect: f64) -> Self {
        let share = (0.5 + 0.5 * side * effect).clamp(0.0, 1.0);
        let between = |stroma: f64, epithelium: f64| stroma + share * (epithelium - stroma);
        Self {
            nuclei: between(STROMA.nuclei, EPITHELIUM.nuclei),
            long: between(STROMA.long, EPITHELIUM.long),
            short: between(STROMA.short, EPITHELIUM.short),
            eosin: between(STROMA.eosin, EPITHELIUM.eosin),
            fibres: between(STROMA.fibres, EPITHELIUM.fibres),
        }
    }
}

/// How a section was stained: never twice the same.
struct Stain {
    haematoxylin: [f64; 3],
    eosin: [f64; 3],
}

impl Stain {
    fn new(random: &mut impl Rng) -> Self {
        let mut vary = |stain: [f64; 3]| {
            let strength = (0.22 * normal(random)).exp();
            stain.map(|density| strength * (density + 0.04 * normal(random)).max(0.01))
        };
        Self { haematoxylin: vary(HAEMATOXYLIN), eosin: vary(EOSIN) }
    }
}

/// Pixels of a section, row by row, three bytes each.
pub(super) fn draw(params: &Params, grid: &Grid, epithelial: &Field) -> Vec<u8> {
    let mut random = stream(params, "tissue");
    let stain = Stain::new(&mut random);
    let direction = Field::blobs(&mut random, grid.width, grid.height);
    let density = Field::blobs(&mut random, grid.width, grid.height);
    let (fibre_grain, fine_grain) = (Grain::new(&mut random), Grain::new(&mut random));
    let look = |point| Look::mix(epithelial.side(point, BORDER), params.image_effect);
    let mut nuclei = vec![0.0_f64; grid.width * grid.height];
    let lattice = |pixels: usize| (pixels as f64 / CELL).ceil() as usize;
    for row in 0..lattice(grid.height) {
        for column in 0..lattice(grid.width) {
            let mut within = || random.random_range(0.0..1.0);
            let centre = [(column as f64 + within()) * CELL, (row as f64 + within()) * CELL];
            let (chance, depth) = (within(), 0.8 + 0.5 * within());
            let size = (0.15 * normal(&mut random)).exp();
            let look = look(centre);
            if chance < look.nuclei * (UNRELATED * density.at(centre)).exp() {
                let axes = [look.long * size, look.short * size];
                stamp(&mut nuclei, grid, centre, axes, direction.at(centre), depth);
            }
        }
    }
    let speckle: Vec<f32> = (0..grid.width * grid.height).map(|_| 3.0 * normal(&mut random) as f32).collect();

    let mut pixels = vec![0; grid.width * grid.height * 3];
    pixels.par_chunks_exact_mut(grid.width * 3).enumerate().for_each(|(row, line)| {
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            let (x, y) = (column as f64, row as f64);
            let look = look([x, y]);
            let (sine, cosine) = direction.at([x, y]).sin_cos();
            let fibre = fibre_grain.at((x * cosine + y * sine) / 16.0, (y * cosine - x * sine) / 2.5);
            let fine = fine_grain.at(x / 3.0, y / 3.0);
            let eosin = (look.eosin + look.fibres * fibre + 0.05 * fine).max(0.0);
            let haematoxylin = 0.10 + 0.03 * fine + nuclei[row * grid.width + column];
            let noise = f64::from(speckle[row * grid.width + column]);
            for ((value, h), e) in pixel.iter_mut().zip(stain.haematoxylin).zip(stain.eosin) {
                let light = 245.0 * (-(haematoxylin * h + eosin * e)).exp();
                *value = (light + noise).round().clamp(0.0, 255.0) as u8;
            }
        }
    });
    pixels
}

/// Darkens an ellipse: `depth` of haematoxylin at its centre, fading at its rim.
fn stamp(nuclei: &mut [f64], grid: &Grid, [x, y]: [f64; 2], [long, short]: [f64; 2], angle: f64, depth: f64) {
    let reach = long.max(short).ceil() + 1.0;
    let (sine, cosine) = angle.sin_cos();
    let span = |centre: f64, length: usize| {
        let first = (centre - reach).floor().max(0.0) as usize;
        let last = ((centre + reach).ceil().max(0.0) as usize).min(length);
        first..last
    };
    for row in span(y, grid.height) {
        for column in span(x, grid.width) {
            let (dx, dy) = (column as f64 - x, row as f64 - y);
            let (along, across) = (dx * cosine + dy * sine, dy * cosine - dx * sine);
            let distance = ((along / long).powi(2) + (across / short).powi(2)).sqrt();
            let stain = depth * (1.6 - distance).clamp(0.0, 1.0);
            let place = &mut nuclei[row * grid.width + column];
            *place = place.max(stain);
        }
    }
}
