//! Stage type `visium/import-embedding`: features that a foundation model made elsewhere.

use std::collections::{BTreeMap, HashMap};

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Embedding, Metrics, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text;

/// The stage type.
pub(crate) struct ImportEmbedding;

/// Params of `visium/import-embedding`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// A CSV or TSV, gzipped or not, with a header: one column of spot ids or barcodes, the others numbers.
    path: InputPath,
    /// The column with the spots. Default: the first.
    #[serde(default)]
    spots: Option<String>,
    /// The section, where the file has barcodes: spot ids are `<section>_<barcode>`. Default: the file has spot ids.
    #[serde(default)]
    section: Option<String>,
    /// Whether spots of the table that the file lacks are an error (true, default) or left out.
    #[serde(default = "yes")]
    complete: bool,
    /// The model that made the features, with its version: part of what this result is.
    model: String,
    /// The licence that the model's weights came under: many forbid some uses.
    licence: String,
    /// Digest of the weights, as their publisher gives it. It is recorded, and cannot be verified here. Default: none.
    #[serde(default)]
    digest: Option<String>,
    /// BLAKE3 of the file at `path`, in hex as `b3sum` prints it: another file is refused. Default: none, and the
    /// digest that was found is in the log.
    #[serde(default)]
    file_digest: Option<String>,
}

fn yes() -> bool {
    true
}

impl Stage for ImportEmbedding {
    const NAME: &'static str = "import-embedding";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Takes features of spots that were made elsewhere, in the table's order. The model, its licence and digest \
             are params: they stand in the plan, in the record and in the report.",
        )
        .input::<Table>("table", "The spots that should have features.")
        .output::<Embedding>("embedding", "One vector per spot of the table.")
        .output::<Metrics>("summary", "Spots with features, spots without, rows of the file for no spot, dimensions.")
    }

    fn validate(params: &Params) -> Result<()> {
        for (name, value) in [("model", &params.model), ("licence", &params.licence)] {
            if value.trim().is_empty() {
                return Err(Error::invalid(format!(
                    "{name}: should not be empty; `unknown` is an answer too"
                )));
            }
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        ctx.named_only("table");
        let digest = verify(&params)?;
        let (embedding, rows) = import(&params, &table)?;
        let values = [
            ("spots", embedding.spots.len()),
            ("spots_without", table.n_spots() - embedding.spots.len()),
            ("rows_of_no_spot", rows - embedding.spots.len()),
            ("dims", embedding.dims),
        ];
        let values: BTreeMap<String, f64> =
            values.into_iter().map(|(name, value)| (name.into(), value as f64)).collect();
        tracing::info!(
            "{} spots x {} features of {} (licence {}, weights {}), file blake3 {digest}",
            embedding.spots.len(),
            embedding.dims,
            params.model,
            params.licence,
            params.digest.as_deref().unwrap_or("without a digest")
        );
        ctx.write("summary", &Metrics { values, ..Metrics::default() })?;
        ctx.write("embedding", &embedding)
    }
}

/// The file's digest, which must be the one that was declared.
fn verify(params: &Params) -> Result<String> {
    let path = params.path.as_path();
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    hasher.update_reader(file).map_err(Error::io(path))?;
    let found = hasher.finalize().to_hex().to_string();
    match &params.file_digest {
        Some(declared) if !declared.trim().eq_ignore_ascii_case(&found) => Err(Error::invalid(format!(
            "{} has the BLAKE3 digest {found}, but `file_digest` says {declared}: it is another file, or was changed",
            path.display()
        ))),
        _ => Ok(found),
    }
}

/// The features in the table's order, and the number of rows in the file.
fn import(params: &Params, table: &Table) -> Result<(Embedding, usize)> {
    let path = params.path.as_path();
    let (dims, rows) = parse(&text::read(path)?, params.spots.as_deref())
        .map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))?;
    let prefix = params.section.as_ref().map(|section| format!("{section}_")).unwrap_or_default();
    let (mut spots, mut values, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for spot in &table.obs.index {
        match spot.strip_prefix(&prefix).and_then(|name| rows.get(name)) {
            Some(vector) => {
                spots.push(spot.clone());
                values.extend_from_slice(vector);
            }
            None => missing.push(spot),
        }
    }
    if let Some(first) = missing.first().filter(|_| params.complete || spots.is_empty()) {
        let hint =
            if spots.is_empty() && params.section.is_none() { "; `section` if it has barcodes" } else { "" };
        return Err(Error::invalid(format!(
            "{} has no row for spot {first}, nor for {} others of {}; `complete: false` leaves them out{hint}",
            path.display(),
            missing.len() - 1,
            table.n_spots()
        )));
    }
    Ok((Embedding { spots, dims, values }, rows.len()))
}

