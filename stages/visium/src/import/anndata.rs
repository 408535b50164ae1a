//! AnnData's elements as any of its versions wrote them, more leniently than our own tables are read.

use std::{collections::BTreeMap, path::Path};

use restage_stage::{
    Error, Result,
    artifact::{Categorical, Column, Csr, Frame, Image, Library, ScaleFactors, zarr::Numbers},
};

use super::{
    spatialdata::{self, Places},
    tree::Tree,
};

/// What of a file is wanted.
pub(super) struct Choice<'a> {
    pub path: &'a Path,
    pub layer: Option<&'a str>,
    pub table: Option<&'a str>,
    pub coordinates: &'a str,
    /// What the library is named after, where the file has several.
    pub section: &'a str,
    /// Whether the file may be of several sections.
    pub of_several: bool,
    /// Column of `obs` that stays whatever it is.
    pub regions: Option<&'a String>,
}

/// What was found.
pub(super) struct AnnData {
    pub x: Csr,
    pub obs: Frame,
    pub var: Frame,
    pub spatial: Vec<[f64; 2]>,
    pub library: Option<Library>,
    /// Of a SpatialData: what its images are placed by.
    pub places: Option<Places>,
}

/// Reads a table.
pub(super) fn read(tree: &dyn Tree, choice: &Choice) -> Result<AnnData> {
    let root = root(tree, choice)?;
    let from_raw = choice.layer == Some("raw");
    let matrix = match choice.layer {
        None => format!("{root}/X"),
        Some("raw") => format!("{root}/raw/X"),
        Some(layer) => format!("{root}/layers/{layer}"),
    };
    let obs = frame(tree, &format!("{root}/obs"))?;
    let var = frame(tree, &if from_raw { format!("{root}/raw/var") } else { format!("{root}/var") })?;
    let x = sparse(tree, &matrix)?;
    if (x.n_rows(), x.n_cols) != (obs.len(), var.len()) {
        let (rows, cols, spots, genes) = (x.n_rows(), x.n_cols, obs.len(), var.len());
        return Err(tree.wrong(format!("has {rows} x {cols} values for {spots} spots and {genes} genes")));
    }
    if x.n_rows() == 0 || x.n_cols == 0 {
        return Err(tree.wrong(format!("is empty: it has {} spots and {} genes", x.n_rows(), x.n_cols)));
    }
    for (row, spot) in obs.index.iter().enumerate() {
        if let Some((gene, value)) = x.entries(row).find(|(_, value)| !value.is_finite()) {
            let gene = &var.index[gene];
            return Err(
                tree.wrong(format!("holds {value} in `{matrix}`, for gene `{gene}` of spot `{spot}`"))
            );
        }
    }
    let own = format!("{root}/obsm/{}", choice.coordinates);
    let has_own = tree.has_array(&own) || tree.has_group(&own);
    let circles = if root.is_empty() { None } else { circles(tree, choice, &root, &obs, has_own)? };
    let (spatial, places) = match circles {
        Some(circles) if !has_own => circles.into_coordinates(),
        circles => {
            let places = circles.map(spatialdata::Circles::beside_coordinates).unwrap_or_default();
            (coordinates(tree, &own, &obs.index)?, places)
        }
    };
    let library = library(tree, &format!("{root}/uns"), choice.section, choice.of_several)?;
    let mut obs = obs;
    if !root.is_empty() {
        let keys = spatialdata::keys(tree, &root);
        let kept =
            |name: &String| choice.regions == Some(name) || !keys.iter().flatten().any(|key| key == name);
        obs.columns.retain(|(name, _)| kept(name));
        left_out(tree, &root)?;
    }
    let used = ["X", "obs", "var", "uns", "obsm", "raw"];
    let has_content =
        |name: &String| tree.children(&format!("{root}/{name}")).is_ok_and(|names| !names.is_empty());
    let rest: Vec<String> = tree
        .children(&root)?
        .into_iter()
        .filter(|name| !used.contains(&name.as_str()) && has_content(name))
        .collect();
    if !rest.is_empty() {
        tracing::warn!("left out: {}", rest.join(", "));
    }
    let places = (!root.is_empty()).then_some(places);
    Ok(AnnData { x, obs, var, spatial, library, places })
}

/// The circles that a table annotates; where it has coordinates of its own, ones that cannot be read are only told of.
fn circles(
    tree: &dyn Tree,
    choice: &Choice,
    root: &str,
    obs: &Frame,
    has_own: bool,
) -> Result<Option<spatialdata::Circles>> {
    match spatialdata::circles(tree, choice.path, root, obs) {
        Err(error) if has_own => {
            tracing::warn!("left out the shapes: {error}");
            Ok(None)
        }
        other => other,
    }
}

