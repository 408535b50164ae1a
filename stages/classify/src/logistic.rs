//! Multinomial logistic regression with an L2 penalty, in double precision.

use rayon::prelude::*;
use restage_stage::Result;

use crate::lbfgs::{self, Minimum, Stop, add, dot};

/// Partial sums of the gradient: a fixed number, so that the sum does not depend on how many threads there are.
const MAX_CHUNKS: usize = 64;
/// Rows below which a partial sum is not worth a task.
const MIN_CHUNK: usize = 128;

/// What is fitted.
#[derive(Debug)]
pub(crate) struct Problem<'a> {
    /// Length of a row.
    pub(crate) dims: usize,
    /// One row of features per sample.
    pub(crate) rows: &'a [f64],
    /// Class per sample.
    pub(crate) targets: &'a [usize],
    /// Weight per class.
    pub(crate) class_weights: &'a [f64],
    /// Inverse strength of the penalty.
    pub(crate) c: f64,
}

/// The fitted classifier: per class `dims` coefficients and an intercept.
#[derive(Debug)]
pub(crate) struct Model {
    dims: usize,
    parameters: Vec<f64>,
}

impl Problem<'_> {
    /// Fits the classifier: scikit-learn's `LogisticRegression(C=c)`, the minimum over W and the intercepts of
    ///
    /// `C · Σ weight · loss + ½ · ‖W‖²`, without a penalty on intercepts.
    ///
    /// It is divided by `C · Σ weight` first, so that values and the stopping rule do not depend on the number of
    /// samples. With two classes scikit-learn has one vector of coefficients, w, instead of two: the same classifier is
    /// found by w₁ = -w₀ = w/2, whose penalty must be doubled to be the same.
    ///
    /// # Errors
    /// Those of `on_step`.
    pub(crate) fn fit(
        &self,
        stop: Stop,
        on_step: impl FnMut(usize, f64) -> Result<()>,
    ) -> Result<(Model, Minimum)> {
        let start = vec![0.0; self.class_weights.len() * (self.dims + 1)];
        self.fit_from(Model { dims: self.dims, parameters: start }, stop, on_step)
    }

    /// The same from a classifier that is near, such as that of another `c`.
    ///
    /// # Errors
    /// Those of `on_step`.
    pub(crate) fn fit_from(
        &self,
        start: Model,
        stop: Stop,
        on_step: impl FnMut(usize, f64) -> Result<()>,
    ) -> Result<(Model, Minimum)> {
        let classes = self.class_weights.len();
        let total: f64 = self.targets.iter().map(|&class| self.class_weights[class]).sum();
        let penalty = if classes == 2 { 2.0 } else { 1.0 } / (self.c * total);
        let objective = |parameters: &[f64], gradient: &mut [f64]| {
            let mut value = self.loss(parameters, gradient) / total;
            gradient.iter_mut().for_each(|g| *g /= total);
            for (weights, gradient) in self.classes(parameters).zip(gradient.chunks_exact_mut(self.dims + 1))
            {
                let weights = &weights[..self.dims];
                value += 0.5 * penalty * dot(weights, weights);
                add(&mut gradient[..self.dims], penalty, weights);
            }
            value
        };
        let minimum = lbfgs::minimise(start.parameters, stop, objective, on_step)?;
        Ok((Model { dims: self.dims, parameters: minimum.point.clone() }, minimum))
    }

    /// Coefficients and intercept of each class.
    fn classes<'p>(&self, parameters: &'p [f64]) -> impl Iterator<Item = &'p [f64]> {
        parameters.chunks_exact(self.dims + 1)
    }

    /// The weighted sum of cross entropies; writes its gradient.
    fn loss(&self, parameters: &[f64], gradient: &mut [f64]) -> f64 {
        let chunk = self.targets.len().div_ceil(MAX_CHUNKS).max(MIN_CHUNK);
        let parts: Vec<(f64, Vec<f64>)> = self
            .rows
            .par_chunks(chunk * self.dims)
            .zip(self.targets.par_chunks(chunk))
            .map(|(rows, targets)| self.part(parameters, rows, targets))
            .collect();
        gradient.fill(0.0);
        let mut loss = 0.0;
        for (part, its_gradient) in parts {
            loss += part;
            add(gradient, 1.0, &its_gradient);
        }
        loss
    }

    fn part(&self, parameters: &[f64], rows: &[f64], targets: &[usize]) -> (f64, Vec<f64>) {
        let mut loss = 0.0;
        let mut gradient = vec![0.0; parameters.len()];
        let mut probabilities = vec![0.0; self.class_weights.len()];
        for (row, &target) in rows.chunks_exact(self.dims).zip(targets) {
            let weight = self.class_weights[target];
            logits(self.dims, parameters, row, &mut probabilities);
            let its_logit = probabilities[target];
            loss += weight * (softmax(&mut probabilities) - its_logit);
            probabilities[target] -= 1.0;
            for (gradient, error) in gradient.chunks_exact_mut(self.dims + 1).zip(&probabilities) {
                let (coefficients, intercept) = gradient.split_at_mut(self.dims);
                add(coefficients, weight * error, row);
                intercept[0] += weight * error;
            }
        }
        (loss, gradient)
    }
}

impl Model {
    /// Writes the probability of each class for a row of features.
    pub(crate) fn probabilities(&self, row: &[f64], to: &mut [f64]) {
        logits(self.dims, &self.parameters, row, to);
        softmax(to);
    }
}

