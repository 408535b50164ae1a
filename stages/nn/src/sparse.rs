//! Sparse matrices: what a graph's edges weigh, and their product with a matrix of values per node.

use std::sync::{Arc, LazyLock};

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    scratch::Scratch,
    tensor::{self, Matrix, gradient_mut, take_gradient},
};

/// Rows that one task takes. Fixed: it must not depend on the number of threads.
pub(crate) const ROWS: usize = 64;

/// A sparse matrix that knows its entries by row and by column: what a product goes through, and what its gradient does.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    pub(crate) by_row: Lists,
    pub(crate) by_column: Lists,
    /// Per entry in the order of columns its place in that of rows.
    pub(crate) place: Vec<usize>,
    /// In the order of rows.
    weights: Vec<f32>,
}

/// For each row the columns of its entries, or the other way round.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    ends: Vec<usize>,
    others: Vec<usize>,
}

/// No edges among no nodes: what networks run on that have no graph.
pub(crate) static NOTHING: LazyLock<Arc<Sparse>> = LazyLock::new(|| Sparse::from_rows(0, []));

impl Lists {
    /// Where each list begins, and where the last ends.
    pub fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// The entries of all lists, each below the number of lists of the other kind.
    pub fn others(&self) -> &[usize] {
        &self.others
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// Places of the entries of one list.
    pub(crate) fn places(&self, list: usize) -> std::ops::Range<usize> {
        self.ends[list]..self.ends[list + 1]
    }

    /// Places and others of the entries of one list.
    pub(crate) fn entries(&self, list: usize) -> impl Iterator<Item = (usize, usize)> {
        self.places(list).map(|place| (place, self.others[place]))
    }
}

impl Sparse {
    /// A matrix of rows of (column, weight).
    ///
    /// # Panics
    /// If a column is not below `columns`.
    pub fn from_rows(columns: usize, rows: impl IntoIterator<Item = Vec<(usize, f32)>>) -> Arc<Self> {
        let mut by_row = Lists { ends: vec![0], others: Vec::new() };
        let mut weights = Vec::new();
        for row in rows {
            by_row.others.extend(row.iter().map(|(column, _)| *column));
            weights.extend(row.iter().map(|(_, weight)| *weight));
            by_row.ends.push(weights.len());
        }
        assert!(by_row.others.iter().all(|column| *column < columns), "columns of a sparse matrix");

        let mut ends = vec![0; columns + 1];
        by_row.others.iter().for_each(|column| ends[column + 1] += 1);
        (0..columns).for_each(|column| ends[column + 1] += ends[column]);
        let mut next = ends.clone();
        let (mut others, mut place) = (vec![0; weights.len()], vec![0; weights.len()]);
        for row in 0..by_row.len() {
            for (entry, column) in by_row.entries(row) {
                let at = next[column];
                next[column] += 1;
                (others[at], place[at]) = (row, entry);
            }
        }
        Arc::new(Self { by_row, by_column: Lists { ends, others }, place, weights })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.by_row.len()
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.by_column.len()
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.weights.len()
    }

    /// For each row the columns of its entries.
    pub fn by_row(&self) -> &Lists {
        &self.by_row
    }

    /// For each column the rows of its entries.
    pub fn by_column(&self) -> &Lists {
        &self.by_column
    }

    /// Per entry of [`Sparse::by_column`] its place among those of [`Sparse::by_row`].
    pub fn place(&self) -> &[usize] {
        &self.place
    }

    /// Of the entries, in the order of [`Sparse::by_row`].
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// What `visit` gathers over the rows, in parts of which one task makes one.
    pub(crate) fn gather<P: Default + Send>(&self, visit: impl Fn(usize, &mut P) + Sync) -> Vec<P> {
        let rows = self.rows();
        let part = |chunk: usize| {
            let mut part = P::default();
            (chunk * ROWS..((chunk + 1) * ROWS).min(rows)).for_each(|row| visit(row, &mut part));
            part
        };
        (0..rows.div_ceil(ROWS)).into_par_iter().map(part).collect()
    }

    /// This matrix, rows x columns, times `x` of columns x dims: rows x dims. With a graph's weights, for each node the
    /// weighted sum over those that it has edges from.
    ///
    /// # Panics
    /// If `x` has not as many rows as this has columns.
    pub fn product<T: Tape<f32, Cpu>>(self: &Arc<Self>, x: Matrix<T>) -> Matrix<T> {
        let (rows, dims) = *x.shape();
        assert_eq!(rows, self.columns(), "rows of what a sparse matrix is multiplied with");
        let (x, mut tape) = x.split_tape();
        let mut output = vec![0.0; self.rows() * dims];
        self.add_product(&tensor::values(&x), dims, &mut output);
        let y = tensor::tensor(output, (self.rows(), dims));

        let (out, edges) = (y.clone(), Arc::clone(self));
        tape.add_backward_op(move |gradients| {
            let dy = take_gradient(gradients, &out)?;
            edges.add_product_back(&dy, dims, gradient_mut(gradients, &x)?);
            Ok(())
        });
        y.put_tape(tape)
    }

