//! One item among others: the two views of an item should be more alike than views of different ones.

use dfdx::prelude::*;

use rayon::prelude::*;

use super::{
    Unit,
    distill::{of_distributions, softmax},
    with_gradients,
};
use crate::{
    gemm::{View, par_gemm, view},
    tensor::{self, Matrix, Recording, Scalar},
};

/// Rows that one task takes.
const ROWS: usize = 16;

/// SimCLR's loss of two views, items x dimensions (Chen et al. 2020): of each of the 2n views, the cross-entropy of the other
/// view of its item among all other views, by cosine / temperature; the mean over them.
///
/// # Panics
/// If the views differ in shape.
pub fn nt_xent(a: Matrix<Recording>, b: Matrix<Recording>, temperature: f32) -> Scalar<Recording> {
    assert_eq!(a.shape(), b.shape(), "shapes of two views");
    let (items, dims) = *a.shape();
    let rows = 2 * items;
    let unit = Unit::of(&[tensor::values(&a), tensor::values(&b)].concat(), dims);
    let z = view(&unit.rows, rows, dims);
    let mut logits = vec![0.0; rows * rows];
    par_gemm(z, z.reversed_axes(), 0.0, &mut logits);
    let scale = 1.0 / (temperature * rows as f32);
    let loss = cross_entropy(&mut logits, rows, temperature, scale, |row| (row + items) % rows, Some);
    let slopes = view(&logits, rows, rows);
    let mut gradient = vec![0.0; rows * dims];
    par_gemm(slopes, z, 0.0, &mut gradient);
    par_gemm(slopes.reversed_axes(), z, 1.0, &mut gradient);
    let mut of_a = unit.back(gradient);
    let of_b = of_a.split_off(items * dims);
    with_gradients([a, b], loss / rows as f64, [of_a, of_b])
}

/// Of each query, items x dimensions, the cross-entropy of its own key among all keys, by cosine / temperature; the mean over
/// them (van den Oord et al. 2018; MoCo). Key `i` is that of query `i`; those beyond the queries are a queue's. Keys have no
/// gradient.
///
/// # Panics
/// If there are fewer keys than queries, or they have other dimensions.
pub fn info_nce(query: Matrix<Recording>, keys: &[f32], temperature: f32) -> Scalar<Recording> {
    let (items, dims) = *query.shape();
    let count = keys.len() / dims;
    assert!(count >= items && keys.len() == count * dims, "a key for each query");
    let (unit, keys) = (Unit::of(&tensor::values(&query), dims), Unit::of(keys, dims));
    let keys = view(&keys.rows, count, dims);
    let mut logits = vec![0.0; items * count];
    par_gemm(view(&unit.rows, items, dims), keys.reversed_axes(), 0.0, &mut logits);
    let scale = 1.0 / (temperature * items as f32);
    let loss = cross_entropy(&mut logits, count, temperature, scale, |row| row, |_| None);
    let mut gradient = vec![0.0; items * dims];
    par_gemm(view(&logits, items, count), keys, 0.0, &mut gradient);
    with_gradients([query], loss / items as f64, [unit.back(gradient)])
}

/// CLIP's loss of two modalities, items x dimensions (Radford et al. 2021): the mean of both directions' cross-entropies of the
/// other modality of the same item, by cosine / temperature.
///
/// # Panics
/// If the two differ in shape.
pub fn clip(a: Matrix<Recording>, b: Matrix<Recording>, temperature: f32) -> Scalar<Recording> {
    between(a, b, temperature, |_, _| None)
}

/// The same with soft targets, as BLEEP (Xie et al. 2023) has them: an item should find others as much as their own modalities are
/// alike, softmax of (cosines within a + cosines within b) / 2 / temperature. Unlike there, rows are scaled to length 1 and
/// targets have no gradient.
///
/// # Panics
/// If the two differ in shape.
pub fn soft_clip(a: Matrix<Recording>, b: Matrix<Recording>, temperature: f32) -> Scalar<Recording> {
    let items = a.shape().0;
    between(a, b, temperature, |left, right| {
        let mut alike = vec![0.0; items * items];
        par_gemm(left, left.reversed_axes(), 0.0, &mut alike);
        par_gemm(right, right.reversed_axes(), 1.0, &mut alike);
        Some(softmax(&alike, items, 2.0 * temperature))
    })
}

/// Both directions' cross-entropies; of the distributions that `targets` makes of the rows of length 1, or of the same item.
fn between(
    a: Matrix<Recording>,
    b: Matrix<Recording>,
    temperature: f32,
    targets: impl FnOnce(View<'_>, View<'_>) -> Option<Vec<f32>>,
) -> Scalar<Recording> {
    assert_eq!(a.shape(), b.shape(), "shapes of two modalities");
    let (items, dims) = *a.shape();
    let [of_a, of_b] = [&a, &b].map(|z| Unit::of(&tensor::values(z), dims));
    let (left, right) = (view(&of_a.rows, items, dims), view(&of_b.rows, items, dims));
    let targets = targets(left, right);
    let scale = 0.5 / (temperature * items as f32);
    let direction = |from, to| {
        let mut logits = vec![0.0; items * items];
        par_gemm(from, to, 0.0, &mut logits);
        let loss = match &targets {
            None => cross_entropy(&mut logits, items, temperature, scale, |row| row, |_| None),
            Some(targets) => {
                let (losses, slopes) = of_distributions(&logits, targets, items, temperature);
                logits = slopes;
                logits.iter_mut().for_each(|slope| *slope *= scale);
                losses
            }
        };
        (loss, logits)
    };
    let (forth, slopes_forth) = direction(left, right.reversed_axes());
    let (back, slopes_back) = direction(right, left.reversed_axes());
    let (forth_view, back_view) = (view(&slopes_forth, items, items), view(&slopes_back, items, items));
    let gradient = |slopes, transposed, other| {
        let mut gradient = vec![0.0; items * dims];
        par_gemm(slopes, other, 0.0, &mut gradient);
        par_gemm(transposed, other, 1.0, &mut gradient);
        gradient
    };
    let by_a = of_a.back(gradient(forth_view, back_view.reversed_axes(), right));
    let by_b = of_b.back(gradient(back_view, forth_view.reversed_axes(), left));
    with_gradients([a, b], 0.5 * (forth + back) / items as f64, [by_a, by_b])
}

