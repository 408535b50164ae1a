//! Stage type `visium/stain-normalize`: patches of all sections as if they had been stained and scanned alike.

mod macenko;
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
    /// How many pixels stains are looked for in: of more, every n-th. Default 2,000,000.
    pub(crate) max_pixels: usize,
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

/// What is looked at together.
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
        Self {
            method: Method::Macenko,
            per: Per::Section,
            beta: 0.15,
            alpha: 1.0,
            min_tissue: 0.01,
            max_pixels: 2_000_000,
        }
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
        let sound = params.beta > 0.0 && (0.0..50.0).contains(&params.alpha) && params.max_pixels >= 1000;
        if sound && (0.0..=1.0).contains(&params.min_tissue) {
            return Ok(());
        }
        Err(Error::invalid(
            "beta should be above 0, alpha from 0 to below 50, min_tissue from 0 to 1, max_pixels at least 1000",
        ))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let mut patches: Patches = ctx.read("patches")?;
        let table: Table = ctx.read("table")?;
        let reference: Option<Patches> = ctx.read_optional("reference")?;
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
    let target = Look::of_reference(reference, params)?;
    let groups = groups(patches, table, &tissue, params)?;
    let mut done = Done { is_normalised: vec![false; tissue.len()], tissue, unfit: 0 };
    for (count, (name, members)) in groups.iter().enumerate() {
        step(count, groups.len())?;
        match Look::of(&sample(patches, members, params.max_pixels), params) {
            Some(look) => {
                look.transfer(&target).apply(patches, members);
                members.iter().for_each(|&patch| done.is_normalised[patch] = true);
            }
            None => {
                tracing::warn!(
                    "{name}: too little tissue of two stains to normalise; its patches pass unchanged"
                );
                done.unfit += members.len();
            }
        }
    }
    Ok(done)
}

/// The patches that are looked at together, by the name of their group; those without tissue are in none.
fn groups(
    patches: &Patches,
    table: &Table,
    tissue: &[f32],
    params: &Params,
) -> Result<BTreeMap<String, Vec<usize>>> {
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (patch, spot) in patches.spots.iter().enumerate() {
        if f64::from(tissue[patch]) < params.min_tissue {
            continue;
        }
        let name = match params.per {
            Per::Patch => spot.clone(),
            Per::Section => {
                let row = rows.get(spot.as_str()).ok_or_else(|| {
                    Error::invalid(format!(
                        "the patch of spot {spot} is of no spot of the table: connect its table"
                    ))
                })?;
                table.section(*row).unwrap_or_default().to_owned()
            }
        };
        groups.entry(name).or_default().push(patch);
    }
    Ok(groups)
}

/// The share of each patch whose pixels have an optical density of `beta` or more in every colour.
fn tissue_shares(patches: &Patches, beta: f64) -> Vec<f32> {
    let dark: Vec<bool> = (0..=255).map(|value| density(value) >= beta).collect();
    (0..patches.spots.len())
        .into_par_iter()
        .map(|patch| {
            let (pixels, _) = patches.patch(patch).as_chunks::<3>();
            let tissue =
                pixels.iter().filter(|pixel| pixel.iter().all(|&value| dark[usize::from(value)])).count();
            tissue as f32 / pixels.len().max(1) as f32
        })
        .collect()
}

/// The pixels of these patches; of more than `most`, every n-th.
fn sample(patches: &Patches, members: &[usize], most: usize) -> Vec<[u8; 3]> {
    let step = (members.len() * patches.size * patches.size).div_ceil(most).max(1);
    let pixels = members.iter().flat_map(|&patch| patches.patch(patch).as_chunks::<3>().0);
    pixels.step_by(step).copied().collect()
}

/// The colours of some patches.
enum Look {
    Stains(Stains),
    Reinhard(Colours),
}

impl Look {
    fn of(pixels: &[[u8; 3]], params: &Params) -> Option<Self> {
        match params.method {
            Method::Macenko => {
                Stains::of(pixels, params.beta, |tissue| macenko::vectors(tissue, params.alpha))
                    .map(Self::Stains)
            }
            Method::Vahadane => Stains::of(pixels, params.beta, vahadane::vectors).map(Self::Stains),
            Method::Reinhard => Colours::of(pixels).map(Self::Reinhard),
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

    /// The colours that all get.
    fn of_reference(reference: Option<&Patches>, params: &Params) -> Result<Self> {
        let Some(reference) = reference else {
            return Ok(match params.method {
                Method::Macenko | Method::Vahadane => Self::Stains(Stains::REFERENCE),
                Method::Reinhard => Self::Reinhard(Colours::REFERENCE),
            });
        };
        let every: Vec<usize> = (0..reference.spots.len()).collect();
        Look::of(&sample(reference, &every, params.max_pixels), params)
            .ok_or_else(|| Error::invalid("the patches at `reference` have too little tissue of two stains"))
    }
}

/// What becomes of each pixel.
enum Transfer {
    Densities(Box<Tables>),
    Colours(Colours, Colours),
    Nothing,
}

impl Transfer {
    fn apply(&self, patches: &mut Patches, members: &[usize]) {
        let bytes = patches.size * patches.size * 3;
        let mut is_member = vec![false; patches.spots.len()];
        members.iter().for_each(|&patch| is_member[patch] = true);
        let change = |pixel: &mut [u8; 3]| match self {
            Self::Densities(tables) => *pixel = tables.apply(*pixel),
            Self::Colours(own, target) => *pixel = own.transferred(*pixel, target),
            Self::Nothing => {}
        };
        let all = patches.pixels.par_chunks_exact_mut(bytes).zip(&is_member);
        all.filter(|(_, member)| **member)
            .for_each(|(patch, _)| patch.as_chunks_mut::<3>().0.iter_mut().for_each(change));
    }
}
