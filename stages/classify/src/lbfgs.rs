//! L-BFGS with a strong-Wolfe line search, for smooth functions without constraints.
//!
//! Own code because the crate that offers it, `argmin`, stops with "search direction must be a descent direction"
//! on problems like ours (its open issue 400), evaluates value and gradient apart, and has no room for cancellation.
//!
//! Nocedal & Wright, *Numerical Optimization*, 2nd ed.: algorithms 7.4 (two-loop recursion), 3.5 and 3.6 (line search).

use std::collections::VecDeque;

use restage_stage::Result;

/// How many steps the curvature is estimated from.
const MEMORY: usize = 10;
/// A step must lower the function by this share of what the slope promises.
const SUFFICIENT_DECREASE: f64 = 1e-4;
/// A step must flatten the slope to this share.
const CURVATURE: f64 = 0.9;
/// Evaluations that one line search may take.
const MAX_TRIALS: usize = 40;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Converged once no component of the gradient is larger in magnitude.
    pub(crate) gradient: f64,
    /// Give up after so many steps.
    pub(crate) iterations: usize,
}

/// Why it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The gradient is as small as asked for.
    Converged,
    /// The iterations ran out.
    OutOfIterations,
    /// No step lowers the function any more: the limit of the arithmetic, or a function that is not smooth.
    Stalled,
}

/// Where it stopped.
#[derive(Clone, Debug)]
pub(crate) struct Minimum {
    /// The point.
    pub(crate) point: Vec<f64>,
    /// The function there.
    pub(crate) value: f64,
    /// Largest magnitude of the gradient's components there.
    pub(crate) gradient: f64,
    /// Steps taken.
    pub(crate) iterations: usize,
    /// Why it stopped.
    pub(crate) outcome: Outcome,
}

/// Minimises a function from `start`.
///
/// `function` returns the value at a point and writes the gradient; `on_step` hears the number of steps taken and the
/// value, at the start and after each step.
///
/// # Errors
/// Those of `on_step`, which stop it.
pub(crate) fn minimise(
    start: Vec<f64>,
    stop: Stop,
    function: impl Fn(&[f64], &mut [f64]) -> f64,
    mut on_step: impl FnMut(usize, f64) -> Result<()>,
) -> Result<Minimum> {
    let mut here = Place::at(start, &function);
    let mut memory = Memory::default();
    let mut iterations = 0;
    let outcome = loop {
        on_step(iterations, here.value)?;
        if here.steepness() <= stop.gradient {
            break Outcome::Converged;
        }
        if iterations == stop.iterations {
            break Outcome::OutOfIterations;
        }
        let next = step(&here, &memory, &function).or_else(|| {
            // What the memory says may be worn out by rounding: once more from the gradient alone.
            memory.pairs.clear();
            step(&here, &memory, &function)
        });
        let Some(next) = next else { break Outcome::Stalled };
        memory.learn(&here, &next);
        here = next;
        iterations += 1;
    };
    let gradient = here.steepness();
    Ok(Minimum { point: here.point, value: here.value, gradient, iterations, outcome })
}

/// A point with what is known there.
struct Place {
    point: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

impl Place {
    fn at(point: Vec<f64>, function: &impl Fn(&[f64], &mut [f64]) -> f64) -> Self {
        let mut gradient = vec![0.0; point.len()];
        let value = function(&point, &mut gradient);
        Self { point, value, gradient }
    }

    fn steepness(&self) -> f64 {
        self.gradient.iter().fold(0.0, |largest, g| f64::max(largest, g.abs()))
    }
}

/// The last steps and how the gradient changed along them, oldest first.
#[derive(Default)]
struct Memory {
    pairs: VecDeque<Pair>,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// `step · change`, positive.
    curvature: f64,
}

impl Memory {
    fn learn(&mut self, from: &Place, to: &Place) {
        let step = difference(&to.point, &from.point);
        let change = difference(&to.gradient, &from.gradient);
        let curvature = dot(&step, &change);
        // Without positive curvature the estimate would lose positive definiteness.
        if curvature <= f64::EPSILON * dot(&change, &change) {
            return;
        }
        if self.pairs.len() == MEMORY {
            self.pairs.pop_front();
        }
        self.pairs.push_back(Pair { step, change, curvature });
    }

    /// Minus the estimated inverse Hessian times the gradient.
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut weights = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let weight = dot(&pair.step, &direction) / pair.curvature;
            add(&mut direction, -weight, &pair.change);
            weights.push(weight);
        }
        if let Some(last) = self.pairs.back() {
            let scale = last.curvature / dot(&last.change, &last.change);
            direction.iter_mut().for_each(|d| *d *= scale);
        }
        for (pair, weight) in self.pairs.iter().zip(weights.into_iter().rev()) {
            let correction = weight - dot(&pair.change, &direction) / pair.curvature;
            add(&mut direction, correction, &pair.step);
        }
        direction
    }
}

/// One step of a line search: how far, and what is there.
struct Trial {
    length: f64,
    place: Place,
    slope: f64,
}

