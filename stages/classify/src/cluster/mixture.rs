//! A mixture of Gaussians that share one covariance: mclust's EEE, scikit-learn's `tied`.

use restage_stage::{Error, Result};

use super::kmeans::Clusters;
use crate::matrix::{cholesky, gram};

/// Added to the diagonal of the covariance: scikit-learn's default.
const FLOOR: f64 = 1e-6;
/// Converged when the mean log-likelihood grows by less. (scikit-learn's default is 1e-3, which stops early.)
const TOLERANCE: f64 = 1e-7;

/// The mixture that was found.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    /// Points x components: how likely each is to have made a point.
    pub(crate) shares: Vec<f64>,
    /// The mean over points of the logarithm of their density.
    pub(crate) log_likelihood: f64,
    /// Steps of expectation and maximisation.
    pub(crate) iterations: usize,
    /// Whether it settled.
    pub(crate) converged: bool,
}

/// Expectation-maximisation from the clusters of k-means.
///
/// # Errors
/// If the covariance is singular; those of `check`.
pub(crate) fn mixture(
    dims: usize,
    points: &[f64],
    start: &Clusters,
    max_iter: usize,
    check: impl Fn() -> Result<()>,
) -> Result<Mixture> {
    let k = start.centres.len() / dims;
    let squares = gram(dims, points, dims, points);
    let mut shares = vec![0.0; start.of.len() * k];
    start.of.iter().enumerate().for_each(|(point, &cluster)| shares[point * k + cluster] = 1.0);
    let mut last = f64::NEG_INFINITY;
    let mut iterations = 0;
    loop {
        check()?;
        let components = Components::of(dims, points, &squares, &shares, k)?;
        let log_likelihood = components.expect(points, &mut shares);
        iterations += 1;
        let converged = log_likelihood - last < TOLERANCE;
        if converged || iterations == max_iter {
            return Ok(Mixture { shares, log_likelihood, iterations, converged });
        }
        last = log_likelihood;
    }
}

/// What points are drawn from.
struct Components {
    dims: usize,
    /// Logarithms of the shares of all points.
    log_weights: Vec<f64>,
    /// `dims` values each.
    means: Vec<f64>,
    /// The lower triangle L of the covariance L Lᵀ.
    root: Vec<f64>,
}

impl Components {
    fn of(dims: usize, points: &[f64], squares: &[f64], shares: &[f64], k: usize) -> Result<Self> {
        let count = (shares.len() / k) as f64;
        let mut sizes = vec![10.0 * f64::EPSILON; k];
        let mut means = vec![0.0; k * dims];
        for (point, shares) in points.chunks_exact(dims).zip(shares.chunks_exact(k)) {
            for ((mean, size), &share) in means.chunks_exact_mut(dims).zip(&mut sizes).zip(shares) {
                *size += share;
                mean.iter_mut().zip(point).for_each(|(sum, x)| *sum += share * x);
            }
        }
        for (mean, size) in means.chunks_exact_mut(dims).zip(&sizes) {
            mean.iter_mut().for_each(|sum| *sum /= size);
        }
        let mut covariance = squares.to_vec();
        for (mean, size) in means.chunks_exact(dims).zip(&sizes) {
            for (row, &x) in covariance.chunks_exact_mut(dims).zip(mean) {
                row.iter_mut().zip(mean).for_each(|(sum, y)| *sum -= size * x * y);
            }
        }
        let total: f64 = sizes.iter().sum();
        covariance.iter_mut().for_each(|sum| *sum /= total);
        (0..dims).for_each(|dim| covariance[dim * dims + dim] += FLOOR);
        let log_weights = sizes.iter().map(|size| (size / count).ln()).collect();
        let root = cholesky(dims, &covariance).ok_or_else(|| {
            Error::invalid(
                "the covariance of the features is singular: take fewer dimensions with `dims`, or `kmeans`",
            )
        })?;
        Ok(Self { dims, log_weights, means, root })
    }

