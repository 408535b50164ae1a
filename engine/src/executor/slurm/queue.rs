//! A queue of actions in the store: what a run wants computed, what pilots took, and how it ended. Files and renames only, so
//! that it outlives whoever reads or writes it, and works wherever the store does.
//!
//! ```text
//! <store>/slurm/<workflow>.<user>/
//!   waiting/<shape>/<time>.<key>.json    a ticket that no pilot has taken
//!   running/<key>.<pilot>.json           the same file: who renames it has it
//!   ended/<key>.<nonce>.<round>.json     how an attempt ended: the truth about it
//!   events/<key>.<nonce>.<round>.jsonl   what its stage says while it runs
//!   pilots/<pilot>.json                  touched while the pilot lives, and written again when it ends
//!   jobs/<nonce>.json                    what was asked of Slurm
//!   drivers/<name>.json                  touched by runs that wait for results
//!   shapes/<shape>.json                  what pilots of a shape have to know
//!   kept/<pilot>                         an allocation in which something failed: its log outlives the queue
//!   logs/                                what allocations printed
//! ```

mod said;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use restage_cache::{ActionKey, BEAT, Digest, Store};
use said::Driver;
pub(crate) use said::{Attempt, Orders, Outcome, Pilot, Submission, Ticket};
use serde::{Serialize, de::DeserializeOwned};

use crate::executor::host;

/// The store's folder of all queues.
const BUCKET: &str = "slurm";

const LOGS: &str = "logs";
const KEPT: &str = "kept";

/// Who has not been touched for so long is gone, or cannot be seen: five beats.
pub(super) const STALE: Duration = Duration::from_secs(5 * BEAT.as_secs());

/// How many lines of an allocation's log are told.
const LAST: usize = 3;

/// A queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    folder: PathBuf,
}

/// Pilots by their name, and how long nobody touched them.
pub(super) type Pilots = HashMap<String, (Pilot, Duration)>;

/// What is in a queue.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Tickets that nobody has taken, by shape.
    pub(super) waiting: HashMap<ActionKey, String>,
    /// Who has a ticket.
    pub(super) running: HashMap<ActionKey, String>,
    pub(super) ended: BTreeSet<String>,
    pub(super) pilots: Pilots,
}

impl Queue {
    /// The queue of a workflow and of who runs it.
    pub(super) fn of(workflow: &Path, store: &Store) -> restage_cache::Result<Self> {
        let canonical = fs::canonicalize(workflow).unwrap_or_else(|_| workflow.to_owned());
        let digest = Digest::of(canonical.as_os_str().as_encoded_bytes()).to_string();
        let short = digest.get(..16).unwrap_or(&digest);
        let name = format!("{short}.{}", rustix::process::getuid().as_raw());
        Ok(Self { folder: store.folder(BUCKET)?.join(name) })
    }

