//! A sparse matrix, compressed by row.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Rows that a task looks at, at least: of a spot there are hundreds of values, or thousands.
const ROWS: usize = 64;

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
        let columns = split_rows(&mut matrix.indices, &matrix.indptr);
        let values = split_rows(&mut matrix.data, &matrix.indptr);
        let rows = columns.into_par_iter().zip(values).with_min_len(ROWS);
        rows.for_each(|(columns, values)| sort_row(columns, values));
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
        split_rows(&mut self.data, &self.indptr)
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
        let length = |&row: &usize| self.row(row).0.len();
        Self::filled(self.n_cols, rows.iter().map(length), |place, columns, values| {
            let (from_columns, from_values) = self.row(rows[place]);
            columns.copy_from_slice(from_columns);
            values.copy_from_slice(from_values);
        })
    }

    /// The columns at these positions, in that order; a column that is named twice keeps its last place.
    #[must_use]
    pub fn select_cols(&self, cols: &[usize]) -> Self {
        let place = self.places(cols);
        let is_kept = |column: &&i32| place[**column as usize] >= 0;
        let lengths: Vec<usize> = (0..self.n_rows())
            .into_par_iter()
            .with_min_len(ROWS)
            .map(|row| self.row(row).0.iter().filter(is_kept).count())
            .collect();
        let ordered = cols.is_sorted();
        Self::filled(cols.len(), lengths.into_iter(), |row, columns, values| {
            let kept = self.entries(row).map(|(column, value)| (place[column], value));
            let places = columns.iter_mut().zip(values.iter_mut());
            for ((column, value), entry) in places.zip(kept.filter(|(place, _)| *place >= 0)) {
                (*column, *value) = entry;
            }
            if !ordered {
                sort_row(columns, values);
            }
        })
    }

    /// The rows and columns at these positions. Those that stay in their order are moved within the matrix's own memory.
    #[must_use]
    pub fn into_selected(mut self, rows: &[usize], cols: &[usize]) -> Self {
        if rows.len() == self.n_rows() && cols.len() == self.n_cols && rows.is_sorted() && cols.is_sorted() {
            return self;
        }
        if !(rows.is_sorted_by(|a, b| a < b) && cols.is_sorted_by(|a, b| a < b)) {
            return self.select_rows(rows).select_cols(cols);
        }
        let place = self.places(cols);
        let (mut end, mut indptr) = (0, Vec::with_capacity(rows.len() + 1));
        indptr.push(0);
        for &row in rows {
            for entry in self.indptr[row] as usize..self.indptr[row + 1] as usize {
                let column = place[self.indices[entry] as usize];
                // Written in any case, kept by the step of `end`: a branch would be guessed wrong half the time.
                (self.indices[end], self.data[end]) = (column, self.data[entry]);
                end += usize::from(column >= 0);
            }
            indptr.push(end as i64);
        }
        self.indices.truncate(end);
        self.data.truncate(end);
        Self { n_cols: cols.len(), indptr, ..self }
    }

    /// Per column its place among `cols`, or -1.
    fn places(&self, cols: &[usize]) -> Vec<i32> {
        let mut place = vec![-1; self.n_cols];
        for (new, &old) in (0_i32..).zip(cols) {
            place[old] = new;
        }
        place
    }

    /// A matrix of rows of these lengths, which `fill` is given to write: the row, its columns, its values.
    fn filled(
        n_cols: usize,
        lengths: impl ExactSizeIterator<Item = usize>,
        fill: impl Fn(usize, &mut [i32], &mut [f32]) + Sync,
    ) -> Self {
        let mut indptr = Vec::with_capacity(lengths.len() + 1);
        indptr.push(0);
        let mut end = 0;
        for length in lengths {
            end += length;
            indptr.push(end as i64);
        }
        let (mut indices, mut data) = (vec![0; end], vec![0.0; end]);
        let rows = split_rows(&mut indices, &indptr).into_par_iter().zip(split_rows(&mut data, &indptr));
        rows.enumerate().with_min_len(ROWS).for_each(|(row, (columns, values))| fill(row, columns, values));
        Self { n_cols, indptr, indices, data }
    }

    /// Refuses a matrix whose parts contradict each other, or whose columns are not sorted and unique in each row.
    pub(super) fn check(&self) -> Result<()> {
        self.check_ends()?;
        let sound = |row: &usize| {
            let (columns, _) = self.row(*row);
            // Of sorted columns the first and the last say whether all are in range.
            let ends = [columns.first(), columns.last()].into_iter().flatten();
            let mut in_range = ends.map(|&end| usize::try_from(end).is_ok_and(|end| end < self.n_cols));
            in_range.all(|fits| fits) && columns.windows(2).all(|pair| pair[0] < pair[1])
        };
        let rows = (0..self.n_rows()).into_par_iter().with_min_len(ROWS);
        match rows.find_first(|row| !sound(row)) {
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

/// The part of `values` of each row.
fn split_rows<'a, T>(values: &'a mut [T], indptr: &[i64]) -> Vec<&'a mut [T]> {
    let mut rest = values;
    let mut rows = Vec::with_capacity(indptr.len());
    for ends in indptr.windows(2) {
        let (row, after) = rest.split_at_mut((ends[1] - ends[0]) as usize);
        rows.push(row);
        rest = after;
    }
    rows
}

