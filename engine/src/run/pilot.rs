//! A pilot: in an allocation of Slurm's it takes actions out of a queue, and runs each as a run on that machine would.

use std::{
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use restage_cache::{BEAT, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    attempt::{Attempts, Became},
    event::Event,
    lease::Leases,
};
use crate::{
    cache::Cache,
    executor::{
        ExecuteError, Executor, Local, awake, host,
        slurm::{Attempt, MARGIN, Outcome, PILOT, Pilot, Queue, Shape, Ticket},
    },
    machine::{Machine, VISIBLE},
    now,
    plugin::Failure,
};

/// How often the queue is looked at: soon at first, then seldom.
const SOON: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);

/// How long work is waited for where nobody waits for results.
const ALONE: Duration = Duration::from_secs(2);

/// How long after its stage we may hear that the allocation ends.
const HEARSAY: Duration = Duration::from_millis(500);

/// How often what stages say is written down.
const FLUSH: Duration = Duration::from_millis(200);

/// Why a pilot does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PilotError {
    /// The queue is gone, e.g. because its run has ended.
    #[error("there is no queue at {}: its run has ended, or this machine has no such folder", .0.display())]
    NoQueue(PathBuf),
    /// The queue cannot be written to.
    #[error("cannot write to the queue: {0}")]
    Queue(#[from] std::io::Error),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
}

/// What all actions of a pilot share.
struct Place {
    queue: Queue,
    shape: String,
    pilot: String,
    cache: Cache,
    executor: Arc<Executor>,
    leases: Arc<Leases>,
    cancel: watch::Receiver<bool>,
    /// When it has to stop, where that is known: later than was thought, by the time for which Slurm suspends it.
    end: Option<Mutex<Instant>>,
}