    /// The queue that a pilot was sent to.
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.folder.join(LOGS)
    }

    /// What an allocation printed, and Slurm about it.
    pub(super) fn log(&self, pilot: &str) -> PathBuf {
        self.logs().join(format!("{}.log", job_of(pilot)))
    }

    /// Makes its folders, for their owner alone: who can put a ticket in can have anything run.
    pub(super) fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if fs::metadata(&self.folder)?.uid() != rustix::process::getuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's"));
        }
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
        for name in ["running", "ended", "events", "pilots", "jobs", "drivers", "shapes", KEPT, LOGS] {
            fs::create_dir_all(self.folder.join(name))?;
        }
        Ok(())
    }

    /// Has an allocation's log outlive the queue.
    pub(super) fn keep(&self, pilot: &str) {
        let _ = fs::write(self.folder.join(KEPT).join(pilot), "");
    }

    /// What was kept for people to read need not be kept any longer.
    pub(super) fn keep_nothing(&self) {
        let folder = self.folder.join(KEPT);
        names(&folder).into_iter().for_each(|pilot| drop(fs::remove_file(folder.join(pilot))));
    }

    /// Removes it with all that is in it, but for logs that are kept, whichever run said so.
    pub(super) fn remove(&self) -> io::Result<()> {
        let kept = names(&self.folder.join(KEPT)).into_iter().map(|pilot| self.log(&pilot));
        let kept: BTreeSet<PathBuf> = kept.filter(|log| log.exists()).collect();
        if kept.is_empty() {
            return fs::remove_dir_all(&self.folder);
        }
        for name in names(&self.folder).iter().filter(|name| *name != LOGS) {
            fs::remove_dir_all(self.folder.join(name))?;
        }
        let logs = names(&self.folder.join(LOGS)).into_iter().map(|name| self.folder.join(LOGS).join(name));
        logs.filter(|log| !kept.contains(log)).try_for_each(fs::remove_file)
    }

    /// Tells pilots of a shape what they have to know.
    pub(super) fn order(&self, orders: &Orders) -> io::Result<()> {
        let name = orders.shape.name();
        fs::create_dir_all(self.folder.join("waiting").join(&name))?;
        write(&self.folder.join("shapes").join(name + ".json"), orders)
    }

    /// What a pilot of a shape has to know.
    pub(crate) fn orders(&self, shape: &str) -> Option<Orders> {
        read(&self.folder.join("shapes").join(format!("{shape}.json")))
    }

    /// Puts a ticket in; the first one in is the first one out.
    pub(super) fn put(&self, ticket: &Ticket, shape: &str) -> io::Result<()> {
        let folder = self.folder.join("waiting").join(shape);
        write(&folder.join(format!("{:014}.{}.json", crate::now(), ticket.job.key)), ticket)
    }

    /// Takes tickets back that no pilot has taken; all of them if no keys are named.
    pub(super) fn take_back(&self, keys: Option<&BTreeSet<ActionKey>>) {
        for shape in names(&self.folder.join("waiting")) {
            let folder = self.folder.join("waiting").join(&shape);
            for name in names(&folder) {
                let is_meant =
                    keys.is_none_or(|keys| key_of_waiting(&name).is_some_and(|key| keys.contains(&key)));
                if is_meant {
                    let _ = fs::remove_file(folder.join(name));
                }
            }
        }
    }

    /// Takes the oldest ticket of a shape for a pilot: of many who try one gets it.
    pub(crate) fn take(&self, shape: &str, pilot: &str) -> Option<Ticket> {
        let folder = self.folder.join("waiting").join(shape);
        let mut waiting = names(&folder);
        waiting.sort();
        for name in waiting {
            let Some(key) = key_of_waiting(&name) else { continue };
            let taken = self.running(&key, pilot);
            // On some network file systems a rename that was done is answered by an error: whether it is here tells.
            if fs::rename(folder.join(&name), &taken).is_err() && !taken.exists() {
                continue;
            }
            match read(&taken) {
                Some(ticket) => return Some(ticket),
                // Of another version, or damaged: whoever wants it puts it in again.
                None => drop(fs::remove_file(&taken)),
            }
        }
        None
    }

    fn running(&self, key: &ActionKey, pilot: &str) -> PathBuf {
        self.folder.join("running").join(format!("{key}.{pilot}.json"))
    }

    /// Says how a pilot's attempt ended; the ticket goes, or back into the queue.
    pub(crate) fn end(&self, ticket: &Ticket, shape: &str, attempt: &Attempt) -> io::Result<()> {
        if matches!(attempt.outcome, Outcome::Stopped { again: true, .. }) {
            self.put(&Ticket { round: ticket.round + 1, ..ticket.clone() }, shape)?;
        }
        write(&self.folder.join("ended").join(name_of_attempt(ticket) + ".json"), attempt)?;
        let _ = fs::remove_file(self.running(&ticket.job.key, &attempt.pilot));
        Ok(())
    }

    /// Takes a ticket from a pilot that is lost, with when it was put in.
    pub(super) fn take_from(&self, key: &ActionKey, pilot: &str) -> Option<(Ticket, SystemTime)> {
        let place = self.running(key, pilot);
        let since = fs::metadata(&place).and_then(|metadata| metadata.modified());
        let ticket = read(&place);
        let _ = fs::remove_file(place);
        ticket.zip(since.ok())
    }

    /// The ticket of an action, whoever has it now, and of what shape it is while it waits.
    pub(super) fn ticket(&self, key: &ActionKey, content: &Content) -> Option<Ticket> {
        if let Some(pilot) = content.running.get(key) {
            return read(&self.running(key, pilot));
        }
        let folder = self.folder.join("waiting").join(content.waiting.get(key)?);
        let name = names(&folder).into_iter().find(|name| key_of_waiting(name) == Some(*key))?;
        read(&folder.join(name))
    }

    /// How an attempt ended, if it has.
    pub(super) fn attempt(&self, ticket: &Ticket) -> Option<Attempt> {
        read(&self.folder.join("ended").join(name_of_attempt(ticket) + ".json"))
    }

    /// The file of what a stage says.
    pub(crate) fn events(&self, ticket: &Ticket) -> PathBuf {
        self.folder.join("events").join(name_of_attempt(ticket) + ".jsonl")
    }

    /// Says that a pilot is there, or how it is now.
    pub(crate) fn tell(&self, pilot: &Pilot) -> io::Result<()> {
        write(&self.pilot(&pilot.id), pilot)
    }

    fn pilot(&self, id: &str) -> PathBuf {
        self.folder.join("pilots").join(format!("{id}.json"))
    }

    /// Says that a pilot lives.
    pub(crate) fn beat(&self, pilot: &str) {
        touch(&self.pilot(pilot));
    }

    /// All pilots that there were, and how long nobody touched them.
    pub(super) fn pilots(&self) -> Pilots {
        let all = aged::<Pilot>(&self.folder.join("pilots")).into_iter();
        all.map(|(pilot, age)| (pilot.id.clone(), (pilot, age))).collect()
    }

    /// Notes what is, or was, asked of Slurm.
    pub(super) fn note(&self, submission: &Submission) -> io::Result<()> {
        write(&self.folder.join("jobs").join(format!("{}.json", submission.nonce)), submission)
    }

    /// What was asked of Slurm.
    pub(super) fn submissions(&self) -> Vec<Submission> {
        let folder = self.folder.join("jobs");
        names(&folder).iter().filter_map(|name| read(&folder.join(name))).collect()
    }

    /// Says that a run waits here, every now and then.
    pub(super) fn drive(&self, name: &str) -> io::Result<()> {
        let driver = Driver { host: host(), process: std::process::id() };
        write(&self.folder.join("drivers").join(format!("{name}.json")), &driver)
    }

    /// A run waits no longer.
    pub(super) fn leave(&self, name: &str) {
        let _ = fs::remove_file(self.folder.join("drivers").join(format!("{name}.json")));
    }

    /// Whether a run waits here; but for the one of this name.
    pub(crate) fn is_driven(&self, but: Option<&str>) -> bool {
        let folder = self.folder.join("drivers");
        let but = but.map(|name| format!("{name}.json"));
        names(&folder).iter().filter(|name| Some(*name) != but.as_ref()).any(|name| {
            let place = folder.join(name);
            let gone = |driver: Driver| {
                driver.host == host() && !Path::new("/proc").join(driver.process.to_string()).exists()
            };
            age(&place).is_some_and(|age| age < STALE) && !read(&place).is_some_and(gone)
        })
    }

    /// All that is in it, but for the pilots. A ticket on its way is seen: it is looked for in the order in which it goes.
    pub(super) fn content(&self) -> Content {
        let mut content = Content::default();
        for shape in names(&self.folder.join("waiting")) {
            let keys = names(&self.folder.join("waiting").join(&shape));
            content
                .waiting
                .extend(keys.iter().filter_map(|name| Some((key_of_waiting(name)?, shape.clone()))));
        }
        for name in names(&self.folder.join("running")) {
            let parts = name.strip_suffix(".json").and_then(|name| name.split_once('.'));
            if let Some((Ok(key), pilot)) = parts.map(|(key, pilot)| (key.parse(), pilot)) {
                content.running.insert(key, pilot.to_owned());
            }
        }
        content.ended = names(&self.folder.join("ended")).into_iter().collect();
        content
    }

    /// The last lines that an allocation printed.
    pub(super) fn last_lines(&self, pilot: &str) -> Vec<String> {
        let text = fs::read(self.log(pilot)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines.iter().skip(lines.len().saturating_sub(LAST)).map(|line| (*line).to_owned()).collect()
    }
}

