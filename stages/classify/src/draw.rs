//! Draws of labelled spots, region by region. They depend on the names of the spots, not on the order in which they come.

use std::collections::BTreeMap;

use rand::{Rng, seq::SliceRandom};
use restage_stage::artifact::Labels;

/// Positions of the spots of each region, in an order that is drawn.
pub(crate) fn by_region<'a>(labels: &'a Labels, rng: &mut impl Rng) -> BTreeMap<&'a str, Vec<usize>> {
    let mut regions: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, region) in labels.regions.iter().enumerate() {
        if let Some(region) = region {
            regions.entry(region).or_default().push(position);
        }
    }
    for spots in regions.values_mut() {
        spots.sort_unstable_by_key(|spot| &labels.spots[*spot]);
        spots.shuffle(rng);
    }
    regions
}

/// How many of `count` spots a share of them is: rounded, and one at least.
pub(crate) fn share(count: usize, share: f64) -> usize {
    ((count as f64 * share).round() as usize).clamp(1, count)
}

/// Deals the regions out to other spots of the same labels: what can be learnt from them then is chance.
pub(crate) fn permute(labels: &mut Labels, rng: &mut impl Rng) {
    let mut order: Vec<usize> = (0..labels.spots.len()).collect();
    order.sort_unstable_by_key(|spot| &labels.spots[*spot]);
    let mut regions: Vec<Option<String>> =
        order.iter().map(|spot| std::mem::take(&mut labels.regions[*spot])).collect();
    regions.shuffle(rng);
    order.into_iter().zip(regions).for_each(|(spot, region)| labels.regions[spot] = region);
}

/// The labels at these positions, in the order in which they come.
pub(crate) fn select(labels: &Labels, mut positions: Vec<usize>) -> Labels {
    positions.sort_unstable();
    let pick = |of: &[String]| positions.iter().map(|at| of[*at].clone()).collect();
    Labels {
        spots: pick(&labels.spots),
        sections: pick(&labels.sections),
        patients: pick(&labels.patients),
        regions: positions.iter().map(|at| labels.regions[*at].clone()).collect(),
    }
}
