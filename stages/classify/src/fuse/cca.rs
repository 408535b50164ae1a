//! Two blocks as one, by what they have in common: canonical correlation analysis (Hotelling 1936), with a ridge (Vinod 1976).

use nalgebra::DMatrix;
use restage_stage::{
    Error, Result,
    artifact::{Embedding, Metrics},
};

use super::{DIMS, Params, embedding};
use crate::{
    features::{Features, Scaling},
    matrix::{cholesky, gram, product, solve, solve_transposed, transposed},
};

/// Steps of the singular value decomposition; a few a dimension are usual.
const STEPS: usize = 100_000;

/// The mean of both blocks' canonical variables, the most correlated first, fitted on some of the spots. Adds to the summary how
/// correlated they are there, and on spots held out.
pub(super) fn fuse(
    features: &Features,
    scaling: &Scaling,
    fitted: &[usize],
    held_out: &[usize],
    params: &Params,
    summary: &mut Metrics,
) -> Result<Embedding> {
    let widths = features.two_widths("kind: cca")?;
    let narrower = widths[0].min(widths[1]);
    // The mean is taken off: so many spots span one dimension less.
    let most = narrower.min(fitted.len() - 1);
    let dims = params.dims.unwrap_or(DIMS.min(most));
    if dims == 0 || dims > most {
        return Err(Error::invalid(format!(
            "`kind: cca` has at most {most} dimensions of blocks with {} and {}, fitted on {} spots, and `dims` asks for {}",
            widths[0],
            widths[1],
            fitted.len(),
            dims.max(1)
        )));
    }
    let blocks = blocks(features, scaling, widths);
    let weights = directions(&blocks, widths, fitted, dims, params.ridge)?;
    let [first, second] = [0, 1].map(|at| product(widths[at], &blocks[at], dims, &weights[at]));

    let correlations = |spots: &[usize]| -> Vec<f64> {
        let of = |variables: &[f64], dim: usize| -> Vec<f64> {
            spots.iter().map(|spot| variables[spot * dims + dim]).collect()
        };
        (0..dims).map(|dim| correlation(&of(&first, dim), &of(&second, dim))).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let found = correlations(fitted);
    summary.values.insert("correlation".into(), mean(&found));
    if held_out.len() > 2 {
        let held = correlations(held_out);
        let (fitted, unseen) = (mean(&found), mean(&held));
        if unseen < 0.5 * fitted {
            tracing::warn!(
                "canonical correlations are {fitted:.2} in the mean on the spots they are fitted on, and {unseen:.2} on those held \
                 out: raise `ridge`, lower `dims`, or give blocks of fewer dimensions"
            );
        }
        summary.values.insert("correlation_held_out".into(), unseen);
        summary.values.insert("held_out".into(), held_out.len() as f64);
        summary.curves.insert("correlation_held_out".into(), held);
    }
    summary.curves.insert("correlation".into(), found);
    Ok(embedding(features, dims, first.iter().zip(&second).map(|(x, y)| (x + y) / 2.0)))
}

/// Each block of all spots, z-scored.
fn blocks(features: &Features, scaling: &Scaling, widths: [usize; 2]) -> [Vec<f64>; 2] {
    let rows = features.all(scaling);
    let block = |start: usize, width: usize| {
        // `Scaling::standard` has given blocks equal weight: back to a variance of 1.
        let scale = (2.0 * width as f64 / features.dims() as f64).sqrt();
        let row = |row: &[f64]| row[start..start + width].iter().map(|x| x * scale).collect::<Vec<_>>();
        rows.chunks_exact(features.dims()).flat_map(row).collect()
    };
    [block(0, widths[0]), block(widths[0], widths[1])]
}

/// The weights A and B of the dimensions of X and Y, `dims` columns each: with Sxx = Xᵀ X / n + ridge I, Syy like it, and Sxy = Xᵀ Y / n,
/// the singular vectors U and V of Lx⁻¹ Sxy Ly⁻ᵀ for Sxx = Lx Lxᵀ and Syy = Ly Lyᵀ give A = Lx⁻ᵀ U and B = Ly⁻ᵀ V. Of the two signs of a pair
/// that counts by which the largest weight of X is positive.
fn directions(
    blocks: &[Vec<f64>; 2],
    widths: [usize; 2],
    fitted: &[usize],
    dims: usize,
    ridge: f64,
) -> Result<[Vec<f64>; 2]> {
    let [p, q] = widths;
    let pick = |at: usize| -> Vec<f64> {
        fitted
            .iter()
            .flat_map(|&spot| &blocks[at][spot * widths[at]..(spot + 1) * widths[at]])
            .copied()
            .collect()
    };
    let (x, y) = (pick(0), pick(1));
    let covariance = |n: usize, a: &[f64], m: usize, b: &[f64]| -> Vec<f64> {
        gram(n, a, m, b).into_iter().map(|sum| sum / fitted.len() as f64).collect()
    };
    let root = |n: usize, a: &[f64]| {
        let mut square = covariance(n, a, n, a);
        (0..n).for_each(|dim| square[dim * n + dim] += ridge);
        cholesky(n, &square).ok_or_else(|| {
            Error::invalid(format!(
                "dimensions of a block say the same as others, or nothing, and `ridge` is {ridge}: raise it"
            ))
        })
    };
    let (lx, ly) = (root(p, &x)?, root(q, &y)?);
    let between = transposed(q, &solve(p, &lx, q, covariance(p, &x, q, &y)));
    let between = DMatrix::from_row_slice(q, p, &solve(q, &ly, p, between));
    let found = between.try_svd(true, true, f64::EPSILON, STEPS);
    // nalgebra sorts by singular value, the largest first.
    let Some((v, u)) = found.and_then(|found| Some((found.u?, found.v_t?))) else {
        return Err(Error::invalid("the canonical directions do not converge: raise `ridge`"));
    };
    let u: Vec<f64> = (0..p).flat_map(|row| (0..dims).map(move |dim| (dim, row))).map(|at| u[at]).collect();
    let v: Vec<f64> = (0..q).flat_map(|row| (0..dims).map(move |dim| (row, dim))).map(|at| v[at]).collect();
    let (mut a, mut b) = (solve_transposed(p, &lx, dims, u), solve_transposed(q, &ly, dims, v));
    for dim in 0..dims {
        let weights = a.iter().skip(dim).step_by(dims).copied();
        let largest = weights
            .fold(0.0, |largest: f64, weight| if weight.abs() > largest.abs() { weight } else { largest });
        if largest < 0.0 {
            [&mut a, &mut b]
                .into_iter()
                .flat_map(|of| of.iter_mut().skip(dim).step_by(dims))
                .for_each(|weight| *weight = -*weight);
        }
    }
    Ok([a, b])
}

/// Pearson's; 0 where one of both does not vary.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
    }
    let scale = (xx * yy).sqrt();
    if scale > 0.0 { xy / scale } else { 0.0 }
}
