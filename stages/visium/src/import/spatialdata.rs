//! What a SpatialData has beside its tables: circles at the spots, images, and how both lie in a common coordinate system.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::Path,
};

use parquet::{file::reader::FileReader, file::serialized_reader::SerializedFileReader, record::Field};
use restage_stage::{
    Context, Error, Result,
    artifact::{Column, Frame, Image, ImageRows, Library, ScaleFactors, zarr::Reader},
};
use serde_json::Value;

use super::{affine::Affine, tree::Tree};
use crate::section::shapes::FILE;

/// Bytes of rows that are read at a time, where a chunk is not larger.
const WINDOW_BYTES: usize = 1 << 28;
/// The longer side that a table's `hires` image has at most.
const HIRES: usize = 2100;
/// How far an image may lie from its place, in full-resolution pixels, and its two scales from each other.
const TOLERANCE: f64 = 1.0;
const SCALE_TOLERANCE: f64 = 1e-3;

/// The spots of a table as an element of shapes has them.
pub(super) struct Circles {
    /// x and y of each spot, as they stand in the file.
    centres: Vec<[f64; 2]>,
    /// Diameter as it stands in the file.
    diameter: Option<f64>,
    /// Coordinate system -> how to get there.
    to: BTreeMap<String, Affine>,
}

/// The coordinates of a section's spots, and what full-resolution pixels are in its coordinate systems.
#[derive(Default)]
pub(super) struct Places {
    /// Diameter of a spot in full-resolution pixels.
    pub diameter: Option<f64>,
    /// Coordinate system -> from it to full-resolution pixels.
    from: BTreeMap<String, Affine>,
}

/// The columns of `obs` that tie a table to its shapes.
pub(super) fn keys(tree: &dyn Tree, table: &str) -> [Option<String>; 2] {
    ["region_key", "instance_key"]
        .map(|key| tree.attribute(table, key).and_then(|value| value.as_str().map(str::to_owned)))
}

/// The circles that the table at `table` annotates; `None` if it annotates nothing.
pub(super) fn circles(tree: &dyn Tree, path: &Path, table: &str, obs: &Frame) -> Result<Option<Circles>> {
    let [_, Some(instance_key)] = keys(tree, table) else { return Ok(None) };
    let region = match tree.attribute(table, "region") {
        Some(Value::String(only)) => only,
        Some(Value::Array(names)) if names.len() == 1 => names[0].as_str().unwrap_or_default().to_owned(),
        Some(Value::Array(names)) => {
            let count = names.len();
            return Err(
                tree.wrong(format!("has `{table}`, which is of {count} regions; expected one section"))
            );
        }
        _ => return Ok(None),
    };
    let element = format!("/shapes/{region}");
    if !tree.has_group(&element) {
        return Ok(None);
    }
    let to = transformations(tree.attribute(&element, "coordinateTransformations").as_ref(), &["x", "y"]);
    let file = path.join("shapes").join(&region).join(FILE);
    let rows = points(&file)?;
    let instances: Vec<String> = match obs.column(&instance_key) {
        Some(Column::Int(values)) => values.iter().map(ToString::to_string).collect(),
        Some(Column::Text(values)) => values.clone(),
        Some(Column::Categorical(values)) => {
            values.iter().map(|value| value.unwrap_or_default().to_owned()).collect()
        }
        _ => return Err(tree.wrong(format!("has no column `{instance_key}` in `{table}/obs`"))),
    };
    let find = |instance: &String| {
        rows.get(instance).copied().ok_or_else(|| {
            Error::invalid(format!("{} has no row `{instance}`, which a spot is of", file.display()))
        })
    };
    let found: Vec<([f64; 2], Option<f64>)> = instances.iter().map(find).collect::<Result<_>>()?;
    let diameter = found.first().and_then(|(_, radius)| *radius).map(|radius| 2.0 * radius);
    Ok(Some(Circles { centres: found.into_iter().map(|(centre, _)| centre).collect(), diameter, to }))
}

impl Circles {
    /// Where the table itself says where its spots lie: in the shapes' own coordinates, as spatialdata-io has it.
    pub(super) fn beside_coordinates(self) -> Places {
        let from = self.to.iter().filter_map(|(name, to)| Some((name.clone(), to.inverse()?))).collect();
        Places { diameter: self.diameter, from }
    }

    /// The circles' places in a coordinate system, the shapes' own if one is the same, are full-resolution pixels.
    pub(super) fn into_coordinates(self) -> (Vec<[f64; 2]>, Places) {
        let own = self.to.iter().find(|(_, to)| to.is_identity());
        let Some((name, to)) =
            own.or_else(|| self.to.get_key_value("global")).or_else(|| self.to.first_key_value())
        else {
            return (self.centres, Places { diameter: self.diameter, from: BTreeMap::new() });
        };
        let centres = self.centres.iter().map(|&centre| to.apply(centre)).collect();
        let diameter = self.diameter.map(|diameter| diameter * to.scale());
        // The others, by way of the shapes.
        let from =
            |(other, to_other): (&String, &Affine)| Some((other.clone(), to.after(&to_other.inverse()?)));
        let mut from: BTreeMap<String, Affine> = self.to.iter().filter_map(from).collect();
        from.insert(name.clone(), Affine::IDENTITY);
        (centres, Places { diameter, from })
    }
}

