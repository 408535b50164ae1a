//! Gradient descent with momentum, and LARS, whose state can be saved.

use serde::{Deserialize, Serialize};

use crate::{
    params::{ParamGradients, Params},
    resident::{Kind, Update},
};

/// What a norm is at least, where it is divided by.
const SMALLEST: f64 = 1e-12;

/// Stochastic gradient descent with momentum, as PyTorch has it: v ← μ v + g, w ← w − rate v, with weight decay added to g.
///
/// With `eta` it is LARS (You et al. 2017): the step of each weight tensor is `eta` times its own length, whatever the length of
/// its gradient; biases and norms step as without. As SimCLR and Barlow Twins use it for large batches.
///
/// Serialised and read again it goes on with the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sgd {
    momentum: f32,
    weight_decay: f32,
    eta: Option<f32>,
    /// v, per parameter.
    velocity: Vec<Vec<f32>>,
}

impl Sgd {
    /// Before the first step. Biases and norms do not decay.
    pub fn new(params: &Params, momentum: f32, weight_decay: f32, eta: Option<f32>) -> Self {
        let velocity = params.iter().map(|param| vec![0.0; param.shape.iter().product()]).collect();
        Self { momentum, weight_decay, eta, velocity }
    }

    /// Whether it belongs to these parameters: a state that was read need not.
    pub fn fits(&self, params: &Params) -> bool {
        self.velocity
            .iter()
            .map(Vec::len)
            .eq(params.iter().map(|param| param.shape.iter().product::<usize>()))
    }

    /// Gives a device its part of the state of the parameters that it has.
    pub fn place(&self, params: &Params) {
        params.put_state(Kind::First, &self.velocity);
    }

    /// Fetches that part, so that the state can be saved.
    pub fn fetch(&mut self, params: &Params) {
        params.fetch_state(Kind::First, &mut self.velocity);
    }

    /// Moves the parameters one step against their gradients (see [`Params::gradients`]).
    ///
    /// # Panics
    /// If the state or the gradients are those of other parameters.
    pub fn step(&mut self, params: &mut Params, gradients: &ParamGradients, learning_rate: f32) {
        let gradients = &gradients.values;
        assert!(self.fits(params) && gradients.len() == self.velocity.len(), "the state of these parameters");
        let Self { momentum, weight_decay, eta, velocity } = self;
        params.step_away(Update::Sgd {
            rate: learning_rate,
            momentum: *momentum,
            decay: *weight_decay,
            eta: *eta,
        });
        params.update(|index, param, values| {
            let decay = if param.decays { *weight_decay } else { 0.0 };
            let gradient: Vec<f32> =
                gradients[index].iter().zip(&*values).map(|(g, w)| g + decay * w).collect();
            let scale = match eta {
                Some(eta) if param.decays => trust(values, &gradient, *eta),
                _ => 1.0,
            };
            for ((value, velocity), gradient) in values.iter_mut().zip(&mut velocity[index]).zip(gradient) {
                *velocity = *momentum * *velocity + scale * gradient;
                *value -= learning_rate * *velocity;
            }
        });
    }
}

/// `eta` |w| / |g|; 1 where either is 0.
fn trust(values: &[f32], gradient: &[f32], eta: f32) -> f32 {
    let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let (of_values, of_gradient) = (norm(values), norm(gradient));
    if of_values < SMALLEST || of_gradient < SMALLEST {
        return 1.0;
    }
    (f64::from(eta) * of_values / of_gradient) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::rng;

    fn params() -> Params {
        let mut params = Params::default();
        crate::Linear::new(&mut params, "l", 2, 2, &mut rng());
        params
    }

    fn gradients(step: i32) -> Vec<Vec<f32>> {
        let of =
            |length: usize, at: f32| (0..length).map(|i| (step as f32 + 0.7 * i as f32 + at).sin()).collect();
        vec![of(4, 0.0), of(2, 5.0)]
    }

    #[test]
    fn steps_are_those_of_the_definition() {
        let mut params = params();
        let mut expected: Vec<Vec<f64>> =
            params.iter().map(|param| param.values().into_iter().map(f64::from).collect()).collect();
        let mut velocity = [vec![0.0; 4], vec![0.0; 2]];
        let mut optimizer = Sgd::new(&params, 0.9, 0.1, None);
        for step in 1..=5 {
            optimizer.step(&mut params, &ParamGradients::of(gradients(step)), 0.01);
            for (place, decay) in [(0, 0.1), (1, 0.0)] {
                for (at, gradient) in gradients(step)[place].iter().enumerate() {
                    let gradient = f64::from(*gradient) + decay * expected[place][at];
                    velocity[place][at] = 0.9 * velocity[place][at] + gradient;
                    expected[place][at] -= 0.01 * velocity[place][at];
                }
            }
        }
        for (param, expected) in params.iter().zip(&expected) {
            for (found, expected) in param.values().iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_step_of_lars_is_a_share_of_the_weights_length() {
        let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
        for scale in [1e-3, 1.0, 1e3] {
            let mut params = params();
            let before: Vec<Vec<f32>> = params.iter().map(|param| param.values()).collect();
            let mut optimizer = Sgd::new(&params, 0.9, 0.0, Some(0.02));
            let mut steep = gradients(1);
            steep.iter_mut().flatten().for_each(|value| *value *= scale);
            optimizer.step(&mut params, &ParamGradients::of(steep.clone()), 0.5);
            let moved: Vec<Vec<f32>> = params
                .iter()
                .zip(&before)
                .map(|(param, before)| {
                    param.values().iter().zip(before).map(|(new, old)| new - old).collect()
                })
                .collect();
            assert!((norm(&moved[0]) / (0.5 * 0.02 * norm(&before[0])) - 1.0).abs() < 1e-3, "{scale}");
            // The bias goes by its gradient.
            assert!((norm(&moved[1]) / (0.5 * norm(&steep[1])) - 1.0).abs() < 1e-2, "{scale}");
        }
    }
}
