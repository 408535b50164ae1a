//! Images and scale factors of a table's sections: `uns["spatial"]`, as squidpy and scanpy look for them.

use std::collections::BTreeMap;

use super::{
    Image, ScaleFactors, anndata,
    zarr::{Reader, Writer},
};
use crate::error::{Error, Result};

/// Images and scale factors of one section.
///
/// An image's own section, scale and spot diameter are those of the library: only its pixels are kept beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Library {
    /// `"hires"`, `"lowres"`: 8-bit RGB.
    pub images: BTreeMap<String, Image>,
    /// Full-resolution pixels to those of an image, spot diameter.
    pub scale_factors: ScaleFactors,
}

/// Writes the libraries as `spatial` in `uns`; none at all write nothing.
pub(super) fn write(libraries: &BTreeMap<String, Library>, uns: &Writer) -> Result<()> {
    if libraries.is_empty() {
        return Ok(());
    }
    let spatial = anndata::dict(uns, "spatial")?;
    for (section, library) in libraries {
        let group = anndata::dict(&spatial, section)?;
        let images = anndata::dict(&group, "images")?;
        for (name, image) in &library.images {
            if scale(&library.scale_factors, name).is_none() {
                return Err(Error::invalid(format!(
                    "section `{section}` has an image `{name}` without its scale"
                )));
            }
            image.write_pixels(&images, name, anndata::encoding("array", "0.2.0"))?;
        }
        let factors = anndata::dict(&group, "scalefactors")?;
        for (name, value) in named(&library.scale_factors) {
            value.map_or(Ok(()), |value| anndata::scalar(&factors, name, value))?;
        }
        anndata::dict(&group, "metadata")?;
    }
    Ok(())
}

/// Reads the libraries from `uns`.
pub(super) fn read(uns: &Reader) -> Result<BTreeMap<String, Library>> {
    if !uns.has("spatial") {
        return Ok(BTreeMap::new());
    }
    let spatial = uns.group("spatial")?;
    let read = |section: String| {
        let library = read_one(&spatial.group(&section)?, &section)?;
        Ok((section, library))
    };
    spatial.children()?.into_iter().map(read).collect()
}

fn read_one(group: &Reader, section: &str) -> Result<Library> {
    let factors = group.group("scalefactors")?;
    let factor = |name: &str| factors.has(name).then(|| anndata::read_scalar(&factors, name)).transpose();
    let scale_factors = ScaleFactors {
        tissue_hires_scalef: factor("tissue_hires_scalef")?,
        tissue_lowres_scalef: factor("tissue_lowres_scalef")?,
        spot_diameter_fullres: anndata::read_scalar(&factors, "spot_diameter_fullres")?,
        fiducial_diameter_fullres: factor("fiducial_diameter_fullres")?,
    };
    let images = group.group("images")?;
    let image = |name: String| {
        let (height, width, pixels) = Image::read_pixels(&images, &name)?;
        let scale = scale(&scale_factors, &name)
            .ok_or_else(|| factors.wrong(format!("lacks `tissue_{name}_scalef`, the scale of an image")))?;
        let spot_diameter_fullres = scale_factors.spot_diameter_fullres;
        Ok((name, Image { section: section.into(), height, width, pixels, scale, spot_diameter_fullres }))
    };
    let images = images.children()?.into_iter().map(image).collect::<Result<_>>()?;
    Ok(Library { images, scale_factors })
}

fn scale(factors: &ScaleFactors, image: &str) -> Option<f64> {
    match image {
        "hires" => factors.tissue_hires_scalef,
        "lowres" => factors.tissue_lowres_scalef,
        _ => None,
    }
}

fn named(factors: &ScaleFactors) -> [(&'static str, Option<f64>); 4] {
    [
        ("fiducial_diameter_fullres", factors.fiducial_diameter_fullres),
        ("spot_diameter_fullres", Some(factors.spot_diameter_fullres)),
        ("tissue_hires_scalef", factors.tissue_hires_scalef),
        ("tissue_lowres_scalef", factors.tissue_lowres_scalef),
    ]
}
