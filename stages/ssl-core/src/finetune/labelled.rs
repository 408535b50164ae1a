//! The spots to learn from, and how much each counts.

use std::collections::{BTreeSet, HashMap};

use restage_stage::{Error, Result, artifact::Labels};

use super::ClassWeight;

/// Labelled spots that have inputs.
pub(super) struct Labelled {
    /// The regions among them, sorted.
    pub(super) classes: Vec<String>,
    /// Positions among all spots, in the order of the labels.
    pub(super) spots: Vec<usize>,
    /// Class per labelled spot.
    pub(super) targets: Vec<usize>,
    /// How much a spot counts, per class.
    pub(super) weights: Vec<f32>,
}

impl Labelled {
    /// Those of `ids` that have a region.
    ///
    /// # Errors
    /// If there are none, or of one region only.
    pub(super) fn of(ids: &[String], labels: &Labels, class_weight: ClassWeight) -> Result<Self> {
        let places: HashMap<&str, usize> = ids.iter().map(String::as_str).zip(0..).collect();
        let with_region = labels
            .spots
            .iter()
            .zip(&labels.regions)
            .filter_map(|(spot, region)| Some((spot, region.as_deref()?)));
        let found =
            with_region.clone().filter_map(|(spot, region)| Some((*places.get(spot.as_str())?, region)));
        let (spots, regions): (Vec<usize>, Vec<&str>) = found.unzip();
        let count = with_region.count();
        if spots.is_empty() {
            return Err(Error::invalid(format!(
                "none of the {count} labelled spots on input `train` is among the {} that have inputs: are they of the same \
                 sections?",
                ids.len()
            )));
        }
        if spots.len() < count {
            tracing::warn!(
                "{} of {count} labelled spots have no inputs and are left out",
                count - spots.len()
            );
        }
        let classes: Vec<&str> = regions.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if let [only] = classes[..] {
            return Err(Error::invalid(format!(
                "all {} labelled spots are of region `{only}`: a classifier needs two",
                spots.len()
            )));
        }
        let codes: HashMap<&str, usize> = classes.iter().copied().zip(0..).collect();
        let targets: Vec<usize> = regions.iter().map(|region| codes[region]).collect();
        let mut counts = vec![0_usize; classes.len()];
        targets.iter().for_each(|class| counts[*class] += 1);
        let weight = |count: &usize| match class_weight {
            ClassWeight::Balanced => (spots.len() as f64 / (classes.len() * count) as f64) as f32,
            ClassWeight::None => 1.0,
        };
        let weights = counts.iter().map(weight).collect();
        Ok(Self { classes: classes.into_iter().map(str::to_owned).collect(), spots, targets, weights })
    }
}
