//! AnnData's encodings of frames, matrices and scalars on Zarr groups (anndata's `fileformat-prose`).

use std::collections::HashSet;

use serde_json::json;

use super::{
    Categorical, Column, Csr, Frame,
    zarr::{Attributes, Number, Numbers, Reader, Writer},
};
use crate::error::{Error, Result};

/// The two attributes that every element carries.
pub(super) fn encoding(kind: &str, version: &str) -> Attributes {
    [("encoding-type", kind), ("encoding-version", version)]
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// The attributes of an AnnData root.
pub(super) fn root() -> Attributes {
    encoding("anndata", "0.1.0")
}

/// Refuses a group that is not encoded as `kind`.
pub(super) fn expect_encoding(group: &Reader, kind: &str) -> Result<()> {
    let found: String = group.attribute("encoding-type")?;
    if found == kind {
        Ok(())
    } else {
        Err(group.wrong(format!("is encoded as `{found}`; expected `{kind}`")))
    }
}

/// Makes a group of named elements.
pub(super) fn dict(parent: &Writer, name: &str) -> Result<Writer> {
    parent.group(name, encoding("dict", "0.1.0"))
}

/// Writes a dense array.
pub(super) fn array<T: Number>(parent: &Writer, name: &str, shape: &[usize], values: &[T]) -> Result<()> {
    parent.array(name, shape, values, encoding("array", "0.2.0"))
}

/// Writes a list of texts.
pub(super) fn texts(parent: &Writer, name: &str, values: &[String]) -> Result<()> {
    parent.texts(name, &[values.len()], values, encoding("string-array", "0.2.0"))
}

/// Writes one text.
pub(super) fn text(parent: &Writer, name: &str, value: &str) -> Result<()> {
    parent.texts(name, &[], &[value.to_owned()], encoding("string", "0.2.0"))
}

/// Writes a number.
pub(super) fn scalar(parent: &Writer, name: &str, value: f64) -> Result<()> {
    parent.array(name, &[], &[value], encoding("numeric-scalar", "0.2.0"))
}

/// Reads a number.
pub(super) fn read_scalar(parent: &Reader, name: &str) -> Result<f64> {
    let value = match parent.numbers(name, &[])? {
        Numbers::Float(values) => values.first().copied(),
        Numbers::Int(values) => values.first().map(|&value| value as f64),
        Numbers::Bool(_) => None,
    };
    value.ok_or_else(|| parent.wrong(format!("has a child `{name}` that is no number")))
}

/// Writes a frame into the group that `make` makes with the attributes it is given.
pub(super) fn frame(frame: &Frame, make: impl FnOnce(Attributes) -> Result<Writer>) -> Result<()> {
    check_frame(frame)?;
    let names: Vec<_> = frame.columns.iter().map(|(name, _)| name).collect();
    let mut attributes = encoding("dataframe", "0.2.0");
    attributes.insert("_index".into(), json!("_index"));
    attributes.insert("column-order".into(), json!(names));
    let group = make(attributes)?;
    texts(&group, "_index", &frame.index)?;
    let shape = [frame.len()];
    frame.columns.iter().try_for_each(|(name, column)| match column {
        Column::Text(values) => texts(&group, name, values),
        Column::Categorical(values) => categorical(&group, name, values),
        Column::Float(values) => array(&group, name, &shape, values),
        Column::Int(values) => array(&group, name, &shape, values),
        Column::Bool(values) => array(&group, name, &shape, values),
    })
}

fn check_frame(frame: &Frame) -> Result<()> {
    check_unique("row names", &frame.index)?;
    check_unique("column names", frame.columns.iter().map(|(name, _)| name))?;
    for (name, column) in &frame.columns {
        if name == "_index" {
            return Err(Error::invalid(
                "a column cannot be called `_index`: that is where the row names lie",
            ));
        }
        if column.len() != frame.len() {
            let (has, rows) = (column.len(), frame.len());
            return Err(Error::invalid(format!("column `{name}` has {has} values for {rows} rows")));
        }
    }
    Ok(())
}

/// Refuses a name that comes twice.
pub(super) fn check_unique<'a>(what: &str, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let mut seen = HashSet::new();
    match names.into_iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(Error::invalid(format!("{what} must be unique, but `{twice}` comes twice"))),
        None => Ok(()),
    }
}

/// Reads a frame.
pub(super) fn read_frame(group: &Reader) -> Result<Frame> {
    expect_encoding(group, "dataframe")?;
    let index = read_texts(group, &group.attribute::<String>("_index")?, None)?;
    let names: Vec<String> = group.attribute("column-order")?;
    let read = |name: String| Ok((name.clone(), read_column(group, &name, index.len())?));
    let columns = names.into_iter().map(read).collect::<Result<_>>()?;
    Ok(Frame { index, columns })
}

fn read_column(group: &Reader, name: &str, rows: usize) -> Result<Column> {
    if let Ok(inner) = group.group(name) {
        return if inner.attribute::<String>("encoding-type")? == "categorical" {
            read_categorical(&inner, rows).map(Column::Categorical)
        } else {
            read_texts(group, name, Some(rows)).map(Column::Text)
        };
    }
    if group.is_text(name)? {
        return group.texts(name, Some(rows)).map(Column::Text);
    }
    Ok(match group.numbers(name, &[Some(rows)])? {
        Numbers::Bool(values) => Column::Bool(values),
        Numbers::Int(values) => Column::Int(values),
        Numbers::Float(values) => Column::Float(values),
    })
}