    /// Writes the share of each component in each point; returns the mean log-likelihood.
    fn expect(&self, points: &[f64], shares: &mut [f64]) -> f64 {
        let (dims, k) = (self.dims, self.log_weights.len());
        // With y = L⁻¹ x, distances are Euclidean.
        let means: Vec<f64> = self.means.chunks_exact(dims).flat_map(|mean| self.solve(mean)).collect();
        let log_root: f64 = (0..dims).map(|dim| self.root[dim * dims + dim].ln()).sum();
        let constant = -0.5 * dims as f64 * std::f64::consts::TAU.ln() - log_root;
        let mut sum = 0.0;
        for (point, row) in points.chunks_exact(dims).zip(shares.chunks_exact_mut(k)) {
            let point = self.solve(point);
            for ((log, mean), weight) in row.iter_mut().zip(means.chunks_exact(dims)).zip(&self.log_weights) {
                *log = weight + constant - 0.5 * crate::neighbours::squared_distance(&point, mean);
            }
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|log| *log = (*log - largest).exp());
            let density: f64 = row.iter().sum();
            row.iter_mut().for_each(|share| *share /= density);
            sum += largest + density.ln();
        }
        sum / (shares.len() / k) as f64
    }

    /// L⁻¹ x.
    fn solve(&self, x: &[f64]) -> Vec<f64> {
        let mut y = Vec::with_capacity(self.dims);
        for (row, x) in self.root.chunks_exact(self.dims).zip(x) {
            let known: f64 = row.iter().zip(&y).map(|(l, y)| l * y).sum();
            y.push((x - known) / row[y.len()]);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::{cluster::kmeans::kmeans, testing::blobs};

    const LIKELIHOOD: f64 = -2.839878923494521;
    const SHARES: [f64; 12] = [
        0.9986152317077194,
        1.0112624342924625e-06,
        0.0013837570298464725,
        1.2780824502762627e-06,
        0.9999987219175481,
        1.4374434712394264e-15,
        0.0036948944884817496,
        3.5824129224920963e-09,
        0.9963051019291057,
        2.0424534155850733e-08,
        2.579376076088699e-19,
        0.9999999795754657,
    ];

    /// scikit-learn 1.9.1, of the points of `testing::blobs`: `GaussianMixture(3, covariance_type="tied", tol=1e-12,
    /// max_iter=10000).fit(X)`, `.lower_bound_` and `.predict_proba(X[[0, 1, 2, 44]])` in the order of blobs.
    #[test]
    fn likelihood_and_shares_are_those_of_scikit_learn() {
        let points = blobs();
        let rng = |beginning| rand_chacha::ChaCha8Rng::seed_from_u64(beginning as u64);
        let start = kmeans(2, &points, 3, 300, 10, rng, || Ok(())).unwrap();
        let found = mixture(2, &points, &start, 1000, || Ok(())).unwrap();
        assert!(found.converged && found.iterations < 1000);
        assert!((found.log_likelihood - LIKELIHOOD).abs() < 1e-6, "{}", found.log_likelihood);
        for (point, expected) in [0, 1, 2, 44].into_iter().zip(SHARES.chunks_exact(3)) {
            for (blob, expected) in expected.iter().enumerate() {
                let share = found.shares[point * 3 + start.of[blob]];
                assert!((share - expected).abs() < 1e-4, "{point} {blob}: {share} is not {expected}");
            }
        }
    }

    #[test]
    fn points_that_are_no_numbers_have_no_covariance() {
        let start = Clusters { centres: vec![0.0, 0.0], of: vec![0; 2], inertia: 0.0, iterations: 1 };
        let error = mixture(1, &[f64::NAN, 1.0], &start, 10, || Ok(())).unwrap_err().to_string();
        assert!(error.contains("is singular"), "{error}");
    }
}
