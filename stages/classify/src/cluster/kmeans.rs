//! k-means: Lloyd's iterations from k-means++, the best of several beginnings.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use restage_stage::Result;

use crate::neighbours::squared_distance;

/// Centres are settled when they move by less than this share of the data's variance: scikit-learn's default.
const TOLERANCE: f64 = 1e-4;

/// Where the clusters are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clusters {
    /// Cluster per point.
    pub(crate) of: Vec<usize>,
    /// `dims` values each.
    pub(crate) centres: Vec<f64>,
    /// Sum of squared distances of points to their centres.
    pub(crate) inertia: f64,
    /// Iterations of the best beginning.
    pub(crate) iterations: usize,
}

/// The best of `beginnings`, each with random numbers of its own; the first of equally good ones.
///
/// # Errors
/// Those of `check`, which is asked before each iteration.
pub(crate) fn kmeans(
    dims: usize,
    points: &[f64],
    k: usize,
    max_iter: usize,
    beginnings: usize,
    rng: impl Fn(usize) -> ChaCha8Rng + Sync,
    check: impl Fn() -> Result<()> + Sync,
) -> Result<Clusters> {
    let found = (0..beginnings)
        .into_par_iter()
        .map(|beginning| {
            lloyd(dims, points, plus_plus(dims, points, k, &mut rng(beginning)), max_iter, &check)
        })
        .collect::<Result<Vec<_>>>()?;
    let best = (1..found.len())
        .fold(0, |best, next| if found[next].inertia < found[best].inertia { next } else { best });
    Ok(found.into_iter().nth(best).unwrap_or_else(|| Clusters {
        of: Vec::new(),
        centres: Vec::new(),
        inertia: 0.0,
        iterations: 0,
    }))
}

/// k-means++ (Arthur & Vassilvitskii 2007): each centre is drawn by its squared distance to those before, the best of a few
/// draws (2 + ln k, as scikit-learn has it).
fn plus_plus(dims: usize, points: &[f64], k: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let count = points.len() / dims;
    let point = |at: usize| &points[at * dims..(at + 1) * dims];
    let trials = 2 + (k as f64).ln() as usize;
    let mut centres = point(rng.random_range(0..count)).to_vec();
    let mut nearest: Vec<f64> =
        points.chunks_exact(dims).map(|point| squared_distance(point, &centres)).collect();
    while centres.len() < k * dims {
        let total: f64 = nearest.iter().sum();
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for _ in 0..trials {
            let mut left = rng.random::<f64>() * total;
            let drawn = nearest.iter().position(|square| {
                left -= square;
                left < 0.0
            });
            // Where all points are centres already, any is as good.
            let drawn = drawn.unwrap_or(count - 1);
            let squares: Vec<f64> = points
                .chunks_exact(dims)
                .zip(&nearest)
                .map(|(other, &square)| square.min(squared_distance(other, point(drawn))))
                .collect();
            let sum = squares.iter().sum();
            if best.as_ref().is_none_or(|best| sum < best.0) {
                best = Some((sum, drawn, squares));
            }
        }
        let Some((_, drawn, squares)) = best else { break };
        centres.extend_from_slice(point(drawn));
        nearest = squares;
    }
    centres
}

fn lloyd(
    dims: usize,
    points: &[f64],
    mut centres: Vec<f64>,
    max_iter: usize,
    check: &impl Fn() -> Result<()>,
) -> Result<Clusters> {
    let settled = TOLERANCE * mean_variance(dims, points);
    let mut of = Vec::new();
    let mut iterations = 0;
    loop {
        check()?;
        let (now, squares) = assign(dims, points, &centres);
        let stays = now == of;
        of = now;
        if stays || iterations == max_iter {
            return Ok(Clusters { of, centres, inertia: squares.iter().sum(), iterations });
        }
        let next = means(dims, points, &mut of, &squares, centres.len() / dims);
        let moved = squared_distance(&next, &centres);
        centres = next;
        iterations += 1;
        if moved <= settled {
            let (of, squares) = assign(dims, points, &centres);
            return Ok(Clusters { of, centres, inertia: squares.iter().sum(), iterations });
        }
    }
}

