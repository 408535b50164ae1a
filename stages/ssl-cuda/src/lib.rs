//! Plugin `ssl-cuda`: the stage types of plugin `ssl`, with networks on an NVIDIA GPU. Losses, objectives, models and their files are
//! the same, in `restage-ssl-core`; a model trained by one embeds by the other.
//!
//! It builds without a CUDA toolkit, and where there is no GPU it says so and computes on the CPU.

mod gpu;
mod kernels;
mod libraries;
mod network;
#[cfg(test)]
mod pretended;
mod resident;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    panic::catch_unwind,
    sync::{Arc, Mutex, PoisonError},
};

use restage_nn::Device;
use restage_ssl_core::{Choice, EmbedParams, Export, FinetuneParams, Import, PretrainParams};
use restage_stage::{Context, Error, Ports, Result, Stage};

use gpu::{Gpu, GpuError};
use resident::Cuda;

restage_stage::export!("ssl-cuda"; Pretrain, Embed, Finetune, Export, Import);

/// The stage type `ssl-cuda/pretrain`.
struct Pretrain;

impl Stage for Pretrain {
    const NAME: &'static str = <restage_ssl_core::Pretrain as Stage>::NAME;
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = <restage_ssl_core::Pretrain as Stage>::STREAMS;
    type Params = PretrainParams;

    fn ports() -> Ports {
        restage_ssl_core::Pretrain::ports()
    }

    fn validate(params: &PretrainParams) -> Result<()> {
        restage_ssl_core::Pretrain::validate(params)
    }

    fn run(params: PretrainParams, ctx: &Context) -> Result<()> {
        let device = device(params.device)?;
        restage_ssl_core::pretrain(&params, ctx, device.as_ref().map(|cuda| cuda as &dyn Device))
    }
}

/// The stage type `ssl-cuda/embed`.
struct Embed;

impl Stage for Embed {
    const NAME: &'static str = <restage_ssl_core::Embed as Stage>::NAME;
    type Params = EmbedParams;

    fn ports() -> Ports {
        restage_ssl_core::Embed::ports()
    }

    fn run(params: EmbedParams, ctx: &Context) -> Result<()> {
        let device = device(params.device)?;
        restage_ssl_core::embed(ctx, device.as_ref().map(|cuda| cuda as &dyn Device))
    }
}

/// The stage type `ssl-cuda/finetune`.
struct Finetune;

impl Stage for Finetune {
    const NAME: &'static str = <restage_ssl_core::Finetune as Stage>::NAME;
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = <restage_ssl_core::Finetune as Stage>::STREAMS;
    type Params = FinetuneParams;

    fn ports() -> Ports {
        restage_ssl_core::Finetune::ports()
    }

    fn validate(params: &FinetuneParams) -> Result<()> {
        restage_ssl_core::Finetune::validate(params)
    }

    fn run(params: FinetuneParams, ctx: &Context) -> Result<()> {
        let device = device(params.device)?;
        restage_ssl_core::finetune(&params, ctx, device.as_ref().map(|cuda| cuda as &dyn Device))
    }
}

/// The GPU of this number, for measurements.
///
/// # Errors
/// A sentence about what it lacks.
#[doc(hidden)]
pub fn cuda(number: usize) -> std::result::Result<impl Device, String> {
    open(number).map(Cuda::new).map_err(|error| error.to_string())
}

/// Compiles the kernels, for the test that they compile, which needs no card.
///
/// # Errors
/// That there is no compiler, or what it says.
#[doc(hidden)]
pub fn compile_kernels() -> std::result::Result<std::result::Result<(), String>, impl std::fmt::Display> {
    libraries::load_compiler().map(|()| kernels::compile().map(drop).map_err(|error| format!("{error:?}")))
}

/// The chosen device; nothing is the CPU.
fn device(choice: Choice) -> Result<Option<Cuda>> {
    match choice {
        Choice::Cpu => Ok(None),
        Choice::Cuda(number) => match open(number) {
            Ok(gpu) => Ok(Some(Cuda::new(gpu))),
            Err(error) => Err(Error::invalid(format!("`device: {choice}`: {error}"))),
        },
        Choice::Auto => match open(0) {
            Ok(gpu) => {
                tracing::info!("computes on {}", gpu.name());
                Ok(Some(Cuda::new(gpu)))
            }
            Err(error) => {
                tracing::warn!("computes on the CPU: {error}");
                Ok(None)
            }
        },
    }
}

/// Opens a GPU, or finds it open: a host runs many actions, and a context takes a second.
fn open(number: usize) -> std::result::Result<Arc<Gpu>, GpuError> {
    static OPEN: Mutex<Option<HashMap<usize, Arc<Gpu>>>> = Mutex::new(None);
    let mut gpus = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let gpus = gpus.get_or_insert_default();
    if let Some(gpu) = gpus.get(&number) {
        return Ok(gpu.clone());
    }
    // Bindings panic where a library lacks a function: then it is too old for us.
    let gpu = catch_unwind(|| Gpu::open(number)).unwrap_or(Err(GpuError::TooOld))?;
    let gpu = Arc::new(gpu);
    gpus.insert(number, gpu.clone());
    Ok(gpu)
}
