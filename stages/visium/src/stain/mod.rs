//! Stage type `visium/stain-normalize`: patches of all sections as if they had been stained and scanned alike.

mod macenko;
mod palette;
mod reinhard;
mod stains;
mod vahadane;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Metrics, Patches, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tissue_mask::BLACK;
use palette::{Cube, Palette};
use reinhard::Colours;
pub(crate) use reinhard::lightness;
pub(crate) use stains::density;
pub(crate) use stains::{Stains, Tables};

/// The stage type.
pub(crate) struct StainNormalize;

/// Params of `visium/stain-normalize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// How. Default `macenko`.
    pub(crate) method: Method,
    /// What is looked at together. Default `section`.
    pub(crate) per: Per,
    /// For `macenko` and `vahadane`: what optical density a pixel of tissue has in each colour at least. Default 0.15.
    pub(crate) beta: f64,
    /// For `macenko`: percentile of angles, from each end, that the two stains are. Default 1.
    pub(crate) alpha: f64,
    /// Patches with a smaller share of tissue pass unchanged. Default 0.01.
    pub(crate) min_tissue: f64,
}

/// How stains are normalised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    /// Two stain vectors from the plane of optical densities (Macenko et al. 2009).
    #[default]
    Macenko,
    /// Two stain vectors by sparse non-negative factors of optical densities (Vahadane et al. 2016); concentrations as with
    /// `macenko`.
    Vahadane,
    /// Mean and standard deviation of each channel of CIELab (Reinhard et al. 2001, as torchstain has it).
    Reinhard,
}

/// What is looked at, or changed, together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Per {
    /// All patches of a section: what differs between its regions stays.
    #[default]
    Section,
    /// Each patch by itself.
    Patch,
}

impl Default for Params {
    fn default() -> Self {
        Self { method: Method::Macenko, per: Per::Section, beta: 0.15, alpha: 1.0, min_tissue: 0.01 }
    }
}

impl Stage for StainNormalize {
    const NAME: &'static str = "stain-normalize";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Brings the colours of H&E patches to those of a reference: by default stains and densities that torchstain \
             and StainTools share, else those of the patches at `reference`. Patches without tissue pass unchanged.",
        )
        .input::<Patches>("patches", "The patches.")
        .input::<Table>("table", "The section of each spot.")
        .optional::<Patches>("reference", "Patches whose colours all others get.")
        .output::<Patches>("patches", "The patches in the reference's colours.")
        .output::<Embedding>(
            "tissue",
            "Two numbers a spot: the share of its patch that is tissue, and whether it was normalised: 1, or 0 of one that passed \
             unchanged.",
        )
        .output::<Metrics>("summary", "How many patches were normalised, and how many passed unchanged.")
    }

    fn validate(params: &Params) -> Result<()> {
        let sound = params.beta > 0.0 && (0.0..50.0).contains(&params.alpha);
        if sound && (0.0..=1.0).contains(&params.min_tissue) {
            return Ok(());
        }
        Err(Error::invalid("beta should be above 0, alpha from 0 to below 50, min_tissue from 0 to 1"))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let mut patches: Patches = ctx.read("patches")?;
        let table: Table = ctx.read("table")?;
        let reference: Option<Patches> = ctx.read_optional("reference")?;
        ctx.named_only("table");
        if let Some(reference) = &reference {
            let spots = reference.spots.iter().map(String::as_str);
            ctx.transductive(
                "visium/stain-normalize: colours of the reference are fitted on all of its spots",
                spots,
            );
        }
        let done = normalize(&mut patches, &table, reference.as_ref(), &params, |done, total| {
            ctx.progress(done as u64, total as u64, "groups");
            ctx.check_cancelled()
        })?;
        let normalised = done.is_normalised.iter().filter(|is_normalised| **is_normalised).count();
        let empty = patches.spots.len() - normalised - done.unfit;
        if empty > 0 {
            tracing::info!("{empty} patches have hardly any tissue and pass unchanged");
        }
        let values = [
            ("patches", patches.spots.len()),
            ("normalised", normalised),
            ("empty", empty),
            ("unfit", done.unfit),
        ];
        let values = values.into_iter().map(|(name, value)| (name.into(), value as f64)).collect();
        ctx.write("summary", &Metrics { values, ..Metrics::default() })?;
        let numbers = done.tissue.iter().zip(&done.is_normalised);
        let values = numbers.flat_map(|(share, is_normalised)| [*share, f32::from(*is_normalised)]).collect();
        let tissue = Embedding { spots: patches.spots.clone(), dims: 2, values };
        tissue.write_named(ctx.output("tissue")?, &["tissue_share", "normalised"].map(str::to_owned))?;
        ctx.write("patches", &patches)
    }
}

/// What became of each patch.
pub(crate) struct Done {
    /// The share of it that is tissue.
    tissue: Vec<f32>,
    is_normalised: Vec<bool>,
    /// How many have tissue, but not of two stains.
    unfit: usize,
}

