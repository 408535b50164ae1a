//! Slurm: actions run in allocations, by *pilots* that take one after the other.
//!
//! A run puts what it wants computed into a [`queue`] in the store, and asks Slurm for as many allocations as there is work
//! for ([`steward`]). In each a pilot (`run/pilot.rs`) takes tickets, runs their stages as on any machine, publishes and records
//! the results, and says how each attempt ended.
//!
//! **What is written in the store is the truth, Slurm is a hint.** A result counts when it is recorded; a ticket is its pilot's
//! until that one says how it ended, or is known to be lost. So Slurm is asked seldom, and where it does not answer, or in words
//! that are not known here, nothing is concluded. A pilot too many finds nothing to do and leaves: what is in doubt is asked for
//! again. The run itself may die: pilots go on, and the next run of the workflow finds queue, pilots and results.

mod commands;
mod queue;
mod settings;
mod steward;

use std::{path::Path, time::Duration};

pub(crate) use queue::{Attempt, Outcome, Pilot, Queue, Ticket};
use restage_cache::Store;
pub(crate) use settings::{PILOT, Settings, Shape};
use tokio::sync::{mpsc, oneshot, watch};

use crate::executor::ExecuteError;

/// The command of a pilot.
pub(crate) const PILOT_COMMAND: &str = "__pilot";

/// How long before the end of an allocation its stages are asked to stop, besides their grace.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);

/// What is heard of an action that is computed elsewhere.
#[derive(Debug)]
pub(crate) enum Told {
    /// A line of its stage's events.
    Line(String),
    /// It is tried again, with more memory.
    Again { message: String, memory: Option<u64> },
}

/// An action that is to be computed elsewhere.
struct Request {
    ticket: Ticket,
    told: mpsc::Sender<Told>,
    answer: oneshot::Sender<Result<Option<u64>, ExecuteError>>,
}

/// Slurm, as a run uses it. Nothing is asked of it before something has to run.
pub(crate) struct Slurm {
    requests: mpsc::UnboundedSender<Request>,
    steward: tokio::task::JoinHandle<()>,
}

impl Slurm {
    /// For a run of a workflow; stages that are asked to stop have `grace` for it. What happens to allocations is told
    /// to `notices`.
    pub(crate) fn new(
        settings: Settings,
        workflow: &Path,
        store: &Store,
        grace: Duration,
        notices: mpsc::UnboundedSender<String>,
        cancel: watch::Receiver<bool>,
    ) -> Result<Self, ExecuteError> {
        let queue = Queue::of(workflow, store)?;
        let (requests, received) = mpsc::unbounded_channel();
        let steward = steward::Steward::new(settings, queue, store.clone(), grace, notices, cancel);
        Ok(Self { requests, steward: tokio::spawn(steward.serve(received)) })
    }

    /// Has an action computed, and its result recorded: how long it took, if it was not somebody else who did.
    pub(crate) async fn compute(
        &self,
        ticket: Ticket,
        told: mpsc::Sender<Told>,
    ) -> Result<Option<u64>, ExecuteError> {
        let (answer, answered) = oneshot::channel();
        let lost = || ExecuteError::Lost("what waits for Slurm has ended".into());
        self.requests.send(Request { ticket, told, answer }).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }

    /// Gives allocations back, those that were asked for and those that wait for work.
    pub(crate) async fn close(self) {
        drop(self.requests);
        let _ = self.steward.await;
    }
}
