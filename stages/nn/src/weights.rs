//! A linear layer on slices, for ops that have one among others.

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    gemm::{par_affine, par_gemm, view},
    params::{ParamId, Params},
    scratch::Scratch,
    tensor::{self, add, add_rows, gradient_mut},
};

/// Rows that one task takes.
const CHUNK: usize = 64;

/// A linear layer's parameters, with their values.
pub(crate) struct Weights {
    weight: Tensor<(usize,), f32, Cpu>,
    bias: Tensor<(usize,), f32, Cpu>,
    w: Vec<f32>,
    b: Vec<f32>,
}

impl Weights {
    pub(crate) fn new(params: &Params, (weight, bias): (ParamId, ParamId)) -> Self {
        let (weight, bias) = (params[weight].tensor.clone(), params[bias].tensor.clone());
        let (w, b) = (tensor::values(&weight), tensor::values(&bias));
        Self { weight, bias, w, b }
    }

    fn outputs(&self) -> usize {
        self.b.len()
    }

    fn inputs(&self) -> usize {
        self.w.len() / self.outputs()
    }

    /// `z Wᵀ + b`.
    pub(crate) fn apply(&self, z: &[f32], rows: usize) -> Vec<f32> {
        let mut y = vec![0.0; rows * self.outputs()];
        let w = view(&self.w, self.outputs(), self.inputs()).reversed_axes();
        par_affine(view(z, rows, self.inputs()), w, &self.b, &mut y);
        y
    }

    /// `x + z Wᵀ + b`.
    pub(crate) fn apply_beside(&self, x: &[f32], z: &[f32]) -> Vec<f32> {
        let (outputs, rows) = (self.outputs(), x.len() / self.outputs());
        let mut y = x.to_vec();
        y.par_chunks_mut(CHUNK * outputs).for_each(|rows| {
            rows.chunks_exact_mut(outputs).for_each(|row| add(row, &self.b));
        });
        let w = view(&self.w, outputs, self.inputs()).reversed_axes();
        par_gemm(view(z, rows, self.inputs()), w, 1.0, &mut y);
        y
    }

    /// Adds the gradients of `W` and `b`; that of `z`.
    pub(crate) fn back(
        &self,
        gradients: &mut Gradients<f32, Cpu>,
        dy: &[f32],
        z: &[f32],
    ) -> Result<Scratch, CpuError> {
        let (outputs, inputs) = (self.outputs(), self.inputs());
        let rows = dy.len() / outputs;
        let dy_view = view(dy, rows, outputs);
        let dw = gradient_mut(gradients, &self.weight)?;
        par_gemm(dy_view.reversed_axes(), view(z, rows, inputs), 1.0, dw);
        add_rows(gradient_mut(gradients, &self.bias)?, dy);
        let mut dz = Scratch::new(rows * inputs);
        par_gemm(dy_view, view(&self.w, outputs, inputs), 0.0, &mut dz);
        Ok(dz)
    }
}
