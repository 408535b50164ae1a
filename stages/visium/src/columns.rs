//! Sums over the columns of a sparse matrix that is stored by row: the same bits on any number of threads.

use rayon::prelude::*;
use restage_stage::artifact::Csr;

/// Rows that are summed up one after another: fixed, so that the order of additions is.
const ROWS: usize = 4096;

/// Folds the stored values of each column, over `rows`: `add` is given what the column has so far, the row and a
/// value; `join` adds what a later part of the rows has.
pub(crate) fn fold<A: Default + Clone + Send>(
    x: &Csr,
    rows: &[usize],
    add: impl Fn(&mut A, usize, f32) + Sync,
    join: impl Fn(&mut A, A),
) -> Vec<A> {
    let part = |rows: &[usize]| {
        let mut columns = vec![A::default(); x.n_cols];
        for &row in rows {
            x.entries(row).for_each(|(column, value)| add(&mut columns[column], row, value));
        }
        columns
    };
    let mut all = vec![A::default(); x.n_cols];
    // As many parts at a time as there are threads: each has all columns.
    for several in rows.chunks(ROWS * rayon::current_num_threads()) {
        let parts: Vec<Vec<A>> = several.par_chunks(ROWS).map(part).collect();
        for part in parts {
            all.iter_mut().zip(part).for_each(|(all, part)| join(all, part));
        }
    }
    all
}