impl Content {
    /// Whether an attempt has ended.
    pub(super) fn has_ended(&self, ticket: &Ticket) -> bool {
        self.ended.contains(&(name_of_attempt(ticket) + ".json"))
    }
}

/// The pilot's name in Slurm's list of jobs: without the mark of one that was started again.
pub(super) fn job_of(pilot: &str) -> &str {
    pilot.split_once('r').map_or(pilot, |(job, _)| job)
}

fn name_of_attempt(ticket: &Ticket) -> String {
    format!("{}.{}.{}", ticket.job.key, ticket.nonce, ticket.round)
}

fn key_of_waiting(name: &str) -> Option<ActionKey> {
    name.strip_suffix(".json")?.split_once('.')?.1.parse().ok()
}

/// Names in a folder but for files on their way to a name; none where there is no folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

fn aged<T: DeserializeOwned>(folder: &Path) -> Vec<(T, Duration)> {
    let entry = |name: &String| Some((read(&folder.join(name))?, age(&folder.join(name))?));
    names(folder).iter().filter_map(entry).collect()
}

/// How long ago a file was touched, by the clock of its file system as far as ours goes with it.
fn age(path: &Path) -> Option<Duration> {
    let touched = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some(SystemTime::now().duration_since(touched).unwrap_or_default())
}