/// Brings a row's columns into order, their values with them.
fn sort_row(columns: &mut [i32], values: &mut [f32]) {
    if columns.is_sorted() {
        return;
    }
    let mut entries: Vec<(i32, f32)> = columns.iter().copied().zip(values.iter().copied()).collect();
    entries.sort_unstable_by_key(|&(column, _)| column);
    for ((column, value), entry) in columns.iter_mut().zip(values).zip(entries) {
        (*column, *value) = entry;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix() -> impl Strategy<Value = Csr> {
        let row = proptest::collection::btree_map(0_i32..9, 1_i8..9, 0..9);
        proptest::collection::vec(row, 0..12).prop_map(|rows| {
            Csr::from_rows(
                9,
                rows.into_iter().map(|row| row.into_iter().map(|(c, v)| (c, f32::from(v))).collect()),
            )
        })
    }

    fn dense(x: &Csr) -> Vec<Vec<f32>> {
        let row = |row| {
            let mut values = vec![0.0; x.n_cols];
            x.dense_row(row, &mut values);
            values
        };
        (0..x.n_rows()).map(row).collect()
    }

    proptest! {
        #[test]
        fn what_is_selected_is_what_was_there(x in matrix(), rows in proptest::collection::vec(0_usize..12, 0..15), mut cols in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(), kept in 0_usize..10, in_order: bool) {
            let mut rows: Vec<usize> = rows.into_iter().filter(|row| *row < x.n_rows()).collect();
            cols.truncate(kept);
            if in_order {
                rows.sort_unstable();
                rows.dedup();
                cols.sort_unstable();
            }
            let whole = dense(&x);
            let of_rows: Vec<Vec<f32>> = rows.iter().map(|&row| whole[row].clone()).collect();
            let of_cols: Vec<Vec<f32>> =
                whole.iter().map(|row| cols.iter().map(|&col| row[col]).collect()).collect();
            let of_both: Vec<Vec<f32>> =
                of_rows.iter().map(|row| cols.iter().map(|&col| row[col]).collect()).collect();
            for (selected, wanted) in [
                (x.select_rows(&rows), &of_rows),
                (x.select_cols(&cols), &of_cols),
                (x.clone().into_selected(&rows, &cols), &of_both),
            ] {
                prop_assert!(selected.check().is_ok(), "{:?}", selected);
                prop_assert_eq!(&dense(&selected), wanted);
            }
        }
    }

    #[test]
    fn what_is_unsorted_twice_or_out_of_range_is_named() {
        let with = |indices: Vec<i32>| Csr { n_cols: 3, indptr: vec![0, 0, 2], indices, data: vec![1.0; 2] };
        assert!(with(vec![0, 2]).check().is_ok());
        for indices in [vec![2, 0], vec![1, 1], vec![0, 3], vec![-1, 2]] {
            let problem = with(indices).check().unwrap_err().to_string();
            assert!(problem.starts_with("row 1 must have sorted, unique columns below 3"), "{problem}");
        }
    }
}
