//! Parameters with names and run-time shapes.

use std::{collections::HashMap, ops::Index, sync::Arc};

use dfdx::prelude::*;
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    resident::{Device, Kind, Resident, Update},
    tensor::{self, Recording, Scalar},
    wide,
};

/// One parameter. Its values are flat; `shape` says how to read them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Param {
    /// Name, as PyTorch would give it: `encoder.0.weight`.
    pub name: String,
    /// Shape, as PyTorch lays it out.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: to weights, not to biases and the scales of norms.
    pub decays: bool,
    /// What gradients know it by. Its own values are never looked at.
    pub(crate) key: Tensor<(usize,), f32, Cpu>,
    values: Arc<Vec<f32>>,
}

impl Param {
    /// Its values, row-major.
    pub fn values(&self) -> Vec<f32> {
        self.values.to_vec()
    }

    /// The same, without a copy.
    pub(crate) fn shared(&self) -> Arc<Vec<f32>> {
        self.values.clone()
    }

    fn new(name: String, shape: Vec<usize>, decays: bool, values: Vec<f32>) -> Self {
        let key = Cpu::default().zeros_like(&(values.len(),));
        Self { name, shape, decays, key, values: Arc::new(values) }
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
        Ok(Self::new(name, shape, decays, values))
    }
}

/// Which of a network's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

/// The parameters of a network, in the order in which its layers made them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Params {
    list: Vec<Param>,
    #[serde(skip)]
    away: Option<Away>,
}

/// Parameters that a device has. What the list says of them is old, until they are fetched.
#[derive(Debug)]
struct Away {
    resident: Arc<dyn Resident>,
    /// Which, in the order of their placing.
    ids: Vec<usize>,
    /// Where in that order.
    places: HashMap<usize, usize>,
}

/// A copy of parameters that a device has is there as well.
impl Clone for Params {
    fn clone(&self) -> Self {
        let away = self.away.as_ref().map(|away| Away {
            resident: away.resident.fork(),
            ids: away.ids.clone(),
            places: away.places.clone(),
        });
        Self { list: self.list.clone(), away }
    }
}

/// The gradient of a loss by every parameter.
#[derive(Debug, Default)]
pub struct ParamGradients {
    /// In the order of the parameters; empty of those that a device has.
    pub(crate) values: Vec<Vec<f32>>,
    /// Adds its own up until a step.
    away: Option<Arc<dyn Resident>>,
}

/// Values of which one sum is made. Fixed: it must not depend on the number of threads.
const CHUNK: usize = 16_384;

impl ParamGradients {
    #[cfg(test)]
    pub(crate) fn of(values: Vec<Vec<f32>>) -> Self {
        Self { values, away: None }
    }

    /// Adds those of another loss.
    pub fn add(&mut self, other: Self) {
        if self.values.is_empty() {
            *self = other;
            return;
        }
        self.values.iter_mut().zip(&other.values).for_each(|(sums, values)| {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        });
    }

    /// Sets those of parameters that are here and not to be kept to 0; see [`Params::hold`] for the others.
    pub fn keep(&mut self, params: &Params, is_kept: impl Fn(&Param) -> bool) {
        let others = self.values.iter_mut().zip(params.iter()).filter(|(_, param)| !is_kept(param));
        others.for_each(|(values, _)| values.fill(0.0));
    }

    /// Multiplies all.
    pub fn scale(&mut self, by: f32) {
        self.values.iter_mut().flatten().for_each(|value| *value *= by);
        if let Some(resident) = &self.away {
            resident.scale(by);
        }
    }