/// The mean over dimensions of the variance of points.
fn mean_variance(dims: usize, points: &[f64]) -> f64 {
    let count = points.len() as f64 / dims as f64;
    let mut mean = vec![0.0; dims];
    for point in points.chunks_exact(dims) {
        mean.iter_mut().zip(point).for_each(|(sum, x)| *sum += x / count);
    }
    points.chunks_exact(dims).map(|point| squared_distance(point, &mean)).sum::<f64>() / points.len() as f64
}

/// Each point's nearest centre, the first of equally near ones, and the square of its distance.
fn assign(dims: usize, points: &[f64], centres: &[f64]) -> (Vec<usize>, Vec<f64>) {
    let nearest = |point: &[f64]| {
        let mut best = (0, f64::INFINITY);
        for (cluster, centre) in centres.chunks_exact(dims).enumerate() {
            let square = squared_distance(point, centre);
            if square < best.1 {
                best = (cluster, square);
            }
        }
        best
    };
    points.chunks_exact(dims).map(nearest).unzip()
}

/// The mean of each cluster. One without points gets the point that is farthest from its own centre.
fn means(dims: usize, points: &[f64], of: &mut [usize], squares: &[f64], k: usize) -> Vec<f64> {
    let mut counts = vec![0_usize; k];
    of.iter().for_each(|&cluster| counts[cluster] += 1);
    if counts.contains(&0) {
        let mut far: Vec<usize> = (0..of.len()).collect();
        far.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]));
        let mut far = far.into_iter();
        for cluster in 0..k {
            while counts[cluster] == 0 {
                let Some(point) = far.next() else { break };
                if counts[of[point]] > 1 {
                    counts[of[point]] -= 1;
                    of[point] = cluster;
                    counts[cluster] = 1;
                }
            }
        }
    }
    let mut means = vec![0.0; k * dims];
    for (point, &cluster) in points.chunks_exact(dims).zip(&*of) {
        means[cluster * dims..(cluster + 1) * dims].iter_mut().zip(point).for_each(|(sum, x)| *sum += x);
    }
    for (mean, &count) in means.chunks_exact_mut(dims).zip(&counts) {
        mean.iter_mut().for_each(|sum| *sum /= count.max(1) as f64);
    }
    means
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::testing::blobs;

    const INERTIA_3: f64 = 69.26897472452632;
    const INERTIA_5: f64 = 40.03985641342268;

    fn run(points: &[f64], k: usize, seed: u64) -> Clusters {
        let rng = |beginning| ChaCha8Rng::seed_from_u64(seed + beginning as u64);
        kmeans(2, points, k, 300, 10, rng, || Ok(())).unwrap()
    }

    /// scikit-learn 1.9.1, of the points of `testing::blobs`: `KMeans(3, n_init=10).fit(X)`, `.inertia_`; and of `KMeans(5, n_init=1000)`.
    #[test]
    fn inertia_and_clusters_are_those_of_scikit_learn() {
        let points = blobs();
        let found = run(&points, 3, 1);
        assert!((found.inertia - INERTIA_3).abs() < 1e-9 * INERTIA_3, "{}", found.inertia);
        for point in 0..90 {
            assert_eq!(found.of[point], found.of[point % 3], "blobs are dealt out in turn");
        }
        let found = run(&points, 5, 1);
        assert!(
            found.inertia < INERTIA_5 * 1.01 && found.inertia >= INERTIA_5 * (1.0 - 1e-9),
            "{}",
            found.inertia
        );
    }

    #[test]
    fn a_point_is_at_its_nearest_centre() {
        let points = blobs();
        let found = run(&points, 4, 3);
        assert_eq!(assign(2, &points, &found.centres).0, found.of);
    }

    #[test]
    fn as_many_clusters_as_points_leave_nothing_over() {
        let points = [0.0, 0.0, 1.0, 0.0, 5.0, 5.0];
        let found = run(&points, 3, 1);
        assert_eq!(found.inertia, 0.0);
        // Fewer places than clusters: no endless loop, no value that is not a number.
        let found = run(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2, 1);
        assert!(found.centres.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn an_empty_cluster_gets_the_farthest_point() {
        let points = [0.0, 0.0, 1.0, 0.0, 9.0, 0.0];
        let mut of = vec![0, 0, 0];
        let means = means(2, &points, &mut of, &[0.0, 1.0, 81.0], 2);
        assert_eq!((of, means), (vec![0, 0, 1], vec![0.5, 0.0, 9.0, 0.0]));
    }
}
