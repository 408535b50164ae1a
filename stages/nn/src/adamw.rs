//! AdamW whose state can be saved.

use pulp::NullaryFnOnce;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    params::{Param, ParamGradients, Params},
    resident::{Kind, Update},
    wide,
};

/// Values that one task takes, and one partial sum.
const CHUNK: usize = 16_384;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019), with PyTorch's defaults.
///
/// Serialised and read again it goes on with the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    weight_decay: f32,
    steps: i32,
    /// Running mean of gradients, per parameter.
    first: Vec<Vec<f32>>,
    /// Running mean of their squares.
    second: Vec<Vec<f32>>,
}

impl AdamW {
    /// Before the first step. A step shrinks weights by `learning rate x weight_decay`; biases and norms it does not.
    pub fn new(params: &Params, weight_decay: f32) -> Self {
        let zeros: Vec<_> = params.iter().map(|param| vec![0.0; param.shape.iter().product()]).collect();
        Self { weight_decay, steps: 0, first: zeros.clone(), second: zeros }
    }

    /// Whether it belongs to these parameters: a state that was read need not.
    pub fn fits(&self, params: &Params) -> bool {
        [&self.first, &self.second].into_iter().all(|moments| {
            moments.iter().map(Vec::len).eq(params.iter().map(|param| param.shape.iter().product::<usize>()))
        })
    }

    /// Gives a device its part of the state of the parameters that it has.
    pub fn place(&self, params: &Params) {
        params.put_state(Kind::First, &self.first);
        params.put_state(Kind::Second, &self.second);
    }

    /// Fetches that part, so that the state can be saved.
    pub fn fetch(&mut self, params: &Params) {
        params.fetch_state(Kind::First, &mut self.first);
        params.fetch_state(Kind::Second, &mut self.second);
    }

    /// Moves the parameters one step against their gradients (see [`Params::gradients`]).
    ///
    /// # Panics
    /// If the state or the gradients are those of other parameters.
    pub fn step(&mut self, params: &mut Params, gradients: &ParamGradients, learning_rate: f32) {
        self.step_away(params, learning_rate);
        self.step_each(params, gradients, |_| learning_rate);
    }

    /// Moves those that a device has, all at one learning rate: to be called before [`AdamW::step_each`], if they are to move.
    pub fn step_away(&self, params: &Params, learning_rate: f32) {
        let steps = self.steps.saturating_add(1);
        params.step_away(Update::AdamW {
            rate: learning_rate / (1.0 - BETA_1.powi(steps)),
            root: (1.0 - BETA_2.powi(steps)).sqrt(),
            shrink: 1.0 - learning_rate * self.weight_decay,
        });
    }

    /// The same, each parameter at a learning rate of its own; at 0 it stays as it is. Those that a device has are not moved.
    ///
    /// # Panics
    /// As [`AdamW::step`].
    pub fn step_each(
        &mut self,
        params: &mut Params,
        gradients: &ParamGradients,
        learning_rate: impl Fn(&Param) -> f32,
    ) {
        let gradients = &gradients.values;
        assert!(self.fits(params) && gradients.len() == self.first.len(), "the state of these parameters");
        self.steps = self.steps.saturating_add(1);
        let root = (1.0 - BETA_2.powi(self.steps)).sqrt();
        params.update(|index, param, values| {
            let learning_rate = learning_rate(param);
            if learning_rate == 0.0 {
                return;
            }
            let rate = learning_rate / (1.0 - BETA_1.powi(self.steps));
            let shrink = if param.decays { 1.0 - learning_rate * self.weight_decay } else { 1.0 };
            let moments =
                self.first[index].par_chunks_mut(CHUNK).zip(self.second[index].par_chunks_mut(CHUNK));
            values.par_chunks_mut(CHUNK).zip(gradients[index].par_chunks(CHUNK)).zip(moments).for_each(
                |((values, gradients), (first, second))| {
                    wide::run(Entries { values, gradients, first, second, shrink, rate, root });
                },
            );
        });
    }
}

/// Parameters with their gradients and running means.
struct Entries<'a> {
    values: &'a mut [f32],
    gradients: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    shrink: f32,
    rate: f32,
    root: f32,
}

impl NullaryFnOnce for Entries<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { values, gradients, first, second, shrink, rate, root } = self;
        for ((value, gradient), (first, second)) in
            values.iter_mut().zip(gradients).zip(first.iter_mut().zip(second))
        {
            *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
            *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
            *value = shrink * *value - rate * *first / (second.sqrt() / root + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    fn params() -> Params {
        let mut params = Params::default();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        crate::Linear::new(&mut params, "l", 2, 2, &mut rng);
        params
    }

    fn all(params: &Params) -> Vec<f32> {
        params.iter().flat_map(|param| param.values()).collect()
    }

    #[test]
    fn steps_are_those_of_the_definition() {
        let mut params = params();
        let mut optimizer = AdamW::new(&params, 0.1);
        let mut expected: Vec<f64> = all(&params).iter().map(|value| f64::from(*value)).collect();
        let (mut m, mut v) = ([0.0f64; 6], [0.0f64; 6]);
        for step in 1..=5 {
            let gradient: Vec<f64> = (0..6).map(|i| (f64::from(step) + 0.7 * f64::from(i)).sin()).collect();
            for i in 0..6 {
                let decay = if i < 4 { 0.1 } else { 0.0 }; // four weights, two biases
                m[i] = 0.9 * m[i] + 0.1 * gradient[i];
                v[i] = 0.999 * v[i] + 0.001 * gradient[i].powi(2);
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.999f64.powi(step)));
                expected[i] = expected[i] * (1.0 - 0.01 * decay) - 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            }
            let gradient: Vec<f32> = gradient.iter().map(|value| *value as f32).collect();
            optimizer.step(
                &mut params,
                &ParamGradients::of(vec![gradient[..4].to_vec(), gradient[4..].to_vec()]),
                0.01,
            );
        }
        for (found, expected) in all(&params).iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn a_saved_state_goes_on_with_the_same_bytes() {
        let gradients = ParamGradients::of(vec![vec![0.3, -0.2, 1e-9, 0.7], vec![-0.4, 0.1]]);
        let mut straight = params();
        let mut optimizer = AdamW::new(&straight, 0.1);
        optimizer.step(&mut straight, &gradients, 0.01);
        let mut resumed = straight.clone();
        let saved = serde_json::to_string(&optimizer).unwrap();
        optimizer.step(&mut straight, &gradients, 0.02);
        serde_json::from_str::<AdamW>(&saved).unwrap().step(&mut resumed, &gradients, 0.02);
        assert_eq!(all(&straight), all(&resumed));
    }

    #[test]
    fn a_clipped_gradient_keeps_its_direction() {
        let mut gradients = ParamGradients::of(vec![vec![3.0, 0.0], vec![4.0]]);
        assert_eq!(gradients.clip(10.0), 5.0);
        assert_eq!(gradients.values, [vec![3.0, 0.0], vec![4.0]]);
        assert_eq!(gradients.clip(1.0), 5.0);
        assert_eq!(gradients.values, [vec![0.6, 0.0], vec![0.8]]);
    }
}
