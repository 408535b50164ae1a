//! The journal of a run: its events as lines of JSON, and what can be read from them afterwards.
//!
//! `<store>/runs/<digest of the workflow's path>/<milliseconds>-<pid>/journal.jsonl`, and `logs/<action>.log` beside
//! it. A line that was cut by a kill is passed over when reading; everything before it stands.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use restage_cache::{Digest, Store};
use rustix::fs::Mode;

use super::{
    board::{Now, Took},
    event::{Event, How},
};
use crate::plan::{History, Past, PastAction, name};

/// The store's folder of all runs.
const BUCKET: &str = "runs";

/// Name of a journal in its run's folder.
const FILE: &str = "journal.jsonl";

/// How a run stands, beside its journal while it goes on.
const NOW: &str = "now.json";

/// The folder of the workflow's files as they were when the run began.
const WORKFLOW: &str = "workflow";

/// The folder of logs beside it.
const LOGS: &str = "logs";

/// How many earlier runs explain the next plan.
const REMEMBERED: usize = 5;

/// How much of their journals is read for it at most.
const MAX_BYTES: u64 = 64 << 20;

/// A run could not be recorded or read back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    /// A file could not be read or written.
    #[error("cannot access the journal {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Io { path, source }
}

/// The folder of a workflow's runs.
pub(crate) fn runs_folder(workflow: &Path, store: &Store) -> Result<PathBuf, JournalError> {
    let canonical = std::fs::canonicalize(workflow).unwrap_or_else(|_| workflow.to_owned());
    let name = Digest::of(canonical.as_os_str().as_encoded_bytes());
    Ok(store.folder(BUCKET)?.join(name.to_string()))
}

/// Writes a run down.
pub(crate) struct Journal {
    folder: PathBuf,
    file: BufWriter<File>,
    path: PathBuf,
    /// Of the actions that run.
    logs: HashMap<usize, Log>,
}

/// How much of an action's log is kept: more than anybody reads, and less than fills a disk.
const MOST_LOGGED: u64 = 16 << 20;

/// The log of an action.
struct Log {
    file: File,
    size: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) -> io::Result<()> {
        if self.size >= MOST_LOGGED {
            return Ok(());
        }
        let mut text = line.to_string();
        self.size += text.len() as u64;
        if self.size >= MOST_LOGGED {
            text.push_str("… what came after this is not kept\n");
        }
        self.file.write_all(text.as_bytes())
    }
}

impl Journal {
    /// Begins a run.
    pub(crate) fn begin(workflow: &Path, store: &Store, milliseconds: u64) -> Result<Self, JournalError> {
        if store.is_shared() {
            // Sweeps of others read what this run gave, and a workflow that several users run has its runs in one folder.
            // From here on nothing is written but to the store: what was built, was built by the user's own umask.
            rustix::process::umask(Mode::WOTH);
        }
        // Wide enough to sort by name until the year 5138.
        let name = format!("{milliseconds:014}-{}", std::process::id());
        let folder = runs_folder(workflow, store)?.join(name);
        std::fs::create_dir_all(folder.join(LOGS)).map_err(io_error(&folder))?;
        let path = folder.join(FILE);
        let file = BufWriter::new(File::create(&path).map_err(io_error(&path))?);
        Ok(Self { folder, file, path, logs: HashMap::new() })
    }

    /// Writes an event; progress is for the moment only and not kept.
    pub(crate) fn write(&mut self, event: &Event) -> Result<(), JournalError> {
        match event {
            Event::Progress { .. } => Ok(()),
            Event::Log { action, level, target, message } => {
                let path = self.log_path(*action);
                let log = match self.logs.entry(*action) {
                    Entry::Occupied(log) => log.into_mut(),
                    Entry::Vacant(log) => log.insert(Log::open(&path).map_err(io_error(&path))?),
                };
                log.line(format_args!("{level:>5} {target}: {message}\n")).map_err(io_error(&path))
            }
            event => {
                if let Event::Done { action, .. } | Event::Failed { action, .. } = event {
                    self.logs.remove(action);
                }
                serde_json::to_writer(&mut self.file, event)
                    .map_err(|error| io_error(&self.path)(error.into()))?;
                self.file.write_all(b"\n").map_err(io_error(&self.path))?;
                // Flushed line by line: what is told has happened, whatever happens next. That something was cached
                // happened before.
                match event {
                    Event::Done { how: How::Cached, .. } => Ok(()),
                    _ => self.file.flush().map_err(io_error(&self.path)),
                }
            }
        }
    }

