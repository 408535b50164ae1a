//! Parameters with names and run-time shapes.

use std::ops::Index;

use dfdx::prelude::*;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::tensor::{self, Recording, Scalar};

/// One parameter. Its tensor is flat; `shape` says how to read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Param {
    /// Name, as PyTorch would give it: `encoder.0.weight`.
    pub name: String,
    /// Shape, as PyTorch lays it out.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: to weights, not to biases and the scales of norms.
    pub decays: bool,
    pub(crate) tensor: Tensor<(usize,), f32, Cpu>,
}

impl Param {
    /// Its values, row-major.
    pub fn values(&self) -> Vec<f32> {
        tensor::values(&self.tensor)
    }
}

/// A parameter as it is written.
#[derive(Serialize, Deserialize)]
struct Saved {
    name: String,
    shape: Vec<usize>,
    decays: bool,
    values: Vec<f32>,
}

impl From<Param> for Saved {
    fn from(param: Param) -> Self {
        let values = param.values();
        Self { name: param.name, shape: param.shape, decays: param.decays, values }
    }
}

impl TryFrom<Saved> for Param {
    type Error = Mismatch;

    fn try_from(Saved { name, shape, decays, values }: Saved) -> Result<Self, Mismatch> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Mismatch::Shape { name, expected: shape, found: vec![values.len()] });
        }
        let length = (values.len(),);
        Ok(Self { name, shape, decays, tensor: tensor::tensor(values, length) })
    }
}

/// Which of a network's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// The parameters of a network, in the order in which its layers made them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Params(Vec<Param>);

/// Values that do not fit a parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The network has a parameter for which there are no values.
    #[error("there are no values for the parameter `{0}`")]
    Missing(String),
    /// The shapes differ.
    #[error("the parameter `{name}` has the shape {expected:?}, its values {found:?}")]
    Shape {
        /// Of the parameter.
        name: String,
        /// The network's.
        expected: Vec<usize>,
        /// The values'.
        found: Vec<usize>,
    },
}

impl Params {
    /// Adds a weight, drawn evenly from ±1/√`fan_in`: what PyTorch's `Linear` and `Conv2d` start from.
    pub(crate) fn weight(
        &mut self,
        name: String,
        shape: Vec<usize>,
        fan_in: usize,
        rng: &mut impl Rng,
    ) -> ParamId {
        let values = uniform(shape.iter().product(), fan_in, rng);
        self.push(name, shape, true, values)
    }

    /// Adds a bias, drawn as its weight is.
    pub(crate) fn bias(&mut self, name: String, length: usize, fan_in: usize, rng: &mut impl Rng) -> ParamId {
        let values = uniform(length, fan_in, rng);
        self.push(name, vec![length], false, values)
    }

    /// Adds a vector without decay, all of one value.
    pub(crate) fn constant(&mut self, name: String, length: usize, value: f32) -> ParamId {
        self.push(name, vec![length], false, vec![value; length])
    }

    fn push(&mut self, name: String, shape: Vec<usize>, decays: bool, values: Vec<f32>) -> ParamId {
        let tensor = tensor::tensor(values, (shape.iter().product::<usize>(),));
        self.0.push(Param { name, shape, decays, tensor });
        ParamId(self.0.len() - 1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.0.iter()
    }

    /// Number of values in all of them.
    pub fn count(&self) -> usize {
        self.iter().map(|param| param.shape.iter().product::<usize>()).sum()
    }

    /// Gives every parameter the values that `find` has for its name, with their shape.
    ///
    /// # Errors
    /// If there are none for one, or their shape is another. Parameters before that one have their new values then.
    pub fn load<'a>(
        &mut self,
        find: impl Fn(&str) -> Option<(&'a [usize], &'a [f32])>,
    ) -> Result<(), Mismatch> {
        for param in &mut self.0 {
            let (shape, values) = find(&param.name).ok_or_else(|| Mismatch::Missing(param.name.clone()))?;
            if shape != param.shape || values.len() != shape.iter().product::<usize>() {
                let (name, expected) = (param.name.clone(), param.shape.clone());
                return Err(Mismatch::Shape { name, expected, found: shape.to_vec() });
            }
            param.tensor.copy_from(values);
        }
        Ok(())
    }