/// The sum over rows of the cross-entropy of the entry that is to be the largest, of logits `cosines` / `temperature`, without
/// the entry that does not count. The cosines become `scale` times the gradient by the logits.
fn cross_entropy(
    cosines: &mut [f32],
    columns: usize,
    temperature: f32,
    scale: f32,
    target: impl Fn(usize) -> usize + Sync,
    left_out: impl Fn(usize) -> Option<usize> + Sync,
) -> f64 {
    let row = |(row, logits): (usize, &mut [f32])| {
        if let Some(column) = left_out(row) {
            logits[column] = f32::NEG_INFINITY;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let of_target = f64::from((logits[target(row)] - largest) / temperature);
        let mut sum = 0.0;
        for logit in logits.iter_mut() {
            *logit = ((*logit - largest) / temperature).exp();
            sum += f64::from(*logit);
        }
        let share = scale / sum as f32;
        logits.iter_mut().for_each(|logit| *logit *= share);
        logits[target(row)] -= scale;
        sum.ln() - of_target
    };
    let losses: Vec<f64> = cosines.par_chunks_mut(columns).enumerate().with_min_len(ROWS).map(row).collect();
    losses.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{assert_golden, check, golden, golden_matrices},
    };

    #[test]
    fn losses_have_the_golden_values() {
        let Some(golden) = golden() else { return };
        let [a, b] = golden_matrices();
        for temperature in ["0.1", "0.2", "0.5", "1.0"] {
            let loss = nt_xent(a.leaky_trace(), b.leaky_trace(), temperature.parse().unwrap());
            assert_golden(loss.array(), &golden["nt_xent"][temperature]);
        }
        let loss = info_nce(a.leaky_trace(), &tensor::values(&b), 0.07);
        assert_golden(loss.array(), &golden["info_nce_q->k_t0.07"]);
        let loss = clip(a.leaky_trace(), b.leaky_trace(), 0.07);
        assert_golden(loss.array(), &golden["clip_symmetric_t0.07"]);
    }

    /// PyTorch 2 in double precision: with a and b of the golden file's definition, by `F.normalize`,
    /// `q = ((a @ a.T + b @ b.T) / 2 / t).softmax(1)` and the mean of `F.cross_entropy(a @ b.T / t, q)` and
    /// `F.cross_entropy(b @ a.T / t, q)`.
    #[test]
    fn soft_targets_are_pytorch_s() {
        let [a, b] = golden_matrices();
        for (temperature, expected) in [(0.07, 0.241_894_05), (0.5, 1.251_107_1), (1.0, 1.595_609_2)] {
            let loss = soft_clip(a.leaky_trace(), b.leaky_trace(), temperature).array();
            assert!((loss - expected).abs() <= 1e-5 * expected, "{temperature}: {loss}, not {expected}");
        }
    }

    /// Of items whose modalities are nothing alike, soft targets are hard.
    #[test]
    fn soft_targets_of_unlike_items_are_hard() {
        let axes = |scale: f32| -> Vec<f32> {
            (0..16).map(|at| if at / 4 == at % 4 { scale } else { 0.0 }).collect()
        };
        let pair = || [1.0, 3.0].map(|scale| tensor::tensor(axes(scale), (4, 4)).leaky_traced());
        let ([a, b], [c, d]) = (pair(), pair());
        assert!((soft_clip(a, b, 0.05).array() - clip(c, d, 0.05).array()).abs() < 1e-6);
        // Alike ones should be found as well as oneself: the least is the entropy of equal shares.
        let same = || tensor::tensor(vec![1.0, 2.0, 1.0, 2.0], (2, 2)).leaky_traced();
        assert!((soft_clip(same(), same(), 0.1).array() - 2f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let [a, b] = golden_matrices();
        let none = Params::default();
        check(&none, a.clone(), |_, a| nt_xent(a, b.leaky_trace(), 0.5));
        check(&none, b.clone(), |_, b| nt_xent(a.leaky_trace(), b, 0.5));
        check(&none, a.clone(), |_, a| clip(a, b.leaky_trace(), 0.5));
        check(&none, b.clone(), |_, b| clip(a.leaky_trace(), b, 0.5));
        // Targets move with their rows, and have no gradient: fixed here.
        let targets = softmax(&tensor::values(&crate::gradcheck::wave((6, 6))), 6, 1.0);
        let soft = |a, b| between(a, b, 0.5, |_, _| Some(targets.clone()));
        check(&none, a.clone(), |_, a| soft(a, b.leaky_trace()));
        check(&none, b.clone(), |_, b| soft(a.leaky_trace(), b));
        let queue = [tensor::values(&b), vec![0.3, -0.8, 0.1, 0.9]].concat();
        check(&none, a.clone(), |_, a| info_nce(a, &queue, 0.5));
    }
}
