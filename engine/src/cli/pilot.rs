//! `restage __pilot`: what runs in an allocation of Slurm's.

use std::{path::PathBuf, process::ExitCode};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::Failure;
use crate::run::pilot::pilot;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The folder of the queue
    queue: PathBuf,
    /// The shape of this allocation
    shape: String,
    /// Of the submission
    nonce: String,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let (stop, stopped) = watch::channel(false);
    let mut terminations = signal(SignalKind::terminate())?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminations.recv() => {}
            _ = interrupts.recv() => {}
        }
        stop.send(true)
    });
    pilot(arguments.queue, arguments.shape, arguments.nonce, stopped).await?;
    Ok(ExitCode::SUCCESS)
}
