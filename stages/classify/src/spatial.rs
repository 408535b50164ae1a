//! How clusters lie in space: CHAOS, PAS, silhouette. No labels needed. Formulas in double precision; what is summed over spots
//! is summed in their order, whatever the number of threads.

use std::collections::HashMap;

use rayon::prelude::*;

/// Mean distance from a spot to the nearest of its cluster, in standard deviations (n in the denominator) of the coordinates;
/// clusters of one or two spots add nothing, and the mean is over all spots (SpatialPCA's, as SDMBench computes it). None
/// without spots.
pub(crate) fn chaos(places: &[[f64; 2]], clusters: &[usize]) -> Option<f64> {
    let places = standardised(places)?;
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    clusters.iter().enumerate().for_each(|(spot, cluster)| members.entry(*cluster).or_default().push(spot));
    let nearest: Vec<f64> = (0..places.len())
        .into_par_iter()
        .map(|spot| match &members[&clusters[spot]] {
            of_cluster if of_cluster.len() <= 2 => 0.0,
            of_cluster => of_cluster
                .iter()
                .filter(|other| **other != spot)
                .map(|other| squared(places[spot], places[*other]))
                .fold(f64::INFINITY, f64::min)
                .sqrt(),
        })
        .collect();
    Some(nearest.iter().sum::<f64>() / places.len() as f64)
}

/// Share of spots of which more than half of the `k` nearest spots are of other clusters (SpatialPCA). Where several are
/// equally near as the last, they share its place, so that no order decides. None without `k` other spots.
pub(crate) fn pas(places: &[[f64; 2]], clusters: &[usize], k: usize) -> Option<f64> {
    if places.len() <= k {
        return None;
    }
    let is_abnormal = |spot: usize| {
        let apart = |other: usize| squared(places[spot], places[other]);
        let others = || (0..places.len()).filter(|other| *other != spot);
        let mut near: Vec<f64> = others().map(apart).collect();
        let last = *near.select_nth_unstable_by(k - 1, f64::total_cmp).1;
        // On a grid equal distances differ by rounding.
        let (below, above) = (last * (1.0 - 1e-9), last * (1.0 + 1e-9));
        let count = |is_near: &dyn Fn(f64) -> bool| {
            let (mut all, mut strangers) = (0.0, 0.0);
            for other in others().filter(|other| is_near(apart(*other))) {
                all += 1.0;
                strangers += f64::from(u8::from(clusters[other] != clusters[spot]));
            }
            (all, strangers)
        };
        let (nearer, nearer_strangers) = count(&|apart| apart < below);
        let (equal, equal_strangers) = count(&|apart| (below..=above).contains(&apart));
        let strangers = nearer_strangers + (k as f64 - nearer) * equal_strangers / equal;
        2.0 * strangers > k as f64 * (1.0 + 1e-12)
    };
    let abnormal = (0..places.len()).into_par_iter().filter(|spot| is_abnormal(*spot)).count();
    Some(abnormal as f64 / places.len() as f64)
}

/// Mean silhouette over spots (Rousseeuw 1987), 0 for one that is a cluster alone; distances are Euclidean over `dims`
/// values a spot. None where there are not from two clusters to one less than spots.
pub(crate) fn silhouette<T: Copy + Into<f64> + Sync>(
    values: &[T],
    dims: usize,
    clusters: &[usize],
) -> Option<f64> {
    let spots = clusters.len();
    let mut codes: HashMap<usize, usize> = HashMap::new();
    let clusters: Vec<usize> = clusters
        .iter()
        .map(|cluster| {
            let next = codes.len();
            *codes.entry(*cluster).or_insert(next)
        })
        .collect();
    let count = codes.len();
    if count < 2 || count >= spots {
        return None;
    }
    let mut sizes = vec![0_usize; count];
    clusters.iter().for_each(|cluster| sizes[*cluster] += 1);
    let row = |spot: usize| &values[spot * dims..][..dims];
    let of_spot = |spot: usize| {
        let own = clusters[spot];
        if sizes[own] == 1 {
            return 0.0;
        }
        let mut sums = vec![0.0; count];
        for other in 0..spots {
            let pairs = row(spot).iter().zip(row(other));
            let apart: f64 = pairs.map(|(a, b)| ((*a).into() - (*b).into()).powi(2)).sum();
            sums[clusters[other]] += apart.sqrt();
        }
        let within = sums[own] / (sizes[own] - 1) as f64;
        let others = (0..count).filter(|cluster| *cluster != own);
        let nearest =
            others.map(|cluster| sums[cluster] / sizes[cluster] as f64).fold(f64::INFINITY, f64::min);
        let largest = within.max(nearest);
        if largest > 0.0 { (nearest - within) / largest } else { 0.0 }
    };
    let all: Vec<f64> = (0..spots).into_par_iter().map(of_spot).collect();
    Some(all.iter().sum::<f64>() / spots as f64)
}

