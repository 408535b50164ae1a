//! Stage type `visium/import-embedding`: features that a foundation model made elsewhere.

mod rows;

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Embedding, Metrics, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use rows::Rows;

/// The stage type.
pub(crate) struct ImportEmbedding;

/// Params of `visium/import-embedding`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// What has the features. A CSV or TSV, gzipped or not, with a header: one column of spot ids or barcodes, the others
    /// numbers. A `.npy` of spots x features, with `names`. HDF5 (`.h5`, `.hdf5`) with an array of spots x features and one of
    /// names. AnnData (`.h5ad`, `.zarr`) with features in `obsm`.
    path: InputPath,
    /// The column with the spots. Default: the first. In HDF5 the array: by default `barcodes`, `barcode`, or the index of `obs`.
    #[serde(default)]
    spots: Option<String>,
    /// In HDF5 and AnnData: the array with the features, like `obsm/X_uni`. Default: `features`, `embeddings`, or the only one
    /// in `obsm`.
    #[serde(default)]
    features: Option<String>,
    /// With a `.npy`: the spots of its rows, a `.npy` of texts or a text file with one a line.
    #[serde(default)]
    names: Option<InputPath>,
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
            "{} spots x {} features of {} (licence {}, weights {}), file blake3 {}",
            embedding.spots.len(),
            embedding.dims,
            params.model,
            params.licence,
            params.digest.as_deref().unwrap_or("without a digest"),
            digest.as_deref().unwrap_or("not asked for")
        );
        ctx.write("summary", &Metrics { values, ..Metrics::default() })?;
        ctx.write("embedding", &embedding)
    }
}

/// The file's digest, which must be the one that was declared; none of a folder.
fn verify(params: &Params) -> Result<Option<String>> {
    let path = params.path.as_path();
    if path.is_dir() {
        return match params.file_digest {
            None => Ok(None),
            Some(_) => {
                Err(Error::invalid(format!("`file_digest` is of a file, and {} is a folder", path.display())))
            }
        };
    }
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    hasher.update_reader(file).map_err(Error::io(path))?;
    let found = hasher.finalize().to_hex().to_string();
    match &params.file_digest {
        Some(declared) if !declared.trim().eq_ignore_ascii_case(&found) => Err(Error::invalid(format!(
            "{} has the BLAKE3 digest {found}, but `file_digest` says {declared}: it is another file, or was changed",
            path.display()
        ))),
        _ => Ok(Some(found)),
    }
}