/// Names what of a SpatialData is not read.
fn left_out(tree: &dyn Tree, root: &str) -> Result<()> {
    for kind in ["labels", "points", "tables"] {
        let names = if tree.has_group(&format!("/{kind}")) {
            tree.children(&format!("/{kind}"))?
        } else {
            Vec::new()
        };
        let others: Vec<String> =
            names.into_iter().map(|name| format!("/{kind}/{name}")).filter(|path| path != root).collect();
        if !others.is_empty() {
            tracing::warn!("left out: {}", others.join(", "));
        }
    }
    Ok(())
}

/// Where the table is: at the root, or in `tables` of a SpatialData.
fn root(tree: &dyn Tree, choice: &Choice) -> Result<String> {
    if tree.has_group("/obs") || !tree.has_group("/tables") {
        return if tree.has_group("/obs") {
            Ok(String::new())
        } else {
            Err(tree.wrong("has neither `obs` nor `tables`: it is no AnnData and no SpatialData".into()))
        };
    }
    let tables = tree.children("/tables")?;
    let found = match choice.table {
        Some(name) => tables.iter().find(|table| *table == name),
        None if tables.len() == 1 => tables.first(),
        None => None,
    };
    found.map(|table| format!("/tables/{table}")).ok_or_else(|| {
        tree.wrong(format!("has the tables {}; set `table` to one of them", tables.join(", ")))
    })
}

fn encoding(tree: &dyn Tree, path: &str) -> String {
    tree.attribute(path, "encoding-type")
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A matrix of any encoding, by row.
fn sparse(tree: &dyn Tree, path: &str) -> Result<Csr> {
    if !tree.has_group(path) {
        if !tree.has_array(path) {
            return Err(tree.wrong(format!("has no `{path}`: which layer holds the counts?")));
        }
        let shape = tree.shape(path)?;
        let [rows, cols] = shape[..] else {
            return Err(tree.wrong(format!("has `{path}` of the shape {shape:?}; expected spots x genes")));
        };
        let values = tree.reals(path)?;
        let row = |row: usize| {
            let values = (0..).zip(&values[row * cols..][..cols]);
            values.filter(|(_, value)| **value != 0.0).map(|(column, value)| (column, *value)).collect()
        };
        return Ok(Csr::from_rows(cols, (0..rows).map(row)));
    }
    let kind = encoding(tree, path);
    let shape: Option<[usize; 2]> = ["shape", "h5sparse_shape"]
        .iter()
        .find_map(|name| serde_json::from_value(tree.attribute(path, name)?).ok());
    let Some([rows, cols]) = shape else {
        return Err(tree.wrong(format!("has `{path}` without a shape")));
    };
    let whole = |name: &str| match tree.numbers(&format!("{path}/{name}"))? {
        Numbers::Int(values) => Ok(values),
        _ => Err(tree.wrong(format!("has `{path}/{name}` that holds no integers"))),
    };
    let narrow = |values: Vec<i64>| {
        let values: Result<Vec<i32>, _> = values.into_iter().map(i32::try_from).collect();
        values.map_err(|_| tree.wrong(format!("has indices in `{path}` beyond 32 bits")))
    };
    let (indptr, indices, data) =
        (whole("indptr")?, narrow(whole("indices")?)?, tree.reals(&format!("{path}/data"))?);
    let by_row = match kind.as_str() {
        "csr_matrix" | "" => Csr::from_parts(cols, indptr, indices, data),
        "csc_matrix" => Csr::from_parts(rows, indptr, indices, data).map(|by_column| by_column.transpose()),
        other => return Err(tree.wrong(format!("has `{path}` encoded as `{other}`; expected a matrix"))),
    };
    let by_row = by_row.map_err(|error| tree.wrong(format!("has an unsound `{path}`: {error}")))?;
    if (by_row.n_rows(), by_row.n_cols) != (rows, cols) {
        return Err(tree.wrong(format!("has `{path}` of another shape than it says")));
    }
    Ok(by_row)
}

/// A frame; columns of kinds that a table cannot hold are left out.
fn frame(tree: &dyn Tree, path: &str) -> Result<Frame> {
    if !tree.has_group(path) {
        return Err(tree.wrong(format!("has no frame `{path}`")));
    }
    let index = tree.attribute(path, "_index").and_then(|name| name.as_str().map(str::to_owned));
    let index = index.unwrap_or_else(|| "_index".into());
    let names = texts(tree, &format!("{path}/{index}"))?;
    let names: Option<Vec<String>> = names.into_iter().collect();
    let names = names.ok_or_else(|| tree.wrong(format!("has rows of `{path}` without a name")))?;
    let mut seen = std::collections::HashSet::new();
    if path.ends_with("/obs")
        && let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str()))
    {
        return Err(
            tree.wrong(format!("has two spots called `{twice}`: make the names unique before writing"))
        );
    }
    let order = tree
        .attribute(path, "column-order")
        .and_then(|order| serde_json::from_value::<Vec<String>>(order).ok());
    let order = order.map_or_else(|| tree.children(path), Ok)?;
    let mut frame = Frame { index: names, columns: Vec::new() };
    for name in order.into_iter().filter(|name| *name != index && name != "__categories") {
        let column = match legacy_categories(tree, path, &name) {
            Some(categories) => coded(tree, &format!("{path}/{name}"), &categories).map(Column::Categorical),
            None => column(tree, &format!("{path}/{name}"), frame.len()),
        };
        match column {
            Ok(column) => frame.columns.push((name, column)),
            Err(error) => tracing::warn!("left out the column `{name}` of `{path}`: {error}"),
        }
    }
    Ok(frame)
}