fn standardised(places: &[[f64; 2]]) -> Option<Vec<[f64; 2]>> {
    if places.is_empty() {
        return None;
    }
    let count = places.len() as f64;
    let moments = [0, 1].map(|axis| {
        let mean = places.iter().map(|place| place[axis]).sum::<f64>() / count;
        let deviation = (places.iter().map(|place| (place[axis] - mean).powi(2)).sum::<f64>() / count).sqrt();
        (mean, if deviation > 0.0 { deviation } else { 1.0 })
    });
    let scale = |place: &[f64; 2]| [0, 1].map(|axis| (place[axis] - moments[axis].0) / moments[axis].1);
    Some(places.iter().map(scale).collect())
}

fn squared(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden file's grid: 8 x 8, hexagonal, two halves with three spots in the wrong one.
    fn grid() -> (Vec<[f64; 2]>, Vec<usize>) {
        let place = |spot: usize| {
            let (row, column) = (spot / 8, spot % 8);
            [(2 * column + row % 2) as f64, row as f64 * 3.0_f64.sqrt()]
        };
        let places: Vec<[f64; 2]> = (0..64).map(place).collect();
        let cluster = |spot: usize| usize::from((places[spot][0] > 7.0) != [10, 20, 45].contains(&spot));
        let clusters = (0..64).map(cluster).collect();
        (places, clusters)
    }

    #[test]
    fn agrees_with_the_golden_values() {
        let Some(golden) = crate::testing::golden("losses_metrics.json") else { return };
        let (places, clusters) = grid();
        for (name, found) in [
            ("chaos_sklearn_ddof0", chaos(&places, &clusters)),
            ("pas_k6", pas(&places, &clusters, 6)),
            ("pas_k10", pas(&places, &clusters, 10)),
            ("asw_xy", silhouette(places.as_flattened(), 2, &clusters)),
        ] {
            let (found, expected) = (found.unwrap(), golden["spatial"][name].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{name}: {found} is not {expected}");
        }
        // R's `scale` divides by n - 1, which is another unit of length.
        let in_r = chaos(&places, &clusters).unwrap() * (63.0_f64 / 64.0).sqrt();
        assert!((in_r - golden["spatial"]["chaos_R_scale_ddof1"].as_f64().unwrap()).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_told_is_none() {
        let (places, _) = grid();
        assert_eq!(silhouette(places.as_flattened(), 2, &[0; 64]), None);
        assert_eq!(silhouette(places.as_flattened(), 2, &(0..64).collect::<Vec<_>>()), None);
        assert_eq!(pas(&places[..6], &[0; 6], 6), None);
        assert_eq!(pas(&places[..7], &[0, 1, 1, 1, 1, 1, 1], 6), Some(1.0 / 7.0));
        assert_eq!(chaos(&[], &[]), None);
        assert_eq!(chaos(&places[..2], &[0, 0]), Some(0.0));
    }

    /// By hand: a = (0, 0), b = (1, 0) are together, c = (4, 0) is alone: (4 - 1) / 4, (3 - 1) / 3, 0.
    #[test]
    fn a_silhouette_by_hand() {
        let found = silhouette(&[0.0_f32, 1.0, 4.0], 1, &[7, 7, 3]).unwrap();
        assert!((found - (0.75 + 2.0 / 3.0) / 3.0).abs() < 1e-12, "{found}");
    }
}
