//! Where a plugin is tried: a host that is started again when it is lost, folders to write into, and limits of time.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use restage_cache::{Staging, Store};
use restage_stage::{catalogue::Catalogue, task::Task};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Checked, failed};
use crate::plugin::{Access, Failure, Host, StartError};

/// How long an answer about params may take: a plan asks for thousands.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a stage may take to stop when asked: what the engine grants.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// What a plugin says to params: canonical ones, or what is wrong with them.
pub(super) type Answer = Result<Value, Vec<String>>;

/// A place to try a plugin in.
pub(super) struct Bench {
    library: PathBuf,
    store: Store,
    pub(super) limit: Duration,
    /// The working folder of all hosts.
    home: Staging,
    host: Option<Host>,
}

impl Bench {
    pub(super) fn new(library: &Path, store: &Store, limit: Duration) -> restage_cache::Result<Self> {
        let (library, store) = (library.to_owned(), store.clone());
        Ok(Self { library, home: store.staging()?, store, limit, host: None })
    }

    /// Loads the plugin for the first time.
    pub(super) async fn load(&mut self) -> Result<Catalogue, StartError> {
        let (host, catalogue) = Host::start_in(&self.library, self.home.path()).await?;
        self.host = Some(host);
        Ok(catalogue)
    }

    async fn start(&self) -> Checked<(Host, Catalogue)> {
        let started = Host::start_in(&self.library, self.home.path()).await;
        started.map_err(|error| {
            let found = match error {
                StartError::Refused { message, .. } => message,
                other => crate::causes(&other).join(": "),
            };
            failed(
                "a plugin that loads each time",
                found,
                "loading it must not depend on what another process of it did",
            )
        })
    }

    /// The host of the last call if it lives, else another one.
    async fn host(&mut self) -> Checked<Host> {
        match self.host.take() {
            Some(host) => Ok(host),
            None => Ok(self.start().await?.0),
        }
    }

    /// Lets the next call have a host of its own.
    pub(super) fn part(&mut self) {
        self.host = None;
    }

    /// Whether the plugin says the same of itself in another process.
    pub(super) async fn describes_itself_alike(&mut self, catalogue: &Catalogue) -> Checked {
        let (host, again) = self.start().await?;
        self.host = Some(host);
        let (first, second) = (serde_json::to_value(catalogue), serde_json::to_value(again));
        match (first, second) {
            (Ok(first), Ok(second)) if first == second => Ok(()),
            _ => Err(failed(
                "the same catalogue each time",
                "a second process described itself otherwise",
                "take nothing into the catalogue that changes: no time, no environment, no order of a hash map",
            )),
        }
    }

    /// What the plugin says to params. A host that is lost over it is a failure of the check that asked.
    pub(super) async fn check(&mut self, stage: &str, params: &Value) -> Checked<Answer> {
        let mut host = self.host().await?;
        let answered = tokio::time::timeout(ANSWER, host.canonical(stage, params)).await;
        let found = match answered {
            Ok(Ok(answer)) => {
                self.host = Some(host);
                return Ok(answer);
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("none within {}", humantime::format_duration(ANSWER)),
        };
        Err(failed(
            format!("an answer of `check` to {}", short(params)),
            found,
            "`check` answers with canonical params or with messages, whatever it is given",
        ))
    }

    /// A place for one run.
    pub(super) fn place(&self, outputs: impl Iterator<Item = String>) -> restage_cache::Result<Place> {
        let staging = self.store.staging()?;
        let root = staging.path().join("outputs");
        let made = fs::create_dir(&root).and_then(|()| fs::create_dir(staging.path().join("scratch")));
        made.map_err(unwritable(&root))?;
        let outputs = outputs.map(|port| (port.clone(), root.join(port))).collect();
        Ok(Place { staging, outputs })
    }

    /// Runs a task in the host of the last call. A host that the failure left unusable is not used again.
    pub(super) async fn run(&mut self, task: Task, place: &Place) -> Checked<Result<(), Failure>> {
        let mut host = self.host().await?;
        let (sender, mut events) = mpsc::channel(64);
        // Who tests a plugin does not read what its stages say; a channel that is full would make them wait.
        let silent = tokio::spawn(async move { while events.recv().await.is_some() {} });
        let access = place.access(&task);
        let ended = tokio::time::timeout(self.limit, host.run(task, access, &sender)).await;
        silent.abort();
        let ended =
            ended.map(|ended| ended.map(drop)).unwrap_or(Err(Failure::TimedOut { after: self.limit }));
        if ended.as_ref().map_or_else(Failure::host_survives, |()| true) {
            self.host = Some(host);
        }
        Ok(ended)
    }

    /// Runs a task, asks it to stop, and tells how it ended; none if it did not.
    pub(super) async fn cancel(&mut self, task: Task, place: &Place) -> Checked<Option<Result<(), Failure>>> {
        /// Between two requests to stop: the first may come before the stage has begun.
        const BETWEEN: Duration = Duration::from_millis(100);
        let mut host = self.host().await?;
        let (sender, mut events) = mpsc::channel(64);
        let silent = tokio::spawn(async move { while events.recv().await.is_some() {} });
        let access = place.access(&task);
        let at_once = tokio::select! {
            biased;
            ended = host.run(task, access, &sender) => Some(ended.map(drop)),
            () = tokio::time::sleep(BETWEEN / 5) => None,
        };
        silent.abort();
        if at_once.is_some() {
            return Ok(at_once);
        }
        let stopping = async {
            loop {
                host.cancel().await?;
                if let Ok(ended) = tokio::time::timeout(BETWEEN, host.finish()).await {
                    return ended.map(drop);
                }
            }
        };
        Ok(tokio::time::timeout(GRACE, stopping).await.ok())
    }

    /// What lies in the working folder of the hosts, where nothing should.
    pub(super) fn litter(&self) -> Vec<String> {
        names_in(self.home.path())
    }
}

/// Where one run writes.
pub(super) struct Place {
    staging: Staging,
    pub(super) outputs: BTreeMap<String, PathBuf>,
}

impl Place {
    pub(super) fn scratch(&self) -> PathBuf {
        self.staging.path().join("scratch")
    }

    /// What a task may touch there.
    fn access(&self, task: &Task) -> Access {
        let read = task.inputs.values().flatten().cloned().collect();
        Access { read, write: vec![self.staging.path().to_owned()], ..Access::default() }
    }

    /// The same place, where no output can be made: a file lies where its folder should.
    pub(super) fn blocked(mut self) -> restage_cache::Result<Self> {
        let file = self.staging.path().join("blocked");
        fs::write(&file, "").map_err(unwritable(&file))?;
        for (port, folder) in &mut self.outputs {
            *folder = file.join(port);
        }
        Ok(self)
    }

    /// What lies there beside outputs and scratch.
    pub(super) fn litter(&self) -> Vec<String> {
        let beside = names_in(self.staging.path());
        let mut litter: Vec<String> = beside
            .into_iter()
            .filter(|name| !matches!(name.as_str(), "outputs" | "scratch" | "blocked"))
            .collect();
        let outputs = names_in(&self.staging.path().join("outputs"));
        litter.extend(outputs.into_iter().filter(|name| !self.outputs.contains_key(name)));
        litter
    }
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> restage_cache::Error + use<> {
    let path = path.to_owned();
    move |source| restage_cache::Error::Io { doing: "create", path, source }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A value as JSON, cut where it gets long.
pub(super) fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
