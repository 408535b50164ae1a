//! What a run does about its queue: puts tickets in, asks Slurm for allocations, hears how attempts ended, and what was lost.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{Read, Seek, SeekFrom},
    time::{Duration, Instant},
};

use restage_cache::{ActionKey, Lookup, Store};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Outcome, Request, Told,
    commands::{self, Cancelling, Fate, Order, Refused, Seen, fate},
    queue::{Content, Orders, Queue, STALE, Submission, Ticket, job_of},
    settings::{Settings, Shape},
};
use crate::{executor::ExecuteError, now, plugin::Failure};

/// How often the queue is looked at: soon while something happens, then seldom.
const SOON: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(2);

/// How long it is gathered what to ask for: a sweep comes as one array.
const GATHER: Duration = Duration::from_millis(60);

/// How often a run says that it waits.
const BEAT: Duration = Duration::from_secs(15);

/// How often in a row an action may be lost with its allocation.
const MOST_LOST: u32 = 3;

/// How many allocations may end before they begin to work, when none ever did.
const MOST_STILLBORN: usize = 3;

/// In how many clean answers a job has to be missing before it is believed to be gone.
const MISSING: u32 = 2;

/// How often a ticket is looked for that is nowhere, before it is put in again.
const NOWHERE: u32 = 5;

