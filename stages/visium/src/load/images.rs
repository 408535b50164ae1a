//! `spatial/`: scale factors and the two images that spaceranger makes of the microscope's.

use std::path::Path;

use restage_stage::{
    Error, Result,
    artifact::{Image, Library, ScaleFactors},
};
use serde::Deserialize;

/// Reads `scalefactors_json.json`. Other keys (Visium HD, CytAssist) are left alone.
pub(super) fn read_scale_factors(spatial: &Path) -> Result<ScaleFactors> {
    #[derive(Deserialize)]
    struct File {
        tissue_hires_scalef: Option<f64>,
        tissue_lowres_scalef: Option<f64>,
        spot_diameter_fullres: f64,
        fiducial_diameter_fullres: Option<f64>,
    }
    let path = spatial.join("scalefactors_json.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let file: File =
        serde_json::from_str(&text).map_err(Error::other(format!("cannot read {}", path.display())))?;
    Ok(ScaleFactors {
        tissue_hires_scalef: file.tissue_hires_scalef,
        tissue_lowres_scalef: file.tissue_lowres_scalef,
        spot_diameter_fullres: file.spot_diameter_fullres,
        fiducial_diameter_fullres: file.fiducial_diameter_fullres,
    })
}

/// Adds `tissue_hires_image.png` and `tissue_lowres_image.png` where they exist; an alpha channel is dropped.
pub(super) fn add_images(mut library: Library, spatial: &Path, section: &str) -> Result<Library> {
    let factors = &library.scale_factors;
    let scales = [("hires", factors.tissue_hires_scalef), ("lowres", factors.tissue_lowres_scalef)];
    let spot_diameter_fullres = factors.spot_diameter_fullres;
    for (name, scale) in scales {
        let path = spatial.join(format!("tissue_{name}_image.png"));
        if !path.is_file() {
            continue;
        }
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