/// One step downhill that meets the strong Wolfe conditions; none if there is no such step.
fn step(here: &Place, memory: &Memory, function: &impl Fn(&[f64], &mut [f64]) -> f64) -> Option<Place> {
    let direction = memory.direction(&here.gradient);
    let slope = dot(&here.gradient, &direction);
    if slope >= 0.0 || !slope.is_finite() {
        return None;
    }
    let first = if memory.pairs.is_empty() { (1.0 / slope.abs().sqrt()).min(1.0) } else { 1.0 };
    let trial = |length: f64| {
        let point = here.point.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
        let place = Place::at(point, function);
        let slope = dot(&place.gradient, &direction);
        Trial { length, place, slope }
    };
    // Near the minimum the decrease drowns in rounding, so as much as rounding makes is allowed on top.
    let noise = 4.0 * f64::EPSILON * here.value.abs();
    let too_high = |trial: &Trial| {
        let line = here.value + SUFFICIENT_DECREASE * trial.length * slope + noise;
        trial.place.value > line || !trial.place.value.is_finite()
    };
    let flat = |trial: &Trial| trial.slope.abs() <= CURVATURE * slope.abs();

    // Bracket: `low` is the best step that lowers the function enough, `high` closes the interval.
    let mut low = (0.0, here.value, slope);
    let mut trials = 0..MAX_TRIALS;
    let mut length = first;
    let mut high = loop {
        trials.next()?;
        let next = trial(length);
        if too_high(&next) || (low.0 > 0.0 && next.place.value >= low.1 + noise) {
            break next.summary();
        }
        if flat(&next) {
            return Some(next.place);
        }
        let closed = std::mem::replace(&mut low, next.summary());
        if next.slope >= 0.0 {
            break closed;
        }
        length *= 2.0;
    };
    // Zoom.
    for _ in trials {
        let next = trial(between(low, high));
        if too_high(&next) || next.place.value >= low.1 + noise {
            high = next.summary();
            continue;
        }
        if flat(&next) {
            return Some(next.place);
        }
        if next.slope * (high.0 - low.0) >= 0.0 {
            high = low;
        }
        low = next.summary();
    }
    None
}

impl Trial {
    /// Length, value and slope.
    fn summary(&self) -> (f64, f64, f64) {
        (self.length, self.place.value, self.slope)
    }
}

/// Where the cubic through two trials (length, value, slope) has its minimum; their middle if that is not well inside.
fn between(a: (f64, f64, f64), b: (f64, f64, f64)) -> f64 {
    let width = b.0 - a.0;
    let d1 = a.2 + b.2 - 3.0 * (b.1 - a.1) / width;
    let d2 = width.signum() * (d1 * d1 - a.2 * b.2).sqrt();
    let share = 1.0 - (b.2 + d2 - d1) / (b.2 - a.2 + 2.0 * d2);
    // A comparison with NaN is false, so it falls back too.
    if (0.1..=0.9).contains(&share) { a.0 + share * width } else { a.0 + 0.5 * width }
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// `to += factor * what`.
pub(crate) fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

/// The inner product, summed in eight fixed lanes: fast, and the same on every run.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STOP: Stop = Stop { gradient: 1e-9, iterations: 500 };

    fn rosenbrock(x: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.fill(0.0);
        let mut value = 0.0;
        for i in 0..x.len() - 1 {
            let bend = x[i + 1] - x[i] * x[i];
            value += 100.0 * bend * bend + (1.0 - x[i]).powi(2);
            gradient[i] += -400.0 * x[i] * bend - 2.0 * (1.0 - x[i]);
            gradient[i + 1] += 200.0 * bend;
        }
        value
    }

    #[test]
    fn finds_the_end_of_a_bent_valley() {
        let found = minimise(vec![-1.2, 1.0, -0.5, 0.8], STOP, rosenbrock, |_, _| Ok(())).unwrap();
        assert_eq!(found.outcome, Outcome::Converged);
        for x in found.point {
            assert!((x - 1.0).abs() < 1e-8, "{x}");
        }
    }

    #[test]
    fn says_when_the_iterations_run_out() {
        let stop = Stop { iterations: 3, ..STOP };
        let mut heard = Vec::new();
        let found = minimise(vec![-1.2, 1.0], stop, rosenbrock, |step, value| {
            heard.push((step, value));
            Ok(())
        })
        .unwrap();
        assert_eq!((found.outcome, found.iterations), (Outcome::OutOfIterations, 3));
        assert!(heard.windows(2).all(|pair| pair[1].1 < pair[0].1), "each step goes down: {heard:?}");
        assert_eq!(heard.iter().map(|pair| pair.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn stalls_where_there_is_no_floor() {
        let endless = |x: &[f64], gradient: &mut [f64]| {
            gradient[0] = 1.0;
            x[0]
        };
        let found = minimise(vec![0.0], STOP, endless, |_, _| Ok(())).unwrap();
        assert_eq!(found.outcome, Outcome::Stalled);
    }

    #[test]
    fn stops_when_told_to() {
        let error = restage_stage::Error::Cancelled;
        let found = minimise(vec![-1.2, 1.0], STOP, rosenbrock, |step, _| {
            if step == 2 { Err(restage_stage::Error::Cancelled) } else { Ok(()) }
        });
        assert_eq!(found.unwrap_err().to_string(), error.to_string());
    }

    proptest! {
        #[test]
        fn finds_the_centre_of_any_bowl(
            bowl in prop::collection::vec((0.01..100_f64, -10.0..10_f64), 1..30),
        ) {
            let function = |x: &[f64], gradient: &mut [f64]| {
                let mut value = 0.0;
                for ((x, g), (width, centre)) in x.iter().zip(gradient).zip(&bowl) {
                    let away = x - centre;
                    *g = width * away;
                    value += 0.5 * width * away * away;
                }
                value
            };
            let stop = Stop { gradient: 1e-7, iterations: 2000 };
            let found = minimise(vec![0.0; bowl.len()], stop, function, |_, _| Ok(())).unwrap();
            prop_assert_eq!(found.outcome, Outcome::Converged);
            for (x, (_, centre)) in found.point.iter().zip(&bowl) {
                prop_assert!((x - centre).abs() < 1e-4);
            }
        }
    }
}