impl Place {
    /// How much time is left for work.
    fn left(&self) -> Option<Duration> {
        let end = *self.end.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// It was stopped for so long, which is no time of its own.
    fn was_stopped(&self, long: Duration) {
        say(&format!("pilot {} was stopped for {} s, and goes on", self.pilot, long.as_secs()));
        if let Some(end) = &self.end {
            *end.lock().unwrap_or_else(PoisonError::into_inner) += long;
        }
    }

    fn has_ended(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// Works until there is nothing to do, the allocation ends, or `stop` holds true.
pub(crate) async fn pilot(
    folder: PathBuf,
    shape: String,
    nonce: String,
    mut stop: watch::Receiver<bool>,
) -> Result<(), PilotError> {
    let began = Instant::now().checked_sub(late()).unwrap_or_else(Instant::now);
    let queue = Queue::at(folder.clone());
    let orders = queue.orders(&shape).ok_or(PilotError::NoQueue(folder))?;
    let store = Store::open(&orders.store)?;
    let mut pilot = Pilot {
        id: id(&nonce),
        nonce,
        host: host(),
        process: std::process::id(),
        gpus: std::env::var(VISIBLE).ok(),
        since: now(),
        ended: None,
    };
    queue.tell(&pilot)?;
    say(&format!("pilot {} on {}", pilot.id, pilot.host));
    let lasts = orders
        .shape
        .seconds
        .map(|seconds| Duration::from_secs(seconds).saturating_sub(orders.grace + MARGIN));
    let (sender, cancel) = watch::channel(false);
    let place = Arc::new(Place {
        queue: queue.clone(),
        shape: shape.clone(),
        pilot: pilot.id.clone(),
        cache: Cache { store: store.clone(), shared: None },
        executor: Arc::new(Executor::Local(Local::new(store, orders.grace))),
        leases: Arc::new(Leases::new(machine(&orders.shape))),
        cancel,
        end: lasts.map(|lasts| Mutex::new(began + lasts)),
    });
    let left = || place.left();
    let mut working = JoinSet::new();
    let (mut idle, mut beaten, mut pace, mut taken) = (Instant::now(), Instant::now(), SOON, 0_u64);
    loop {
        let is_over = *stop.borrow() || place.has_ended();
        if is_over && !sender.send_replace(true) {
            say(&format!("pilot {} stops", pilot.id));
        }
        while !is_over && working.len() < orders.shape.places {
            // What may take longer than is left here is for a fresh allocation.
            let may_begin = taken == 0 || left().is_none_or(|left| left > orders.grace * 2);
            let Some(ticket) = may_begin.then(|| queue.take(&shape, &pilot.id)).flatten() else { break };
            say(&format!("takes {}", ticket.job.name));
            (pace, taken) = (SOON, taken + 1);
            let is_fresh = taken == 1;
            working.spawn(work(place.clone(), ticket, is_fresh));
        }
        if working.is_empty() {
            let patience = if queue.is_driven(None) { orders.idle } else { orders.idle.min(ALONE) };
            let has_no_time = left().is_some_and(|left| left <= orders.grace * 2);
            if is_over || idle.elapsed() > patience || has_no_time && taken > 0 {
                break;
            }
        } else {
            idle = Instant::now();
        }
        if beaten.elapsed() > BEAT {
            beaten = Instant::now();
            queue.beat(&pilot.id);
        }
        let (meant, begun) = (pace, Instant::now());
        tokio::select! {
            _ = working.join_next(), if !working.is_empty() => pace = SOON,
            Ok(()) = stop.changed() => {}
            () = tokio::time::sleep(pace) => pace = (pace * 5 / 4).min(SELDOM),
        }
        match awake::stopped(meant, begun.elapsed()) {
            Duration::ZERO => {}
            long => place.was_stopped(long),
        }
    }
    pilot.ended = Some(now());
    queue.tell(&pilot)?;
    Ok(())
}

/// For the allocation's log. One that cannot be written is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The job's number, its place in an array, and how often Slurm has started it again.
fn id(nonce: &str) -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let job = match (variable("SLURM_ARRAY_JOB_ID"), variable("SLURM_ARRAY_TASK_ID")) {
        (Some(job), Some(place)) => format!("{job}_{place}"),
        _ => variable("SLURM_JOB_ID").unwrap_or_else(|| format!("{nonce}-{}", std::process::id())),
    };
    match variable("SLURM_RESTART_COUNT") {
        Some(count) if count != "0" => format!("{job}r{count}"),
        _ => job,
    }
}

/// How long the allocation has lasted, where Slurm tells; else it begins with us.
fn late() -> Duration {
    let began = std::env::var("SLURM_JOB_START_TIME").ok().and_then(|text| text.parse().ok());
    began.map_or(Duration::ZERO, |began: u64| {
        Duration::from_millis(now()).saturating_sub(Duration::from_secs(began))
    })
}

/// The part of the machine that the allocation is.
fn machine(shape: &Shape) -> Machine {
    let here = Machine::here();
    let given =
        given(|name| std::env::var(name).ok()).map(|given| given.saturating_sub(PILOT).max(given / 2));
    Machine {
        jobs: shape.places,
        cpus: shape.cpus,
        memory: shape.memory.or(given).unwrap_or(here.memory).min(here.memory),
        gpus: if shape.gpus > 0 { here.gpus } else { Vec::new() },
    }
}

/// Bytes that Slurm gives the allocation, where its variables tell.
fn given(variable: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |name: &str| variable(name)?.parse::<u64>().ok();
    let of_cpus = || number("SLURM_MEM_PER_CPU")?.checked_mul(number("SLURM_CPUS_ON_NODE")?);
    number("SLURM_MEM_PER_NODE").or_else(of_cpus)?.checked_mul(1 << 20).filter(|given| *given > 0)
}

/// Computes an action and says how it ended. It is fresh if it had all the time of its allocation.
async fn work(place: Arc<Place>, ticket: Ticket, is_fresh: bool) {
    let began = SystemTime::now();
    let (sender, receiver) = mpsc::channel(256);
    let writing = tokio::spawn(write_down(receiver, place.queue.events(&ticket)));
    let attempts = Attempts {
        id: 0,
        origin: ticket.origin.clone(),
        cache: place.cache.clone(),
        executor: place.executor.clone(),
        away: None,
        leases: place.leases.clone(),
        events: sender,
        cancel: place.cancel.clone(),
    };
    let mut result = attempts.fetch_or_run(ticket.job.clone(), &ticket.inputs, false).await;
    if let Err(ExecuteError::Stage(failure)) = &result
        && !failure.is_of_memory()
        && is_stopped(place.cancel.clone()).await
    {
        result = Err(ExecuteError::Stage(Failure::Cancelled));
    }
    let _ = writing.await;
    let key = ticket.job.key;
    let outcome = match result {
        Ok(Became::Ran { milliseconds, .. }) => Outcome::Done { milliseconds: Some(milliseconds) },
        Ok(Became::Joined(_) | Became::Fetched(_)) => Outcome::Done { milliseconds: None },
        Err(ExecuteError::Stage(Failure::Cancelled)) => {
            let further = place.cache.store.is_checkpointed_since(&key, began);
            // All the time that an allocation has was not enough.
            let again = further || !is_fresh || !place.has_ended();
            if let Err(error) = place.cache.store.leave_scratch(&key) {
                tracing::warn!("its checkpoint is left where it is: {error}");
            }
            Outcome::Stopped { again, further }
        }
        Err(error) => {
            let out_of_memory = matches!(&error, ExecuteError::Stage(failure) if failure.is_of_memory());
            Outcome::Failed { message: crate::causes(&error).join(": "), out_of_memory }
        }
    };
    say(&format!("ends {}: {outcome:?}", ticket.job.name));
    let attempt = Attempt { pilot: place.pilot.clone(), host: host(), ended: now(), outcome };
    if let Err(error) = place.queue.end(&ticket, &place.shape, &attempt) {
        // Its run has ended, or will find the pilot gone.
        tracing::warn!("cannot write to the queue: {error}");
    }
}

/// Whether the allocation is being ended. Slurm tells all of its processes so, in any order: what fails just before we hear
/// of it has failed for that, and if not, it fails in the next one again.
async fn is_stopped(mut cancel: watch::Receiver<bool>) -> bool {
    let stopped = tokio::time::timeout(HEARSAY, cancel.wait_for(|cancelled| *cancelled)).await;
    matches!(stopped, Ok(Ok(_)))
}

/// Writes events down, those of a moment together; of progress only where it stands then.
async fn write_down(mut events: mpsc::Receiver<Event>, path: PathBuf) {
    let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path) else { return };
    let (mut lines, mut progress, mut last) = (Vec::new(), None, Instant::now());
    loop {
        let event = tokio::time::timeout(FLUSH, events.recv()).await;
        let is_over = matches!(event, Ok(None));
        match event {
            Ok(Some(event @ Event::Progress { .. })) => progress = Some(event),
            Ok(Some(event)) => add(&mut lines, &event),
            Ok(None) | Err(_) => {}
        }
        if is_over || last.elapsed() >= FLUSH {
            if let Some(event) = progress.take() {
                add(&mut lines, &event);
            }
            // What a stage says is no part of its result.
            let _ = file.write_all(&std::mem::take(&mut lines));
            last = Instant::now();
        }
        if is_over {
            return;
        }
    }
}

fn add(lines: &mut Vec<u8>, event: &Event) {
    if let Ok(line) = serde_json::to_vec(event) {
        lines.extend(line);
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_has_the_memory_that_slurm_tells() {
        let of = |set: &[(&str, &str)]| {
            given(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("SLURM_MEM_PER_NODE", "1536")]), Some(3 << 29));
        assert_eq!(of(&[("SLURM_MEM_PER_CPU", "512"), ("SLURM_CPUS_ON_NODE", "4")]), Some(2 << 30));
        assert_eq!(of(&[("SLURM_MEM_PER_NODE", "0")]), None, "all of the node's");
        assert_eq!(of(&[]), None);
    }
}
