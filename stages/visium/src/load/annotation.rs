//! The pathologist's regions: a CSV of barcode and region.

use std::{collections::HashMap, path::Path};

use restage_stage::{Error, Result};

use crate::text;

/// Region per barcode; `None` for one of `undetermined` or an empty field.
pub(super) fn read(path: &Path, undetermined: &[String]) -> Result<HashMap<String, Option<String>>> {
    let text = text::read(path)?;
    parse(&text, undetermined).map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))
}

fn parse(text: &str, undetermined: &[String]) -> Result<HashMap<String, Option<String>>, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?;
    if header.len() != 2 {
        return Err(format!(
            "expected a header and the two columns barcode and region, found {} columns",
            header.len()
        ));
    }
    let mut regions = HashMap::new();
    for (line, record) in (2..).zip(reader.records()) {
        let record = record.map_err(|error| error.to_string())?;
        let (barcode, region) = (record.get(0).unwrap_or_default(), record.get(1).unwrap_or_default());
        let assigned = !region.is_empty() && !undetermined.iter().any(|other| other == region);
        if regions.insert(barcode.to_owned(), assigned.then(|| region.to_owned())).is_some() {
            return Err(format!("line {line} gives barcode `{barcode}` a second time"));
        }
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undetermined_has_no_region() {
        let regions =
            parse("barcode,label\na,tumour\nb,undetermined\nc,\n", &["undetermined".into()]).unwrap();
        assert_eq!(regions["a"].as_deref(), Some("tumour"));
        assert_eq!((&regions["b"], &regions["c"]), (&None, &None));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(parse("x,y,label\n1,2,a\n", &[]).unwrap_err().contains("found 3 columns"));
        assert!(parse("barcode,label\na,x\na,y\n", &[]).unwrap_err().contains("line 3 gives barcode `a`"));
    }
}
