//! A data frame: named columns of equal length with a text index. On disk: AnnData's `dataframe` encoding 0.2.0.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};

/// Text values drawn from few categories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categorical {
    /// The categories, sorted.
    pub categories: Vec<String>,
    /// Per row the category's position, or -1 for missing.
    pub codes: Vec<i32>,
}

impl Categorical {
    /// Encodes values; categories come out sorted.
    pub fn encode<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let values: Vec<_> = values.into_iter().collect();
        let categories: BTreeSet<&str> = values.iter().flatten().copied().collect();
        let code: BTreeMap<&str, i32> = categories.iter().copied().zip(0..).collect();
        Self {
            codes: values.iter().map(|value| value.map_or(-1, |value| code[value])).collect(),
            categories: categories.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The value of a row; `None` where it is missing.
    pub fn get(&self, row: usize) -> Option<&str> {
        usize::try_from(*self.codes.get(row)?)
            .ok()
            .and_then(|code| self.categories.get(code))
            .map(String::as_str)
    }

    /// The value of each row.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        (0..self.codes.len()).map(|row| self.get(row))
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Text.
    Text(Vec<String>),
    /// Text from few categories.
    Categorical(Categorical),
    /// Floating point.
    Float(Vec<f64>),
    /// Integer.
    Int(Vec<i64>),
    /// Truth.
    Bool(Vec<bool>),
}

impl Column {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(values) => values.len(),
            Self::Categorical(values) => values.codes.len(),
            Self::Float(values) => values.len(),
            Self::Int(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows at these positions, in that order. Categories that no row uses any more go.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        fn pick<T: Clone>(values: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&row| values[row].clone()).collect()
        }
        match self {
            Self::Text(values) => Self::Text(pick(values, rows)),
            Self::Categorical(values) => {
                Self::Categorical(Categorical::encode(rows.iter().map(|&row| values.get(row))))
            }
            Self::Float(values) => Self::Float(pick(values, rows)),
            Self::Int(values) => Self::Int(pick(values, rows)),
            Self::Bool(values) => Self::Bool(pick(values, rows)),
        }
    }

    /// [`Column::select`] of a column that is not needed any more: texts are moved.
    fn into_selected(self, rows: &[usize]) -> Self {
        match self {
            Self::Text(values) => Self::Text(taken(values, rows)),
            other => other.select(rows),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Categorical(_) => "categorical",
            Self::Float(_) => "floating point",
            Self::Int(_) => "integer",
            Self::Bool(_) => "truth",
        }
    }
}

/// The texts at these positions, in that order. Where they stay in their order none is copied.
fn taken(mut texts: Vec<String>, rows: &[usize]) -> Vec<String> {
    if !rows.is_sorted_by(|a, b| a < b) {
        return rows.iter().map(|&row| texts[row].clone()).collect();
    }
    for (place, &row) in rows.iter().enumerate() {
        texts.swap(place, row);
    }
    texts.truncate(rows.len());
    texts
}

/// Named columns of equal length with a text index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Row names.
    pub index: Vec<String>,
    /// Columns in their order.
    pub columns: Vec<(String, Column)>,
}

impl Frame {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(other, _)| other == name).map(|(_, column)| column)
    }

    /// The categorical column of a name.
    ///
    /// # Errors
    /// If there is none, or it is of another kind.
    pub fn categorical(&self, name: &str) -> Result<&Categorical> {
        match self.column(name) {
            Some(Column::Categorical(values)) => Ok(values),
            other => Err(self.not_a("categorical", name, other)),
        }
    }

    /// The text column of a name.
    ///
    /// # Errors
    /// If there is none, or it is of another kind.
    pub fn text(&self, name: &str) -> Result<&[String]> {
        match self.column(name) {
            Some(Column::Text(values)) => Ok(values),
            other => Err(self.not_a("text", name, other)),
        }
    }

    /// The truth column of a name.
    ///
    /// # Errors
    /// If there is none, or it is of another kind.
    pub fn flags(&self, name: &str) -> Result<&[bool]> {
        match self.column(name) {
            Some(Column::Bool(values)) => Ok(values),
            other => Err(self.not_a("truth", name, other)),
        }
    }

    /// Appends a column; one of the same name is replaced where it stands.
    pub fn push(&mut self, name: impl Into<String>, column: Column) {
        let name = name.into();
        match self.columns.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = column,
            None => self.columns.push((name, column)),
        }
    }

    /// The rows at these positions, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            index: rows.iter().map(|&row| self.index[row].clone()).collect(),
            columns: self.columns.iter().map(|(name, column)| (name.clone(), column.select(rows))).collect(),
        }
    }

    /// [`Frame::select`] of a frame that is not needed any more: no text is copied that stays in its order.
    #[must_use]
    pub fn into_selected(self, rows: &[usize]) -> Self {
        let columns = self.columns.into_iter().map(|(name, column)| (name, column.into_selected(rows)));
        Self { index: taken(self.index, rows), columns: columns.collect() }
    }

    fn not_a(&self, wanted: &str, name: &str, found: Option<&Column>) -> Error {
        Error::invalid(match found {
            Some(column) => format!("column `{name}` should be {wanted}, not {}", column.kind()),
            None => {
                let names: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
                format!("there is no column `{name}` ({wanted}); there are: {}", names.join(", "))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_not_needed_any_more_is_selected_alike(
            rows in proptest::collection::vec(0_usize..9, 0..12), ascending: bool,
        ) {
            let mut rows = rows;
            if ascending {
                rows.sort_unstable();
                rows.dedup();
            }
            let names: Vec<String> = (0..9).map(|row| format!("row {row}")).collect();
            let mut frame = Frame { index: names.clone(), columns: Vec::new() };
            frame.push("text", Column::Text(names));
            frame.push("number", Column::Int((0..9).collect()));
            prop_assert_eq!(frame.clone().into_selected(&rows), frame.select(&rows));
        }
    }
}