    /// Keeps the workflow's files, and the lock beside it: they may be changed before anybody asks what ran. They lie to each other
    /// as they do where they are; what is imported from elsewhere lies in `imported`.
    pub(crate) fn keep(&self, workflow: &Path, imported: &[PathBuf]) -> Result<(), JournalError> {
        let workflow = std::fs::canonicalize(workflow).map_err(io_error(workflow))?;
        let folder = workflow.parent().unwrap_or(Path::new("/"));
        let lock = folder.join(crate::lock::FILE);
        let lock = lock.is_file().then_some(&lock);
        for (number, file) in std::iter::once(&workflow).chain(imported).chain(lock).enumerate() {
            let Some(name) = file.file_name() else { continue };
            let place = match file.strip_prefix(folder) {
                Ok(inside) => inside.to_owned(),
                Err(_) => Path::new("imported").join(number.to_string()).join(name),
            };
            let kept = self.folder.join(WORKFLOW).join(place);
            let copied = std::fs::create_dir_all(kept.parent().unwrap_or(&kept))
                .and_then(|()| std::fs::copy(file, &kept));
            copied.map_err(io_error(file))?;
        }
        Ok(())
    }

    /// Tells how the run stands, for those who watch it. What keeps that from being written harms nobody.
    pub(crate) fn stands(&self, now: &Now) {
        let (path, aside) = (self.folder.join(NOW), self.folder.join("now.json.tmp"));
        if let Ok(text) = serde_json::to_vec(now)
            && std::fs::write(&aside, text).is_ok()
        {
            let _ = std::fs::rename(aside, path);
        }
    }

    /// The run has ended: how it stood a moment ago means nothing any more.
    pub(crate) fn end(self) {
        let _ = std::fs::remove_file(self.folder.join(NOW));
    }

    /// The log of an action.
    pub(crate) fn log_path(&self, action: usize) -> PathBuf {
        log_of(&self.folder, action)
    }
}

/// The log of an action of the run in this folder; of one that was cached, or had nothing to say, there is none.
pub(crate) fn log_of(run: &Path, action: usize) -> PathBuf {
    run.join(LOGS).join(format!("{action}.log"))
}

/// The events of a workflow's last run, if it ever ran.
pub(crate) fn last_run(workflow: &Path, store: &Store) -> Result<Option<Vec<Event>>, JournalError> {
    runs(workflow, store)?.first().map(|run| events(run)).transpose()
}

/// What earlier runs tell about a workflow's actions.
pub(crate) fn history(workflow: &Path, store: &Store) -> History {
    let (workflow, store) = (workflow.to_owned(), store.clone());
    History::new(move || {
        read_past(&workflow, &store).unwrap_or_else(|error| {
            // It only explains: why something runs is then not told, and it runs.
            tracing::warn!("{}", crate::causes(&error).join(": "));
            Past::default()
        })
    })
}

fn read_past(workflow: &Path, store: &Store) -> Result<Past, JournalError> {
    let mut past = Past::default();
    let mut read = 0;
    for run in runs(workflow, store)?.iter().take(REMEMBERED) {
        // Explanations are not worth a wait: of huge runs the newest does.
        read += std::fs::metadata(run.join(FILE)).map_or(0, |metadata| metadata.len());
        if read > MAX_BYTES {
            break;
        }
        add(&mut past, events(run)?);
    }
    Ok(past)
}

fn add(all: &mut Past, events: Vec<Event>) {
    let mut instances = Vec::new();
    let mut past: HashMap<usize, Arc<PastAction>> = HashMap::new();
    for event in events {
        match event {
            Event::Started(started) => instances = started.instances,
            Event::Done { action, past: done, .. } => drop(past.insert(action, Arc::new(*done))),
            _ => {}
        }
    }
    for instance in &instances {
        if let Some(past) = past.get(&instance.action) {
            all.add(&instance.variant, name(&instance.stage, &instance.at), instance.seed, past);
        }
    }
}

/// Folders of a workflow's runs, newest first.
pub(crate) fn runs(workflow: &Path, store: &Store) -> Result<Vec<PathBuf>, JournalError> {
    Ok(listed(&runs_folder(workflow, store)?)?.into_iter().rev().collect())
}

/// Folders of all runs in the store, newest first, workflow by workflow.
pub(crate) fn runs_of_all(store: &Store) -> Result<Vec<Vec<PathBuf>>, JournalError> {
    let workflows = listed(&store.folder(BUCKET)?)?;
    workflows.iter().map(|folder| Ok(listed(folder)?.into_iter().rev().collect())).collect()
}

/// What lies in a folder, sorted; nothing where there is none.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(io_error(folder))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(io_error(folder))?;
    paths.sort();
    Ok(paths)
}

/// A run's journal.
pub(crate) fn file(run: &Path) -> PathBuf {
    run.join(FILE)
}

/// Whether a folder is a run's.
pub(crate) fn is_run(folder: &Path) -> bool {
    file(folder).is_file()
}

/// When a run last wrote something down. `None` for a folder without anything.
pub(crate) fn last_written(run: &Path) -> Result<Option<SystemTime>, JournalError> {
    let mut files = listed(&run.join(LOGS))?;
    files.push(run.join(FILE));
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Ok(files.iter().filter_map(modified).max())
}

/// Files of a run's workflow.
pub(crate) struct Kept {
    /// By their place beside the workflow, which comes first.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Whether they are as they were when it ran.
    pub(crate) as_it_ran: bool,
}