fn column(tree: &dyn Tree, path: &str, rows: usize) -> Result<Column> {
    let column = if tree.has_group(path) {
        match encoding(tree, path).as_str() {
            "categorical" => Column::Categorical(categorical(tree, path)?),
            "nullable-string-array" => {
                let values = texts(tree, path)?;
                Column::Categorical(Categorical::encode(values.iter().map(Option::as_deref)))
            }
            "nullable-integer" | "nullable-boolean" => nullable(tree, path)?,
            other => return Err(Error::invalid(format!("it is encoded as `{other}`"))),
        }
    } else if tree.is_text(path)? {
        Column::Text(tree.texts(path)?)
    } else {
        match tree.numbers(path)? {
            Numbers::Bool(values) => Column::Bool(values),
            Numbers::Int(values) => Column::Int(values),
            Numbers::Float(values) => Column::Float(values),
        }
    };
    if column.len() == rows {
        Ok(column)
    } else {
        Err(Error::invalid(format!("it has {} values for {rows} rows", column.len())))
    }
}

/// Numbers of which some may be missing: as reals, with NaN for them, where any is.
fn nullable(tree: &dyn Tree, path: &str) -> Result<Column> {
    let Numbers::Bool(missing) = tree.numbers(&format!("{path}/mask"))? else {
        return Err(Error::invalid("its mask is no list of truths"));
    };
    let none = !missing.contains(&true);
    Ok(match tree.numbers(&format!("{path}/values"))? {
        Numbers::Bool(values) if none => Column::Bool(values),
        Numbers::Int(values) if none => Column::Int(values),
        values => {
            let masked = values.into_reals().into_iter().zip(missing);
            Column::Float(masked.map(|(value, missing)| if missing { f64::NAN } else { value }).collect())
        }
    })
}

/// What categories are called: numbers by their digits.
fn names(tree: &dyn Tree, path: &str) -> Result<Vec<String>> {
    if tree.has_group(path) || tree.is_text(path)? {
        return Ok(texts(tree, path)?.into_iter().flatten().collect());
    }
    Ok(match tree.numbers(path)? {
        Numbers::Int(values) => values.iter().map(ToString::to_string).collect(),
        Numbers::Float(values) => values.iter().map(ToString::to_string).collect(),
        Numbers::Bool(values) => values.iter().map(ToString::to_string).collect(),
    })
}

fn categorical(tree: &dyn Tree, path: &str) -> Result<Categorical> {
    let categories = names(tree, &format!("{path}/categories"))?;
    coded(tree, &format!("{path}/codes"), &categories)
}

/// The categories of a column, where they stand as anndata before 0.8 wrote them: apart from the codes.
fn legacy_categories(tree: &dyn Tree, frame: &str, column: &str) -> Option<Vec<String>> {
    let path = format!("{frame}/__categories/{column}");
    (tree.has_array(&path) && tree.has_array(&format!("{frame}/{column}")))
        .then(|| names(tree, &path).ok())?
}

