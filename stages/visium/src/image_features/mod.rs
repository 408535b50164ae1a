//! Stage type `visium/image-features`: what can be measured on a patch without training anything. What any encoder has to
//! beat.

mod colour;
mod glcm;
mod lbp;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Patches},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stage type.
pub(crate) struct ImageFeatures;

/// Params of `visium/image-features`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What is measured. Default all.
    pub(crate) families: Vec<Family>,
    /// For `glcm`: grey levels that are told apart, from 2 to 256. Default 32.
    pub(crate) grey_levels: usize,
    /// For `glcm`: how far apart two pixels are that are compared. Default 1 and 4.
    pub(crate) distances: Vec<usize>,
    /// For `nuclei`: the optical density in red, -ln((R + 1) / 240), that a pixel of a nucleus has at least; eosin lets red
    /// pass. Default 0.9.
    pub(crate) nuclei_density: f64,
}

/// What is measured of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Family {
    /// Mean, standard deviation and skewness of haematoxylin and eosin (colours taken apart as Ruifrok & Johnston 2001, in
    /// the units of scikit-image's `rgb2hed`): 6 numbers.
    OpticalDensity,
    /// Mean, standard deviation and skewness of red, green, blue and of hue, saturation, value: 18 numbers.
    Colour,
    /// Texture: six properties of the grey-level co-occurrence matrix (Haralick 1973) for each distance, the mean of four
    /// directions.
    Glcm,
    /// Texture: the shares of ten local binary patterns (Ojala et al. 2002; 8 points at radius 1, uniform).
    Lbp,
    /// The share of pixels that are of nuclei.
    Nuclei,
}

impl Default for Params {
    fn default() -> Self {
        let families =
            vec![Family::OpticalDensity, Family::Colour, Family::Glcm, Family::Lbp, Family::Nuclei];
        Self { families, grey_levels: 32, distances: vec![1, 4], nuclei_density: 0.9 }
    }
}

impl Stage for ImageFeatures {
    const NAME: &'static str = "image-features";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Measures each patch: stains, colours, texture, nuclei. The names of the numbers are in the embedding's \
             `var`.",
        )
        .input::<Patches>("patches", "The patches.")
        .output::<Embedding>("embedding", "A vector for each patch's spot.")
    }

    fn validate(params: &Params) -> Result<()> {
        if params.families.is_empty() {
            return Err(Error::invalid("families: expected at least one"));
        }
        if !(2..=256).contains(&params.grey_levels) {
            return Err(Error::invalid("grey_levels should be from 2 to 256"));
        }
        if params.distances.is_empty() || params.distances.contains(&0) {
            return Err(Error::invalid("distances: expected one or more, each at least 1"));
        }
        if !params.nuclei_density.is_finite() {
            return Err(Error::invalid("nuclei_density should be a number"));
        }
        let twice = params
            .families
            .iter()
            .enumerate()
            .find(|(place, family)| params.families[..*place].contains(family));
        match twice {
            Some((_, family)) => Err(Error::invalid(format!("families: {family:?} comes twice"))),
            None => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let patches: Patches = ctx.read("patches")?;
        let furthest = params.distances.iter().copied().max().unwrap_or(1);
        if params.families.contains(&Family::Glcm) && furthest >= patches.size {
            return Err(Error::invalid(format!(
                "distances: {furthest} does not fit into patches of {0} x {0} pixels",
                patches.size
            )));
        }
        let names = names(&params);
        let rows: Vec<Vec<f32>> = (0..patches.spots.len())
            .into_par_iter()
            .map(|patch| {
                ctx.check_cancelled()?;
                let (pixels, _) = patches.patch(patch).as_chunks::<3>();
                Ok(measure(pixels, patches.size, &params).into_iter().map(|value| value as f32).collect())
            })
            .collect::<Result<_>>()?;
        let embedding = Embedding { spots: patches.spots, dims: names.len(), values: rows.concat() };
        embedding.write_named(ctx.output("embedding")?, &names)
    }
}

/// The names of the numbers, in the order of [`measure`].
fn names(params: &Params) -> Vec<String> {
    let moments = |channels: &[&str]| -> Vec<String> {
        let of = |channel: &&str| ["mean", "sd", "skew"].map(|moment| format!("{channel}_{moment}"));
        channels.iter().flat_map(of).collect()
    };
    let of_family = |family: &Family| match family {
        Family::OpticalDensity => moments(&["haematoxylin", "eosin"]),
        Family::Colour => moments(&["red", "green", "blue", "hue", "saturation", "value"]),
        Family::Glcm => {
            let of = |distance: &usize| glcm::PROPERTIES.map(|name| format!("glcm_{name}_{distance}"));
            params.distances.iter().flat_map(of).collect()
        }
        Family::Lbp => (0..lbp::PATTERNS).map(|pattern| format!("lbp_{pattern}")).collect(),
        Family::Nuclei => vec!["nuclei".into()],
    };
    params.families.iter().flat_map(of_family).collect()
}

/// What is measured of a square patch of `size` x `size` pixels.
fn measure(pixels: &[[u8; 3]], size: usize, params: &Params) -> Vec<f64> {
    let grey: Vec<u8> = pixels.iter().map(|&pixel| colour::grey(pixel)).collect();
    let of_family = |family: &Family| match family {
        Family::OpticalDensity => colour::moments(pixels, colour::stains).concat(),
        Family::Colour => {
            let mut all = colour::moments(pixels, |pixel| pixel.map(f64::from)).concat();
            all.extend(colour::moments(pixels, colour::hsv).concat());
            all
        }
        Family::Glcm => {
            let of = |&distance: &usize| glcm::properties(&grey, size, distance, params.grey_levels);
            params.distances.iter().flat_map(of).collect()
        }
        Family::Lbp => lbp::shares(&grey, size).to_vec(),
        Family::Nuclei => vec![colour::dark_share(pixels, params.nuclei_density)],
    };
    params.families.iter().flat_map(of_family).collect()
}
