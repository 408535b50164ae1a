//! A section on disk: `images/`, `shapes/` and `tables/table` of a SpatialData, copied from artifacts where they hold the
//! same. Elements are named as spatialdata-io names those of Visium.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use restage_stage::{
    Error, Result,
    artifact::{
        Artifact, COORDINATE_SYSTEM, Categorical, Column, Frame, Image, ImageFile, Table,
        section::{Annotation, INSTANCE_KEY, REGION_KEY, copy},
        zarr::{Attributes, Writer},
    },
    catalogue::PortType,
};
use serde_json::json;

use super::shapes;

/// What SpatialData's container of Zarr version 3 is called.
const CONTAINER: &str = "0.2";
/// Radius, in pixels, of spots whose diameter nobody said: SpatialData wants one.
const UNKNOWN_RADIUS: f64 = 1.0;

/// One section or several, as parts that lie on disk and what comes to them.
pub(crate) struct Section {
    table: PathBuf,
    /// Element name and folder of an image artifact.
    images: Vec<(String, PathBuf)>,
    /// Element name -> circles.
    shapes: BTreeMap<String, Circles>,
    /// The table's, with region and instance; more may come.
    pub(crate) obs: Frame,
    /// The table's, where SpatialData would refuse names in it.
    var: Option<Frame>,
    /// Dimensions and values of `obsm["embedding"]`.
    pub(crate) embedding: Option<(usize, Vec<f32>)>,
}

#[derive(Default)]
struct Circles {
    centres: Vec<[f64; 2]>,
    radius: f64,
}

impl Section {
    /// The section of a table artifact, which lies in the folder `path`; images without pixels are left out.
    pub(crate) fn new(path: PathBuf, table: &Table, images: Vec<PathBuf>) -> Result<Self> {
        let abouts: Vec<Image> =
            images.iter().map(|path| Ok(ImageFile::open(path)?.about)).collect::<Result<_>>()?;
        let sections: Vec<&str> =
            (0..table.n_spots()).map(|spot| table.section(spot).unwrap_or("spots")).collect();
        let known: Vec<&str> = sections.iter().copied().collect::<HashSet<_>>().into_iter().collect();
        let mut known: Vec<String> = known.into_iter().map(str::to_owned).collect();
        known.sort_unstable();
        let elements: BTreeMap<String, String> = known.iter().cloned().zip(valid_names(&known)).collect();

        let mut shapes: BTreeMap<String, Circles> = BTreeMap::new();
        let (mut regions, mut instances) = (Vec::new(), Vec::new());
        for (section, centre) in sections.iter().zip(&table.spatial) {
            let element = &elements[*section];
            let circles = shapes
                .entry(element.clone())
                .or_insert_with(|| Circles { centres: Vec::new(), radius: radius(table, &abouts, section) });
            instances.push(circles.centres.len() as i64);
            regions.push(Some(element.as_str()));
            circles.centres.push(*centre);
        }
        let mut obs = table.obs.clone();
        obs.columns.retain(|(name, _)| name != REGION_KEY && name != INSTANCE_KEY);
        obs.push(REGION_KEY, Column::Categorical(Categorical::encode(regions)));
        obs.push(INSTANCE_KEY, Column::Int(instances));

        let mut named: Vec<(String, PathBuf)> = Vec::new();
        for (about, path) in abouts.iter().zip(images) {
            if about.height == 0 || about.width == 0 {
                continue;
            }
            let Some(element) = elements.get(&about.section) else {
                return Err(Error::invalid(format!(
                    "an image is of section {}, of which the table has no spot; it has {}",
                    about.section,
                    known.join(", ")
                )));
            };
            let name = format!("{element}_{}", kind(table, about));
            if named.iter().any(|(other, _)| *other == name) {
                return Err(Error::invalid(format!(
                    "two images are of section {}: connect one",
                    about.section
                )));
            }
            named.push((name, path));
        }
        let columns: Vec<String> = table.var.columns.iter().map(|(name, _)| name.clone()).collect();
        let var = (valid_names(&columns) != columns).then(|| with_valid_names(&table.var));
        Ok(Self { table: path, images: named, shapes, obs, var, embedding: None })
    }
}

