//! The table of a SpatialData group: a table artifact as it lies on disk, with more columns, that annotates shapes.

use std::{fs, path::Path};

use serde_json::json;

use super::{Frame, anndata, zarr::Writer};
use crate::error::{Error, Result};

/// Column of `obs` with the shapes' element that a spot is in.
pub const REGION_KEY: &str = "region";
/// Column of `obs` with the row of a spot in that element.
pub const INSTANCE_KEY: &str = "spot_id";

/// A table that annotates shapes.
pub struct Annotation<'a> {
    /// The folder of a table artifact; what is not replaced below is copied from it, file by file.
    pub table: &'a Path,
    /// With the columns [`REGION_KEY`] (categorical) and [`INSTANCE_KEY`] (integers), and others.
    pub obs: &'a Frame,
    /// In place of the table's own, where that cannot stay.
    pub var: Option<&'a Frame>,
    /// The elements that it annotates, each of which some row names.
    pub regions: &'a [String],
    /// More of `obsm`: name, length of a vector, vectors.
    pub vectors: &'a [(&'a str, usize, Vec<f32>)],
}

impl Annotation<'_> {
    /// Writes it to a folder that does not exist yet.
    ///
    /// # Errors
    /// If the table cannot be read or the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut attributes = anndata::root();
        let region = if let [only] = self.regions { json!(only) } else { json!(self.regions) };
        for (name, value) in [
            ("spatialdata-encoding-type", json!("ngff:regions_table")),
            ("version", json!("0.2")),
            ("region", region),
            ("region_key", json!(REGION_KEY)),
            ("instance_key", json!(INSTANCE_KEY)),
        ] {
            attributes.insert(name.into(), value);
        }
        let root = Writer::create(folder, attributes)?;
        anndata::frame(self.obs, |attributes| root.group("obs", attributes))?;
        if let Some(var) = self.var {
            anndata::frame(var, |attributes| root.group("var", attributes))?;
        }
        let own = |name: &str| name == "zarr.json" || name == "obs" || (name == "var" && self.var.is_some());
        for entry in list(self.table)? {
            if !entry.file_name().to_str().is_none_or(own) {
                copy(&entry.path(), &folder.join(entry.file_name()))?;
            }
        }
        let obsm = Writer::open(&folder.join("obsm"))?;
        for (name, dims, values) in self.vectors {
            anndata::array(&obsm, name, &[self.obs.len(), *dims], values)?;
        }
        let uns = anndata::dict(&Writer::open(&folder.join("uns"))?, "spatialdata_attrs")?;
        match self.regions {
            [only] => anndata::text(&uns, "region", only)?,
            several => anndata::texts(&uns, "region", several)?,
        }
        anndata::text(&uns, "region_key", REGION_KEY)?;
        anndata::text(&uns, "instance_key", INSTANCE_KEY)
    }
}

fn list(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    fs::read_dir(folder).and_then(Iterator::collect).map_err(Error::io(folder))
}

/// Copies a file or a folder with all that is in it. Not by links: files of an artifact have one name until they are in the
/// store, which then keeps the bytes of equal ones once. A file system that can, shares them from the start.
///
/// # Errors
/// If something cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).map_err(Error::io(from));
    }
    fs::create_dir_all(to).map_err(Error::io(to))?;
    list(from)?.into_iter().try_for_each(|entry| copy(&entry.path(), &to.join(entry.file_name())))
}
