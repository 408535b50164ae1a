//! A run that is watched: what its journal says, read on from where it was read to, and how it says that it stands.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    report::{ActionOutcome, ActionState, Outcome},
    run::{
        board::Now,
        event::{Event, How},
        journal,
    },
};

/// A run says about once a second how it stands. One that has been silent for so long does not go on.
const SILENCE: Duration = Duration::from_secs(20);

/// So many points of a curve are drawn.
const MOST_POINTS: usize = 200;

/// So many failures, and so many curves, are shown while a run goes on.
const MOST_SHOWN: usize = 12;

/// What has become of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It goes on.
    Running,
    /// All that it was asked for is there.
    Done,
    /// It ended, and something failed.
    Failed,
    /// It was interrupted, by who ran it.
    Interrupted,
    /// It was killed, or its machine is gone.
    Stopped,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Stopped => "stopped",
        }
    }

    /// Whether nothing more comes, surely: what seems stopped may only have been slow.
    pub(super) fn has_ended(self) -> bool {
        !matches!(self, Self::Running | Self::Stopped)
    }
}

/// A run that is watched.
pub(super) struct Follow {
    folder: PathBuf,
    /// Up to where the journal was read.
    read: u64,
    /// What comes before that and is no whole line yet.
    torn: Vec<u8>,
    pub(super) outcome: Option<Outcome>,
    /// Names of its actions.
    labels: Vec<String>,
    stood: Option<Now>,
    /// When it was last heard of.
    heard: Option<Instant>,
}

impl Follow {
    pub(super) fn new(folder: &Path) -> Self {
        let (torn, labels) = (Vec::new(), Vec::new());
        Self { folder: folder.to_owned(), read: 0, torn, outcome: None, labels, stood: None, heard: None }
    }

    /// Reads what was added.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let mut file = File::open(journal::file(&self.folder))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut added = Vec::new();
        file.read_to_end(&mut added)?;
        self.read += added.len() as u64;
        let is_first = self.heard.is_none();
        let (stood, silent) = match journal::stood(&self.folder) {
            Some((now, silent)) => (Some(now), silent),
            None => (None, file.metadata()?.modified()?.elapsed().unwrap_or_default()),
        };
        if is_first {
            self.heard = Instant::now().checked_sub(silent).or(Some(Instant::now()));
        } else if !added.is_empty() || stood != self.stood {
            // What clocks of other machines say does not matter to who sees a change.
            self.heard = Some(Instant::now());
        }
        self.stood = stood;
        self.torn.extend(added);
        let whole = self.torn.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.torn.drain(..whole).collect();
        for event in lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
            match (&mut self.outcome, event) {
                (Some(outcome), event) => outcome.add(event),
                (None, Event::Started(started)) => {
                    self.labels = self.outcome.insert(Outcome::begun(*started)).labels();
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    pub(super) fn status(&self) -> Status {
        let Some(outcome) = &self.outcome else { return self.going_on() };
        let has_failed =
            outcome.actions.iter().any(|action| matches!(action.state, ActionState::Failed { .. }));
        match outcome.milliseconds {
            None => self.going_on(),
            Some(_) if outcome.succeeded() => Status::Done,
            Some(_) if has_failed => Status::Failed,
            Some(_) => Status::Interrupted,
        }
    }

    fn going_on(&self) -> Status {
        let is_silent = self.heard.is_none_or(|heard| heard.elapsed() > SILENCE);
        if is_silent || self.process_is_gone() { Status::Stopped } else { Status::Running }
    }

    /// Whether it ran on this machine, where its process is not any more.
    fn process_is_gone(&self) -> bool {
        let by = self.outcome.as_ref().and_then(|outcome| outcome.by.as_deref());
        let is_here =
            by.and_then(|by| by.rsplit_once('@')).is_some_and(|(_, host)| host == crate::executor::host());
        let name = self.folder.file_name().and_then(|name| name.to_str());
        let process =
            name.and_then(|name| name.rsplit_once('-')).and_then(|(_, pid)| pid.parse::<i32>().ok());
        is_here
            && process.and_then(rustix::process::Pid::from_raw).is_some_and(|pid| {
                // Another user's process may not be asked, and is there.
                matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
            })
    }

    /// How many actions have ended: when that changes, there is more to report.
    pub(super) fn ended(&self) -> usize {
        self.counts().ended()
    }

    fn named(&self) -> impl Iterator<Item = (&String, &ActionOutcome)> {
        self.labels.iter().zip(self.outcome.iter().flat_map(|outcome| &outcome.actions))
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for action in self.outcome.iter().flat_map(|outcome| &outcome.actions) {
            counts.actions += 1;
            match &action.state {
                ActionState::Done(done) if matches!(done.how, How::Ran { .. }) => counts.ran += 1,
                ActionState::Done(_) => counts.reused += 1,
                ActionState::Failed { .. } => counts.failed += 1,
                ActionState::Skipped { .. } => counts.skipped += 1,
                ActionState::Pending | ActionState::Waiting | ActionState::Running => {}
            }
        }
        counts
    }

    /// How it stands, as the page shows it.
    pub(super) fn told(&self) -> Value {
        let status = self.status();
        let counts = self.counts();
        let outcome = self.outcome.as_ref();
        let took = outcome.and_then(|outcome| outcome.milliseconds);
        let stood = self.stood.as_ref().filter(|_| status == Status::Running);
        let failures = self.named().filter_map(|(name, action)| match &action.state {
            ActionState::Failed { message, .. } => Some(json!({ "name": name, "message": message })),
            _ => None,
        });
        json!({
            "status": status.word(), "actions": counts.actions, "ran": counts.ran, "reused": counts.reused,
            "failed": counts.failed, "skipped": counts.skipped, "ended": counts.ended(),
            "elapsed": took.or_else(|| Some(self.stood.as_ref()?.elapsed)),
            "left": stood.and_then(|now| now.left), "doing": stood.map(|now| &now.doing),
            "failures": failures.take(MOST_SHOWN).collect::<Vec<_>>(),
            "curves": if status == Status::Running { self.curves() } else { Vec::new() },
        })
    }

    /// What a list of runs says of it.
    pub(super) fn summary(&self) -> Option<Value> {
        let outcome = self.outcome.as_ref()?;
        let counts = self.counts();
        Some(json!({
            "workflow": outcome.workflow.file_name().map(|name| name.to_string_lossy()),
            "path": outcome.workflow, "time": outcome.time, "by": outcome.by, "status": self.status().word(),
            "actions": counts.actions, "ran": counts.ran, "reused": counts.reused, "failed": counts.failed,
            "ended": counts.ended(), "variants": outcome.variants.len(), "milliseconds": outcome.milliseconds,
        }))
    }

    /// The losses of what runs, or what else it tells first.
    fn curves(&self) -> Vec<Value> {
        let mut curves = Vec::new();
        for (name, action) in self.named() {
            let is_running = matches!(action.state, ActionState::Running);
            let loss = action.curves.get_key_value("loss").or_else(|| action.curves.iter().next());
            if let Some((curve, points)) = loss.filter(|_| is_running) {
                let every = points.len().div_ceil(MOST_POINTS).max(1);
                let last = points.len().saturating_sub(1);
                let kept = points.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last);
                let kept: Vec<_> = kept.map(|(_, point)| point).collect();
                curves.push(json!({ "name": name, "curve": curve, "points": kept }));
            }
        }
        curves.truncate(MOST_SHOWN);
        curves
    }
}

#[derive(Default)]
struct Counts {
    actions: usize,
    ran: usize,
    reused: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    fn ended(&self) -> usize {
        self.ran + self.reused + self.failed + self.skipped
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::SystemTime};

