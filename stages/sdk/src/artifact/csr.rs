//! A sparse matrix, compressed by row.

use crate::error::{Error, Result};

/// A sparse matrix, compressed by row; column indices of a row are sorted and unique.
#[derive(Clone, Debug, PartialEq)]
pub struct Csr {
    /// Number of columns.
    pub n_cols: usize,
    /// Row `i` is `indptr[i]..indptr[i + 1]`; one longer than the number of rows.
    pub indptr: Vec<i64>,
    /// Column of each stored value.
    pub indices: Vec<i32>,
    /// The stored values.
    pub data: Vec<f32>,
}

impl Default for Csr {
    fn default() -> Self {
        Self { n_cols: 0, indptr: vec![0], indices: Vec::new(), data: Vec::new() }
    }
}

impl Csr {
    /// Builds it from rows of (column, value) with unique columns, in any order.
    pub fn from_rows(n_cols: usize, rows: impl IntoIterator<Item = Vec<(i32, f32)>>) -> Self {
        let mut matrix = Self { n_cols, ..Self::default() };
        for mut row in rows {
            row.sort_unstable_by_key(|&(column, _)| column);
            matrix.push_row(row);
        }
        matrix
    }

    /// Takes a matrix's parts as they come from a file; columns of a row may be in any order.
    ///
    /// # Errors
    /// If the parts contradict each other, or a row has a column twice.
    pub fn from_parts(n_cols: usize, indptr: Vec<i64>, indices: Vec<i32>, data: Vec<f32>) -> Result<Self> {
        let mut matrix = Self { n_cols, indptr, indices, data };
        matrix.check_ends()?;
        for row in 0..matrix.n_rows() {
            let stored = matrix.indptr[row] as usize..matrix.indptr[row + 1] as usize;
            if matrix.indices[stored.clone()].is_sorted() {
                continue;
            }
            let mut entries: Vec<(i32, f32)> =
                stored.clone().map(|entry| (matrix.indices[entry], matrix.data[entry])).collect();
            entries.sort_unstable_by_key(|&(column, _)| column);
            for (entry, (column, value)) in stored.zip(entries) {
                (matrix.indices[entry], matrix.data[entry]) = (column, value);
            }
        }
        matrix.check()?;
        Ok(matrix)
    }

    /// Appends a row of (column, value), sorted by column.
    fn push_row(&mut self, row: impl IntoIterator<Item = (i32, f32)>) {
        for (column, value) in row {
            self.indices.push(column);
            self.data.push(value);
        }
        self.indptr.push(self.indices.len() as i64);
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.indptr.len().saturating_sub(1)
    }

    /// Columns and values of a row.
    pub fn row(&self, row: usize) -> (&[i32], &[f32]) {
        let stored = self.indptr[row] as usize..self.indptr[row + 1] as usize;
        (&self.indices[stored.clone()], &self.data[stored])
    }

    /// The values of each row, to be changed.
    pub fn rows_mut(&mut self) -> Vec<&mut [f32]> {
        let mut rest = self.data.as_mut_slice();
        let mut rows = Vec::with_capacity(self.indptr.len());
        for ends in self.indptr.windows(2) {
            let (row, after) = rest.split_at_mut((ends[1] - ends[0]) as usize);
            rows.push(row);
            rest = after;
        }
        rows
    }

    /// Columns with values of a row.
    pub fn entries(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        let (columns, values) = self.row(row);
        columns.iter().map(|&column| column as usize).zip(values.iter().copied())
    }

    /// Writes a row, zeros included, into `n_cols` places.
    pub fn dense_row(&self, row: usize, into: &mut [f32]) {
        into.fill(0.0);
        self.entries(row).for_each(|(column, value)| into[column] = value);
    }

    /// Columns as rows.
    #[must_use]
    pub fn transpose(&self) -> Self {
        let mut indptr = vec![0_i64; self.n_cols + 1];
        for &column in &self.indices {
            indptr[column as usize + 1] += 1;
        }
        for column in 0..self.n_cols {
            indptr[column + 1] += indptr[column];
        }
        let mut next = indptr.clone();
        let (mut indices, mut data) = (vec![0; self.data.len()], vec![0.0; self.data.len()]);
        for row in 0..self.n_rows() {
            let (columns, values) = self.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                let place = &mut next[column as usize];
                indices[*place as usize] = row as i32;
                data[*place as usize] = value;
                *place += 1;
            }
        }
        Self { n_cols: self.n_rows(), indptr, indices, data }
    }

    /// The rows at these positions, in that order.
    #[must_use]
    pub fn select_rows(&self, rows: &[usize]) -> Self {
        let mut selected = Self { n_cols: self.n_cols, ..Self::default() };
        for &row in rows {
            let (columns, values) = self.row(row);
            selected.indices.extend_from_slice(columns);
            selected.data.extend_from_slice(values);
            selected.indptr.push(selected.indices.len() as i64);
        }
        selected
    }

    /// The columns at these positions, in that order; a column that is named twice keeps its last place.
    #[must_use]
    pub fn select_cols(&self, cols: &[usize]) -> Self {
        let mut place = vec![None; self.n_cols];
        for (new, &old) in (0_i32..).zip(cols) {
            place[old] = Some(new);
        }
        let rows = (0..self.n_rows()).map(|row| {
            self.entries(row).filter_map(|(column, value)| Some((place[column]?, value))).collect()
        });
        Self::from_rows(cols.len(), rows)
    }

    /// Refuses a matrix whose parts contradict each other, or whose columns are not sorted and unique in each row.
    pub(super) fn check(&self) -> Result<()> {
        self.check_ends()?;
        let sound = |row: &usize| {
            let (columns, _) = self.row(*row);
            let in_range = |column: &i32| usize::try_from(*column).is_ok_and(|column| column < self.n_cols);
            columns.iter().all(in_range) && columns.is_sorted_by(|a, b| a < b)
        };
        match (0..self.n_rows()).find(|row| !sound(row)) {
            Some(row) => Err(Error::invalid(format!(
                "row {row} must have sorted, unique columns below {}: build the matrix with Csr::from_rows",
                self.n_cols
            ))),
            None => Ok(()),
        }
    }

    /// Refuses parts of lengths that do not fit.
    fn check_ends(&self) -> Result<()> {
        let stored = self.indices.len();
        if self.data.len() != stored {
            return Err(Error::invalid(format!("{stored} column indices for {} values", self.data.len())));
        }
        let ends_fit = self.indptr.first() == Some(&0) && self.indptr.last() == Some(&(stored as i64));
        if !ends_fit || !self.indptr.is_sorted() {
            return Err(Error::invalid(format!("row ends must grow from 0 to the {stored} stored values")));
        }
        Ok(())
    }
}
