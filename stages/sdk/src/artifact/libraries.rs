//! Images and scale factors of a table's sections: `uns["spatial"]`, where squidpy and scanpy look for them.

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

/// Where the scale factors of sections without an image stand: scanpy's `pl.spatial` fails on a library in
/// `uns["spatial"]` that has none.
const IMAGELESS: &str = "scalefactors";

/// Writes the libraries into `uns`.
pub(super) fn write(libraries: &BTreeMap<String, Library>, uns: &Writer) -> Result<()> {
    let (imageless, with_images): (Vec<_>, Vec<_>) =
        libraries.iter().partition(|(_, library)| library.images.is_empty());
    if !with_images.is_empty() {
        let spatial = anndata::dict(uns, "spatial")?;
        for (section, library) in with_images {
            let group = anndata::dict(&spatial, section)?;
            write_images(library, section, &anndata::dict(&group, "images")?)?;
            write_factors(&library.scale_factors, &anndata::dict(&group, "scalefactors")?)?;
            anndata::dict(&group, "metadata")?;
        }
    }
    if !imageless.is_empty() {
        let group = anndata::dict(uns, IMAGELESS)?;
        for (section, library) in imageless {
            write_factors(&library.scale_factors, &anndata::dict(&group, section)?)?;
        }
    }
    Ok(())
}

fn write_images(library: &Library, section: &str, group: &Writer) -> Result<()> {
    library.images.iter().try_for_each(|(name, image)| {
        if scale(&library.scale_factors, name).is_none() {
            return Err(Error::invalid(format!(
                "section `{section}` has an image `{name}` without its scale"
            )));
        }
        image.write_pixels(group, name, anndata::encoding("array", "0.2.0"))
    })
}

fn write_factors(factors: &ScaleFactors, group: &Writer) -> Result<()> {
    let others = factors.others.iter().map(|(name, value)| (name.as_str(), *value));
    let mut given = named(factors).into_iter().filter_map(|(name, value)| Some((name, value?))).chain(others);
    given.try_for_each(|(name, value)| anndata::scalar(group, name, value))
}

/// Reads the libraries from `uns`.
pub(super) fn read(uns: &Reader) -> Result<BTreeMap<String, Library>> {
    let mut libraries = BTreeMap::new();
    if uns.has("spatial") {
        let spatial = uns.group("spatial")?;
        for section in spatial.children()? {
            let group = spatial.group(&section)?;
            let scale_factors = read_factors(&group.group("scalefactors")?)?;
            let images = read_images(&group.group("images")?, &section, &scale_factors)?;
            libraries.insert(section, Library { images, scale_factors });
        }
    }
    if uns.has(IMAGELESS) {
        let group = uns.group(IMAGELESS)?;
        for section in group.children()? {
            let scale_factors = read_factors(&group.group(&section)?)?;
            libraries.insert(section, Library { images: BTreeMap::new(), scale_factors });
        }
    }
    Ok(libraries)
}

fn read_factors(group: &Reader) -> Result<ScaleFactors> {
    let factor = |name: &str| group.has(name).then(|| anndata::read_scalar(group, name)).transpose();
    let is_named = |name: &String| named(&ScaleFactors::default()).iter().any(|(own, _)| own == name);
    let others = group.children()?.into_iter().filter(|name| !is_named(name));
    Ok(ScaleFactors {
        // What is no number is not ours.
        others: others
            .filter_map(|name| anndata::read_scalar(group, &name).ok().map(|value| (name, value)))
            .collect(),
        tissue_hires_scalef: factor("tissue_hires_scalef")?,
        tissue_lowres_scalef: factor("tissue_lowres_scalef")?,
        spot_diameter_fullres: anndata::read_scalar(group, "spot_diameter_fullres")?,
        fiducial_diameter_fullres: factor("fiducial_diameter_fullres")?,
    })
}

fn read_images(group: &Reader, section: &str, factors: &ScaleFactors) -> Result<BTreeMap<String, Image>> {
    let image = |name: String| {
        let (height, width, pixels) = Image::read_pixels(group, &name)?;
        let scale = scale(factors, &name)
            .ok_or_else(|| group.wrong(format!("has an image `{name}` without `tissue_{name}_scalef`")))?;
        let spot_diameter_fullres = factors.spot_diameter_fullres;
        Ok((name, Image { section: section.into(), height, width, pixels, scale, spot_diameter_fullres }))
    };
    group.children()?.into_iter().map(image).collect()
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
