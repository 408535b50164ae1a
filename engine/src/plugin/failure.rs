//! How a stage did not finish, in the words that its user reads.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use restage_stage::abi::Status;

use super::sandbox::Sandbox;

/// How a stage did not finish, by the one to blame.
#[derive(Clone, Debug, thiserror::Error, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Failure {
    /// The stage said that it could not.
    #[error("{}", messages.join(": "))]
    Failed {
        /// The error and its causes.
        messages: Vec<String>,
    },
    /// The stage panicked: a bug in the plugin.
    #[error("the stage panicked: {}", messages.join(": "))]
    Panicked {
        /// The panic's message and place.
        messages: Vec<String>,
    },
    /// It stopped because it was asked to.
    #[error("cancelled")]
    Cancelled,
    /// It was stopped because it took too long.
    #[error("it took longer than its timeout of {}, and was stopped", humantime::format_duration(*after))]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// It took more memory than it may, and was killed.
    #[error("it took {} of memory, more than its {}, and was stopped", bytesize::ByteSize::b(*taken), bytesize::ByteSize::b(*limit))]
    OutOfMemory {
        /// Bytes that it had when it was stopped.
        taken: u64,
        /// Bytes that it may have.
        limit: u64,
    },
    /// The sandbox kept it from a file.
    #[error("it was kept from a file that it did not declare: {}. A stage reads its inputs and the files that its params \
             name, and writes its outputs and its scratch folder", messages.join(": "))]
    Undeclared {
        /// The error and its causes.
        messages: Vec<String>,
    },
    /// The host process died under it.
    #[error("the plugin's process {how} before the stage finished")]
    Died {
        /// `was killed by SIGSEGV`, `exited with status 0`.
        how: String,
        /// What killed it.
        #[serde(skip)]
        signal: Option<i32>,
    },
    /// The kernel killed its host process, for there was no more memory where it ran.
    #[error("the system killed it, for it had no more memory to give{}", seen(*taken))]
    Starved {
        /// Bytes that it was last seen with.
        taken: Option<u64>,
    },
    /// The plugin or its host broke the protocol.
    #[error("the plugin broke its contract: {message}")]
    Protocol {
        /// How.
        message: String,
    },
}

impl Failure {
    /// Whether the host may serve another task.
    pub(crate) fn host_survives(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Undeclared { .. })
    }

    /// Whether it would have needed more memory.
    pub(crate) fn is_of_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. } | Self::Starved { .. })
    }
}

fn seen(taken: Option<u64>) -> String {
    taken.map(|taken| format!(" (it was seen with {})", bytesize::ByteSize::b(taken))).unwrap_or_default()
}

/// What a stage's status means.
pub(super) fn outcome(status: u32, messages: Vec<String>, sandbox: Sandbox) -> Result<Sandbox, Failure> {
    // What the kernel says in every language, by its number in Rust.
    let is_denied =
        |message: &String| message.contains("Permission denied") || message.contains("os error 13");
    match Status::from_raw(status) {
        Some(Status::Ok) => Ok(sandbox),
        Some(Status::Failed) if sandbox.confines() && messages.iter().any(is_denied) => {
            Err(Failure::Undeclared { messages })
        }
        Some(Status::Failed) => Err(Failure::Failed { messages }),
        Some(Status::Panicked) => Err(Failure::Panicked { messages }),
        Some(Status::Cancelled) => Err(Failure::Cancelled),
        Some(Status::Unsupported) | None => {
            Err(Failure::Protocol { message: format!("status {status}: {}", messages.join(": ")) })
        }
    }
}

/// How a process ended.
pub(super) fn how_ended(status: ExitStatus) -> Failure {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    };
    Failure::Died { how, signal: status.signal() }
}

fn signal_name(signal: i32) -> String {
    use rustix::process::Signal;
    let known = [
        (Signal::SEGV, "SIGSEGV (it touched memory that is not its own)"),
        (Signal::ABORT, "SIGABRT (it aborted)"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL (by someone, or for want of memory)"),
        (Signal::TERM, "SIGTERM"),
    ];
    let name = known.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name);
    name.map_or_else(|| format!("signal {signal}"), str::to_owned)
}