/// Categories by their codes; one below 0 is of no category.
fn coded(tree: &dyn Tree, path: &str, categories: &[String]) -> Result<Categorical> {
    let Numbers::Int(codes) = tree.numbers(path)? else {
        return Err(Error::invalid("its codes are no integers"));
    };
    let value = |code: &i64| match usize::try_from(*code) {
        Err(_) => Ok(None),
        Ok(code) => categories.get(code).map(|value| Some(value.as_str())).ok_or(code),
    };
    let values: Result<Vec<Option<&str>>, usize> = codes.iter().map(value).collect();
    let values = values.map_err(|code| {
        Error::invalid(format!("it has the code {code} for {} categories", categories.len()))
    })?;
    Ok(Categorical::encode(values))
}

/// Texts, of which newer files may miss some.
fn texts(tree: &dyn Tree, path: &str) -> Result<Vec<Option<String>>> {
    if !tree.has_group(path) {
        if !tree.has_array(path) {
            return Err(tree.wrong(format!("has no `{path}`")));
        }
        if !tree.is_text(path)? {
            return match tree.numbers(path)? {
                Numbers::Int(values) => Ok(values.iter().map(|value| Some(value.to_string())).collect()),
                _ => Err(tree.wrong(format!("has `{path}`, which should hold texts"))),
            };
        }
        return Ok(tree.texts(path)?.into_iter().map(Some).collect());
    }
    let values = tree.texts(&format!("{path}/values"))?;
    let Numbers::Bool(missing) = tree.numbers(&format!("{path}/mask"))? else {
        return Err(tree.wrong(format!("has a mask in `{path}` that is no list of truths")));
    };
    Ok(values.into_iter().zip(missing).map(|(value, missing)| (!missing).then_some(value)).collect())
}

/// x and y of each spot: the first two columns of an array or a frame.
fn coordinates(tree: &dyn Tree, path: &str, spots: &[String]) -> Result<Vec<[f64; 2]>> {
    let places =
        if tree.has_group(path) { of_frame(tree, path)? } else { of_array(tree, path, spots.len())? };
    if places.len() != spots.len() {
        return Err(tree.wrong(format!("has {} coordinates for {} spots", places.len(), spots.len())));
    }
    let lost: Vec<&String> = spots
        .iter()
        .zip(&places)
        .filter(|(_, place)| !place.iter().all(|value| value.is_finite()))
        .map(|(spot, _)| spot)
        .collect();
    match lost[..] {
        [] => Ok(places),
        [first, ..] => Err(tree.wrong(format!(
            "has no coordinates of spot `{first}`, nor of {} others, at `{path}`: leave them out before writing",
            lost.len() - 1
        ))),
    }
}

fn of_frame(tree: &dyn Tree, path: &str) -> Result<Vec<[f64; 2]>> {
    let reals = |column: Column| match column {
        Column::Float(values) => Some(values),
        Column::Int(values) => Some(values.into_iter().map(|value| value as f64).collect()),
        _ => None,
    };
    let mut columns = frame(tree, path)?.columns.into_iter().map(|(_, column)| reals(column));
    match (columns.next().flatten(), columns.next().flatten()) {
        (Some(x), Some(y)) => Ok(x.into_iter().zip(y).map(|(x, y)| [x, y]).collect()),
        _ => Err(tree.wrong(format!("has a frame `{path}` whose first two columns are not x and y"))),
    }
}

fn of_array(tree: &dyn Tree, path: &str, spots: usize) -> Result<Vec<[f64; 2]>> {
    if !tree.has_array(path) {
        return Err(tree.wrong(format!(
            "has no coordinates at `{path}`; set `coordinates` to the name of those in `obsm`"
        )));
    }
    let shape = tree.shape(path)?;
    let values = tree.numbers(path)?.into_reals();
    if shape.len() != 2 || shape[0] != spots || shape[1] < 2 || values.len() != shape[0] * shape[1] {
        return Err(tree.wrong(format!("has coordinates of the shape {shape:?} for {spots} spots")));
    }
    Ok(values.chunks_exact(shape[1]).map(|row| [row[0], row[1]]).collect())
}

