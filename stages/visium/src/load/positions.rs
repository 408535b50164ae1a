//! `spatial/tissue_positions.csv`: where each barcode lies on the slide and in the full-resolution image.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use restage_stage::{Error, Result};

/// Since spaceranger 2.0 with a header; before without. Some other programs mix the two up.
const FILES: [&str; 2] = ["tissue_positions.csv", "tissue_positions_list.csv"];
const COLUMNS: [&str; 6] =
    ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"];

/// Where a spot lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spot {
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
pub(super) struct Positions {
    path: PathBuf,
    spots: HashMap<String, Spot>,
}

impl Positions {
    /// One spot per barcode.
    pub(super) fn in_order_of(&self, barcodes: &[String]) -> Result<Vec<Spot>> {
        let missing = |barcode: &String| {
            let path = self.path.display();
            Error::invalid(format!("{path} has no row for barcode `{barcode}`, which the matrix has"))
        };
        barcodes
            .iter()
            .map(|barcode| self.spots.get(barcode).copied().ok_or_else(|| missing(barcode)))
            .collect()
    }
}

/// Reads the file in the folder `spatial`.
pub(super) fn read(spatial: &Path) -> Result<Positions> {
    let path = FILES.iter().map(|file| spatial.join(file)).find(|path| path.is_file()).ok_or_else(|| {
        let files = FILES.join("` nor `");
        Error::invalid(format!(
            "{} holds neither `{files}`: `path` should be an `outs` folder",
            spatial.display()
        ))
    })?;
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let spots = parse(&text).map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))?;
    Ok(Positions { path, spots })
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
