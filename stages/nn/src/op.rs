//! Ops on slices, each with its way back. One alone, or a whole network of them, is one op on dfdx's tape: values between layers
//! are neither copied nor cleared, and their memory is used again.

use std::rc::Rc;

use dfdx::prelude::*;
use rayon::prelude::*;

use crate::{
    gemm::Start,
    resident::Dims,
    scratch::Scratch,
    tensor::{self, Source},
    wide,
};

/// Values that one task takes.
pub(crate) const CHUNK: usize = 4096;

/// Values that an op gave and others read.
pub(crate) type Shared = Rc<Scratch>;

/// What an op made of its input.
pub(crate) struct Step {
    pub(crate) values: Shared,
    pub(crate) dims: Dims,
    /// Takes the gradient of `values`, adds to those of parameters, and gives that of the input, if wanted.
    pub(crate) back: Back,
}

pub(crate) type Slopes = Gradients<f32, Cpu>;
pub(crate) type Back = Box<dyn FnOnce(Scratch, &mut Slopes, Wanted) -> Result<Option<Scratch>, CpuError>>;

/// What of the gradient of an op's input is wanted.
pub(crate) enum Wanted {
    /// Nothing: the input is data.
    Nothing,
    /// The gradient.
    Alone,
    /// Its sum with this.
    Added(Scratch),
}

impl Wanted {
    /// What is wanted, of a product that can be added to what is there.
    pub(crate) fn product(
        self,
        length: usize,
        product: impl FnOnce(&mut [f32], Start<'_>),
    ) -> Option<Scratch> {
        match self {
            Self::Nothing => None,
            Self::Alone => {
                let mut result = Scratch::new(length);
                product(&mut result, Start::Zero);
                Some(result)
            }
            Self::Added(mut sum) => {
                product(&mut sum, Start::Scaled(1.0));
                Some(sum)
            }
        }
    }

    /// What is wanted, where the gradient is there.
    pub(crate) fn of(self, gradient: Scratch) -> Option<Scratch> {
        match self {
            Self::Nothing => None,
            Self::Alone => Some(gradient),
            Self::Added(mut sum) => {
                add(&mut sum, &gradient);
                Some(sum)
            }
        }
    }
}

/// Adds values to sums.
pub(crate) fn add(sums: &mut [f32], values: &[f32]) {
    sums.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(sums, values)| {
        wide::update(sums, values, |sum, value| sum + value);
    });
}

/// Runs ops on a tensor's values, as one op on its tape.
pub(crate) fn on_tape<S: Shape, R: Shape, T: Tape<f32, Cpu>>(
    x: Tensor<S, f32, Cpu, T>,
    source: Source,
    run: impl FnOnce(Shared) -> Step,
    shape: impl FnOnce(Dims) -> R,
) -> Tensor<R, f32, Cpu, T> {
    let (x, mut tape) = x.split_tape();
    let mut input = Scratch::new(x.shape().num_elements());
    x.copy_into(&mut input);
    let Step { values, dims, back } = run(Rc::new(input));
    let y = tensor::tensor(values.to_vec(), shape(dims));
    drop(values);
    let (x, out) = (x.ghost(), y.ghost());
    tape.add_backward_op(move |gradients| {
        let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&out)?);
        let wanted = if source == Source::Op { Wanted::Alone } else { Wanted::Nothing };
        if let Some(dx) = back(dy.into(), gradients, wanted)? {
            add(gradients.get_or_alloc_mut(&x)?, &dx);
        }
        Ok(())
    });
    y.put_tape(tape)
}