    /// Adds this matrix times `x`, columns x dims, to `sums`, rows x dims.
    pub(crate) fn add_product(&self, x: &[f32], dims: usize, sums: &mut [f32]) {
        add_sums(&self.by_row, |place| self.weights[place], x, dims, sums);
    }

    /// Adds its transpose times `dy`, rows x dims, to `sums`, columns x dims.
    pub(crate) fn add_product_back(&self, dy: &[f32], dims: usize, sums: &mut [f32]) {
        add_sums(&self.by_column, |entry| self.weights[self.place[entry]], dy, dims, sums);
    }

    /// Its transpose times `dy`.
    pub(crate) fn product_back(&self, dy: &[f32], dims: usize) -> Scratch {
        let mut dx = Scratch::zeros(self.columns() * dims);
        self.add_product_back(dy, dims, &mut dx);
        dx
    }

    /// # Panics
    /// If this is not a graph of so many nodes.
    pub(crate) fn check_nodes(&self, nodes: usize) {
        assert_eq!(
            (nodes, nodes),
            (self.rows(), self.columns()),
            "nodes of the graph that a network runs on"
        );
    }
}

/// Adds to each list's row the weighted sum of its others' rows.
fn add_sums(
    lists: &Lists,
    weight: impl Fn(usize) -> f32 + Sync,
    values: &[f32],
    dims: usize,
    sums: &mut [f32],
) {
    sums.par_chunks_mut(dims.max(1)).enumerate().with_min_len(ROWS).for_each(|(list, sums)| {
        for (place, other) in lists.entries(list) {
            add_scaled(sums, weight(place), &values[other * dims..(other + 1) * dims]);
        }
    });
}

/// `sums += factor values`.
pub(crate) fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        Params,
        gradcheck::{check, wave},
    };

    /// A graph of seven nodes, one of them without edges, one with many; no two weights alike.
    pub(crate) fn edges() -> Arc<Sparse> {
        let lists = [&[0, 1, 5][..], &[1], &[0, 1, 2, 3, 4, 5, 6], &[], &[6, 2], &[5, 0], &[3, 6]];
        let weight = |row: usize, column: usize| 0.2 + ((3 * row + 5 * column) as f32).sin().abs();
        let row = |(row, columns): (usize, &&[usize])| {
            columns.iter().map(|column| (*column, weight(row, *column))).collect()
        };
        Sparse::from_rows(7, lists.iter().enumerate().map(row).collect::<Vec<_>>())
    }

    /// Row-major, zeros included.
    fn dense(edges: &Sparse) -> Vec<f32> {
        let mut dense = vec![0.0; edges.rows() * edges.columns()];
        for row in 0..edges.rows() {
            for (place, column) in edges.by_row.entries(row) {
                dense[row * edges.columns() + column] = edges.weights[place];
            }
        }
        dense
    }

    #[test]
    fn a_product_is_that_of_the_dense_matrix() {
        let (edges, x) = (edges(), wave((7, 3)));
        let (dense, values) = (dense(&edges), tensor::values(&x));
        let found = tensor::values(&edges.product(x));
        for row in 0..7 {
            for dim in 0..3 {
                let wanted: f32 = (0..7).map(|node| dense[row * 7 + node] * values[node * 3 + dim]).sum();
                assert!((found[row * 3 + dim] - wanted).abs() < 1e-6, "{row} {dim}");
            }
        }
    }

    #[test]
    fn entries_by_column_are_those_by_row() {
        let edges = edges();
        let mut found = 0;
        for column in 0..7 {
            for (at, row) in edges.by_column.entries(column) {
                assert!(edges.by_row.entries(row).any(|entry| entry == (edges.place[at], column)));
                found += 1;
            }
        }
        assert_eq!((found, edges.entries()), (17, 17));
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let edges = edges();
        check(&Params::default(), wave((7, 4)), |_, x| edges.product(x));
        // Of more rows than columns.
        let spread = Sparse::from_rows(2, (0..5).map(|row| vec![(row % 2, 0.5 + row as f32)]));
        check(&Params::default(), wave((2, 3)), |_, x| spread.product(x));
    }
}
