//! A linear layer on slices, for ops that have one among others.

use std::sync::Arc;

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    gemm::{Start, par, par_gemm, view},
    op::Slopes,
    params::{ParamId, Params},
    scratch::Scratch,
    tensor::{add_rows, gradient_mut},
};

/// Rows that one task takes.
const CHUNK: usize = 64;

/// A linear layer's parameters, with their values.
pub(crate) struct Weights {
    weight: Tensor<(usize,), f32, Cpu>,
    bias: Tensor<(usize,), f32, Cpu>,
    w: Arc<Vec<f32>>,
    b: Arc<Vec<f32>>,
}

impl Weights {
    pub(crate) fn new(params: &Params, (weight, bias): (ParamId, ParamId)) -> Self {
        let (w, b) = (params[weight].shared(), params[bias].shared());
        Self { weight: params[weight].key.clone(), bias: params[bias].key.clone(), w, b }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.b.len()
    }

    pub(crate) fn inputs(&self) -> usize {
        self.w.len() / self.outputs()
    }

    /// `z Wᵀ + b`.
    pub(crate) fn apply(&self, z: &[f32], rows: usize) -> Scratch {
        let mut y = Scratch::new(rows * self.outputs());
        let w = view(&self.w, self.outputs(), self.inputs()).reversed_axes();
        par(view(z, rows, self.inputs()), w, Start::Row(&self.b), &mut y);
        y
    }

    /// `z Wᵀ`.
    pub(crate) fn project(&self, z: &[f32], rows: usize) -> Scratch {
        let mut y = Scratch::new(rows * self.outputs());
        let w = view(&self.w, self.outputs(), self.inputs()).reversed_axes();
        par_gemm(view(z, rows, self.inputs()), w, 0.0, &mut y);
        y
    }

    /// `b`, so many times.
    pub(crate) fn bias_rows(&self, rows: usize) -> Scratch {
        let mut y = Scratch::new(rows * self.outputs());
        y.chunks_exact_mut(self.outputs()).for_each(|row| row.copy_from_slice(&self.b));
        y
    }

    /// `x + z Wᵀ + b`.
    pub(crate) fn apply_beside(&self, x: &[f32], z: &[f32]) -> Scratch {
        let (outputs, rows) = (self.outputs(), x.len() / self.outputs());
        let mut y = Scratch::new(x.len());
        y.par_chunks_mut(CHUNK * outputs).zip(x.par_chunks(CHUNK * outputs)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(outputs).zip(x.chunks_exact(outputs)) {
                y.iter_mut().zip(x.iter().zip(self.b.iter())).for_each(|(y, (x, b))| *y = x + b);
            }
        });
        let w = view(&self.w, outputs, self.inputs()).reversed_axes();
        par_gemm(view(z, rows, self.inputs()), w, 1.0, &mut y);
        y
    }

    /// Adds the gradients of `W` and `b`.
    pub(crate) fn back(&self, gradients: &mut Slopes, dy: &[f32], z: &[f32]) -> Result<(), CpuError> {
        self.project_back(gradients, dy, z)?;
        self.bias_back(gradients, dy)
    }

    /// Adds the gradient of `W`.
    pub(crate) fn project_back(&self, gradients: &mut Slopes, dy: &[f32], z: &[f32]) -> Result<(), CpuError> {
        let (outputs, inputs) = (self.outputs(), self.inputs());
        let rows = dy.len() / outputs;
        let dw = gradient_mut(gradients, &self.weight)?;
        par_gemm(view(dy, rows, outputs).reversed_axes(), view(z, rows, inputs), 1.0, dw);
        Ok(())
    }

    /// Adds the gradient of `b`.
    pub(crate) fn bias_back(&self, gradients: &mut Slopes, dy: &[f32]) -> Result<(), CpuError> {
        add_rows(gradient_mut(gradients, &self.bias)?, dy);
        Ok(())
    }

    /// The gradient of `z`, which `start` may say to be added to what is there.
    pub(crate) fn by_input(&self, dy: &[f32], start: Start<'_>, dz: &mut [f32]) {
        let (outputs, inputs) = (self.outputs(), self.inputs());
        par(view(dy, dy.len() / outputs, outputs), view(&self.w, outputs, inputs), start, dz);
    }

    /// The same, alone.
    pub(crate) fn slopes(&self, dy: &[f32]) -> Scratch {
        let mut dz = Scratch::new(dy.len() / self.outputs() * self.inputs());
        self.by_input(dy, Start::Zero, &mut dz);
        dz
    }
}