/// The features in the table's order, and the number of rows in the file.
fn import(params: &Params, table: &Table) -> Result<(Embedding, usize)> {
    let path = params.path.as_path();
    let Rows { dims, rows } = rows::read(params)?;
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
            "{} has no row for {} of the {} spots, such as {first}; `complete: false` leaves them out{hint}",
            path.display(),
            missing.len(),
            table.n_spots()
        )));
    }
    Ok((Embedding { spots, dims, values }, rows.len()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use restage_stage::artifact::Frame;
    use serde_json::json;

    use super::*;
    use crate::{npy::tests::npy, python_test::python};

    fn with(text: &str, more: serde_json::Value) -> Result<(Embedding, usize)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("features.csv"), text).unwrap();
        of(&folder.path().join("features.csv"), more)
    }

    fn of(path: &Path, more: serde_json::Value) -> Result<(Embedding, usize)> {
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
        assert!(problem("s,f\nA_x,1\n", json!({})).contains("no row for 1 of the 2 spots, such as A_y"));
        assert_eq!(with("s,f\nA_x,1\n", json!({"complete": false})).unwrap().0.spots, ["A_x"]);
        assert!(problem("s,f\nx,1\ny,2\n", json!({})).ends_with("`section` if it has barcodes"));
        assert!(problem("s,f\nA_x,nan\n", json!({})).contains("line 2 has `nan` for `f`; expected a number"));
        assert!(problem("s,f\nA_x,1\nA_x,2\n", json!({})).contains("line 3 gives spot `A_x` a second time"));
        assert!(problem("s,f\nA_x,1,2\n", json!({})).contains("features.csv: "));
    }

    #[test]
    fn arrays_have_their_names_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let bytes: Vec<u8> = [3.0_f32, 4.0, 1.0, 2.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        let array = write("f.npy", &npy("<f4", "(2, 2)", &bytes));
        let names = write("names.txt", b"A_y\nA_x\n");
        let (embedding, _) = of(&array, json!({"names": names})).unwrap();
        assert_eq!((embedding.dims, &embedding.values[..]), (2, &[1.0, 2.5, 3.0, 4.0][..]));
        let problem = |more| of(&array, more).unwrap_err().to_string();
        assert!(problem(json!({})).contains("does not say whose its rows are: set `names`"));
        let (one, twice) = (write("one.txt", b"A_x\n"), write("twice.txt", b"A_x\nA_x\n"));
        assert!(problem(json!({"names": one})).contains("features of 2 spots, and names of 1"));
        assert!(problem(json!({"names": twice})).contains("spot `A_x` a second time"));
        assert!(problem(json!({"features": "f"})).contains("`features` is for HDF5"));
        let table = with("s,f\nA_x,1\n", json!({"names": names})).unwrap_err().to_string();
        assert!(table.contains("`names` is for a `.npy`"), "{table}");
        let nan = write("nan.npy", &npy("<f4", "(2, 1)", &[f32::NAN, 1.0].map(f32::to_le_bytes).concat()));
        let problem = of(&nan, json!({"names": names})).unwrap_err().to_string();
        assert!(problem.contains("feature 0 of spot `A_y` is NaN"), "{problem}");
    }

    #[test]
    fn files_of_python_s_programs_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
import anndata, h5py, numpy as np
x = np.array([[5, 6], [3, 4], [1, 2.5]], "float16")
names = ["z", "y", "x"]
with h5py.File("tiles.h5", "w") as f:
    f["embeddings"], f["coords"] = x, np.zeros((3, 2), int)
    f["barcodes"] = np.array(names, dtype="S")[:, None]
with h5py.File("bare.h5", "w") as f:
    f["x"] = x
a = anndata.AnnData(np.zeros((3, 1), "float32"))
a.obs_names = names
a.obsm["spatial"], a.obsm["X_uni"] = np.zeros((3, 2)), x.astype("float32")
a.write_h5ad("a.h5ad")
a.write_zarr("a.zarr")
a.obsm["X_other"] = x.astype("float64")
a.write_h5ad("two.h5ad")
np.save("x.npy", x.astype("float64"))
np.save("names.npy", np.array(names))
"#;
        if python(folder.path(), script).is_none() {
            return;
        }
        let read = |name: &str, mut more: serde_json::Value| {
            more.as_object_mut().unwrap().insert("section".into(), "A".into());
            of(&folder.path().join(name), more)
        };
        let names = json!({"names": folder.path().join("names.npy")});
        for (name, more) in [
            ("tiles.h5", json!({})),
            ("a.h5ad", json!({})),
            ("a.zarr", json!({})),
            ("two.h5ad", json!({"features": "obsm/X_other"})),
            ("x.npy", names),
        ] {
            let (embedding, rows) = read(name, more).unwrap();
            assert_eq!((embedding.dims, rows), (2, 3), "{name}");
            assert_eq!(embedding.values, [1.0, 2.5, 3.0, 4.0], "{name}");
        }
        let bare = read("bare.h5", json!({"features": "x", "spots": "none"})).unwrap_err().to_string();
        assert!(bare.ends_with("set `spots` to one of its arrays: /x"), "{bare}");
        let problem = |name: &str| read(name, json!({})).unwrap_err().to_string();
        let two = problem("two.h5ad");
        assert!(two.contains("nor exactly one in `obsm`; set `features` to one of its arrays: "), "{two}");
        assert!(two.contains("/obsm/X_other, /obsm/X_uni"), "{two}");
        let folder = read("a.zarr", json!({"file_digest": "00"})).unwrap_err().to_string();
        assert!(folder.contains("is a folder"), "{folder}");
    }
}