    /// The norm of all together; they are scaled down to `limit` if it is larger.
    pub fn clip(&mut self, limit: f32) -> f32 {
        let chunks: Vec<&[f32]> = self.values.iter().flat_map(|values| values.chunks(CHUNK)).collect();
        let sums: Vec<f64> = chunks
            .into_par_iter()
            .map(|chunk| chunk.iter().map(|value| f64::from(*value).powi(2)).sum())
            .collect();
        let away = self.away.as_ref().map_or(0.0, |resident| resident.squared_norm());
        let norm = (sums.iter().sum::<f64>() + away).sqrt() as f32;
        if norm > limit {
            self.scale(limit / norm);
        }
        norm
    }
}

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
        self.list.push(Param::new(name, shape, decays, values));
        ParamId(self.list.len() - 1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
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
        for param in &mut self.list {
            let (shape, values) = find(&param.name).ok_or_else(|| Mismatch::Missing(param.name.clone()))?;
            if shape != param.shape || values.len() != shape.iter().product::<usize>() {
                let (name, expected) = (param.name.clone(), param.shape.clone());
                return Err(Mismatch::Shape { name, expected, found: shape.to_vec() });
            }
            param.values = Arc::new(values.to_vec());
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
            let other = &other.list[index].values;
            values.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK)).for_each(|(values, other)| {
                wide::update(values, other, |value, other| kept * value + (1.0 - kept) * other);
            });
        });
        if let (Some(away), Some(other)) = (&self.away, &other.away) {
            away.resident.follow(other.resident.as_ref(), kept);
        }
    }

    /// The gradients of a loss by every parameter, in order; zeros where the loss does not depend on one.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn gradients(&self, loss: Scalar<Recording>) -> Result<ParamGradients, CpuError> {
        let mut gradients = loss.try_backward()?;
        let values = self.iter().enumerate().map(|(index, param)| match self.is_away(index) {
            true => Ok(Vec::new()),
            false => tensor::take_gradient(&mut gradients, &param.key),
        });
        let away = self.away.as_ref().map(|away| away.resident.clone());
        Ok(ParamGradients { values: values.collect::<Result<_, _>>()?, away })
    }

    /// Gives some parameters to a device, in place of those that it had. What a network of them computes, and what an optimizer
    /// does to them, happens there from now on.
    ///
    /// # Errors
    /// If the device cannot take them, with its words.
    pub fn place(&mut self, device: &dyn Device, ids: &[ParamId]) -> Result<(), String> {
        self.fetch();
        let mut ids: Vec<ParamId> = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let params: Vec<(ParamId, &Param)> = ids.iter().map(|id| (*id, &self.list[id.0])).collect();
        let resident = device.place(&params)?;
        let ids: Vec<usize> = ids.iter().map(|id| id.0).collect();
        let places = ids.iter().copied().zip(0..).collect();
        self.away = Some(Away { resident, ids, places });
        Ok(())
    }

    /// Says which parameters that a device has stay as they are, from now on: their gradients are 0 there, and no step moves them. For
    /// those that are here see [`ParamGradients::keep`].
    pub fn hold(&self, stays: impl Fn(&Param) -> bool) {
        if let Some(away) = &self.away {
            let stays: Vec<bool> = away.ids.iter().map(|index| stays(&self.list[*index])).collect();
            away.resident.hold(&stays);
        }
    }

    /// Brings the list up to date with what a device has.
    pub fn fetch(&mut self) {
        let Some(away) = &self.away else { return };
        for (index, values) in away.ids.iter().zip(away.resident.fetch(Kind::Value)) {
            self.list[*index].values = Arc::new(values);
        }
    }

    /// Fetches what a device has, and has no more to do with it.
    pub fn leave(&mut self) {
        self.fetch();
        self.away = None;
    }

    /// What went wrong on the device that has some of them.
    pub fn failure(&self) -> Option<String> {
        self.away.as_ref()?.resident.failure()
    }

    /// The device's side, if it has the parameters of a network.
    pub(crate) fn resident(&self, ids: &[ParamId]) -> Option<&Arc<dyn Resident>> {
        let away = self.away.as_ref()?;
        ids.iter().all(|id| away.places.contains_key(&id.0)).then_some(&away.resident)
    }

    fn is_away(&self, index: usize) -> bool {
        self.away.as_ref().is_some_and(|away| away.places.contains_key(&index))
    }

    /// Lets a device, if it has some, make an optimizer's step.
    pub(crate) fn step_away(&self, update: Update) {
        if let Some(away) = &self.away {
            away.resident.step(update);
        }
    }

    /// Brings an optimizer's list, one entry per parameter, up to date with what a device has.
    pub(crate) fn fetch_state(&self, kind: Kind, state: &mut [Vec<f32>]) {
        let Some(away) = &self.away else { return };
        for (index, values) in away.ids.iter().zip(away.resident.fetch(kind)) {
            state[*index] = values;
        }
    }

    /// Gives a device what an optimizer's list says of the parameters that it has.
    pub(crate) fn put_state(&self, kind: Kind, state: &[Vec<f32>]) {
        let Some(away) = &self.away else { return };
        let values: Vec<Vec<f32>> = away.ids.iter().map(|index| state[*index].clone()).collect();
        away.resident.put(kind, &values);
    }

    /// Lets `update` change the values of every parameter that is here, given with its position.
    pub(crate) fn update(&mut self, mut update: impl FnMut(usize, &Param, &mut [f32])) {
        let away = self.away.as_ref();
        let is_here = |index: &usize| away.is_none_or(|away| !away.places.contains_key(index));
        for (index, param) in self.list.iter_mut().enumerate().filter(|(index, _)| is_here(index)) {
            let mut values = std::mem::take(&mut param.values);
            let all: &mut Vec<f32> = Arc::make_mut(&mut values);
            update(index, param, all);
            param.values = values;
        }
    }
}

impl Index<ParamId> for Params {
    type Output = Param;

    /// # Panics
    /// If a device has the parameter, whose value here is old: what is computed with it must be a [`Network`](crate::Network).
    fn index(&self, id: ParamId) -> &Param {
        let param = &self.list[id.0];
        assert!(!self.is_away(id.0), "the parameter `{}` is on a device, and read here", param.name);
        param
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