    /// Whether these are parameters of the same network: by names and shapes.
    pub fn fits(&self, other: &Self) -> bool {
        self.iter().map(|param| (&param.name, &param.shape)).eq(other.iter().map(|o| (&o.name, &o.shape)))
    }

    /// Moves every parameter towards another network's of the same kind: `kept` of it stays. What an EMA teacher does.
    ///
    /// # Panics
    /// If they are those of another network.
    pub fn follow(&mut self, other: &Self, kept: f32) {
        assert!(self.fits(other), "parameters of the same network");
        self.update(|index, _, values| {
            for (value, other) in values.iter_mut().zip(other.0[index].values()) {
                *value = kept * *value + (1.0 - kept) * other;
            }
        });
    }

    /// The gradients of a loss by every parameter, in order; zeros where the loss does not depend on one.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn gradients(&self, loss: Scalar<Recording>) -> Result<Vec<Vec<f32>>, CpuError> {
        let mut gradients = loss.try_backward()?;
        self.iter().map(|param| tensor::take_gradient(&mut gradients, &param.tensor)).collect()
    }

    /// Lets `update` change the values of every parameter, given with its position.
    pub(crate) fn update(&mut self, mut update: impl FnMut(usize, &Param, &mut [f32])) {
        for (index, param) in self.0.iter_mut().enumerate() {
            let mut values = param.values();
            update(index, param, &mut values);
            param.tensor.copy_from(&values);
        }
    }
}

impl Index<ParamId> for Params {
    type Output = Param;

    fn index(&self, id: ParamId) -> &Param {
        &self.0[id.0]
    }
}

fn uniform(count: usize, fan_in: usize, rng: &mut impl Rng) -> Vec<f32> {
    let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
    (0..count).map(|_| rng.random_range(-bound..=bound)).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn values_come_back_and_other_shapes_are_refused() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut params = Params::default();
        let id = params.weight("a".into(), vec![2, 3], 3, &mut rng);
        let saved = params[id].values();
        assert!(saved.iter().all(|value| value.abs() <= 1.0 / 3f32.sqrt()));

        let mut other = Params::default();
        let id = other.weight("a".into(), vec![2, 3], 3, &mut rng);
        assert_ne!(other[id].values(), saved);
        other.load(|name| (name == "a").then_some((&[2, 3][..], &saved[..]))).unwrap();
        assert_eq!(other[id].values(), saved);

        let flat = other.load(|_| Some((&[6][..], &saved[..]))).unwrap_err();
        assert_eq!(flat.to_string(), "the parameter `a` has the shape [2, 3], its values [6]");
        assert_eq!(other.load(|_| None), Err(Mismatch::Missing("a".into())));
    }

    #[test]
    fn a_teacher_follows() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut params = Params::default();
        let id = params.weight("a".into(), vec![2, 3], 3, &mut rng);
        let mut teacher = params.clone();
        teacher.load(|_| Some((&[2, 3][..], &[1.0; 6][..]))).unwrap();
        teacher.follow(&params, 0.75);
        for (found, value) in teacher[id].values().iter().zip(params[id].values()) {
            assert!((found - (0.75 + 0.25 * value)).abs() < 1e-7);
        }
        let written = serde_json::to_string(&teacher).unwrap();
        let read: Params = serde_json::from_str(&written).unwrap();
        assert!(read.fits(&teacher) && read[id].values() == teacher[id].values());
        assert!(serde_json::from_str::<Params>(&written.replace("[2,3]", "[2,2]")).is_err());
    }
}