/// Reads a list of texts. Newer pandas write it as `nullable-string-array`, which is taken where nothing is null.
pub(super) fn read_texts(group: &Reader, name: &str, rows: Option<usize>) -> Result<Vec<String>> {
    let Ok(inner) = group.group(name) else { return group.texts(name, rows) };
    expect_encoding(&inner, "nullable-string-array")?;
    let values = inner.texts("values", rows)?;
    let (_, missing) = inner.array::<bool>("mask", &[Some(values.len())])?;
    match missing.iter().position(|&missing| missing) {
        Some(row) => Err(inner.wrong(format!("has no text in row {row}: fill it before writing"))),
        None => Ok(values),
    }
}

fn categorical(parent: &Writer, name: &str, values: &Categorical) -> Result<()> {
    let count = values.categories.len();
    if let Some(code) = values.codes.iter().find(|&&code| code < -1 || code >= count as i32) {
        return Err(Error::invalid(format!("column `{name}` has the code {code} for {count} categories")));
    }
    check_unique(&format!("categories of `{name}`"), &values.categories)?;
    let mut attributes = encoding("categorical", "0.2.0");
    attributes.insert("ordered".into(), json!(false));
    let group = parent.group(name, attributes)?;
    let shape = [values.codes.len()];
    // As pandas does: the narrowest type that holds the codes. The checks above make the casts exact.
    match count {
        0..=0x7f => {
            array(&group, "codes", &shape, &values.codes.iter().map(|&code| code as i8).collect::<Vec<_>>())?
        }
        0x80..=0x7fff => {
            array(
                &group,
                "codes",
                &shape,
                &values.codes.iter().map(|&code| code as i16).collect::<Vec<_>>(),
            )?;
        }
        _ => array(&group, "codes", &shape, &values.codes)?,
    }
    texts(&group, "categories", &values.categories)
}

fn read_categorical(group: &Reader, rows: usize) -> Result<Categorical> {
    let categories = read_texts(group, "categories", None)?;
    let Numbers::Int(codes) = group.numbers("codes", &[Some(rows)])? else {
        return Err(group.wrong("has codes that are not integers"));
    };
    let fits = |code: i64| (-1..categories.len() as i64).contains(&code);
    let narrow = |code| if fits(code) { i32::try_from(code).ok() } else { None };
    let codes = codes.into_iter().map(narrow).collect::<Option<Vec<_>>>();
    let codes =
        codes.ok_or_else(|| group.wrong(format!("has codes beyond its {} categories", categories.len())))?;
    if categories.is_sorted() {
        return Ok(Categorical { categories, codes });
    }
    // Other writers keep an order of their own; ours is sorted.
    let values = Categorical { categories, codes };
    Ok(Categorical::encode(values.iter()))
}

/// Writes a sparse matrix.
pub(super) fn csr(parent: &Writer, name: &str, matrix: &Csr) -> Result<()> {
    matrix.check()?;
    let mut attributes = encoding("csr_matrix", "0.1.0");
    attributes.insert("shape".into(), json!([matrix.n_rows(), matrix.n_cols]));
    let group = parent.group(name, attributes)?;
    // Side by side: packing is parallel by itself, copying and writing is not.
    let (data, indices) = rayon::join(
        || group.array("data", &[matrix.data.len()], &matrix.data, Attributes::new()),
        || group.array("indices", &[matrix.indices.len()], &matrix.indices, Attributes::new()),
    );
    data.and(indices)?;
    // scipy wants both index arrays of one type, and makes int32 of them where it can.
    match matrix.indptr.iter().map(|&end| i32::try_from(end).ok()).collect::<Option<Vec<_>>>() {
        Some(narrow) => group.array("indptr", &[narrow.len()], &narrow, Attributes::new()),
        None => group.array("indptr", &[matrix.indptr.len()], &matrix.indptr, Attributes::new()),
    }
}

/// Reads a matrix of spots x genes, or of spots x spots: sparse by row as we write it, sparse by column, or dense.
pub(super) fn read_matrix(parent: &Reader, name: &str) -> Result<Csr> {
    let Ok(group) = parent.group(name) else { return read_dense(parent, name) };
    let [n_rows, n_cols]: [usize; 2] = group.attribute("shape")?;
    match group.attribute::<String>("encoding-type")?.as_str() {
        "csr_matrix" => read_sparse(&group, n_rows, n_cols),
        "csc_matrix" => read_sparse(&group, n_cols, n_rows).map(|columns| columns.transpose()),
        other => Err(group.wrong(format!(
            "is encoded as `{other}`; expected an array of two axes, or scipy's csr_matrix or csc_matrix"
        ))),
    }
}

/// Of a dense matrix what is not zero.
fn read_dense(parent: &Reader, name: &str) -> Result<Csr> {
    let values = parent.floats(name, &[None, None])?;
    let shape = parent.shape(name)?;
    let [n_rows, n_cols] = shape[..] else { return Err(parent.wrong(format!("has no matrix `{name}`"))) };
    let row = |row: usize| {
        let values = values[row * n_cols..][..n_cols].iter();
        (0..)
            .zip(values)
            .filter(|(_, value)| **value != 0.0)
            .map(|(column, value)| (column, *value))
            .collect()
    };
    Ok(Csr::from_rows(n_cols, (0..n_rows).map(row)))
}

/// A matrix that is compressed by row, or by column: then its rows are columns.
fn read_sparse(group: &Reader, n_rows: usize, n_cols: usize) -> Result<Csr> {
    let (data, indices) = rayon::join(|| group.floats("data", &[None]), || group.indices("indices", &[None]));
    let (data, indices) = (data?, indices?);
    let Numbers::Int(indptr) = group.numbers("indptr", &[Some(n_rows + 1)])? else {
        return Err(group.wrong("has an indptr that holds no integers"));
    };
    // scipy need not have sorted a row's columns.
    let matrix = Csr::from_parts(n_cols, indptr, indices, data);
    matrix.map_err(|error| group.wrong(format!("is no sound matrix: {error}")))
}