/// How long a submission that was refused for now waits.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
    /// In how many clean answers in a row a pilot's job was missing.
    missing: HashMap<String, u32>,
    looked: Option<Instant>,
    odd_states: HashSet<String>,
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
            missing: HashMap::new(),
            looked: None,
            odd_states: HashSet::new(),
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
                let _ = self.queue.drive(&self.name);
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
        }
        for submission in self.queue.submissions() {
            self.submissions.insert(submission.nonce.clone(), Submitted { submission, missing: 0 });
        }
        if !self.submissions.is_empty() {
            let content = self.content().await;
            self.look(&content).await;
            let working =
                content.pilots.values().filter(|(pilot, age)| pilot.ended.is_none() && *age < STALE);
            match working.count() {
                0 => {}
                count => self.notice(format!("{count} allocations of an earlier run go on")),
            }
        }
        Ok(())
    }

    fn notice(&self, message: String) {
        let _ = self.notices.send(format!("slurm: {message}"));
    }

    fn nonce(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.name, self.count)
    }

    async fn content(&self) -> Content {
        let queue = self.queue.clone();
        tokio::task::spawn_blocking(move || queue.content()).await.unwrap_or_default()
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
        let wanted = Wanted { ticket, shape: name, memory: None, told, answer, read: 0, nowhere: 0, lost: 0 };
        self.wanted.insert(key, wanted);
        if !is_there {
            self.put(&key);
        }
    }

    /// Makes a shape known to pilots; its name.
    fn know(&mut self, shape: Shape) -> String {
        let name = shape.name();
        if !self.shapes.contains_key(&name) {
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
        let asking = Asking {
            shape,
            since: Instant::now(),
            not_before: None,
            pause: FIRST_PAUSE,
            stillborn: HashSet::new(),
        };
        self.shapes.entry(name.clone()).or_insert(asking).since = Instant::now();
        name
    }

    fn put(&mut self, key: &ActionKey) {
        let Some(wanted) = self.wanted.get_mut(key) else { return };
        (wanted.read, wanted.nowhere) = (0, 0);
        if let Err(error) = self.queue.put(&wanted.ticket, &wanted.shape) {
            // It is nowhere then, and is put in again after a while.
            tracing::warn!("cannot write to the queue: {error}");
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
            } else if content.running.contains_key(&key) || content.waiting.contains_key(&key) {
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
            Outcome::Failed { message, out_of_memory: true } => self.more_memory(key, message),
            Outcome::Failed { message, .. } => self.answer(key, Err(ExecuteError::Elsewhere { message })),
            Outcome::Stopped { again: true, further } => {
                let name = wanted.ticket.job.name.clone();
                wanted.ticket.round += 1;
                (wanted.read, wanted.nowhere) = (0, 0);
                wanted.lost = if further { 0 } else { wanted.lost + 1 };
                if wanted.lost >= MOST_LOST {
                    let message =
                        format!("allocations ended before it {MOST_LOST} times, and it left no checkpoint");
                    self.queue.take_back(Some(&BTreeSet::from([*key])));
                    self.answer(key, Err(ExecuteError::Elsewhere { message }));
                } else {
                    self.notice(format!("allocation {} ends; {name} goes on in another", attempt.pilot));
                }
            }
            Outcome::Stopped { again: false, .. } => {
                let message = format!(
                    "allocation {} ended before it, and it left no checkpoint to go on from: give its profile more \
                     time, or keep checkpoints in its scratch folder",
                    attempt.pilot
                );
                self.answer(key, Err(ExecuteError::Elsewhere { message }));
            }
        }
        true
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
        let more = had.saturating_mul(factor.into());
        let shape = self.settings.shape(&execution, Some(more));
        let (shape, nonce) = (self.know(shape), self.nonce());
        if let Some(wanted) = self.wanted.get_mut(key) {
            wanted.memory = Some(more);
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

    /// Asks Slurm how the jobs stand, if it is time; and draws conclusions, where there are any.
    async fn look(&mut self, content: &Content) {
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= self.settings.look());
        if !is_time || self.submissions.is_empty() {
            return;
        }
        // What was submitted just now is not missed yet.
        let begun = now();
        self.looked = Some(Instant::now());
        let mut cancel = self.cancel.clone();
        let jobs = tokio::select! {
            jobs = commands::jobs() => jobs,
            () = cancelled(&mut cancel) => return,
        };
        let jobs = match jobs {
            Ok(jobs) => jobs,
            Err(message) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    self.notice(format!("cannot be asked how jobs stand; waiting ({message})"));
                }
                return;
            }
        };
        if std::mem::take(&mut self.is_away) {
            self.notice("answers again".into());
        }
        self.seen = jobs.into_iter().map(|seen| (seen.id.clone(), seen)).collect();
        self.recognise(begun);
        self.count_stillborn(content);
        self.find_lost(content);
    }

    /// Finds submissions in Slurm's answer, those too whose number was never heard.
    fn recognise(&mut self, begun: u64) {
        let mut there: HashMap<&str, u64> = HashMap::new();
        for seen in self.seen.values() {
            let number = seen.id.split('_').next().and_then(|id| id.parse().ok());
            if let Some(number) = number {
                there.insert(&seen.nonce, number);
            }
            if fate(&seen.state) == Fate::Unknown && self.odd_states.insert(seen.state.clone()) {
                let _ = self.notices.send(format!(
                    "slurm: job {} is in the state {}, which is not known here: it is waited for",
                    seen.id, seen.state
                ));
            }
        }
        for submitted in self.submissions.values_mut().filter(|submitted| submitted.submission.at < begun) {
            match there.get(&*submitted.submission.nonce) {
                Some(number) => {
                    submitted.missing = 0;
                    if submitted.submission.job.replace(*number) != Some(*number) {
                        let _ = self.queue.note(&submitted.submission);
                    }
                }
                None => submitted.missing += 1,
            }
        }
    }

    /// Allocations that ended before anything in them began to work: of those that never work there is no end.
    fn count_stillborn(&mut self, content: &Content) {
        let begun: HashSet<&str> = content.pilots.values().map(|(pilot, _)| job_of(&pilot.id)).collect();
        let mut failing = Vec::new();
        for (name, asking) in &mut self.shapes {
            let ours = |seen: &&Seen| {
                let of_shape = |submitted: &Submitted| submitted.submission.shape == *name;
                self.submissions.get(&seen.nonce).is_some_and(of_shape)
            };
            let is_stillborn = |seen: &&Seen| {
                matches!(&*seen.state, "FAILED" | "LAUNCH_FAILED" | "OUT_OF_MEMORY" | "COMPLETED" | "TIMEOUT")
            };
            let never_began = |seen: &&Seen| !begun.contains(&*seen.id);
            for seen in self.seen.values().filter(ours).filter(is_stillborn).filter(never_began) {
                asking.stillborn.insert(seen.id.clone());
            }
            let has_begun = content.pilots.values().any(|(pilot, _)| {
                self.submissions
                    .get(&pilot.nonce)
                    .is_some_and(|submitted| submitted.submission.shape == *name)
            });
            if asking.stillborn.len() >= MOST_STILLBORN && !has_begun {
                failing.push((name.clone(), asking.stillborn.iter().max().cloned().unwrap_or_default()));
            }
        }
        for (shape, job) in failing {
            let said = self.queue.last_lines(&job).unwrap_or_else(|| "nothing".into());
            let message = format!("allocations end before they begin to work; the log of {job} says: {said}");
            self.fail_all(&shape, &message);
        }
    }

    fn fail_all(&mut self, shape: &str, message: &str) {
        let of_shape = |(key, wanted): (&ActionKey, &Wanted)| (wanted.shape == shape).then_some(*key);
        let keys: BTreeSet<ActionKey> = self.wanted.iter().filter_map(of_shape).collect();
        self.queue.take_back(Some(&keys));
        for key in keys {
            self.answer(&key, Err(ExecuteError::Elsewhere { message: message.to_owned() }));
        }
    }

    /// Tickets of pilots that are gone are put in again.
    fn find_lost(&mut self, content: &Content) {
        let mut lost = Vec::new();
        for (key, pilot) in &content.running {
            let Some(wanted) = self.wanted.get(key) else { continue };
            // It may have ended between the two looks.
            if self.queue.attempt(&wanted.ticket).is_some() {
                continue;
            }
            let beaten = content.pilots.get(pilot);
            let is_stale = beaten.is_none_or(|(_, age)| *age > STALE);
            let state = self.seen.get(job_of(pilot)).map(|seen| seen.state.as_str());
            // Started again by Slurm, it is another pilot: the one before is no more.
            let is_replaced = content.pilots.values().any(|(other, _)| {
                other.id != *pilot
                    && job_of(&other.id) == job_of(pilot)
                    && beaten.is_none_or(|(pilot, _)| pilot.since < other.since)
            });
            let why = match state {
                _ if is_replaced => Some("was started again".to_owned()),
                Some(state) if fate(state) == Fate::Over => Some(format!("ended ({state})")),
                Some(_) => None,
                None => {
                    let missing = self.missing.entry(pilot.clone()).or_default();
                    *missing += 1;
                    (*missing >= MISSING && is_stale).then(|| "is gone".to_owned())
                }
            };
            if let Some(why) = why {
                lost.push((*key, pilot.clone(), why));
            }
        }
        for (key, pilot, why) in lost {
            self.lost(&key, &pilot, &why);
        }
    }

    fn lost(&mut self, key: &ActionKey, pilot: &str, why: &str) {
        let taken = self.queue.take_from(key, pilot);
        let said =
            self.queue.last_lines(pilot).map(|said| format!("; its log says: {said}")).unwrap_or_default();
        let Some(wanted) = self.wanted.get_mut(key) else { return };
        wanted.lost += 1;
        let message = format!("its allocation {pilot} {why}{said}");
        if why.contains("OUT_OF_MEMORY") {
            return self.more_memory(key, message);
        }
        if wanted.lost >= MOST_LOST {
            return self.answer(key, Err(ExecuteError::Elsewhere { message }));
        }
        wanted.ticket.round = taken.map_or(wanted.ticket.round, |taken| taken.round) + 1;
        let name = wanted.ticket.job.name.clone();
        self.notice(format!("allocation {pilot} {why}; {name} goes to another{said}"));
        self.put(key);
    }

    /// Asks for as many allocations as there is work for.
    async fn ask(&mut self, content: &Content) {
        let mut live = 0;
        let mut free: HashMap<String, usize> = HashMap::new();
        let mut begun: HashMap<&str, usize> = HashMap::new();
        for (pilot, age) in content.pilots.values() {
            *begun.entry(&pilot.nonce).or_default() += 1;
            let over = self.seen.get(job_of(&pilot.id)).is_some_and(|seen| fate(&seen.state) == Fate::Over);
            if pilot.ended.is_some() || over || *age > STALE {
                continue;
            }
            live += 1;
            let at_work = content.running.values().filter(|other| **other == pilot.id).count();
            if let Some(submitted) = self.submissions.get(&pilot.nonce) {
                let shape = &submitted.submission.shape;
                let places = self.shapes.get(shape).map_or(1, |asking| asking.shape.places);
                *free.entry(shape.clone()).or_default() += places.saturating_sub(at_work);
            }
        }
        for submitted in self.submissions.values() {
            let Submission { nonce, shape, count, job, .. } = &submitted.submission;
            let is_gone = submitted.missing >= if job.is_some() { 1 } else { MISSING };
            let over = self
                .seen
                .values()
                .filter(|seen| seen.nonce == *nonce && fate(&seen.state) == Fate::Over)
                .filter(|seen| !content.pilots.values().any(|(pilot, _)| job_of(&pilot.id) == seen.id))
                .count();
            let began = begun.get(&**nonce).copied().unwrap_or(0);
            let pending = if is_gone { 0 } else { count.saturating_sub(began + over) };
            live += pending;
            let places = self.shapes.get(shape).map_or(1, |asking| asking.shape.places);
            *free.entry(shape.clone()).or_default() += pending * places;
        }
        let names: Vec<String> = self.shapes.keys().cloned().collect();
        for name in names {
            let Some(asking) = self.shapes.get(&name) else { continue };
            let waits = content.waiting.values().filter(|shape| **shape == name).count();
            let lacking = waits.saturating_sub(free.get(&name).copied().unwrap_or(0));
            let count =
                lacking.div_ceil(asking.shape.places).min(self.settings.at_most().saturating_sub(live));
            let is_time = asking.since.elapsed() >= GATHER
                && asking.not_before.is_none_or(|not_before| Instant::now() >= not_before);
            if count > 0 && is_time {
                live += self.submit(&name, count).await;
            }
        }
    }

    /// Asks for allocations of a shape; how many there may be now.
    async fn submit(&mut self, name: &str, count: usize) -> usize {
        let Some(asking) = self.shapes.get(name) else { return 0 };
        let shape = asking.shape.clone();
        let most = match self.most_in_array {
            Some(most) => most,
            None if count == 1 => 1,
            None => *self.most_in_array.insert(commands::most_in_array().await),
        };
        let count = count.min(most);
        let submission =
            Submission { nonce: self.nonce(), shape: name.to_owned(), count, at: now(), job: None };
        // Noted before it is asked for: should the answer be lost, the job can be found.
        if let Err(error) = self.queue.note(&submission) {
            self.notice(format!("cannot write to the queue: {error}"));
            return 0;
        }
        let profile = self.settings.profile(&shape);
        let script = self.script(name, &submission.nonce);
        let order = Order {
            settings: &self.settings,
            profile: &profile,
            shape: &shape,
            nonce: &submission.nonce,
            count,
            at_once: self.settings.at_most(),
            logs: &self.queue.logs(),
            script: &script,
            notice: self.grace + super::MARGIN,
        };
        let mut cancel = self.cancel.clone();
        let answer = tokio::select! {
            answer = commands::submit(&order) => answer,
            // Nobody waits for a controller that is away.
            () = cancelled(&mut cancel) => Err(Refused::NotNow("interrupted".into())),
        };
        let mut submitted = Submitted { submission, missing: 0 };
        match answer {
            Ok(job) => {
                submitted.submission.job = Some(job);
                let _ = self.queue.note(&submitted.submission);
                let place = profile.partition.map(|name| format!(" in partition {name}")).unwrap_or_default();
                let many = if count == 1 { "an allocation".into() } else { format!("{count} allocations") };
                self.notice(format!("asked for {many}{place}: job {job}"));
                if let Some(asking) = self.shapes.get_mut(name) {
                    (asking.not_before, asking.pause) = (None, FIRST_PAUSE);
                }
            }
            Err(Refused::Never(message)) => {
                submitted.submission.count = 0;
                self.fail_all(name, &format!("Slurm gives no allocation for it: {message}"));
            }
            Err(Refused::NotNow(message)) => {
                let Some(asking) = self.shapes.get_mut(name) else { return 0 };
                if asking.not_before.is_none() {
                    let _ = self.notices.send(format!("slurm: takes no jobs now; trying again ({message})"));
                }
                asking.not_before = Some(Instant::now() + asking.pause);
                asking.pause = (asking.pause * 2).min(LONGEST_PAUSE);
                // It may have been taken all the same; if so it is found by its nonce, and one too many does no harm.
                submitted.submission.count = 0;
            }
        }
        let count = submitted.submission.count;
        self.submissions.insert(submitted.submission.nonce.clone(), submitted);
        count
    }

    /// What an allocation runs.
    fn script(&self, shape: &str, nonce: &str) -> String {
        let here = std::env::current_exe().unwrap_or_else(|_| "restage".into());
        let restage = self.settings.restage.clone().unwrap_or(here);
        let setup = self.settings.setup.as_deref().unwrap_or_default();
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        format!(
            "#!/bin/sh\n{setup}\nexec {} {} {} {} {}\n",
            quoted(&restage.to_string_lossy()),
            super::PILOT_COMMAND,
            quoted(&self.queue.folder().to_string_lossy()),
            quoted(shape),
            quoted(nonce)
        )
    }

    /// Ends all jobs that may be there, those too whose number was never heard.
    async fn cancel(&self, how: Cancelling) -> Result<(), String> {
        let all = self.submissions.values().map(|submitted| &submitted.submission);
        let (known, unknown): (Vec<_>, Vec<_>) = all.partition(|submission| submission.job.is_some());
        let numbers: Vec<u64> = known.iter().filter_map(|submission| submission.job).collect();
        let nonces: Vec<&str> = unknown.iter().map(|submission| &*submission.nonce).collect();
        commands::cancel(&numbers, &nonces, how).await
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
        let _ = self.queue.remove();
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
