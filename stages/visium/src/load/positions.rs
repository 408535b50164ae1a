//! `spatial/tissue_positions`: where each barcode lies on the slide and in the full-resolution image. A CSV with or
//! without a header, or, of Visium HD, Parquet.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use parquet::{
    column::reader::get_typed_column_reader,
    data_type::{ByteArrayType, DataType, DoubleType, Int32Type},
    errors::ParquetError,
    file::reader::{FileReader, RowGroupReader, SerializedFileReader},
};
use restage_stage::{Error, Result};

use crate::text;

/// Of Visium HD; since spaceranger 2.0, with a header; before, without one. Some other programs mix the two up.
const FILES: [&str; 4] = [
    "tissue_positions.parquet",
    "tissue_positions.csv",
    "tissue_positions_list.csv",
    "tissue_positions_list.txt",
];
const COLUMNS: [&str; 6] =
    ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"];

/// Where a spot lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spot {
    /// 1 under tissue, 0 beside it.
    pub in_tissue: i64,
    /// Row on the slide.
    pub array_row: i64,
    /// Column on the slide.
    pub array_col: i64,
    /// y of the centre in pixels of the full-resolution image.
    pub pxl_row: f64,
    /// x of the centre in pixels of the full-resolution image.
    pub pxl_col: f64,
}

/// The spots of a section by barcode.
#[derive(Debug)]
pub(crate) struct Positions {
    path: PathBuf,
    spots: HashMap<String, Spot>,
}

impl Positions {
    /// Where a barcode lies.
    pub(crate) fn get(&self, barcode: &str) -> Option<&Spot> {
        self.spots.get(barcode)
    }

    /// The barcodes under tissue, in no order.
    pub(crate) fn under_tissue(&self) -> impl Iterator<Item = &str> {
        self.spots.iter().filter(|(_, spot)| spot.in_tissue == 1).map(|(barcode, _)| barcode.as_str())
    }

    /// One spot per barcode.
    pub(crate) fn in_order_of(&self, barcodes: &[String]) -> Result<Vec<Spot>> {
        let missing = barcodes.iter().filter(|barcode| !self.spots.contains_key(*barcode)).count();
        if let Some(first) = barcodes.iter().find(|barcode| !self.spots.contains_key(*barcode)) {
            let own = self.spots.keys().min().map(String::as_str).unwrap_or_default();
            let hint = match missing == barcodes.len() {
                true => format!("; its own are such as `{own}`: is it of another section?"),
                false => String::new(),
            };
            return Err(Error::invalid(format!(
                "{} has no row for {missing} of the {} barcodes of the matrix, such as `{first}`{hint}",
                self.path.display(),
                barcodes.len()
            )));
        }
        Ok(barcodes.iter().filter_map(|barcode| self.spots.get(barcode).copied()).collect())
    }
}

/// Reads the file in the folder `spatial`.
pub(crate) fn read(spatial: &Path) -> Result<Positions> {
    let path = FILES.iter().map(|file| spatial.join(file)).find(|path| path.is_file()).ok_or_else(|| {
        let files = FILES.join(", ");
        Error::invalid(format!(
            "{} holds none of {files}: `path` should be an `outs` folder",
            spatial.display()
        ))
    })?;
    let spots = if path.extension().is_some_and(|extension| extension == "parquet") {
        parse_parquet(&path)
    } else {
        parse(&text::read(&path)?)
    };
    let spots = spots.map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))?;
    Ok(Positions { path, spots })
}

fn parse_parquet(path: &Path) -> Result<HashMap<String, Spot>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|error| format!("cannot be read: {error}"))?;
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    if columns.iter().map(|column| column.name()).ne(COLUMNS) {
        return Err(format!("the columns must be `{}`", COLUMNS.join(",")));
    }
    let mut spots = HashMap::new();
    for group in 0..reader.num_row_groups() {
        let rows = reader.get_row_group(group).and_then(|group| read_rows(&*group));
        for (barcode, spot) in rows.map_err(|error| format!("cannot be read: {error}"))? {
            if !(spot.pxl_row.is_finite() && spot.pxl_col.is_finite()) {
                return Err(format!("barcode `{barcode}` has no coordinates"));
            }
            if let Some(_twin) = spots.insert(barcode.clone(), spot) {
                return Err(format!("barcode `{barcode}` comes twice"));
            }
        }
    }
    Ok(spots)
}

