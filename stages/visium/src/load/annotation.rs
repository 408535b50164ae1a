//! The pathologist's regions: a CSV or TSV with a column of barcodes and one of regions.

use std::{collections::HashMap, path::Path};

use restage_stage::{Error, Result};

use crate::text;

/// How other tools call a column that says which section a row is of.
const SECTION_COLUMNS: [&str; 5] = ["sample_name", "sample_id", "sample", "section", "library_id"];

/// What an annotation says.
#[derive(Debug)]
pub(crate) struct Annotation {
    /// Region per barcode; `None`: seen but not assigned.
    pub(crate) regions: HashMap<String, Option<String>>,
    /// The sections that its rows claim to be of, where a column says.
    pub(crate) sections: Vec<String>,
}

/// Reads the file; `column` names the regions' where there are more than two. One of `undetermined`, an empty field
/// and pandas' `NA` mean a spot that was seen and not assigned.
pub(crate) fn read(path: &Path, column: Option<&str>, undetermined: &[String]) -> Result<Annotation> {
    let text = text::read(path)?;
    parse(&text, column, undetermined)
        .map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))
}

fn parse(text: &str, column: Option<&str>, undetermined: &[String]) -> Result<Annotation, String> {
    let first = text.lines().next().unwrap_or_default();
    // Where the comma is the decimal point, Excel divides by semicolons.
    let delimiter = match first {
        _ if first.contains('\t') => b'\t',
        _ if first.contains(';') && !first.contains(',') => b';',
        _ => b',',
    };
    // R's tables have no name over the column of row names: lines are one field longer than the header.
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let records: Vec<csv::StringRecord> =
        reader.records().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let shift = usize::from(records.first().is_some_and(|record| record.len() == header.len() + 1));
    let place = |name: &str| header.iter().position(|field| field == name).map(|place| place + shift);
    let names = || header.iter().collect::<Vec<_>>().join(", ");
    let region = match column {
        Some(name) => place(name).ok_or_else(|| format!("has no column `{name}`; it has {}", names()))?,
        None if header.len() + shift == 2 => 1,
        None => {
            return Err(format!(
                "expected a header and the two columns barcode and region, found {} columns ({}); \
                 `annotation_column` names the one of the regions",
                header.len(),
                names()
            ));
        }
    };
    let section = SECTION_COLUMNS.iter().find_map(|name| place(name)).filter(|&place| place != region);
    let (mut regions, mut sections) = (HashMap::new(), std::collections::BTreeSet::new());
    for (line, record) in (2..).zip(&records) {
        if record.len() != header.len() + shift {
            let (found, expected) = (record.len(), header.len() + shift);
            return Err(format!("line {line} has {found} fields; expected {expected}"));
        }
        let (barcode, region) = (&record[0], &record[region]);
        let assigned =
            !matches!(region, "" | "NA" | "nan") && !undetermined.iter().any(|other| other == region);
        if regions.insert(barcode.to_owned(), assigned.then(|| region.to_owned())).is_some() {
            return Err(format!("line {line} gives barcode `{barcode}` a second time"));
        }
        sections.extend(section.map(|section| record[section].to_owned()));
    }
    Ok(Annotation { regions, sections: sections.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undetermined_has_no_region() {
        let text = "barcode,label\na,tumour\nb,undetermined\nc,\n";
        let regions = parse(text, None, &["undetermined".into()]).unwrap().regions;
        assert_eq!(regions["a"].as_deref(), Some("tumour"));
        assert_eq!((&regions["b"], &regions["c"]), (&None, &None));
        let by_semicolon = parse(&text.replace(',', ";"), None, &["undetermined".into()]).unwrap().regions;
        assert_eq!(by_semicolon, regions);
    }

    #[test]
    fn other_files_are_refused() {
        let problem = |text: &str| parse(text, None, &[]).unwrap_err();
        assert!(problem("x,y,label\n1,2,a\n").contains("found 3 columns (x, y, label)"));
        assert!(problem("barcode,label\na,x\na,y\n").contains("line 3 gives barcode `a`"));
        assert_eq!(problem("barcode,label\na,x\nb\n"), "line 3 has 1 fields; expected 2");
    }

    #[test]
    fn a_wider_table_says_which_section_it_is_of() {
        let text = "in_tissue\tsample_name\tlayer_guess\nAAAC-1\t1\t151507\tLayer1\nAAAG-1\t1\t151507\tNA\n";
        let annotation = parse(text, Some("layer_guess"), &[]).unwrap();
        assert_eq!(annotation.sections, ["151507"]);
        assert_eq!(annotation.regions["AAAC-1"].as_deref(), Some("Layer1"));
        assert_eq!(annotation.regions["AAAG-1"], None);
        assert!(parse(text, Some("x"), &[]).unwrap_err().contains("has no column `x`"));
    }
}
