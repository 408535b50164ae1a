//! NumPy's `.npy` files: numbers and texts, as benchmarks ship features, coordinates and labels.
//!
//! A reader of our own: the crate for it does not read texts, and brings a parser of Python for a header of three entries.

use std::path::Path;

use restage_stage::{Error, Result};

/// An array of one or two dimensions.
#[derive(Debug, PartialEq)]
pub(crate) struct Npy<T> {
    pub(crate) rows: usize,
    /// 1 of an array of one dimension.
    pub(crate) columns: usize,
    /// Row by row.
    pub(crate) values: Vec<T>,
}

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads numbers: floats and whole ones, little-endian.
pub(crate) fn numbers(path: &Path) -> Result<Npy<f32>> {
    read(path, "numbers", |kind, bytes| {
        Some(match kind {
            "<f2" => each(bytes, |b| half::f16::from_le_bytes(b).into()),
            "<f4" => each(bytes, f32::from_le_bytes),
            "<f8" => each(bytes, |b| f64::from_le_bytes(b) as f32),
            "<i4" => each(bytes, |b| i32::from_le_bytes(b) as f32),
            "<i8" => each(bytes, |b| i64::from_le_bytes(b) as f32),
            "|u1" => each(bytes, |b: [u8; 1]| f32::from(b[0])),
            _ => return None,
        })
    })
}

/// Reads texts; whole numbers as they are written.
pub(crate) fn texts(path: &Path) -> Result<Npy<String>> {
    read(path, "texts or whole numbers", |kind, bytes| {
        if let Some(length) = kind.strip_prefix("<U").and_then(|length| length.parse::<usize>().ok()) {
            let letters: Vec<u32> = each(bytes, u32::from_le_bytes);
            let text = |letters: &[u32]| -> String {
                letters
                    .iter()
                    .take_while(|letter| **letter != 0)
                    .filter_map(|letter| char::from_u32(*letter))
                    .collect()
            };
            return Some(letters.chunks_exact(length.max(1)).map(text).collect());
        }
        Some(match kind {
            "<i4" => each(bytes, |b| i32::from_le_bytes(b).to_string()),
            "<i8" => each(bytes, |b| i64::from_le_bytes(b).to_string()),
            "|u1" => each(bytes, |b: [u8; 1]| b[0].to_string()),
            _ => return None,
        })
    })
}

fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
}

fn read<T>(path: &Path, wanted: &str, values: impl Fn(&str, &[u8]) -> Option<Vec<T>>) -> Result<Npy<T>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let wrong = |problem: &str| Error::invalid(format!("{}: {problem}", path.display()));
    let (header, data) = split(&bytes).ok_or_else(|| wrong("it is not a whole .npy file"))?;
    let kind = quoted(header, "'descr'")
        .ok_or_else(|| wrong("it holds Python objects or records; save plain arrays of one type"))?;
    if !header.contains("'fortran_order': False") {
        return Err(wrong("its values lie column by column; save np.ascontiguousarray(x)"));
    }
    let shape = shape(header).ok_or_else(|| wrong("its header has no shape"))?;
    let (rows, columns) = match shape[..] {
        [rows] => (rows, 1),
        [rows, columns] => (rows, columns),
        _ => return Err(wrong(&format!("it has {} dimensions; expected one or two", shape.len()))),
    };
    let values = values(kind, data)
        .ok_or_else(|| wrong(&format!("it holds values of type `{kind}`; expected {wanted}")))?;
    if rows.checked_mul(columns) != Some(values.len()) {
        return Err(wrong(&format!(
            "its header tells of {rows} x {columns} values, but it has {}",
            values.len()
        )));
    }
    Ok(Npy { rows, columns, values })
}

/// The header's text, and the values.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_at_checked(2)?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        _ => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
        }
    };
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// The text that a key of the header's dictionary has.
fn quoted<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let value = header.split_once(key)?.1.trim_start_matches([':', ' ']);
    value.strip_prefix('\'')?.split('\'').next()
}

fn shape(header: &str) -> Option<Vec<usize>> {
    let (_, rest) = header.split_once("'shape'")?;
    let inner = rest.split_once('(')?.1.split_once(')')?.0;
    inner.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file as `np.save` writes it.
    pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let end = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
        header += &" ".repeat(end - 1 - header.len());
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap();
        [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn numbers_and_texts_come_back() {
        let halves: Vec<u8> = [0.5_f32, -1.5, 2.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let read = numbers(written(&npy("<f4", "(2, 2)", &halves)).path()).unwrap();
        assert_eq!(read, Npy { rows: 2, columns: 2, values: vec![0.5, -1.5, 2.0, 4.0] });
        let wide: Vec<u8> = [7_i64, -2].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(numbers(written(&npy("<i8", "(2,)", &wide)).path()).unwrap().values, [7.0, -2.0]);
        assert_eq!(texts(written(&npy("<i8", "(2,)", &wide)).path()).unwrap().values, ["7", "-2"]);
        let letters: Vec<u8> = "L1\0WMé".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let read = texts(written(&npy("<U3", "(2,)", &letters)).path()).unwrap();
        assert_eq!((read.rows, read.values), (2, vec!["L1".to_owned(), "WMé".to_owned()]));
    }

    #[test]
    fn what_is_not_such_a_file_is_said() {
        let problem = |bytes: &[u8]| numbers(written(bytes).path()).unwrap_err().to_string();
        let whole = npy("<f4", "(1, 2)", &[0; 8]);
        for cut in 0..whole.len() {
            assert!(numbers(written(&whole[..cut]).path()).is_err(), "{cut} bytes");
        }
        assert!(problem(b"PK\x03\x04").contains("not a whole .npy file"));
        assert!(problem(&npy("<U2", "(1,)", &[0; 8])).contains("`<U2`; expected numbers"));
        assert!(problem(&npy("<f4", "(3,)", &[0; 8])).contains("tells of 3 x 1 values, but it has 2"));
        assert!(problem(&npy("<f4", "(1, 1, 2)", &[0; 8])).contains("3 dimensions"));
        let columns = String::from_utf8_lossy(&whole[10..]).replace("False", "True ");
        assert!(problem(&[&whole[..10], columns.as_bytes()].concat()).contains("column by column"));
    }
}
