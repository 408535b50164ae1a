//! A data frame: named columns of equal length with a text index. On disk: AnnData's `dataframe` encoding 0.2.0.

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
    pub fn encode<'a>(_values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        todo!()
    }

    /// The value of a row.
    pub fn get(&self, row: usize) -> Option<&str> {
        usize::try_from(*self.codes.get(row)?).ok().and_then(|code| self.categories.get(code)).map(String::as_str)
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

/// Named columns of equal length with a text index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Row names.
    pub index: Vec<String>,
    /// Columns in their order.
    pub columns: Vec<(String, Column)>,
}
// Methods wanted: len, column(name) -> Option<&Column>, categorical(name) -> Result<&Categorical> , push(name, column),
// select(&self, rows: &[usize]) -> Frame
