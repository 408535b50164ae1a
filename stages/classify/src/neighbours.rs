//! The nearest of many points, exactly.

use rayon::prelude::*;

/// For each query the `k` nearest points with the squares of their distances, the nearest first, of equally near ones those
/// that come first. With `but_itself`, queries are the points, and none is its own neighbour.
pub(crate) fn nearest(
    dims: usize,
    points: &[f64],
    queries: &[f64],
    k: usize,
    but_itself: bool,
) -> Vec<Vec<(usize, f64)>> {
    let of = |(place, query): (usize, &[f64])| {
        let mut found: Vec<(usize, f64)> = Vec::with_capacity(k + 1);
        for (point, values) in points.chunks_exact(dims).enumerate() {
            if but_itself && point == place {
                continue;
            }
            let square = squared_distance(query, values);
            if found.len() == k && found.last().is_none_or(|last| square >= last.1) {
                continue;
            }
            let at = found.partition_point(|other| other.1 <= square);
            found.insert(at, (point, square));
            found.truncate(k);
        }
        found
    };
    queries.par_chunks_exact(dims).enumerate().map(of).collect()
}

/// Summed in eight fixed lanes: fast, and the same on every run.
pub(crate) fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += (a - b) * (a - b));
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Brings each vector to length 1. One of length 0 stays.
pub(crate) fn normalise(dims: usize, vectors: &mut [f64]) {
    vectors.par_chunks_exact_mut(dims).for_each(|vector| {
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x /= length);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_equally_near_ones_the_first_come_first() {
        let line = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(nearest(1, &line, &[1.0], 3, false), [[(1, 0.0), (0, 1.0), (2, 1.0)]]);
        let found = nearest(1, &line, &line, 2, true);
        assert_eq!(found[1], [(0, 1.0), (2, 1.0)]);
        assert_eq!(found[3], [(2, 1.0), (1, 4.0)]);
    }

    proptest! {
        #[test]
        fn none_is_nearer_than_those_found(
            points in prop::collection::vec(-3..3_i8, 10 * 3..20 * 3), k in 1..9_usize,
        ) {
            let points: Vec<f64> = points.into_iter().map(f64::from).collect();
            let points = &points[..points.len() / 3 * 3];
            for (query, found) in nearest(3, points, points, k, false).iter().enumerate() {
                let mut all: Vec<(usize, f64)> = points
                    .chunks_exact(3)
                    .map(|point| squared_distance(point, &points[query * 3..query * 3 + 3]))
                    .enumerate()
                    .collect();
                all.sort_by(|a, b| a.1.total_cmp(&b.1));
                prop_assert_eq!(found, &all[..k]);
            }
        }
    }
}