type Rows = HashMap<String, Vec<f32>>;

/// Number of features, and the vector of each spot.
fn parse(text: &str, spots: Option<&str>) -> Result<(usize, Rows), String> {
    let delimiter = if text.lines().next().unwrap_or_default().contains('\t') { b'\t' } else { b',' };
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let key = match spots {
        Some(name) => {
            header.iter().position(|field| field == name).ok_or_else(|| format!("has no column `{name}`"))?
        }
        None => 0,
    };
    if header.len() < 2 {
        return Err("should have a column of spots and at least one of numbers".into());
    }
    let mut rows = HashMap::new();
    for (line, record) in (2..).zip(reader.records()) {
        let record = record.map_err(|error| error.to_string())?;
        let mut vector = Vec::with_capacity(header.len() - 1);
        for (place, field) in record.iter().enumerate().filter(|&(place, _)| place != key) {
            let value = field.parse::<f32>().ok().filter(|value| value.is_finite());
            vector.push(value.ok_or_else(|| {
                format!("line {line} has `{field}` for `{}`; expected a number", &header[place])
            })?);
        }
        if rows.insert(record[key].to_owned(), vector).is_some() {
            return Err(format!("line {line} gives spot `{}` a second time", &record[key]));
        }
    }
    Ok((header.len() - 1, rows))
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Frame;
    use serde_json::json;

    use super::*;

    fn with(text: &str, more: serde_json::Value) -> Result<(Embedding, usize)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.csv");
        std::fs::write(&path, text).unwrap();
        let mut params = json!({"path": path, "model": "m", "licence": "CC0"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let index = ["A_x", "A_y"].map(str::to_owned).into();
        let table = Table { obs: Frame { index, ..Frame::default() }, ..Table::default() };
        let params = serde_json::from_value(params).unwrap();
        verify(&params)?;
        import(&params, &table)
    }

    #[test]
    fn rows_come_in_the_table_s_order() {
        let (embedding, rows) =
            with("barcode,f0,f1\ny,3,4\nz,5,6\nx,1,2.5\n", json!({"section": "A"})).unwrap();
        assert_eq!((embedding.spots, embedding.dims, rows), (vec!["A_x".into(), "A_y".into()], 2, 3));
        assert_eq!(embedding.values, [1.0, 2.5, 3.0, 4.0]);
        let (embedding, _) = with("f0\tspot\n7\tA_x\n8\tA_y\n", json!({"spots": "spot"})).unwrap();
        assert_eq!(embedding.values, [7.0, 8.0]);
    }

    #[test]
    fn a_file_of_another_digest_is_refused() {
        let text = "s,f\nA_x,1\nA_y,2\n";
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        assert!(with(text, json!({"file_digest": digest.to_uppercase()})).is_ok());
        let problem = with("s,f\nA_x,1\nA_y,3\n", json!({"file_digest": digest})).unwrap_err().to_string();
        assert!(problem.contains("it is another file, or was changed"), "{problem}");
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let problem = |text: &str, more| with(text, more).unwrap_err().to_string();
        assert!(problem("s,f\nA_x,1\n", json!({})).contains("no row for spot A_y, nor for 0 others of 2"));
        assert_eq!(with("s,f\nA_x,1\n", json!({"complete": false})).unwrap().0.spots, ["A_x"]);
        assert!(problem("s,f\nx,1\ny,2\n", json!({})).ends_with("`section` if it has barcodes"));
        assert!(problem("s,f\nA_x,nan\n", json!({})).contains("line 2 has `nan` for `f`; expected a number"));
        assert!(problem("s,f\nA_x,1\nA_x,2\n", json!({})).contains("line 3 gives spot `A_x` a second time"));
        assert!(problem("s,f\nA_x,1,2\n", json!({})).contains("features.csv: "));
    }
}