/// Brings patches to the reference's colours, or to the default's; `step` is told how many groups are done, of how many.
pub(crate) fn normalize(
    patches: &mut Patches,
    table: &Table,
    reference: Option<&Patches>,
    params: &Params,
    step: impl Fn(usize, usize) -> Result<()>,
) -> Result<Done> {
    let tissue = tissue_shares(patches, params.beta);
    let mut cube = Cube::new();
    let target = match reference {
        Some(patches) => {
            Look::of(&cube.palette([patches.pixels.as_slice()]).lit(), params).ok_or_else(|| {
                Error::invalid("the patches at `reference` have too little tissue of two stains")
            })?
        }
        None => Look::of_reference(params.method),
    };
    let mut done = Done { is_normalised: vec![false; tissue.len()], tissue, unfit: 0 };
    let mut groups = groups(patches, table, &done.tissue, params)?;
    let total = groups.len();
    for (count, (name, group)) in groups.iter_mut().enumerate() {
        step(count, total)?;
        let palette = cube.palette(group.pixels.iter().map(|pixels| &**pixels));
        match Look::of(&palette.lit(), params) {
            Some(look) => {
                let transfer = look.transfer(&target);
                let new = |colour| if colour == BLACK { BLACK } else { transfer.apply(colour) };
                cube.recolour(&mut group.pixels, &palette, new);
                group.patches.iter().for_each(|&patch| done.is_normalised[patch] = true);
            }
            None => {
                tracing::warn!(
                    "{name}: too little tissue of two stains to normalise; its patches pass unchanged"
                );
                done.unfit += group.patches.len();
            }
        }
    }
    Ok(done)
}

/// Patches that are looked at together.
#[derive(Default)]
struct Group<'a> {
    /// Which they are.
    patches: Vec<usize>,
    /// Of each its pixels.
    pixels: Vec<&'a mut [u8]>,
}

/// The patches that are looked at together, by the name of their group; those without tissue are in none.
fn groups<'a>(
    patches: &'a mut Patches,
    table: &Table,
    tissue: &[f32],
    params: &Params,
) -> Result<BTreeMap<String, Group<'a>>> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let names = names(patches, table, params.per)?;
    let bytes = (patches.size * patches.size * 3).max(1);
    for (patch, (name, pixels)) in names.into_iter().zip(patches.pixels.chunks_exact_mut(bytes)).enumerate() {
        if f64::from(tissue[patch]) >= params.min_tissue {
            let group = groups.entry(name).or_default();
            group.patches.push(patch);
            group.pixels.push(pixels);
        }
    }
    Ok(groups)
}

/// What each patch belongs to: its section, or itself.
///
/// # Errors
/// If a patch is of no spot of the table.
pub(crate) fn names(patches: &Patches, table: &Table, per: Per) -> Result<Vec<String>> {
    if per == Per::Patch {
        return Ok(patches.spots.clone());
    }
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    let section = |spot: &String| match rows.get(spot.as_str()) {
        Some(&row) => Ok(table.section(row).unwrap_or_default().to_owned()),
        None => Err(Error::invalid(format!(
            "the patch of spot {spot} is of no spot of the table: connect its table"
        ))),
    };
    patches.spots.iter().map(section).collect()
}

/// The share of each patch whose pixels have an optical density of `beta` or more in every colour, and are not cut out.
fn tissue_shares(patches: &Patches, beta: f64) -> Vec<f32> {
    // Density falls with light: a pixel is dense where its brightest colour is.
    let Some(brightest) = (0..=255).rev().find(|&value| density(value) >= beta) else {
        return vec![0.0; patches.spots.len()];
    };
    (0..patches.spots.len())
        .into_par_iter()
        .map(|patch| {
            let (pixels, _) = patches.patch(patch).as_chunks::<3>();
            let is_tissue = |[r, g, b]: &[u8; 3]| (1..=brightest).contains(r.max(g).max(b)) as u32;
            pixels.iter().map(is_tissue).sum::<u32>() as f32 / pixels.len().max(1) as f32
        })
        .collect()
}

/// The colours of some patches.
enum Look {
    Stains(Stains),
    Reinhard(Colours),
}

impl Look {
    fn of(palette: &Palette, params: &Params) -> Option<Self> {
        match params.method {
            Method::Macenko => {
                Stains::of(palette, params.beta, |tissue| macenko::vectors(tissue, params.alpha))
                    .map(Self::Stains)
            }
            Method::Vahadane => Stains::of(palette, params.beta, vahadane::vectors).map(Self::Stains),
            Method::Reinhard => Colours::of(palette).map(Self::Reinhard),
        }
    }

    fn transfer(&self, target: &Self) -> Transfer {
        match (self, target) {
            (Self::Stains(own), Self::Stains(target)) => Transfer::Densities(Box::new(own.tables(target))),
            (Self::Reinhard(own), Self::Reinhard(target)) => Transfer::Colours(*own, *target),
            // Both were made by the same method.
            _ => Transfer::Nothing,
        }
    }

    /// The colours that all get where no reference is given.
    fn of_reference(method: Method) -> Self {
        match method {
            Method::Macenko | Method::Vahadane => Self::Stains(Stains::REFERENCE),
            Method::Reinhard => Self::Reinhard(Colours::REFERENCE),
        }
    }
}

/// What becomes of each colour.
enum Transfer {
    Densities(Box<Tables>),
    Colours(Colours, Colours),
    Nothing,
}

impl Transfer {
    fn apply(&self, colour: [u8; 3]) -> [u8; 3] {
        match self {
            Self::Densities(tables) => tables.apply(colour),
            Self::Colours(own, target) => own.transferred(colour, target),
            Self::Nothing => colour,
        }
    }
}
