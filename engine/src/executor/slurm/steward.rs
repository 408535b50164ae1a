//! What a run does about its queue: puts tickets in, hears how attempts ended. What it does about Slurm is in
//! [`allocations`].

mod allocations;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{Read, Seek, SeekFrom},
    time::{Duration, Instant},
};

use restage_cache::{ActionKey, BEAT, Lookup, Store};
use tokio::sync::{mpsc, oneshot, watch};

use allocations::FIRST_PAUSE;

use super::{
    Outcome, Request, Told,
    commands::{Cancelling, Seen},
    queue::{Content, Orders, Pilots, Queue, STALE, Submission, Ticket},
    settings::{Settings, Shape},
};
use crate::{executor::ExecuteError, now, plugin::Failure};

/// How often the queue is looked at: soon while something happens, then seldom.
const SOON: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(2);
/// How often it is tried to remove the queue.
const REMOVALS: usize = 10;

/// How often pilots are looked at.
const PILOTS: Duration = Duration::from_secs(1);

/// How often in a row an action may be lost with its allocation.
const MOST_LOST: u32 = 3;

/// How often an action may get a larger allocation: Slurm refuses one that no node has, if it is asked for it.
const MOST_LARGER: u32 = 10;

/// How often a ticket is looked for that is nowhere, before it is put in again.
const NOWHERE: u32 = 5;

/// The run's side of a queue.
pub(super) struct Steward {
    settings: Settings,
    queue: Queue,
    store: Store,
    grace: Duration,
    notices: mpsc::UnboundedSender<String>,
    cancel: watch::Receiver<bool>,
    /// This run's name among those that wait.
    name: String,
    count: u64,
    wanted: HashMap<ActionKey, Wanted>,
    submissions: HashMap<String, Submitted>,
    /// Shapes whose tickets wait, with what is known of asking for allocations of them.
    shapes: HashMap<String, Asking>,
    /// What Slurm said last, by job and place in its array.
    seen: HashMap<String, Seen>,
    /// Pilots as they were found last, and when.
    pilots: Option<(Instant, Pilots)>,
    /// In how many clean answers in a row a pilot's job was missing.
    missing: HashMap<String, u32>,
    looked: Option<Instant>,
    /// What Slurm says of jobs that was told already.
    odd: HashSet<String>,
    is_away: bool,
    most_in_array: Option<usize>,
}

/// An action that this run waits for.
struct Wanted {
    ticket: Ticket,
    shape: String,
    memory: Option<u64>,
    told: mpsc::Sender<Told>,
    answer: oneshot::Sender<Result<Option<u64>, ExecuteError>>,
    /// How much of its events was read.
    read: u64,
    nowhere: u32,
    lost: u32,
    /// How often it got a larger allocation.
    larger: u32,
}

/// Allocations that were asked for.
struct Submitted {
    submission: Submission,
    /// In how many clean answers in a row the job was missing.
    missing: u32,
}

/// Asking for allocations of one shape.
struct Asking {
    shape: Shape,
    since: Instant,
    not_before: Option<Instant>,
    pause: Duration,
    /// How many a submission may have, by what Slurm has taken so far.
    most: usize,
    /// Ended without ever having begun to work.
    stillborn: HashSet<String>,
}

impl Steward {
    pub(super) fn new(
        settings: Settings,
        queue: Queue,
        store: Store,
        grace: Duration,
        notices: mpsc::UnboundedSender<String>,
        cancel: watch::Receiver<bool>,
    ) -> Self {
        Self {
            settings,
            queue,
            store,
            grace,
            notices,
            cancel,
            name: format!("{:x}-{:x}", now(), std::process::id()),
            count: 0,
            wanted: HashMap::new(),
            submissions: HashMap::new(),
            shapes: HashMap::new(),
            seen: HashMap::new(),
            pilots: None,
            missing: HashMap::new(),
            looked: None,
            odd: HashSet::new(),
            is_away: false,
            most_in_array: None,
        }
    }