    use super::*;

    const STARTED: &str = r#"{"event":"started","workflow":"/w.yaml","version":"1","time":0,"by":"anna@elsewhere","actions":[],"instances":[],"variants":[]}"#;

    /// A run's folder, and its journal.
    fn run(text: &str) -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(journal::file(folder.path())).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        (folder, file)
    }

    #[test]
    fn a_line_counts_when_it_is_whole() {
        let (begin, rest) = STARTED.split_at(20);
        let (folder, mut file) = run(begin);
        let mut follow = Follow::new(folder.path());
        follow.read().unwrap();
        assert!(follow.outcome.is_none());
        assert_eq!(follow.status(), Status::Running);
        file.write_all(format!("{rest}\nnonsense\n{{\"event\":\"finished\",").as_bytes()).unwrap();
        follow.read().unwrap();
        assert_eq!(follow.summary().unwrap()["by"], "anna@elsewhere");
        assert_eq!(follow.status(), Status::Running);
        file.write_all(b"\"milliseconds\":5}\n").unwrap();
        follow.read().unwrap();
        assert_eq!((follow.status(), &follow.told()["elapsed"]), (Status::Done, &5.into()));
    }

    #[test]
    fn a_run_on_another_machine_has_stopped_when_it_is_silent_and_goes_on_when_it_is_heard_of() {
        let (folder, file) = run(&format!("{STARTED}\n"));
        let seen = |file: &File, age| {
            file.set_modified(SystemTime::now() - age).unwrap();
            let mut follow = Follow::new(folder.path());
            follow.read().unwrap();
            follow
        };
        assert_eq!(seen(&file, SILENCE / 2).status(), Status::Running);
        let mut follow = seen(&file, SILENCE * 2);
        assert_eq!(follow.status(), Status::Stopped);
        // Whatever its clock says: something changed.
        let now = serde_json::to_vec(&Now::default()).unwrap();
        let told = folder.path().join("now.json");
        std::fs::write(&told, now).unwrap();
        File::open(&told).unwrap().set_modified(SystemTime::now() - SILENCE * 3).unwrap();
        follow.read().unwrap();
        assert_eq!(follow.status(), Status::Running);
    }
}