/// Files of a run's workflow. A run of before they were kept has its workflow's file as it is now, if it is still there.
pub(crate) fn kept(run: &Path, workflow: &Path) -> Result<Kept, JournalError> {
    let read = |path: &Path| std::fs::read(path).map_err(io_error(path));
    let canonical = std::fs::canonicalize(workflow).unwrap_or_else(|_| workflow.to_owned());
    let own = canonical
        .file_name()
        .map_or_else(|| "workflow.yaml".into(), |name| name.to_string_lossy().into_owned());
    let folder = run.join(WORKFLOW);
    if !folder.is_dir() {
        let now = if workflow.is_file() { read(workflow)? } else { Vec::new() };
        return Ok(Kept { files: vec![(own, now)], as_it_ran: false });
    }
    let mut files = Vec::new();
    let mut folders = vec![folder.clone()];
    while let Some(inner) = folders.pop() {
        for path in listed(&inner)? {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(place) = path.strip_prefix(&folder) {
                files.push((place.display().to_string(), read(&path)?));
            }
        }
    }
    files.sort_by_key(|(place, _)| (*place != own, place.clone()));
    Ok(Kept { files, as_it_ran: true })
}

/// How a run stood when it last said so, and how long ago that was. `None` for one that ended, or never said.
pub(crate) fn stood(run: &Path) -> Option<(Now, Duration)> {
    let path = run.join(NOW);
    let now = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
    Some((now, std::fs::metadata(&path).ok()?.modified().ok()?.elapsed().unwrap_or_default()))
}

/// What stages took in a workflow's last runs, stage by stage.
pub(crate) fn took(workflow: &Path, store: &Store) -> HashMap<String, Took> {
    let mut all: HashMap<String, Took> = HashMap::new();
    let mut read = 0;
    for run in runs(workflow, store).unwrap_or_default().iter().take(REMEMBERED) {
        read += std::fs::metadata(run.join(FILE)).map_or(0, |metadata| metadata.len());
        if read > MAX_BYTES {
            break;
        }
        // It only tells how long it will take: what cannot be read is left out, and what did not run is not read.
        let text = std::fs::read_to_string(run.join(FILE)).unwrap_or_default();
        for line in text.lines().filter(|line| line.contains("\"how\":\"ran\"")) {
            if let Ok(Event::Done { how: How::Ran { milliseconds }, past, .. }) = serde_json::from_str(line) {
                all.entry(past.stage).or_default().add(milliseconds);
            }
        }
    }
    all
}

/// The events of a run, given its folder.
pub(crate) fn events(run: &Path) -> Result<Vec<Event>, JournalError> {
    let path = run.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error(&path))?,
    };
    let lines: Vec<String> =
        BufReader::new(file).lines().collect::<Result<_, _>>().map_err(io_error(&path))?;
    Ok(lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workflow_is_kept_as_it_was_with_what_it_imports() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("flows/parts")).unwrap();
        for (name, text) in [("flows/w.yaml", "w"), ("flows/parts/a.yaml", "a"), ("b.yaml", "b")] {
            std::fs::write(at(name), text).unwrap();
        }
        let store = Store::open(&at("store")).unwrap();
        let workflow = at("flows/w.yaml");
        let journal = Journal::begin(&workflow, &store, 1).unwrap();
        let run = journal.folder.clone();
        let told = |kept: Kept| {
            let files =
                kept.files.into_iter().map(|(place, bytes)| (place, String::from_utf8(bytes).unwrap()));
            (files.collect::<Vec<_>>(), kept.as_it_ran)
        };
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(place, text)| (place.to_string(), text.to_string())).collect::<Vec<_>>()
        };
        // Of before files were kept.
        assert_eq!(told(kept(&run, &workflow).unwrap()), (pairs(&[("w.yaml", "w")]), false));
        let imported =
            [at("flows/parts/a.yaml"), at("b.yaml")].map(|file| std::fs::canonicalize(file).unwrap());
        journal.keep(&workflow, &imported).unwrap();
        std::fs::write(&workflow, "changed since").unwrap();
        let expected = pairs(&[("w.yaml", "w"), ("imported/2/b.yaml", "b"), ("parts/a.yaml", "a")]);
        assert_eq!(told(kept(&run, &workflow).unwrap()), (expected, true));
    }

    #[test]
    fn a_torn_line_is_passed_over_and_the_newest_run_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let workflow = root.path().join("w.yaml");
        assert!(last_run(&workflow, &store).unwrap().is_none());
        for time in [9, 10] {
            let mut journal = Journal::begin(&workflow, &store, time).unwrap();
            journal.write(&Event::Running { action: time as usize, time }).unwrap();
            journal.write(&Event::Finished { milliseconds: time }).unwrap();
            let mut file = File::options().append(true).open(&journal.path).unwrap();
            file.write_all(b"{\"event\":\"fini").unwrap();
        }
        let events = last_run(&workflow, &store).unwrap().unwrap();
        assert!(matches!(
            events[..],
            [Event::Running { action: 10, .. }, Event::Finished { milliseconds: 10 }]
        ));
    }
}