    /// Serves a run until it wants nothing more.
    pub(super) async fn serve(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let Some(first) = requests.recv().await else { return };
        if let Err(error) = self.open().await {
            let message = format!("cannot use the queue {}: {error}", self.queue.folder().display());
            let _ = first.answer.send(Err(ExecuteError::Elsewhere { message }));
            return;
        }
        let mut pace = SOON;
        let mut beaten = Instant::now();
        let mut cancel = self.cancel.clone();
        self.want_all(first, &mut requests).await;
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => {
                        self.want_all(request, &mut requests).await;
                        pace = SOON;
                        continue;
                    }
                    None => break,
                },
                () = cancelled(&mut cancel) => {
                    self.withdraw().await;
                    break;
                }
                () = tokio::time::sleep(pace) => {}
            }
            if beaten.elapsed() > BEAT {
                beaten = Instant::now();
                if self.queue.drive(&self.name).is_err() {
                    self.restore();
                }
            }
            let content = self.content().await;
            let happened = self.hear(&content).await;
            self.look(&content).await;
            self.ask(&content).await;
            pace = if happened { SOON } else { (pace * 5 / 4).min(SELDOM) };
        }
        self.close().await;
        // Who asks now is told that it is over.
        requests.close();
        while let Some(request) = requests.recv().await {
            let _ = request.answer.send(Err(ExecuteError::Stage(Failure::Cancelled)));
        }
    }

    /// Comes to the queue, which an earlier run may have left with pilots at work.
    async fn open(&mut self) -> std::io::Result<()> {
        self.queue.create()?;
        let is_driven = self.queue.is_driven(Some(&self.name));
        self.queue.drive(&self.name)?;
        if !is_driven {
            // What is wanted still will be put in again; nobody knows of the rest.
            self.queue.take_back(None);
            self.queue.keep_nothing();
        }
        self.learn(|_| true);
        if !self.submissions.is_empty() {
            let content = self.content().await;
            self.look(&content).await;
            let working =
                content.pilots.values().filter(|(pilot, age)| pilot.ended.is_none() && *age < STALE);
            match working.count() {
                0 => {}
                1 => self.notice("an allocation of an earlier run goes on".into()),
                count => self.notice(format!("{count} allocations of an earlier run go on")),
            }
        }
        Ok(())
    }

    /// Learns what other runs have asked for, as far as it is to be believed.
    fn learn(&mut self, is_meant: fn(&Submission) -> bool) {
        for submission in self.queue.submissions().into_iter().filter(is_meant) {
            let nonce = submission.nonce.clone();
            self.submissions.entry(nonce).or_insert(Submitted { submission, missing: 0 });
        }
    }

    fn notice(&self, message: String) {
        let _ = self.notices.send(format!("slurm: {message}"));
    }

    fn nonce(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.name, self.count)
    }

    /// What is in the queue. Pilots have a file each, and are looked at more seldom than folders.
    async fn content(&mut self) -> Content {
        let (queue, is_time) =
            (self.queue.clone(), self.pilots.as_ref().is_none_or(|(at, _)| at.elapsed() >= PILOTS));
        let look = move || (queue.content(), is_time.then(|| queue.pilots()));
        let (mut content, pilots) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        if let Some(pilots) = pilots {
            self.pilots = Some((Instant::now(), pilots));
        }
        content.pilots = self.pilots.as_ref().map(|(_, pilots)| pilots.clone()).unwrap_or_default();
        content
    }

    /// Takes in what is asked for together.
    async fn want_all(&mut self, first: Request, more: &mut mpsc::UnboundedReceiver<Request>) {
        let content = self.content().await;
        self.want(first, &content);
        while let Ok(request) = more.try_recv() {
            self.want(request, &content);
        }
    }

    /// Takes an action in: one that is in the queue already is joined.
    fn want(&mut self, request: Request, content: &Content) {
        let Request { mut ticket, told, answer } = request;
        let key = ticket.job.key;
        let shape = self.settings.shape(&ticket.job.execution, None);
        let there = self.queue.ticket(&key, content).filter(|_| !ticket.job.anew);
        let is_there = there.is_some();
        match there {
            Some(there) => ticket = there,
            None => ticket.nonce = self.nonce(),
        }
        let name = self.know(shape);
        let wanted = Wanted {
            ticket,
            shape: name,
            memory: None,
            told,
            answer,
            read: 0,
            nowhere: 0,
            lost: 0,
            larger: 0,
        };
        self.wanted.insert(key, wanted);
        if !is_there {
            self.put(&key);
        }
    }

    /// Makes a shape known to pilots; its name.
    fn know(&mut self, shape: Shape) -> String {
        let name = shape.name();
        if !self.shapes.contains_key(&name) {
            self.order(&shape);
        }
        let asking = Asking {
            shape,
            since: Instant::now(),
            not_before: None,
            pause: FIRST_PAUSE,
            most: usize::MAX,
            stillborn: HashSet::new(),
        };
        self.shapes.entry(name.clone()).or_insert(asking).since = Instant::now();
        name
    }

    fn order(&self, shape: &Shape) {
        let orders = Orders {
            store: self.store.root().to_owned(),
            shape: shape.clone(),
            grace: self.grace,
            idle: self.settings.idle(),
        };
        if let Err(error) = self.queue.order(&orders) {
            self.notice(format!("cannot write to the queue: {error}"));
        }
    }

    fn put(&mut self, key: &ActionKey) {
        let Some(wanted) = self.wanted.get_mut(key) else { return };
        (wanted.read, wanted.nowhere) = (0, 0);
        if let Err(error) = self.queue.put(&wanted.ticket, &wanted.shape) {
            // It is nowhere then, and is put in again after a while.
            tracing::warn!("cannot write to the queue: {error}");
            self.restore();
        }
    }

    /// Makes the queue again, which another run took for its own as it left.
    fn restore(&self) {
        let made = self.queue.create().and_then(|()| self.queue.drive(&self.name));
        if made.is_ok() {
            self.shapes.values().for_each(|asking| self.order(&asking.shape));
        }
    }

    /// Hears what happened to what is wanted; whether anything did.
    async fn hear(&mut self, content: &Content) -> bool {
        let mut happened = false;
        let keys: Vec<ActionKey> = self.wanted.keys().copied().collect();
        for key in keys {
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            let has_ended = content.has_ended(&wanted.ticket);
            if has_ended || content.running.contains_key(&key) {
                happened |= wanted.read_events(&self.queue).await;
            }
            if has_ended {
                happened |= self.conclude(&key);
            } else if let Some(shape) = content.waiting.get(&key) {
                wanted.nowhere = 0;
                if !self.shapes.contains_key(shape) {
                    // An allocation of an earlier run put it back, which had other settings: nobody asks for one like that.
                    self.queue.take_back(Some(&BTreeSet::from([key])));
                    self.put(&key);
                }
            } else if content.running.contains_key(&key) {
                wanted.nowhere = 0;
            } else {
                wanted.nowhere += 1;
                if wanted.nowhere >= NOWHERE {
                    self.look_for(&key);
                }
            }
        }
        happened
    }

    /// An attempt has ended: so has the action, or it goes on.
    fn conclude(&mut self, key: &ActionKey) -> bool {
        let Some(wanted) = self.wanted.get_mut(key) else { return false };
        // It is there, and can be read the next time.
        let Some(attempt) = self.queue.attempt(&wanted.ticket) else { return false };
        match attempt.outcome {
            Outcome::Done { milliseconds } => self.answer(key, Ok(milliseconds)),
            Outcome::Failed { message, out_of_memory } => {
                let message = format!("{message} ({})", self.place(&attempt.pilot));
                if out_of_memory {
                    self.more_memory(key, message);
                } else {
                    self.answer(key, Err(ExecuteError::Elsewhere { message }));
                }
            }
            Outcome::Stopped { again: true, further } => {
                let name = wanted.ticket.job.name.clone();
                wanted.ticket.round += 1;
                (wanted.read, wanted.nowhere) = (0, 0);
                wanted.lost = if further { 0 } else { wanted.lost + 1 };
                if wanted.lost >= MOST_LOST {
                    let message = format!(
                        "allocations ended before it {MOST_LOST} times, and it left no checkpoint ({})",
                        self.place(&attempt.pilot)
                    );
                    self.queue.take_back(Some(&BTreeSet::from([*key])));
                    self.answer(key, Err(ExecuteError::Elsewhere { message }));
                } else {
                    self.notice(format!("allocation {} ends; {name} goes on in another", attempt.pilot));
                }
            }
            Outcome::Stopped { again: false, .. } => {
                let message = format!(
                    "its allocation ended before it, and it left no checkpoint to go on from: give its profile more \
                     time, or keep checkpoints in its scratch folder ({})",
                    self.place(&attempt.pilot)
                );
                self.answer(key, Err(ExecuteError::Elsewhere { message }));
            }
        }
        true
    }

    /// Where an attempt failed, for people; its log is kept.
    fn place(&self, pilot: &str) -> String {
        self.queue.keep(pilot);
        format!("allocation {pilot}, its log: {}", self.queue.log(pilot).display())
    }

    fn answer(&mut self, key: &ActionKey, result: Result<Option<u64>, ExecuteError>) {
        if let Some(wanted) = self.wanted.remove(key) {
            let _ = wanted.answer.send(result);
        }
    }

    /// It took more than it may: it gets a larger allocation, where its stage says that it should.
    fn more_memory(&mut self, key: &ActionKey, message: String) {
        let Some(wanted) = self.wanted.get(key) else { return };
        let execution = wanted.ticket.job.execution.clone();
        let had = wanted.memory.or(execution.memory);
        let (Some(had), Some(factor)) = (had, execution.more_memory) else {
            return self.answer(key, Err(ExecuteError::Elsewhere { message }));
        };
        if wanted.larger >= MOST_LARGER {
            let message = format!(
                "{message}; it was asked for with more memory {MOST_LARGER} times: does the site give all jobs the same?"
            );
            return self.answer(key, Err(ExecuteError::Elsewhere { message }));
        }
        let more = had.saturating_mul(factor.into());
        let shape = self.settings.shape(&execution, Some(more));
        let (shape, nonce) = (self.know(shape), self.nonce());
        if let Some(wanted) = self.wanted.get_mut(key) {
            (wanted.memory, wanted.larger) = (Some(more), wanted.larger + 1);
            wanted.shape = shape;
            wanted.ticket.nonce = nonce;
            wanted.ticket.job.execution.memory = Some(more);
            let _ = wanted.told.try_send(Told::Again { message, memory: Some(more) });
        }
        self.put(key);
    }

    /// A ticket that is nowhere: its result may be there all the same.
    fn look_for(&mut self, key: &ActionKey) {
        match self.store.outputs(key) {
            Ok(Lookup::Hit(_)) if !self.wanted.get(key).is_some_and(|wanted| wanted.ticket.job.anew) => {
                self.answer(key, Ok(None));
            }
            _ => self.put(key),
        }
    }

    /// The run is interrupted: what waits is taken back, what runs is asked to stop, and what does not is ended.
    async fn withdraw(&mut self) {
        let keys: BTreeSet<ActionKey> = self.wanted.keys().copied().collect();
        self.queue.take_back(Some(&keys));
        for how in [Cancelling::Waiting, Cancelling::Asked] {
            if let Err(message) = self.cancel(how).await {
                self.notice(format!("jobs cannot be cancelled ({message}): `scancel --me` does it later"));
            }
        }
        let last = Instant::now() + self.grace + super::MARGIN;
        while Instant::now() < last {
            let content = self.content().await;
            if !content.running.keys().any(|key| keys.contains(key)) {
                break;
            }
            tokio::time::sleep(SOON).await;
        }
        // Pilots put back what they stopped.
        self.queue.take_back(Some(&keys));
        for key in keys {
            self.answer(&key, Err(ExecuteError::Stage(Failure::Cancelled)));
        }
    }

    /// Leaves the queue; who leaves it last gives all allocations back.
    async fn close(&mut self) {
        self.queue.leave(&self.name);
        if self.queue.is_driven(None) {
            return;
        }
        let _ = self.cancel(Cancelling::All).await;
        for _ in 0..REMOVALS {
            // Slurm may have taken its time for that, and another run has come meanwhile. What an allocation writes as it is ended
            // keeps a folder from being removed.
            if self.queue.is_driven(None) || self.queue.remove().is_ok() {
                return;
            }
            tokio::time::sleep(SOON).await;
        }
    }
}

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        // Nobody can cancel it any more.
        std::future::pending::<()>().await;
    }
}

impl Wanted {
    /// Passes on what its stage said since; whether it said anything.
    async fn read_events(&mut self, queue: &Queue) -> bool {
        let Ok(mut file) = std::fs::File::open(queue.events(&self.ticket)) else { return false };
        let mut text = Vec::new();
        let read = file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut text));
        if read.is_err() {
            return false;
        }
        // A line that is being written is read the next time.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        text.truncate(whole);
        self.read += whole as u64;
        for line in String::from_utf8_lossy(&text).lines() {
            let _ = self.told.send(Told::Line(line.to_owned())).await;
        }
        whole > 0
    }
}
