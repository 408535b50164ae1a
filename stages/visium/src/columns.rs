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
    let threads = rayon::current_num_threads();
    // Threads that have no rows of their own share the columns of others' rows.
    let shares = threads.div_ceil(rows.len().div_ceil(ROWS).max(1));
    let width = x.n_cols.div_ceil(shares).max(1);
    let part = |rows: &[usize]| {
        let mut columns = vec![A::default(); x.n_cols];
        columns.par_chunks_mut(width).enumerate().for_each(|(share, columns)| {
            let first = share * width;
            for &row in rows {
                let (of_row, values) = x.row(row);
                let begin = of_row.partition_point(|&column| (column as usize) < first);
                for (&column, &value) in of_row.iter().zip(values).skip(begin) {
                    let Some(so_far) = columns.get_mut(column as usize - first) else { break };
                    add(so_far, row, value);
                }
            }
        });
        columns
    };
    let mut all = vec![A::default(); x.n_cols];
    // As many parts at a time as there are threads: each has all columns.
    for several in rows.chunks(ROWS * threads) {
        let parts: Vec<Vec<A>> = several.par_chunks(ROWS).map(part).collect();
        for part in parts {
            all.iter_mut().zip(part).for_each(|(all, part)| join(all, part));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums whose last bits depend on the order of additions, of fewer rows than a part and of more.
    #[test]
    fn the_threads_change_nothing() {
        let value = |row: usize, column: usize| 1.0 / (1 + (7 * row + 3 * column) % 101) as f32;
        for n_rows in [5, ROWS + 300] {
            let row = |row: usize| {
                (0..13)
                    .filter(|column| !(row + column).is_multiple_of(4))
                    .map(|c| (c as i32, value(row, c)))
                    .collect()
            };
            let x = Csr::from_rows(13, (0..n_rows).map(row));
            let rows: Vec<usize> = (0..n_rows).collect();
            let sums = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let add = |sum: &mut f64, row: usize, value: f32| *sum += f64::from(value) / (row + 1) as f64;
                pool.install(|| fold(&x, &rows, add, |all, part| *all += part))
            };
            let one = sums(1);
            assert!(one.iter().all(|sum| *sum > 0.0));
            for threads in [2, 3, 20] {
                assert_eq!(one, sums(threads), "{n_rows} rows, {threads} threads");
            }
        }
    }
}