fn touch(path: &Path) {
    if let Ok(file) = fs::File::options().write(true).open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whole or not at all. Not flushed: a machine that loses power loses its hold on the queue too.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{}.{name}", std::process::id()));
    fs::write(&aside, serde_json::to_vec(value)?)?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ticket(number: u32) -> Ticket {
        let digest = Digest::of(&number.to_le_bytes());
        let job = json!({
            "name": "stage", "uses": "test/stage", "library": "/lib.so", "identity": digest, "params": {"a": 1.5},
            "named": {"files": [], "code": [], "tools": []}, "outputs": [["out", "table"]],
            "execution": {"cpus": 2, "memory": null, "gpus": {"count": 1, "memory": null, "required": true},
                "retries": 1, "more_memory": null, "timeout": null},
            "key": digest, "seeds": {"": 7, "init": 3}, "anew": false,
        });
        serde_json::from_value(json!({
            "job": job, "inputs": {"in": [digest]}, "origin": {"told": {}, "stage_key": null}, "nonce": "n", "round": 0,
        }))
        .unwrap()
    }

    fn queue() -> (tempfile::TempDir, Queue) {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::at(folder.path().join("queue"));
        queue.create().unwrap();
        fs::create_dir_all(queue.folder.join("waiting/shape")).unwrap();
        (folder, queue)
    }

    #[test]
    fn every_ticket_is_taken_once_however_many_try() {
        let (_folder, queue) = queue();
        for number in 0..200 {
            queue.put(&ticket(number), "shape").unwrap();
        }
        let take_all = |pilot: usize| {
            let taken = std::iter::from_fn(|| queue.take("shape", &pilot.to_string()));
            taken.map(|ticket| ticket.job.key).collect::<Vec<_>>()
        };
        let mut taken: Vec<ActionKey> = std::thread::scope(|scope| {
            let pilots: Vec<_> = (0..8).map(|pilot| scope.spawn(move || take_all(pilot))).collect();
            pilots.into_iter().flat_map(|pilot| pilot.join().unwrap()).collect()
        });
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 200);
        assert_eq!(queue.content().running.len(), 200);
    }

    #[test]
    fn a_ticket_is_somewhere_all_its_life_and_reads_back_as_it_was() {
        let (_folder, queue) = queue();
        let wanted = ticket(1);
        let key = wanted.job.key;
        queue.put(&wanted, "shape").unwrap();
        assert!(queue.content().waiting.contains_key(&key));
        let taken = queue.take("shape", "7_1").unwrap();
        assert_eq!(serde_json::to_value(&taken).unwrap(), serde_json::to_value(&wanted).unwrap());
        assert_eq!(queue.content().running.get(&key).map(String::as_str), Some("7_1"));
        let attempt = |outcome| Attempt { pilot: "7_1".into(), host: "node".into(), ended: 1, outcome };
        queue.end(&taken, "shape", &attempt(Outcome::Stopped { again: true, further: true })).unwrap();
        let content = queue.content();
        assert!(
            content.has_ended(&wanted) && content.waiting.contains_key(&key) && content.running.is_empty()
        );
        let again = queue.take("shape", "8r1").unwrap();
        assert_eq!((again.round, job_of("8r1")), (1, "8"));
        queue.end(&again, "shape", &attempt(Outcome::Done { milliseconds: Some(5) })).unwrap();
        assert_eq!(queue.attempt(&again).unwrap().outcome, Outcome::Done { milliseconds: Some(5) });
        assert!(queue.content().waiting.is_empty(), "it is done");
    }

    #[test]
    fn what_is_no_ticket_is_nobodys() {
        let (_folder, queue) = queue();
        fs::write(queue.folder.join("waiting/shape/00000000000001.x.json"), "{}").unwrap();
        let key = ticket(1).job.key;
        fs::write(queue.folder.join(format!("waiting/shape/00000000000002.{key}.json")), "{ half").unwrap();
        assert!(queue.take("shape", "7").is_none());
        assert!(queue.content().running.is_empty(), "whoever wants it puts it in again");
    }

    #[test]
    fn a_queue_is_its_owners_alone() {
        let (_folder, queue) = queue();
        assert_eq!(fs::metadata(&queue.folder).unwrap().mode() & 0o777, 0o700);
        queue.drive("me").unwrap();
        assert!(queue.is_driven(None) && !queue.is_driven(Some("me")));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        write(&queue.folder.join("drivers/me.json"), &Driver { host: host(), process: child.id() }).unwrap();
        assert!(!queue.is_driven(None), "it is dead");
    }
}
