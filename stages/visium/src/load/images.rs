//! `spatial/`: scale factors and the two images that spaceranger makes of the microscope's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use restage_stage::{
    Error, Result,
    artifact::{Image, Library, ScaleFactors},
};
use serde::Deserialize;

use crate::text;

/// Spaceranger writes PNG; people who shrink their data write others.
const SUFFIXES: [&str; 5] = ["png", "jpg", "jpeg", "tif", "tiff"];

/// Reads `scalefactors_json.json`. All are of pixels at full resolution, those of CytAssist too: its `regist_target_img_scalef`
/// is how much the image was scaled for finding where it lies, and moves no spot.
pub(crate) fn read_scale_factors(spatial: &Path) -> Result<ScaleFactors> {
    #[derive(Deserialize)]
    struct File {
        tissue_hires_scalef: Option<f64>,
        tissue_lowres_scalef: Option<f64>,
        spot_diameter_fullres: f64,
        fiducial_diameter_fullres: Option<f64>,
        #[serde(flatten)]
        others: BTreeMap<String, serde_json::Value>,
    }
    let path = spatial.join("scalefactors_json.json");
    if !path.is_file() {
        return Err(Error::invalid(format!(
            "{} is missing: without it, nothing places spots on an image. It holds `spot_diameter_fullres`, and \
             `tissue_hires_scalef` and `tissue_lowres_scalef` of the images that exist",
            path.display()
        )));
    }
    let text = text::read(&path)?;
    let file: File =
        serde_json::from_str(&text).map_err(Error::other(format!("cannot read {}", path.display())))?;
    let factors = [
        ("spot_diameter_fullres", Some(file.spot_diameter_fullres)),
        ("tissue_hires_scalef", file.tissue_hires_scalef),
        ("tissue_lowres_scalef", file.tissue_lowres_scalef),
    ];
    for (name, factor) in factors {
        if factor.is_some_and(|factor| !(factor.is_finite() && factor > 0.0)) {
            return Err(Error::invalid(format!("{}: `{name}` must be above 0", path.display())));
        }
    }
    // They become nodes of a file: what cannot be one's name is none of 10x's.
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let others = file.others.into_iter().filter(|(name, _)| !name.starts_with("__") && is_name(name));
    Ok(ScaleFactors {
        tissue_hires_scalef: file.tissue_hires_scalef,
        tissue_lowres_scalef: file.tissue_lowres_scalef,
        spot_diameter_fullres: file.spot_diameter_fullres,
        fiducial_diameter_fullres: file.fiducial_diameter_fullres,
        others: others.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect(),
    })
}

/// Adds `tissue_hires_image` and `tissue_lowres_image` where they exist; an alpha channel is dropped.
pub(crate) fn add_images(mut library: Library, spatial: &Path, section: &str) -> Result<Library> {
    let factors = &library.scale_factors;
    let scales = [("hires", factors.tissue_hires_scalef), ("lowres", factors.tissue_lowres_scalef)];
    let spot_diameter_fullres = factors.spot_diameter_fullres;
    for (name, scale) in scales {
        let Some(path) = find(spatial, name) else { continue };
        let scale = scale.ok_or_else(|| {
            let folder = spatial.display();
            Error::invalid(format!(
                "{folder}/scalefactors_json.json lacks `tissue_{name}_scalef`, but the image exists"
            ))
        })?;
        let pixels =
            image::open(&path).map_err(Error::other(format!("cannot read {}", path.display())))?.into_rgb8();
        let (height, width) = (pixels.height() as usize, pixels.width() as usize);
        let pixels = pixels.into_raw();
        let image = Image { section: section.into(), height, width, pixels, scale, spot_diameter_fullres };
        library.images.insert(name.into(), image);
    }
    Ok(library)
}

/// How far a side of the image at full resolution may be from what another image says it is.
const SIDE_TOLERANCE: f64 = 0.02;

/// Whether a side of so many pixels at full resolution is what one of a small image says, but for its last pixel.
pub(crate) fn is_side(full: f64, small: usize, scale: f64) -> bool {
    (full * scale / small as f64 - 1.0).abs() <= SIDE_TOLERANCE + 1.0 / small as f64
}

/// What is wrong where `hires` and `lowres` cannot be of one image.
pub(crate) fn contradiction(library: &Library) -> Option<String> {
    let (hires, lowres) = (library.images.get("hires")?, library.images.get("lowres")?);
    let sides = [(hires.width, lowres.width), (hires.height, lowres.height)];
    let fits = |(side, small)| is_side(side as f64 / hires.scale, small, lowres.scale);
    if sides.into_iter().all(fits) {
        return None;
    }
    let full = |image: &Image| {
        let [width, height] = [image.width, image.height].map(|side| side as f64 / image.scale);
        format!("{width:.0} x {height:.0}")
    };
    Some(format!(
        "by the hires image and its scale, full resolution is {} pixels, by the lowres image {}: one of them, or the scale \
         factors, are of another section",
        full(hires),
        full(lowres)
    ))
}

fn find(spatial: &Path, name: &str) -> Option<PathBuf> {
    let files = SUFFIXES.iter().map(|suffix| spatial.join(format!("tissue_{name}_image.{suffix}")));
    files.into_iter().find(|path| path.is_file())
}
