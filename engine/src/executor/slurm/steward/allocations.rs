//! What a run does about Slurm: asks for as many allocations as there is work for, now and then how they stand, and finds what
//! was lost with one.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use restage_cache::ActionKey;

use super::{
    super::{
        MARGIN, PILOT_COMMAND,
        commands::{self, Cancelling, Fate, Order, Refused, Seen},
        queue::{Content, STALE, Submission, job_of},
    },
    MOST_LOST, Steward, Submitted, Wanted, cancelled,
};
use crate::{executor::ExecuteError, now};

/// How long it is gathered what to ask for: a sweep comes as one array.
const GATHER: Duration = Duration::from_millis(60);

/// How many allocations may end before they begin to work, when none ever did.
const MOST_STILLBORN: usize = 3;

/// In how many clean answers a job has to be missing before it is believed to be gone.
const MISSING: u32 = 2;

/// How long a submission that was refused for now waits.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Steward {
    /// Asks Slurm how the jobs stand, if it is time; and draws conclusions, where there are any.
    pub(super) async fn look(&mut self, content: &Content) {
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= self.settings.look());
        if !is_time || self.submissions.is_empty() {
            return;
        }
        self.learn(|submission| submission.job.is_some());
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
        self.find_lost(content).await;
    }

    /// Finds submissions in Slurm's answer, those too whose number was never heard.
    fn recognise(&mut self, begun: u64) {
        let mut there: HashMap<&str, u64> = HashMap::new();
        for seen in self.seen.values() {
            let number = seen.id.split('_').next().and_then(|id| id.parse().ok());
            if let Some(number) = number {
                there.insert(&seen.nonce, number);
            }
            let odd = match seen.odd_reason() {
                Some(reason) => format!("waits: Slurm's reason is {reason}"),
                None if seen.state == "SUSPENDED" => {
                    "is suspended by Slurm: it goes on when that lets it".into()
                }
                None if seen.fate() == Fate::Unknown => {
                    format!("is in the state {}, which is not known here: it is waited for", seen.state)
                }
                None => continue,
            };
            if self.submissions.contains_key(&seen.nonce) && self.odd.insert(odd.clone()) {
                let _ = self.notices.send(format!("slurm: job {} {odd}", seen.id));
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
            let said = said(&self.queue.last_lines(&job))
                .unwrap_or_else(|| "; they printed nothing: do the nodes have the cache's folder?".into());
            let place = self.place(&job);
            let message = format!("allocations end before they begin to work{said} ({place})");
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
    async fn find_lost(&mut self, content: &Content) {
        let mut lost = Vec::new();
        for (key, pilot) in &content.running {
            let Some(wanted) = self.wanted.get(key) else { continue };
            // It may have ended between the two looks.
            if self.queue.attempt(&wanted.ticket).is_some() {
                continue;
            }
            let beaten = content.pilots.get(pilot);
            let is_stale = beaten.is_none_or(|(_, age)| *age > STALE);
            let seen = self.seen.get(job_of(pilot));
            // Started again by Slurm, it is another pilot: the one before is no more.
            let is_replaced = content.pilots.values().any(|(other, _)| {
                other.id != *pilot
                    && job_of(&other.id) == job_of(pilot)
                    && beaten.is_none_or(|(pilot, _)| pilot.since < other.since)
            });
            let why = match seen {
                // Its pilot was here, so its job has run before.
                Some(seen) if is_replaced || seen.fate() == Fate::Waiting && beaten.is_some() => {
                    Some("was started again".to_owned())
                }
                None if is_replaced => Some("was started again".to_owned()),
                Some(seen) if seen.fate().is_over() => Some(format!("ended ({})", seen.state)),
                Some(_) => {
                    self.missing.remove(pilot);
                    None
                }
                None => {
                    let missing = self.missing.entry(pilot.clone()).or_default();
                    *missing += 1;
                    (*missing >= MISSING && is_stale).then(|| "is gone".to_owned())
                }
            };
            if let Some(why) = why {
                let is_alone = content.running.values().filter(|other| *other == pilot).count() == 1;
                lost.push((*key, pilot.clone(), why, is_alone));
            }
        }
        for (key, pilot, why, is_alone) in lost {
            self.lost(&key, &pilot, &why, is_alone).await;
        }
    }

    async fn lost(&mut self, key: &ActionKey, pilot: &str, why: &str, is_alone: bool) {
        if let Some(wanted) = self.wanted.get_mut(key) {
            // What its stage said last is heard.
            wanted.read_events(&self.queue).await;
        }
        let taken = self.queue.take_from(key, pilot);
        let lines = self.queue.last_lines(pilot);
        let of_memory = self.seen.get(job_of(pilot)).is_some_and(|seen| seen.fate() == Fate::OutOfMemory)
            || is_of_memory(&lines);
        let said = said(&lines).unwrap_or_default();
        let place = self.place(pilot);
        let further = taken.as_ref().is_some_and(|(_, since)| self.store.is_checkpointed_since(key, *since));
        let Some(wanted) = self.wanted.get_mut(key) else { return };
        wanted.lost = if further { 0 } else { wanted.lost + 1 };
        let message = format!("its allocation {why}{said} ({place})");
        // Of several in one allocation it may have been another that took too much.
        let may_have_more = wanted.ticket.job.execution.more_memory.is_some();
        if of_memory && (may_have_more || is_alone) {
            return self.more_memory(key, message);
        }
        if wanted.lost >= MOST_LOST {
            return self.answer(key, Err(ExecuteError::Elsewhere { message }));
        }
        wanted.ticket.round = taken.map_or(wanted.ticket.round, |(taken, _)| taken.round) + 1;
        let name = wanted.ticket.job.name.clone();
        self.notice(format!("allocation {pilot} {why}; {name} goes to another{said} ({place})"));
        self.put(key);
    }

    /// Asks for as many allocations as there is work for.
    pub(super) async fn ask(&mut self, content: &Content) {
        let mut live = 0;
        let mut free: HashMap<String, usize> = HashMap::new();
        let mut begun: HashMap<&str, usize> = HashMap::new();
        for (pilot, age) in content.pilots.values() {
            *begun.entry(&pilot.nonce).or_default() += 1;
            let over = self.seen.get(job_of(&pilot.id)).is_some_and(|seen| seen.fate().is_over());
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
                .filter(|seen| seen.nonce == *nonce && seen.fate().is_over())
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
        let count = count.min(asking.most);
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
            notice: self.grace + MARGIN,
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
                if count > 1 && is_limit(&message) {
                    // An array counts as all of its jobs: fewer may be taken.
                    asking.most = count / 2;
                } else {
                    if asking.not_before.is_none() {
                        let message = format!("slurm: takes no jobs now; trying again ({message})");
                        let _ = self.notices.send(message);
                    }
                    asking.not_before = Some(Instant::now() + asking.pause);
                    asking.pause = (asking.pause * 2).min(LONGEST_PAUSE);
                }
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
        let here = || std::env::current_exe().map_or_else(|_| "restage".into(), installed_at);
        let restage = self.settings.restage.clone().unwrap_or_else(here);
        let setup = self.settings.setup.as_deref().unwrap_or_default();
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        format!(
            "#!/bin/sh\n{setup}\nexec {} {} {} {} {}\n",
            quoted(&restage.to_string_lossy()),
            PILOT_COMMAND,
            quoted(&self.queue.folder().to_string_lossy()),
            quoted(shape),
            quoted(nonce)
        )
    }

    /// Ends all jobs that may be there, those too whose number was never heard; its own only while another run waits here too.
    pub(super) async fn cancel(&mut self, how: Cancelling) -> Result<(), String> {
        self.learn(|submission| submission.job.is_some());
        let own = format!("{}-", self.name);
        let is_alone = !self.queue.is_driven(Some(&self.name));
        let all = self.submissions.values().map(|submitted| &submitted.submission);
        let all = all.filter(|submission| is_alone || submission.nonce.starts_with(&own));
        let (known, unknown): (Vec<_>, Vec<_>) = all.partition(|submission| submission.job.is_some());
        let numbers: Vec<u64> = known.iter().filter_map(|submission| submission.job).collect();
        let nonces: Vec<&str> = unknown.iter().map(|submission| &*submission.nonce).collect();
        commands::cancel(&numbers, &nonces, how).await
    }
}

/// Where a program is that runs from this path. Linux marks one whose file was replaced, as by the installation of another version:
/// other machines can only have that one, and pilots may be of it.
fn installed_at(path: PathBuf) -> PathBuf {
    let unmarked = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    unmarked.map(PathBuf::from).filter(|unmarked| unmarked.is_file() && !path.exists()).unwrap_or(path)
}

/// Whether Slurm says that a user would have too many jobs.
fn is_limit(message: &str) -> bool {
    message.to_lowercase().contains("limit")
}

/// What an allocation printed last, for a sentence.
fn said(lines: &[String]) -> Option<String> {
    (!lines.is_empty()).then(|| format!("; its log says: {}", lines.join(" / ")))
}

/// Whether Slurm wrote into an allocation's log that it killed it for its memory. Where it has no control groups no state says so.
fn is_of_memory(lines: &[String]) -> bool {
    const WORDS: [&str; 3] = ["exceeded memory limit", "exceeded job memory limit", "oom-kill event"];
    lines.iter().any(|line| {
        let line = line.to_lowercase();
        line.starts_with("slurmstepd") && WORDS.iter().any(|words| line.contains(words))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (path, marked) = (folder.path().join("restage"), folder.path().join("restage (deleted)"));
        assert_eq!(installed_at(marked.clone()), marked, "nothing is there");
        std::fs::write(&path, "another version").unwrap();
        assert_eq!(installed_at(marked.clone()), path);
        assert_eq!(installed_at(path.clone()), path);
        std::fs::write(&marked, "what is really called so").unwrap();
        assert_eq!(installed_at(marked.clone()), marked);
    }

    #[test]
    fn who_was_killed_for_memory_is_told_by_slurms_own_lines() {
        let of_memory = |line: &str| is_of_memory(&["takes long".to_owned(), line.to_owned()]);
        assert!(of_memory(
            "slurmstepd-n1: error: StepId=1.batch exceeded memory limit (64040960 > 52428800), being killed"
        ));
        assert!(of_memory("slurmstepd: error: Exceeded job memory limit"));
        assert!(of_memory("slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=3.batch."));
        assert!(!of_memory(
            "slurmstepd: error: *** JOB 3 ON n2 CANCELLED AT 2026-11-26T15:33:17 DUE TO PREEMPTION ***"
        ));
        assert!(!of_memory("my program says: exceeded memory limit"), "that is not Slurm");
    }
}