fn logits(dims: usize, parameters: &[f64], row: &[f64], to: &mut [f64]) {
    for (to, parameters) in to.iter_mut().zip(parameters.chunks_exact(dims + 1)) {
        *to = dot(&parameters[..dims], row) + parameters[dims];
    }
}

/// Turns logits into probabilities; returns the logarithm of the sum of their exponentials.
fn softmax(logits: &mut [f64]) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - largest).exp());
    let sum: f64 = logits.iter().sum();
    logits.iter_mut().for_each(|logit| *logit /= sum);
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lbfgs::Outcome;

    const STOP: Stop = Stop { gradient: 1e-11, iterations: 1000 };

    /// Rows and classes of the problem that scikit-learn solved below.
    fn samples() -> (Vec<f64>, Vec<usize>) {
        let samples = (0..24_u32).map(|i| {
            let class = if i % 8 == 0 { 0 } else { i % 3 };
            let (x, y) = (f64::from(i), f64::from(class));
            ([x.sin() + y, (2.0 * x).cos() - 0.5 * y, (3.0 * x).sin() * x.cos()], class as usize)
        });
        let (rows, targets): (Vec<_>, Vec<_>) = samples.unzip();
        (rows.concat(), targets)
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
        }
    }

    /// scikit-learn 1.9.1, which stops at about 1e-8 of the minimum:
    /// ```python
    /// i = np.arange(24)
    /// y = i % 3 * (i % 8 != 0)
    /// X = np.stack([np.sin(i) + y, np.cos(2 * i) - 0.5 * y, np.sin(3 * i) * np.cos(i)], axis=1)
    /// m = LogisticRegression(C=0.7, class_weight="balanced", tol=1e-12, max_iter=10000).fit(X, y)
    /// m.coef_, m.intercept_, m.predict_proba(X[:2])
    /// ```
    #[test]
    fn three_classes_agree_with_scikit_learn() {
        let (rows, targets) = samples();
        let class_weights: Vec<f64> = [10.0, 7.0, 7.0].iter().map(|count| 24.0 / (3.0 * count)).collect();
        let problem =
            Problem { dims: 3, rows: &rows, targets: &targets, class_weights: &class_weights, c: 0.7 };
        let (model, minimum) = problem.fit(STOP, |_, _| Ok(())).unwrap();
        assert_eq!(minimum.outcome, Outcome::Converged);
        #[rustfmt::skip]
        close(&model.parameters, &[
            -0.8336782290164971, 0.684986127398678, -0.6446786986406444, 1.2318309772401235,
            0.3426477069521066, 0.6041427303025433, 0.8389341588690169, 0.32502025402299384,
            0.49103052206439024, -1.2891288577012212, -0.1942554602283725, -1.5568512312631162,
        ]);
        let mut probabilities = [0.0; 3];
        model.probabilities(&rows[3..6], &mut probabilities);
        close(&probabilities, &[0.1030742044703328, 0.43790178943405494, 0.4590240060956124]);
    }

    /// As above with `LogisticRegression(C=0.5, tol=1e-12, max_iter=10000).fit(X, np.minimum(y, 1))`.
    #[test]
    fn two_classes_agree_with_scikit_learn() {
        let (rows, targets) = samples();
        let targets: Vec<usize> = targets.into_iter().map(|class| class.min(1)).collect();
        let problem = Problem { dims: 3, rows: &rows, targets: &targets, class_weights: &[1.0; 2], c: 0.5 };
        let (model, _) = problem.fit(STOP, |_, _| Ok(())).unwrap();
        let (zero, one) = model.parameters.split_at(4);
        let one_vector: Vec<f64> = one.iter().zip(zero).map(|(one, zero)| one - zero).collect();
        close(
            &one_vector,
            &[0.9243321484642617, -0.6988508927652605, 0.7262398954199253, -0.6146202759731735],
        );
        let mut probabilities = [0.0; 2];
        model.probabilities(&rows[..3], &mut probabilities);
        close(&probabilities, &[0.7880934283139175, 0.21190657168608254]);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let (rows, targets) = samples();
        let problem =
            Problem { dims: 3, rows: &rows, targets: &targets, class_weights: &[1.0, 2.0, 0.5], c: 1.0 };
        let parameters: Vec<f64> = (0..12).map(|i| f64::from(i * i % 7) / 5.0 - 0.5).collect();
        let mut gradient = vec![0.0; 12];
        problem.loss(&parameters, &mut gradient);
        for i in 0..12 {
            let at = |shift: f64| {
                let mut parameters = parameters.clone();
                parameters[i] += shift;
                problem.loss(&parameters, &mut [0.0; 12])
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-7, "{i}: {slope} is not {}", gradient[i]);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (rows, targets) = samples();
        let (rows, targets) = (rows.repeat(100), targets.repeat(100));
        let problem = Problem { dims: 3, rows: &rows, targets: &targets, class_weights: &[1.0; 3], c: 1.0 };
        let fit = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| problem.fit(STOP, |_, _| Ok(())).unwrap().0.parameters)
        };
        assert_eq!(fit(1), fit(3));
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let mut logits = [1000.0, -1000.0, 999.0];
        assert!((softmax(&mut logits) - 1_000.313_261_687_518_2).abs() < 1e-9);
        close(&logits, &[0.731_058_578_630_004_9, 0.0, 0.268_941_421_369_995_1]);
    }
}
