//! Matrix products on slices. `ndarray` because it is safe on borrowed slices; on the tall and narrow matrices of
//! small convolutions it was also as fast as dfdx's own or up to twice as fast.

use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice, linalg::general_mat_mul};
use rayon::prelude::*;

/// Rows of the result that one task computes. Fixed: the split must not depend on the number of threads.
const ROWS: usize = 128;

/// A row-major matrix on a slice; `.t()` transposes it.
#[expect(clippy::expect_used, reason = "callers compute both from one shape")]
pub(crate) fn view(values: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), values).expect("as many values as rows x columns")
}

/// `c = a b + beta c` on the calling thread.
#[expect(clippy::expect_used, reason = "callers compute both from one shape")]
pub(crate) fn gemm(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, beta: f32, c: &mut [f32]) {
    let mut c =
        ArrayViewMut2::from_shape((a.nrows(), b.ncols()), c).expect("as many values as rows x columns");
    general_mat_mul(1.0, &a, &b, beta, &mut c);
}

/// `c = a b + beta c`, in parallel over blocks of rows.
pub(crate) fn par_gemm(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, beta: f32, c: &mut [f32]) {
    c.par_chunks_mut(ROWS * b.ncols()).enumerate().for_each(|(block, c)| {
        let first = block * ROWS;
        let rows = Slice::from(first..(first + ROWS).min(a.nrows()));
        gemm(a.slice_axis(Axis(0), rows), b, beta, c);
    });
}
