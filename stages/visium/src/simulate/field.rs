//! Smooth random functions of the plane.

use std::f64::consts::TAU;

use rand::Rng;

use super::normal;

/// Waves that a field sums: enough to look irregular.
const WAVES: usize = 12;

/// How many waves lie along the longer side of the area.
const WAVES_PER_SIDE: std::ops::Range<f64> = 0.8..2.0;

/// A smooth random function of the plane: a sum of plane waves, of about unit variance.
pub(super) struct Field {
    /// Wave vector (radians per pixel), phase, amplitude.
    waves: Vec<([f64; 2], f64, f64)>,
    /// What is taken off.
    offset: f64,
}

impl Field {
    /// A field whose blobs are some thirds of the area in size.
    pub(super) fn blobs(random: &mut impl Rng, width: usize, height: usize) -> Self {
        let side = width.max(height) as f64;
        let amplitude: f64 = (2.0 / WAVES as f64).sqrt();
        let waves = (0..WAVES)
            .map(|_| {
                let direction = random.random_range(0.0..TAU);
                let number = TAU * random.random_range(WAVES_PER_SIDE) / side;
                let strength = normal(random);
                let phase = random.random_range(0.0..TAU);
                ([number * direction.cos(), number * direction.sin()], phase, amplitude * strength)
            })
            .collect();
        Self { waves, offset: 0.0 }
    }

    /// The field less its median over `points`: above 0 at half of them.
    pub(super) fn halving(mut self, points: &[[f64; 2]]) -> Self {
        let mut values: Vec<f64> = points.iter().map(|&point| self.at(point)).collect();
        self.offset += crate::quantile::median(&mut values);
        self
    }

    /// The value at a point (x, y) in pixels.
    pub(super) fn at(&self, [x, y]: [f64; 2]) -> f64 {
        let sum: f64 = self
            .waves
            .iter()
            .map(|([kx, ky], phase, amplitude)| amplitude * (kx * x + ky * y + phase).cos())
            .sum();
        sum - self.offset
    }

    /// -1 and 1 on the two sides of the border, going over within about `width` units of the field.
    pub(super) fn side(&self, point: [f64; 2], width: f64) -> f64 {
        (self.at(point) / width).tanh()
    }
}

/// Rough noise between -1 and 1: random numbers on a lattice, interpolated smoothly between.
pub(super) struct Grain {
    lattice: Vec<f64>,
}

/// Side of the lattice, which repeats.
const LATTICE: usize = 256;

impl Grain {
    pub(super) fn new(random: &mut impl Rng) -> Self {
        Self { lattice: (0..LATTICE * LATTICE).map(|_| random.random_range(-1.0..1.0)).collect() }
    }

    /// The value at a point, in units of the lattice.
    pub(super) fn at(&self, x: f64, y: f64) -> f64 {
        let ease = |t: f64| t * t * (3.0 - 2.0 * t);
        let (column, row) = (x.floor(), y.floor());
        let (across, down) = (ease(x - column), ease(y - row));
        let value = |dx: f64, dy: f64| {
            let place = |position: f64| position.rem_euclid(LATTICE as f64) as usize % LATTICE;
            self.lattice[place(row + dy) * LATTICE + place(column + dx)]
        };
        let top = value(0.0, 0.0) * (1.0 - across) + value(1.0, 0.0) * across;
        let bottom = value(0.0, 1.0) * (1.0 - across) + value(1.0, 1.0) * across;
        top * (1.0 - down) + bottom * down
    }
}