/// Coordinate system -> how an element with these axes gets there. What is no map of the plane is left out.
fn transformations(attribute: Option<&Value>, axes: &[&str]) -> BTreeMap<String, Affine> {
    let listed = attribute.and_then(Value::as_array).into_iter().flatten();
    let parse = |one: &Value| {
        let name = one["output"]["name"].as_str()?.to_owned();
        let map = Affine::parse(one, axes);
        if map.is_none() {
            tracing::warn!(
                "left out the coordinate system {name}: its transformation is no map of the plane"
            );
        }
        Some((name, map?))
    };
    listed.filter_map(parse).collect()
}

/// Point and radius, where it has one.
type Circle = ([f64; 2], Option<f64>);

/// Circles by index, as text.
fn points(path: &Path) -> Result<HashMap<String, Circle>> {
    let wrong = |problem: String| Error::invalid(format!("{}: {problem}", path.display()));
    let file = File::open(path).map_err(Error::io(path))?;
    let unreadable = |error: parquet::errors::ParquetError| wrong(format!("cannot be read: {error}"));
    let reader = SerializedFileReader::new(file).map_err(unreadable)?;
    let pandas = reader.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let pandas = pandas.filter(|entry| entry.key == "pandas").find_map(|entry| entry.value.as_deref());
    let pandas: Value = pandas.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let index = &pandas["index_columns"][0];
    let (start, step) = (index["start"].as_i64().unwrap_or(0), index["step"].as_i64().unwrap_or(1));
    let mut found = HashMap::new();
    for (row, fields) in (0_i64..).zip(reader.get_row_iter(None).map_err(unreadable)?) {
        let fields = fields.map_err(unreadable)?;
        let (mut name, mut point, mut radius) = ((start + row * step).to_string(), None, None);
        for (column, field) in fields.get_column_iter() {
            match field {
                Field::Bytes(bytes) if column == "geometry" => {
                    point = Some(wkb(bytes.data()).map_err(&wrong)?)
                }
                Field::Double(value) if column == "radius" => radius = Some(*value),
                Field::Long(value) if Some(column.as_str()) == index.as_str() => name = value.to_string(),
                Field::Int(value) if Some(column.as_str()) == index.as_str() => name = value.to_string(),
                Field::Str(value) if Some(column.as_str()) == index.as_str() => name.clone_from(value),
                _ => {}
            }
        }
        let point = point.ok_or_else(|| wrong(format!("row {row} has no geometry")))?;
        found.insert(name, (point, radius));
    }
    Ok(found)
}

/// A point of WKB, of either byte order; z is dropped.
fn wkb(bytes: &[u8]) -> Result<[f64; 2], String> {
    let take = |at: usize| bytes.get(at..at + 8).and_then(|part| <[u8; 8]>::try_from(part).ok());
    let kind = bytes.get(1..5).and_then(|part| <[u8; 4]>::try_from(part).ok());
    let (Some(kind), Some(x), Some(y)) = (kind, take(5), take(13)) else {
        return Err("a geometry is cut short".into());
    };
    let little = bytes[0] == 1;
    let kind = if little { u32::from_le_bytes(kind) } else { u32::from_be_bytes(kind) };
    // 1000 is added where there is a z, or the highest bit set.
    if kind & 0xffff != 1 && kind != 1001 {
        return Err(format!("holds a geometry of kind {kind}; expected points with a radius, as of spots"));
    }
    Ok([x, y].map(|bytes| if little { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) }))
}

/// An image of a SpatialData that can be read.
pub(super) struct Found {
    group: Reader,
    /// Paths in the group with height and width, from the largest.
    levels: Vec<(String, usize, usize)>,
    /// The largest level without its pixels.
    pub about: Image,
}

/// The image called `name`, or the largest that lies as the coordinates do; the others are named in the log.
pub(super) fn image(
    path: &Path,
    name: Option<&str>,
    section: &str,
    places: &Places,
) -> Result<Option<Found>> {
    let root = Reader::open(path)?;
    if !root.has("images") {
        return if let Some(name) = name {
            Err(root.wrong(format!("has no image `{name}`")))
        } else {
            Ok(None)
        };
    }
    let images = root.group("images")?;
    if let Some(name) = name {
        return read(&images, name, section, places).map(Some);
    }
    let (mut best, mut others): (Option<(String, Found)>, Vec<String>) = (None, Vec::new());
    for name in images.children()? {
        match read(&images, &name, section, places) {
            Err(error) => tracing::warn!("left out the image `{name}`: {error}"),
            Ok(found) => {
                let size = |found: &Found| found.about.height * found.about.width;
                if best.as_ref().is_none_or(|(_, best)| size(best) < size(&found)) {
                    others.extend(best.replace((name, found)).map(|(name, _)| name));
                } else {
                    others.push(name);
                }
            }
        }
    }
    if !others.is_empty() {
        let taken = best.as_ref().map_or("", |(name, _)| name);
        tracing::warn!(
            "{section}: of the images, `{taken}` is taken, not {}; set `image`",
            others.join(", ")
        );
    }
    Ok(best.map(|(_, found)| found))
}

