//! Stage type `visium/stain-augment`: patches as another laboratory might have stained them. For trying how much a model
//! minds.

use rand::Rng;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Patches, Table},
    context::rng,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stain::{self, Per, Stains};

/// The stage type.
pub(crate) struct StainAugment;

/// Params of `visium/stain-augment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Standard deviation of the factor, around 1, that each stain's concentration is multiplied by. Default 0.05.
    pub(crate) factor: f64,
    /// Standard deviation of what is added to each stain's concentration, around 0. Default 0.05.
    pub(crate) offset: f64,
    /// What is changed alike: a section was stained in one bath; each patch by itself is what augmentation in training does.
    /// Default `section`.
    pub(crate) per: Per,
}

impl Default for Params {
    fn default() -> Self {
        Self { factor: 0.05, offset: 0.05, per: Per::Section }
    }
}

impl Stage for StainAugment {
    const NAME: &'static str = "stain-augment";
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = &["batches"];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Takes H&E patches apart into haematoxylin and eosin, multiplies and shifts the concentration of each by random \
             numbers (c (1 + a) + b), and puts them together again. What a patch gets depends on the seed and on its \
             spot's or section's name only.",
        )
        .input::<Patches>("patches", "The patches.")
        .input::<Table>("table", "The section of each spot.")
        .output::<Patches>("patches", "The patches in other stains.")
    }

    fn validate(params: &Params) -> Result<()> {
        if [params.factor, params.offset].into_iter().all(|sigma| (0.0..=10.0).contains(&sigma)) {
            return Ok(());
        }
        Err(Error::invalid("factor and offset should be from 0 to 10"))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let mut patches: Patches = ctx.read("patches")?;
        let table: Table = ctx.read("table")?;
        let names = stain::names(&patches, &table, params.per)?;
        augment(&mut patches, &names, ctx.seed_of("batches"), &params)?;
        ctx.write("patches", &patches)
    }
}

/// Changes each patch's stains by what its name draws.
fn augment(patches: &mut Patches, names: &[String], seed: u64, params: &Params) -> Result<()> {
    let spread = |sigma: f64| Normal::new(0.0, sigma).map_err(Error::other("cannot draw"));
    let (factors, offsets) = (spread(params.factor)?, spread(params.offset)?);
    let bytes = patches.size * patches.size * 3;
    if bytes == 0 {
        return Ok(());
    }
    patches.pixels.par_chunks_exact_mut(bytes).zip(names).for_each(|(patch, name)| {
        let mut random = rng(seed, name);
        let change = Change::draw(&mut random, &factors, &offsets);
        patch.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = change.apply(*pixel));
    });
    Ok(())
}

/// What is done to the two stains.
struct Change {
    tables: crate::stain::Tables,
    /// Per colour: what light that is left is multiplied by, as of the offsets.
    light: [f32; 3],
}

impl Change {
    fn draw(random: &mut impl Rng, factors: &Normal<f64>, offsets: &Normal<f64>) -> Self {
        let own = Stains::REFERENCE;
        let mut target = own.clone();
        let shift = [0, 1].map(|stain: usize| {
            // A stain cannot become less than nothing.
            target.strengths[stain] *= (1.0 + factors.sample(random)).max(0.0);
            offsets.sample(random)
        });
        let light = own.vectors.map(|[h, e]| (-(h * shift[0] + e * shift[1])).exp() as f32);
        Self { tables: own.tables_beside(&target), light }
    }

    fn apply(&self, pixel: [u8; 3]) -> [u8; 3] {
        let light = self.tables.light(pixel);
        // As densities are: light is one more than a pixel's value.
        [0, 1, 2].map(|colour| (light[colour] * self.light[colour] - 1.0).round().clamp(0.0, 255.0) as u8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patches(pixels: &[[u8; 3]]) -> Patches {
        Patches {
            spots: (0..pixels.len()).map(|spot| format!("s_{spot}")).collect(),
            size: 1,
            pixels: pixels.as_flattened().to_vec(),
        }
    }

    fn augmented(pixels: &[[u8; 3]], names: &[&str], seed: u64, factor: f64, offset: f64) -> Vec<u8> {
        let mut patches = patches(pixels);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        augment(&mut patches, &names, seed, &Params { factor, offset, ..Params::default() }).unwrap();
        patches.pixels
    }

    proptest! {
        #[test]
        fn nothing_drawn_changes_nothing(pixel: [u8; 3]) {
            prop_assert_eq!(augmented(&[pixel], &["s"], 3, 0.0, 0.0), pixel);
        }

        /// What lies beside the plane of the two stains stays: dirt does not change its colour.
        #[test]
        fn more_of_both_stains_is_darker(pixel in proptest::array::uniform3(20_u8..235)) {
            let own = Stains::REFERENCE;
            let mut target = own.clone();
            target.strengths = own.strengths.map(|strength| strength * 1.5);
            let light = (1.0, own.tables_beside(&target).light(pixel));
            let change = Change { tables: own.tables_beside(&own), light: [0.8; 3] };
            let darker = change.apply(pixel);
            prop_assert!(light.1.iter().all(|light| light.is_finite()));
            prop_assert!(darker.iter().zip(pixel).all(|(new, old)| *new < old), "{darker:?} {pixel:?}");
        }
    }

    #[test]
    fn a_name_and_a_seed_say_what_is_drawn() {
        let pixels = [[150, 80, 140]; 3];
        let once = augmented(&pixels, &["a", "b", "a"], 1, 0.2, 0.1);
        assert_eq!(once[..3], once[6..]);
        assert_ne!(once[..3], once[3..6]);
        assert_eq!(once, augmented(&pixels, &["a", "b", "a"], 1, 0.2, 0.1));
        assert_ne!(once, augmented(&pixels, &["a", "b", "a"], 2, 0.2, 0.1));
        let swapped = augmented(&pixels, &["b", "a", "a"], 1, 0.2, 0.1);
        assert_eq!((&swapped[..3], &swapped[3..6]), (&once[3..6], &once[..3]));
    }
}