/// Images and scale factors: the library called like the section, or the only one of a file of one section.
fn library(tree: &dyn Tree, uns: &str, section: &str, of_several: bool) -> Result<Option<Library>> {
    // The second is where our own tables have those of sections without an image.
    let places = [(format!("{uns}/spatial"), "/scalefactors"), (format!("{uns}/scalefactors"), "")];
    let (mut found, mut strangers) = (None, Vec::new());
    for (path, factors) in places.iter().filter(|(path, _)| tree.has_group(path)) {
        let names = tree.children(path)?;
        let own = match &names[..] {
            [only] if !of_several => Some(only),
            names => names.iter().find(|name| *name == section),
        };
        if let (None, Some(name)) = (&found, own) {
            found = Some((path, factors, name.clone()));
        }
        strangers.extend(names);
    }
    let Some((path, factors, name)) = found else {
        if !strangers.is_empty() {
            let strangers = strangers.join(", ");
            tracing::warn!("none of the libraries {strangers} is called {section}: no image is taken");
        }
        return Ok(None);
    };
    let scale = |factor: &str| scalar(tree, &format!("{path}/{name}{factors}/{factor}"));
    let scale_factors = ScaleFactors {
        tissue_hires_scalef: scale("tissue_hires_scalef")?,
        tissue_lowres_scalef: scale("tissue_lowres_scalef")?,
        spot_diameter_fullres: scale("spot_diameter_fullres")?.ok_or_else(|| {
            tree.wrong(format!("has no `spot_diameter_fullres` in `{path}/{name}/scalefactors`"))
        })?,
        fiducial_diameter_fullres: scale("fiducial_diameter_fullres")?,
        others: others(tree, &format!("{path}/{name}{factors}"))?,
    };
    let mut images = BTreeMap::new();
    for (kind, scale) in
        [("hires", scale_factors.tissue_hires_scalef), ("lowres", scale_factors.tissue_lowres_scalef)]
    {
        let node = format!("{path}/{name}/images/{kind}");
        if !tree.has_array(&node) {
            continue;
        }
        let scale = scale.ok_or_else(|| tree.wrong(format!("has an image {kind} without its scale")))?;
        let (height, width, pixels) = pixels(tree, &node)?;
        let spot_diameter_fullres = scale_factors.spot_diameter_fullres;
        images.insert(
            kind.into(),
            Image { section: section.into(), height, width, pixels, scale, spot_diameter_fullres },
        );
    }
    Ok(Some(Library { images, scale_factors }))
}

/// What else stands beside the scale factors, where it is one number.
fn others(tree: &dyn Tree, group: &str) -> Result<BTreeMap<String, f64>> {
    let known =
        ["tissue_hires_scalef", "tissue_lowres_scalef", "spot_diameter_fullres", "fiducial_diameter_fullres"];
    let names = tree.children(group)?.into_iter().filter(|name| !known.contains(&name.as_str()));
    let value = |name: String| {
        let path = format!("{group}/{name}");
        let is_number = tree.shape(&path).is_ok_and(|shape| shape.is_empty()) && !tree.is_text(&path).ok()?;
        let value = is_number.then(|| tree.numbers(&path).ok()?.into_reals().first().copied())??;
        Some((name, value))
    };
    Ok(names.filter_map(value).collect())
}

fn scalar(tree: &dyn Tree, path: &str) -> Result<Option<f64>> {
    if !tree.has_array(path) {
        return Ok(None);
    }
    let value = match tree.numbers(path)? {
        Numbers::Float(values) => values.first().copied(),
        Numbers::Int(values) => values.first().map(|&value| value as f64),
        Numbers::Bool(_) => None,
    };
    match value.filter(|value| value.is_finite() && *value > 0.0) {
        Some(value) => Ok(Some(value)),
        None => Err(tree.wrong(format!("has `{path}`, which should be a number above 0"))),
    }
}

/// Height, width and RGB; reals from 0 to 1, as scanpy reads PNG, become bytes.
fn pixels(tree: &dyn Tree, path: &str) -> Result<(usize, usize, Vec<u8>)> {
    let shape = tree.shape(path)?;
    let [height, width, channels @ 3..=4] = shape[..] else {
        return Err(
            tree.wrong(format!("has an image `{path}` of the shape {shape:?}; expected height x width x 3"))
        );
    };
    let bytes: Vec<u8> = match tree.numbers(path)? {
        Numbers::Int(values) => values.into_iter().map(|value| value.clamp(0, 255) as u8).collect(),
        Numbers::Float(values) => {
            let largest = values.iter().copied().fold(0.0, f64::max);
            let factor = if largest <= 1.0 { 255.0 } else { 1.0 };
            values.into_iter().map(|value| (value * factor).round().clamp(0.0, 255.0) as u8).collect()
        }
        Numbers::Bool(_) => return Err(tree.wrong(format!("has an image `{path}` of truths"))),
    };
    let rgb = bytes.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    Ok((height, width, rgb))
}
