//! Vectors by the names of their spots: of a text table, NumPy's arrays, HDF5, AnnData.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
};

use restage_stage::{Error, InputPath, Result};

use super::Params;
use crate::{import::tree, npy, text};

/// Vectors of one length.
pub(super) struct Rows {
    /// Their length.
    pub(super) dims: usize,
    /// By spot, or barcode.
    pub(super) rows: HashMap<String, Vec<f32>>,
}

/// What the file has; its name says how it is written.
pub(super) fn read(params: &Params) -> Result<Rows> {
    let path = params.path.as_path();
    let name = path.extension().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    let is_tree = ["h5", "hdf5", "h5ad", "zarr"].contains(&name.as_str());
    let refused = |param: &str, of: &str| {
        Err(Error::invalid(format!("`{param}` is for {of}, and {} is none", path.display())))
    };
    match (&params.names, &params.features) {
        (Some(_), _) if name != "npy" => refused("names", "a `.npy`"),
        (_, Some(_)) if !is_tree => {
            refused("features", "HDF5 and AnnData (`.h5`, `.hdf5`, `.h5ad`, `.zarr`)")
        }
        (names, _) if name == "npy" => of_arrays(path, names.as_ref()),
        _ if is_tree => of_tree(path, params),
        _ => of_text(&text::read(path)?, params.spots.as_deref())
            .map_err(|problem| Error::invalid(format!("{}: {problem}", path.display()))),
    }
}

/// Vectors that lie one after another, and whose they are.
fn of_values(path: &Path, names: Vec<String>, dims: usize, values: &[f32]) -> Result<Rows> {
    let wrong = |problem: String| Error::invalid(format!("{}: {problem}", path.display()));
    if dims == 0 {
        return Err(wrong("its spots have no features".into()));
    }
    if names.len() * dims != values.len() {
        let found = values.len() / dims;
        return Err(wrong(format!("it has features of {found} spots, and names of {}", names.len())));
    }
    let mut rows = HashMap::with_capacity(names.len());
    for (name, vector) in names.into_iter().zip(values.chunks_exact(dims)) {
        if let Some(feature) = vector.iter().position(|value| !value.is_finite()) {
            return Err(wrong(format!(
                "feature {feature} of spot `{name}` is {}; expected a number",
                vector[feature]
            )));
        }
        match rows.entry(name) {
            Entry::Vacant(place) => drop(place.insert(vector.to_vec())),
            Entry::Occupied(taken) => {
                return Err(wrong(format!("it has spot `{}` a second time", taken.key())));
            }
        }
    }
    Ok(Rows { dims, rows })
}

fn of_arrays(path: &Path, names: Option<&InputPath>) -> Result<Rows> {
    let Some(names) = names.map(InputPath::as_path) else {
        return Err(Error::invalid(format!(
            "{} does not say whose its rows are: set `names` to a `.npy` of texts, or a text file with one spot a line",
            path.display()
        )));
    };
    let array = npy::numbers(path)?;
    let names = if names.extension().is_some_and(|name| name == "npy") {
        npy::texts(names)?.values
    } else {
        text::read(names)?
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    };
    of_values(path, names, array.columns, &array.values)
}

/// Of HDF5 or Zarr.
fn of_tree(path: &Path, params: &Params) -> Result<Rows> {
    let tree = tree::open(path)?;
    let rooted = |name: &str| format!("/{}", name.trim_matches('/'));
    let first = |names: &[&str]| names.iter().map(|name| rooted(name)).find(|name| tree.has_array(name));
    let lacks = |what: &str, param: &str| {
        let groups = ["", "/obsm", "/obs"].into_iter().filter(|group| tree.has_group(group));
        let inside = groups.flat_map(|group| {
            let names = tree.children(group).unwrap_or_default();
            names.into_iter().map(move |name| format!("{group}/{name}"))
        });
        let arrays: Vec<String> = inside.filter(|name| tree.has_array(name)).collect();
        tree.wrong(format!("has {what}; set `{param}` to one of its arrays: {}", arrays.join(", ")))
    };
    let features = match &params.features {
        Some(name) => Some(rooted(name)).filter(|name| tree.has_array(name)),
        None => first(&["features", "embeddings"]).or_else(|| {
            let sets = tree.children("/obsm").unwrap_or_default();
            let sets: Vec<String> =
                sets.iter().filter(|name| *name != "spatial").map(|name| format!("/obsm/{name}")).collect();
            <[String; 1]>::try_from(sets).ok().map(|[only]| only)
        }),
    };
    let features = match (features, &params.features) {
        (Some(features), _) => features,
        (None, Some(name)) => return Err(lacks(&format!("no array `{name}`"), "features")),
        (None, None) => {
            return Err(lacks(
                "neither an array `features` or `embeddings` nor exactly one in `obsm`",
                "features",
            ));
        }
    };
    let spots = match &params.spots {
        Some(name) => Some(rooted(name)).filter(|name| tree.has_array(name)),
        None => first(&["barcodes", "barcode"]).or_else(|| {
            let index = tree.attribute("/obs", "_index")?;
            Some(format!("/obs/{}", index.as_str()?)).filter(|name| tree.has_array(name))
        }),
    };
    let Some(spots) = spots else {
        return Err(lacks("no names of spots where they are looked for", "spots"));
    };
    let shape = tree.shape(&features)?;
    let dims = shape.iter().skip(1).product();
    if shape.len() < 2 {
        return Err(
            tree.wrong(format!("has `{features}` of {} dimensions; expected spots x features", shape.len()))
        );
    }
    of_values(path, tree.texts(&spots)?, dims, &tree.reals(&features)?)
}

fn of_text(text: &str, spots: Option<&str>) -> Result<Rows, String> {
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
    Ok(Rows { dims: header.len() - 1, rows })
}
