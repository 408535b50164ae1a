//! Clusters on the tissue: of the first seed, as a cluster has another name in each; coloured as the region that they mostly are.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use restage_cache::Store;

use super::{
    super::{artifact::Predictions, palette, text::natural},
    BySeed, Cluster, Position, Said, Section, folder,
};

/// What a variant says of each section, and what could not be read.
pub(super) fn of(
    seeds: &BySeed,
    positions: &HashMap<String, Position>,
    sections: &[Section],
    store: &Store,
) -> (Vec<Said>, BTreeSet<String>) {
    let mut found: Vec<BTreeMap<String, Vec<(usize, f32)>>> = vec![BTreeMap::new(); sections.len()];
    let mut problems = BTreeSet::new();
    for (digest, _) in seeds.values().next().into_iter().flatten() {
        match folder(digest, store).and_then(|root| Predictions::read(&root)) {
            Ok(predictions) => add(&mut found, &predictions, positions),
            Err(problem) => drop(problems.insert(problem)),
        }
    }
    let said = found.into_iter().zip(sections).map(|(found, section)| said(found, &section.truth));
    (said.collect(), problems)
}

/// Per section and cluster the spots that may be of it, with how sure that is.
fn add(
    found: &mut [BTreeMap<String, Vec<(usize, f32)>>],
    predictions: &Predictions,
    positions: &HashMap<String, Position>,
) {
    let count = predictions.classes.len().max(1);
    for (spot, row) in predictions.spots.iter().zip(predictions.probabilities.chunks_exact(count)) {
        let Some(&(section, at)) = positions.get(spot) else { continue };
        for (class, p) in predictions.classes.iter().zip(row).filter(|(_, p)| **p > 0.0) {
            found[section].entry(class.clone()).or_default().push((at, *p));
        }
    }
}

fn said(found: BTreeMap<String, Vec<(usize, f32)>>, truth: &[Option<usize>]) -> Said {
    let count = found.len();
    let mut found: Vec<(String, Vec<(usize, f32)>)> = found.into_iter().collect();
    found.sort_by(|(a, _), (b, _)| natural(a, b));
    let mut said = Said {
        probabilities: vec![0.0; truth.len() * count],
        predicted: vec![None; truth.len()],
        agreement: vec![1.0; truth.len()],
        clusters: Vec::new(),
    };
    for (cluster, (_, spots)) in found.iter().enumerate() {
        for (spot, p) in spots {
            said.probabilities[spot * count + cluster] = *p;
            // The first of equal ones.
            let before =
                said.predicted[*spot].map_or(0.0, |before| said.probabilities[spot * count + before]);
            if *p > before {
                said.predicted[*spot] = Some(cluster);
            }
        }
    }
    let mut shared: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (predicted, truth) in said.predicted.iter().zip(truth) {
        if let (Some(predicted), Some(truth)) = (predicted, truth) {
            *shared.entry((*predicted, *truth)).or_default() += 1;
        }
    }
    let mostly: Vec<Option<(usize, usize)>> = (0..count)
        .map(|cluster| {
            let of_it = shared.iter().filter(|((of, _), _)| *of == cluster);
            let most = of_it.max_by_key(|((_, region), spots)| (**spots, Reverse(*region)));
            most.map(|((_, region), spots)| (*spots, *region))
        })
        .collect();
    said.clusters = found
        .into_iter()
        .map(|(name, _)| name)
        .zip(colours(&mostly))
        .zip(&mostly)
        .map(|((name, colour), most)| Cluster { name, colour, mostly: most.map(|(_, region)| region) })
        .collect();
    said
}

/// A colour each, given how many spots of which region it mostly has: that of the region, if no other cluster has more of it; else
/// one that is free.
fn colours(mostly: &[Option<(usize, usize)>]) -> Vec<&'static str> {
    let mut order: Vec<usize> = (0..mostly.len()).collect();
    order.sort_by_key(|cluster| Reverse(mostly[*cluster].map(|(spots, _)| spots)));
    let mut place: Vec<Option<usize>> = vec![None; mostly.len()];
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    for cluster in order {
        place[cluster] = mostly[cluster].map(|(_, region)| region).filter(|region| taken.insert(*region));
    }
    let mut free = (0..).filter(|place| !taken.contains(place));
    let colour = |place: Option<usize>| palette::named(place.or_else(|| free.next()).unwrap_or(0));
    place.into_iter().map(colour).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_what_most_of_their_spots_are_and_have_its_colour() {
        let positions: HashMap<String, Position> =
            (0..7).map(|spot| (format!("s{spot}"), (0, spot))).chain([("t0".to_owned(), (1, 0))]).collect();
        let predictions = Predictions {
            spots: ["s6", "s0", "s1", "s2", "s3", "s4", "t0", "nowhere"].map(str::to_owned).to_vec(),
            classes: ["1", "2", "3"].map(str::to_owned).to_vec(),
            probabilities: [
                [0.5, 0.5, 0.0],
                [0.0, 1.0, 0.0],
                [0.0, 1.0, 0.0],
                [0.0, 0.7, 0.3],
                [1.0, 0.0, 0.0],
                [0.2, 0.0, 0.8],
                [0.0, 0.0, 1.0],
                [1.0, 0.0, 0.0],
            ]
            .concat(),
        };
        let mut found = vec![BTreeMap::new(); 2];
        add(&mut found, &predictions, &positions);
        // Regions of s0 to s6: the second cluster is mostly of region 1, the first of region 0, and the third of region 1 as well.
        let truth = [Some(1), Some(1), Some(0), Some(0), Some(1), Some(0), None];
        let one = said(found[0].clone(), &truth);
        assert_eq!(one.predicted, [Some(1), Some(1), Some(1), Some(0), Some(2), None, Some(0)]);
        let mostly: Vec<_> = one.clusters.iter().map(|cluster| cluster.mostly).collect();
        assert_eq!(mostly, [Some(0), Some(1), Some(1)]);
        let colours: Vec<_> = one.clusters.iter().map(|cluster| cluster.colour).collect();
        assert_eq!(
            colours,
            [palette::named(0), palette::named(1), palette::named(2)],
            "the third has one of its own"
        );
        assert_eq!(one.region(4), Some(1));
        assert!((one.probabilities[2 * 3 + 2] - 0.3).abs() < 1e-6);
        assert!(
            (one.entropy(6, 9) - 2.0_f64.ln() / 3.0_f64.ln()).abs() < 1e-6,
            "over the clusters there are"
        );
        // Without an expert they are what they are.
        let other = said(found[1].clone(), &[None]);
        assert_eq!((other.clusters[0].name.as_str(), other.clusters[0].mostly), ("3", None));
    }
}