/// Half the diameter that the table says, or else an image.
fn radius(table: &Table, images: &[Image], section: &str) -> f64 {
    let library = table.libraries.get(section).map(|library| library.scale_factors.spot_diameter_fullres);
    let image = images.iter().find(|image| image.section == section).map(|image| image.spot_diameter_fullres);
    let known = library.into_iter().chain(image).find(|diameter| *diameter > 0.0);
    known.map_or_else(
        || {
            tracing::warn!(
                "how large the spots of {section} are is not known: they are written with a radius of 1 pixel"
            );
            UNKNOWN_RADIUS
        },
        |diameter| diameter / 2.0,
    )
}

/// What spatialdata-io calls such an image.
fn kind(table: &Table, image: &Image) -> &'static str {
    let factors = table.libraries.get(&image.section).map(|library| &library.scale_factors);
    let is = |factor: Option<f64>| factor.is_some_and(|factor| factor == image.scale);
    match factors {
        Some(factors) if is(factors.tissue_hires_scalef) => "hires_image",
        Some(factors) if is(factors.tissue_lowres_scalef) => "lowres_image",
        _ if image.scale == 1.0 => "full_image",
        _ => "image",
    }
}

/// Names that SpatialData takes, different even where case is not told apart.
fn valid_names(names: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut valid = |name: &String| {
        let allowed = |c: char| if c.is_alphanumeric() || "_-.".contains(c) { c } else { '_' };
        let name: String = name.chars().map(allowed).collect();
        let bad =
            name.is_empty() || name.starts_with("__") || name == "_index" || name.chars().all(|c| c == '.');
        let name = if bad { format!("x{name}") } else { name };
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let free =
            std::iter::once(name.clone()).chain(numbered).find(|name| seen.insert(name.to_lowercase()));
        free.unwrap_or(name)
    };
    names.iter().map(&mut valid).collect()
}

fn with_valid_names(frame: &Frame) -> Frame {
    let names: Vec<String> = frame.columns.iter().map(|(name, _)| name.clone()).collect();
    let columns = valid_names(&names).into_iter().zip(frame.columns.iter().map(|(_, column)| column.clone()));
    Frame { index: frame.index.clone(), columns: columns.collect() }
}

impl Artifact for Section {
    const PORT: PortType = PortType::Section;

    fn read(path: &Path) -> Result<Self> {
        let (images, table) = (path.join("images"), path.join("tables/table"));
        let mut found = Vec::new();
        if images.is_dir() {
            for entry in std::fs::read_dir(&images).map_err(Error::io(&images))? {
                found.push(entry.map_err(Error::io(&images))?.path());
            }
        }
        found.retain(|path| path.is_dir());
        found.sort_unstable();
        Self::new(table.clone(), &Table::read(&table)?, found)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let attributes = [("spatialdata_attrs".into(), json!({"version": CONTAINER}))];
        let root = Writer::create(path, attributes.into_iter().collect())?;
        if !self.images.is_empty() {
            root.group("images", Attributes::new())?;
        }
        for (name, image) in &self.images {
            copy(image, &path.join("images").join(name))?;
        }
        let group = root.group("shapes", Attributes::new())?;
        for (name, circles) in &self.shapes {
            group.group(name, shapes::attributes(COORDINATE_SYSTEM))?;
            let file = path.join("shapes").join(name).join(shapes::FILE);
            shapes::write(&file, &circles.centres, circles.radius)?;
        }
        root.group("tables", Attributes::new())?;
        let regions: Vec<String> = self.shapes.keys().cloned().collect();
        let vectors: Vec<_> =
            self.embedding.iter().map(|(dims, values)| ("embedding", *dims, values.clone())).collect();
        let annotation = Annotation {
            table: &self.table,
            obs: &with_valid_names(&self.obs),
            var: self.var.as_ref(),
            regions: &regions,
            vectors: &vectors,
        };
        annotation.write(&path.join("tables/table"))
    }
}
