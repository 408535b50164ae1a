//! Parameters that live in another memory, a GPU's, with the networks that run there: the seam between this crate and such a
//! device. What is said here once is that whatever is not a [`Network`], losses above all, stays on dfdx's tape.

use std::{any::Any, fmt::Debug, sync::Arc};

use crate::{
    network::Network,
    params::{Param, ParamId},
    sparse::Sparse,
};

/// What runs networks in a memory of its own.
pub trait Device: Send + Sync {
    /// What it is called, for people: its model.
    fn name(&self) -> &str;

    /// Copies these parameters to its memory.
    ///
    /// # Errors
    /// A sentence about what it lacks.
    fn place(&self, params: &[(ParamId, &Param)]) -> Result<Arc<dyn Resident>, String>;
}

/// Parameters in a device's memory, their gradients and their optimizer's state.
///
/// A device that fails computes NaN from then on, and [`Resident::failure`] tells why: a training looks at its loss anyway.
pub trait Resident: Any + Debug + Send + Sync {
    /// Runs a network of these parameters on what `input` writes to memory of the device's choice; `records` keeps what
    /// [`Pass::backward`] needs. The nodes of `edges` are the rows of the input, where the network has layers on a graph.
    fn forward(
        &self,
        network: &Network,
        edges: &Arc<Sparse>,
        input: &dyn Fn(&mut [f32]),
        dims: Dims,
        records: bool,
    ) -> Pass;

    /// Says of each parameter, in the order of their placing, whether it stays as it is: its gradient is 0 from now on, and it does
    /// not decay. At first none does.
    fn hold(&self, stays: &[bool]);

    /// The sum of all gradients' squares.
    fn squared_norm(&self) -> f64;

    /// Multiplies all gradients.
    fn scale(&self, by: f32);

    /// Moves the parameters by their gradients, which are 0 afterwards.
    fn step(&self, update: Update);

    /// Moves the parameters towards those of another copy of the same: `kept` of them stays. Those of another network or device are
    /// a failure.
    fn follow(&self, other: &dyn Resident, kept: f32);

    /// A copy of the parameters, without gradients.
    fn fork(&self) -> Arc<dyn Resident>;

    /// The values of a kind, per parameter in the order of their placing.
    fn fetch(&self, kind: Kind) -> Vec<Vec<f32>>;

    /// Sets the values of a kind.
    fn put(&self, kind: Kind, values: &[Vec<f32>]);

    /// What went wrong first.
    fn failure(&self) -> Option<String>;
}

/// What lies beside each parameter in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The parameter itself.
    Value,
    /// The sum of its gradients since the last step.
    Gradient,
    /// An optimizer's running mean of gradients, or velocity.
    First,
    /// An optimizer's running mean of their squares.
    Second,
}

/// A step of an optimizer: its formulas are those of [`AdamW`](crate::AdamW) and [`Sgd`](crate::Sgd).
#[derive(Clone, Copy, Debug)]
pub enum Update {
    /// Adam with decoupled weight decay.
    AdamW {
        /// Learning rate over 1 - β₁ᵗ.
        rate: f32,
        /// √(1 - β₂ᵗ).
        root: f32,
        /// What decaying parameters are multiplied by.
        shrink: f32,
    },
    /// Gradient descent with momentum; LARS with `eta`.
    Sgd {
        /// Learning rate.
        rate: f32,
        /// How much of the velocity stays.
        momentum: f32,
        /// What of a decaying parameter is added to its gradient.
        decay: f32,
        /// The share of a decaying parameter's own length that it steps by.
        eta: Option<f32>,
    },
}

/// Sizes of a batch of images, channels last; of rows, as images of one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Images, or rows.
    pub items: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Values of a pixel, or of a row.
    pub channels: usize,
}

impl Dims {
    /// Of rows.
    pub fn rows(items: usize, channels: usize) -> Self {
        Self { items, height: 1, width: 1, channels }
    }

    /// Pixels of all images.
    pub fn pixels(&self) -> usize {
        self.items * self.height * self.width
    }

    /// Values of all images.
    pub fn values(&self) -> usize {
        self.pixels() * self.channels
    }
}

/// What a network made of a batch.
pub struct Pass {
    /// Item after item.
    pub values: Vec<f32>,
    /// Their sizes.
    pub dims: Dims,
    /// If asked for: takes the gradient of `values`, adds to those of the parameters, and gives that of the input where `true`
    /// is given.
    pub backward: Option<Backward>,
}

/// See [`Pass::backward`].
pub type Backward = Box<dyn FnOnce(&[f32], bool) -> Vec<f32>>;