fn read_rows(group: &dyn RowGroupReader) -> Result<Vec<(String, Spot)>, ParquetError> {
    let whole = |at| -> Result<Vec<i64>, ParquetError> {
        Ok(column::<Int32Type>(group, at)?.into_iter().map(i64::from).collect())
    };
    let (in_tissue, array_row, array_col) = (whole(1)?, whole(2)?, whole(3)?);
    let (pxl_row, pxl_col) = (column::<DoubleType>(group, 4)?, column::<DoubleType>(group, 5)?);
    let barcodes = column::<ByteArrayType>(group, 0)?;
    barcodes
        .iter()
        .enumerate()
        .map(|(row, barcode)| {
            let spot = Spot {
                in_tissue: in_tissue[row],
                array_row: array_row[row],
                array_col: array_col[row],
                pxl_row: pxl_row[row],
                pxl_col: pxl_col[row],
            };
            Ok((barcode.as_utf8()?.to_owned(), spot))
        })
        .collect()
}

/// A column of which no value may be missing.
fn column<T: DataType>(group: &dyn RowGroupReader, at: usize) -> Result<Vec<T::T>, ParquetError> {
    let found = group.metadata().column(at).column_type();
    if found != T::get_physical_type() {
        let (name, wanted) = (COLUMNS[at], T::get_physical_type());
        return Err(ParquetError::General(format!("column `{name}` is of type {found}; expected {wanted}")));
    }
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(at)?);
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    while values.len() < rows {
        let (records, ..) = reader.read_records(rows - values.len(), Some(&mut levels), None, &mut values)?;
        if records == 0 {
            break;
        }
    }
    if values.len() == rows {
        return Ok(values);
    }
    Err(ParquetError::General(format!(
        "column `{}` has {} values for {rows} rows",
        COLUMNS[at],
        values.len()
    )))
}

fn parse(text: &str) -> Result<HashMap<String, Spot>, String> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut spots = HashMap::new();
    for (line, record) in (1..).zip(reader.records()) {
        let record = record.map_err(|error| error.to_string())?;
        // A header is known by its words: a number cannot stand there.
        if line == 1 && record.get(1).is_some_and(|field| field.parse::<f64>().is_err()) {
            if record.iter().ne(COLUMNS) {
                return Err(format!("the header must be `{}`", COLUMNS.join(",")));
            }
            continue;
        }
        let number = |column: usize| {
            let value = record
                .get(column)
                .and_then(|field| field.parse::<f64>().ok())
                .filter(|value| value.is_finite());
            value.ok_or_else(|| format!("line {line} has no number for `{}`", COLUMNS[column]))
        };
        let whole = |column: usize| {
            let value = number(column)?;
            let wrong =
                || format!("line {line} has {value} for `{}`; expected a whole number", COLUMNS[column]);
            if value.fract() == 0.0 && value.abs() < 1e9 { Ok(value as i64) } else { Err(wrong()) }
        };
        let barcode = record.get(0).unwrap_or_default().to_owned();
        let spot = Spot {
            in_tissue: whole(1)?,
            array_row: whole(2)?,
            array_col: whole(3)?,
            pxl_row: number(4)?,
            pxl_col: number(5)?,
        };
        if spots.insert(barcode.clone(), spot).is_some() {
            return Err(format!("line {line} gives barcode `{barcode}` a second time"));
        }
    }
    Ok(spots)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOT: Spot =
        Spot { in_tissue: 1, array_row: 12, array_col: 22, pxl_row: 2394.07, pxl_col: 4550.31 };

    #[test]
    fn a_header_is_known_by_its_content() {
        let rows = "22x12,1,12,22,2394.07,4550.31\n";
        assert_eq!(parse(rows).unwrap()["22x12"], SPOT);
        assert_eq!(parse(&format!("{}\n{rows}", COLUMNS.join(","))).unwrap()["22x12"], SPOT);
    }

    #[test]
    fn a_matrix_of_another_section_is_named() {
        let spots = parse("a,1,0,0,0,0\nb,1,0,1,0,0\n").unwrap();
        let positions = Positions { path: "positions.csv".into(), spots };
        let barcodes = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let problem = |names: &[&str]| positions.in_order_of(&barcodes(names)).unwrap_err().to_string();
        assert_eq!(positions.in_order_of(&barcodes(&["b"])).unwrap()[0].array_col, 1);
        assert_eq!(
            problem(&["a", "x"]),
            "positions.csv has no row for 1 of the 2 barcodes of the matrix, such as `x`"
        );
        assert!(
            problem(&["x", "y"]).ends_with("such as `x`; its own are such as `a`: is it of another section?")
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let twice = "a,1,0,0,0,0\na,1,0,0,0,0";
        assert_eq!(parse(twice).unwrap_err(), "line 2 gives barcode `a` a second time");
        assert_eq!(
            parse("a,1,0,0.5,0,0").unwrap_err(),
            "line 1 has 0.5 for `array_col`; expected a whole number"
        );
        assert_eq!(parse("a,1,0,0,nan,0").unwrap_err(), "line 1 has no number for `pxl_row_in_fullres`");
        assert!(parse("barcode,x,y\n").unwrap_err().starts_with("the header must be `barcode,in_tissue"));
    }
}