fn read(images: &Reader, name: &str, section: &str, places: &Places) -> Result<Found> {
    let group = images.group(name)?;
    // Of container 0.2 below `ome`, of 0.1 at the top.
    let attributes = group.attributes().get("ome").and_then(Value::as_object).unwrap_or(group.attributes());
    let multiscale = attributes.get("multiscales").map(|all| all[0].clone()).unwrap_or_default();
    let axes: Vec<&str> = multiscale["axes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|axis| axis["name"].as_str())
        .collect();
    if axes != ["c", "y", "x"] {
        return Err(group.wrong(format!("has the axes {axes:?}; expected c, y, x")));
    }
    let mut levels = Vec::new();
    for dataset in multiscale["datasets"].as_array().into_iter().flatten() {
        let path = dataset["path"].as_str().unwrap_or_default();
        let [_, height, width] = group.shape(path)?[..] else {
            return Err(group.wrong(format!("has `{path}`, which is no image")));
        };
        // Refuses what is not of bytes, before any of it is needed.
        group.rgb_rows(path, 0..height.min(1))?;
        let within = &dataset["coordinateTransformations"][0];
        levels.push(((path.to_owned(), height, width), Affine::parse(within, &axes)));
    }
    levels.sort_by_key(|((_, height, width), _)| std::cmp::Reverse(height * width));
    let Some(((_, height, width), within)) = levels.first().cloned() else {
        return Err(group.wrong("has no levels"));
    };
    let within = within.unwrap_or(Affine::IDENTITY);
    let to = transformations(multiscale.get("coordinateTransformations"), &axes);
    let to_full = |(system, to): (&String, &Affine)| Some(places.from.get(system)?.after(to).after(&within));
    let maps: Vec<Affine> = to.iter().filter_map(to_full).collect();
    // Without shapes, the coordinates are those of the one system that everything is in.
    let alone = places.from.is_empty().then(|| to.get("global").map(|to| to.after(&within))).flatten();
    let Some(map) = maps.first().copied().or(alone) else {
        return Err(group.wrong("shares no coordinate system with the spots"));
    };
    let Some(scale) = map.as_scale(SCALE_TOLERANCE, TOLERANCE) else {
        return Err(group.wrong("is turned or shifted against the spots; expected one that is only scaled"));
    };
    let about = Image {
        section: section.into(),
        height,
        width,
        pixels: Vec::new(),
        scale: 1.0 / scale,
        spot_diameter_fullres: places.diameter.unwrap_or(0.0),
    };
    Ok(Found { group, levels: levels.into_iter().map(|(level, _)| level).collect(), about })
}

/// The table's own images and scale factors; what it lacks of them, the shapes and the image have.
pub(super) fn library(
    own: Option<Library>,
    places: &Places,
    image: Option<&mut Found>,
) -> Result<Option<Library>> {
    let from_shapes = places.diameter.map(|spot_diameter_fullres| Library {
        scale_factors: ScaleFactors { spot_diameter_fullres, ..ScaleFactors::default() },
        images: BTreeMap::new(),
    });
    let Some(mut library) = own.or(from_shapes) else { return Ok(None) };
    let Some(image) = image else { return Ok(Some(library)) };
    image.about.spot_diameter_fullres = library.scale_factors.spot_diameter_fullres;
    if library.images.is_empty()
        && let Some(hires) = image.hires()?
    {
        library.scale_factors.tissue_hires_scalef = Some(hires.scale);
        library.images.insert("hires".into(), hires);
    }
    Ok(Some(library))
}

impl Found {
    /// Copies the largest level to a folder, never whole in memory.
    pub(super) fn copy(&self, target: &Path, ctx: &Context) -> Result<()> {
        let mut rows = ImageRows::create(target, &self.about)?;
        let (name, height, width) = &self.levels[0];
        let most = (WINDOW_BYTES / (width * 3).max(1)).max(1);
        let window = self.group.chunk_rows(name)?.clamp(1, most);
        for first in (0..*height).step_by(window) {
            ctx.check_cancelled()?;
            rows.push(&self.group.rgb_rows(name, first..(first + window).min(*height))?)?;
        }
        rows.finish()
    }

    /// The largest level that is small enough for a table.
    pub(super) fn hires(&self) -> Result<Option<Image>> {
        let Some((name, height, width)) =
            self.levels.iter().find(|(_, height, width)| height.max(width) <= &HIRES)
        else {
            return Ok(None);
        };
        let scale = self.about.scale * *width as f64 / self.about.width as f64;
        let pixels = self.group.rgb_rows(name, 0..*height)?;
        Ok(Some(Image { height: *height, width: *width, pixels, scale, ..self.about.clone() }))
    }
}
