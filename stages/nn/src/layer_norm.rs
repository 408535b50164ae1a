//! Layer normalisation of rows on slices: for the layer, and for ops that begin with one.

use pulp::NullaryFnOnce;
use rayon::prelude::*;

use crate::{
    norm::EPSILON,
    wide::{self, sum_of},
};

/// Rows that one task takes. Fixed: partial sums must not depend on the number of threads.
const CHUNK: usize = 64;

/// A row's mean and one over its standard deviation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    mean: f32,
    inverse: f32,
}

/// The moments of rows of so many columns.
pub(crate) fn moments(x: &[f32], columns: usize) -> Vec<Moments> {
    let mut moments = vec![Moments::default(); x.len() / columns];
    let chunks = moments.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK * columns));
    chunks.for_each(|(moments, x)| wide::run(Measure { x, columns, moments }));
    moments
}

/// Writes rows normalised, scaled, shifted.
pub(crate) fn normalise(x: &[f32], moments: &[Moments], [gamma, beta]: [&[f32]; 2], into: &mut [f32]) {
    let columns = gamma.len();
    let chunks = into.par_chunks_mut(CHUNK * columns).zip(x.par_chunks(CHUNK * columns));
    chunks
        .zip(moments.par_chunks(CHUNK))
        .for_each(|((into, x), moments)| wide::run(Normalise { x, moments, gamma, beta, into }));
}

/// Adds the gradients of rows to `dx`, and those of scale and shift to the other two, from those of what was made of them:
/// dx = (γ dz − mean(γ dz) − x̂ mean(γ dz x̂)) / sd.
pub(crate) fn slopes(
    dx: &mut [f32],
    dz: &[f32],
    x: &[f32],
    moments: &[Moments],
    gamma: &[f32],
) -> [Vec<Vec<f32>>; 2] {
    let columns = gamma.len();
    let chunks = dx.par_chunks_mut(CHUNK * columns).zip(dz.par_chunks(CHUNK * columns));
    let chunks = chunks.zip(x.par_chunks(CHUNK * columns)).zip(moments.par_chunks(CHUNK));
    let (dgamma, dbeta) = chunks
        .map(|(((dx, dz), x), moments)| {
            let (mut dgamma, mut dbeta) = (vec![0.0; columns], vec![0.0; columns]);
            wide::run(Slopes { dx, dz, x, moments, gamma, dgamma: &mut dgamma, dbeta: &mut dbeta });
            (dgamma, dbeta)
        })
        .unzip();
    [dgamma, dbeta]
}

struct Measure<'a> {
    x: &'a [f32],
    columns: usize,
    moments: &'a mut [Moments],
}

impl NullaryFnOnce for Measure<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let share = 1.0 / self.columns as f32;
        for (moments, x) in self.moments.iter_mut().zip(self.x.chunks_exact(self.columns)) {
            let mean = sum_of(x, x, |x, _| x) * share;
            let variance = sum_of(x, x, |x, _| (x - mean) * (x - mean)) * share;
            *moments = Moments { mean, inverse: 1.0 / (variance + EPSILON).sqrt() };
        }
    }
}

struct Normalise<'a> {
    x: &'a [f32],
    moments: &'a [Moments],
    gamma: &'a [f32],
    beta: &'a [f32],
    into: &'a mut [f32],
}

impl NullaryFnOnce for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let columns = self.gamma.len();
        let rows = self.into.chunks_exact_mut(columns).zip(self.x.chunks_exact(columns));
        for ((into, x), Moments { mean, inverse }) in rows.zip(self.moments) {
            let values = into.iter_mut().zip(x).zip(self.gamma.iter().zip(self.beta));
            values.for_each(|((z, x), (gamma, beta))| *z = (x - mean) * inverse * gamma + beta);
        }
    }
}

struct Slopes<'a> {
    dx: &'a mut [f32],
    dz: &'a [f32],
    x: &'a [f32],
    moments: &'a [Moments],
    gamma: &'a [f32],
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
}

impl NullaryFnOnce for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (columns, gamma) = (self.gamma.len(), self.gamma);
        let share = 1.0 / columns as f32;
        let rows = self.dx.chunks_exact_mut(columns).zip(self.dz.chunks_exact(columns));
        let rows = rows.zip(self.x.chunks_exact(columns)).zip(self.moments);
        let mut scaled = vec![0.0; columns];
        for (((dx, dz), x), Moments { mean, inverse }) in rows {
            let sums = self.dgamma.iter_mut().zip(self.dbeta.iter_mut());
            for ((dgamma, dbeta), (dz, x)) in sums.zip(dz.iter().zip(x)) {
                *dgamma += dz * ((x - mean) * inverse);
                *dbeta += dz;
            }
            scaled.iter_mut().zip(dz).zip(gamma).for_each(|((scaled, dz), gamma)| *scaled = dz * gamma);
            let shift = sum_of(&scaled, x, |scaled, _| scaled) * share;
            let slope = sum_of(&scaled, x, |scaled, x| scaled * ((x - mean) * inverse)) * share;
            for ((dx, scaled), x) in dx.iter_mut().zip(&scaled).zip(x) {
                *dx += inverse * (scaled - shift - (x - mean) * inverse * slope);
            }
        }
    }
}
