//! Which way parameters step.

use restage_nn::{AdamW, ParamGradients, Params, Sgd};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which way parameters step, by its params.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019), with PyTorch's defaults.
    #[default]
    Adamw,
    /// Gradient descent with momentum.
    Sgd {
        /// How much of the last step goes into the next. Default 0.9.
        #[serde(default = "momentum")]
        momentum: f64,
    },
    /// The same, where each weight tensor steps by a share of its own length (You et al. 2017): for large batches.
    Lars {
        /// How much of the last step goes into the next. Default 0.9.
        #[serde(default = "momentum")]
        momentum: f64,
        /// That share. Default 0.001.
        #[serde(default = "eta")]
        eta: f64,
    },
}

fn momentum() -> f64 {
    0.9
}

fn eta() -> f64 {
    0.001
}

/// An optimiser at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Stepper {
    AdamW(AdamW),
    Sgd(Sgd),
}

impl Stepper {
    /// Before the first step.
    pub(crate) fn new(optimizer: &Optimizer, params: &Params, weight_decay: f64) -> Self {
        let decay = weight_decay as f32;
        match optimizer {
            Optimizer::Adamw => Self::AdamW(AdamW::new(params, decay)),
            Optimizer::Sgd { momentum } => Self::Sgd(Sgd::new(params, *momentum as f32, decay, None)),
            Optimizer::Lars { momentum, eta } => {
                Self::Sgd(Sgd::new(params, *momentum as f32, decay, Some(*eta as f32)))
            }
        }
    }

    /// Whether it belongs to these parameters: a state that was read need not.
    pub(crate) fn fits(&self, params: &Params) -> bool {
        match self {
            Self::AdamW(optimizer) => optimizer.fits(params),
            Self::Sgd(optimizer) => optimizer.fits(params),
        }
    }

    /// Gives a device its part of the state of the parameters that it has.
    pub(crate) fn place(&self, params: &Params) {
        match self {
            Self::AdamW(optimizer) => optimizer.place(params),
            Self::Sgd(optimizer) => optimizer.place(params),
        }
    }

    /// Fetches that part, so that the state can be saved.
    pub(crate) fn fetch(&mut self, params: &Params) {
        match self {
            Self::AdamW(optimizer) => optimizer.fetch(params),
            Self::Sgd(optimizer) => optimizer.fetch(params),
        }
    }

    /// Moves the parameters one step.
    pub(crate) fn step(&mut self, params: &mut Params, gradients: &ParamGradients, rate: f32) {
        match self {
            Self::AdamW(optimizer) => optimizer.step(params, gradients, rate),
            Self::Sgd(optimizer) => optimizer.step(params, gradients, rate),
        }
    }
}
