//! Earlier runs, of one workflow or of all: what they gave, which of them keep that from a sweep, and which may be
//! forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use restage_cache::{ActionKey, Digest, Store};

use super::{
    event::{Event, InstanceHead},
    journal::{self, JournalError},
};
use crate::{
    plan::{BASELINE, Known, Wanted},
    workflow::{Diagnostic, Place},
};

/// A run that has not said that it ended is taken for one that goes on as long as it wrote something this short a time
/// ago: its process may be on another machine, and an action may take days.
const SILENCE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An artifact that a run gave or found.
pub(crate) struct Output {
    pub(crate) instance: InstanceHead,
    pub(crate) port: String,
    pub(crate) digest: Digest,
}

/// The artifacts of a run, stage by stage.
pub(crate) struct Outputs {
    /// The variant that others are compared with.
    pub(crate) baseline: String,
    pub(crate) outputs: Vec<Output>,
    /// What the run was to do.
    instances: Vec<InstanceHead>,
}

impl Outputs {
    /// Those that are named, see [`Wanted`]: of `variant` where the name says none, of all without one.
    ///
    /// # Errors
    /// If nothing is called so, or what is has given nothing.
    pub(crate) fn named<'a>(
        &'a self,
        text: &'a str,
        variant: Option<&'a str>,
    ) -> Result<Vec<&'a Output>, Diagnostic> {
        let wanted = Wanted::new(text).or_of(variant);
        let is = |output: &&Output| {
            let InstanceHead { stage, at, variant, .. } = &output.instance;
            wanted.is(stage, at, std::iter::once(output.port.as_str()))
                && wanted.is_of(variant, &self.baseline)
        };
        let found: Vec<&Output> = self.outputs.iter().filter(is).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let mut known: Vec<Known> = Vec::new();
        let mut ports: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for Output { instance, port, .. } in &self.outputs {
            ports.entry(instance.action).or_default().push(port);
        }
        for InstanceHead { stage, at, variant, action, .. } in &self.instances {
            let ports = ports.get(action).cloned().unwrap_or_default();
            if wanted.is(stage, at, std::iter::empty()) && wanted.is_of(variant, &self.baseline) {
                let message = format!("`{text}` has given nothing in that run");
                return Err(Diagnostic::new(&Place::argument(text), message, "asked for here")
                    .help("it failed, or the run ended before it: `restage status` tells"));
            }
            known.push(Known { stage, at, variant, ports });
        }
        Err(wanted.unknown(&known))
    }
}

/// What a run gave, from its events.
pub(crate) fn outputs(events: Vec<Event>) -> Outputs {
    let mut instances: Vec<InstanceHead> = Vec::new();
    let mut baseline = BASELINE.to_owned();
    let mut digests: BTreeMap<usize, BTreeMap<String, Digest>> = BTreeMap::new();
    for event in events {
        match event {
            Event::Started(started) => {
                instances = started.instances;
                baseline = started.baseline.unwrap_or(baseline);
            }
            Event::Done { action, outputs, .. } => drop(digests.insert(action, outputs)),
            _ => {}
        }
    }
    let of = |instance: &InstanceHead| {
        let all = digests.get(&instance.action).into_iter().flatten();
        let output = |(port, digest): (&String, &Digest)| Output {
            instance: instance.clone(),
            port: port.clone(),
            digest: *digest,
        };
        all.map(output).collect::<Vec<_>>()
    };
    Outputs { outputs: instances.iter().flat_map(of).collect(), baseline, instances }
}

/// The actions of a run whose results are there, from its events.
pub(crate) fn actions(events: &[Event]) -> BTreeSet<ActionKey> {
    let key = |event: &Event| if let Event::Done { key, .. } = event { Some(*key) } else { None };
    events.iter().filter_map(key).collect()
}

/// A run, as far as a sweep must know it.
pub(crate) struct PastRun {
    pub(crate) folder: PathBuf,
    /// The workflow's file, if the journal got so far.
    pub(crate) workflow: Option<PathBuf>,
    ended: bool,
    written: SystemTime,
    actions: BTreeSet<ActionKey>,
    pub(crate) artifacts: BTreeSet<Digest>,
}

/// All runs in the store, newest first, workflow by workflow.
pub(crate) fn all(store: &Store) -> Result<Vec<Vec<PastRun>>, JournalError> {
    let read = |runs: Vec<PathBuf>| runs.into_iter().map(past_run).collect::<Result<Vec<_>, _>>();
    journal::runs_of_all(store)?.into_iter().map(read).collect()
}

fn past_run(folder: PathBuf) -> Result<PastRun, JournalError> {
    let written = journal::last_written(&folder)?.unwrap_or(SystemTime::UNIX_EPOCH);
    let (actions, artifacts) = (BTreeSet::new(), BTreeSet::new());
    let mut run = PastRun { workflow: None, ended: false, written, actions, artifacts, folder };
    for event in journal::events(&run.folder)? {
        match event {
            Event::Started(started) => run.workflow = Some(started.workflow),
            Event::Done { key, outputs, .. } => {
                run.actions.insert(key);
                run.artifacts.extend(outputs.into_values());
            }
            Event::Finished { .. } => run.ended = true,
            _ => {}
        }
    }
    Ok(run)
}

/// Which runs keep what they gave.
#[derive(Clone, Copy)]
pub(crate) struct Retention {
    /// So many of each workflow.
    pub(crate) last: usize,
    /// The journals of others are kept for so long.
    pub(crate) keep: Duration,
}

/// What runs keep from a sweep.
#[derive(Default)]
pub(crate) struct Retained {
    pub(crate) actions: BTreeSet<ActionKey>,
    pub(crate) artifacts: BTreeSet<Digest>,
    /// How many runs keep what they gave.
    pub(crate) runs: usize,
    /// How many of these only because they may be going on.
    pub(crate) going_on: usize,
    /// Folders of runs that may be forgotten.
    pub(crate) old: Vec<PathBuf>,
}

/// The last runs of each workflow, and those that may be going on, keep what they gave.
pub(crate) fn retained(all: &[Vec<PastRun>], retention: Retention, now: SystemTime) -> Retained {
    let mut retained = Retained::default();
    for runs in all {
        for (position, run) in runs.iter().enumerate() {
            // A time in the future is one of another machine's clock: now.
            let silent = now.duration_since(run.written).unwrap_or_default();
            let goes_on = !run.ended && silent < SILENCE;
            if position < retention.last || goes_on {
                retained.actions.extend(&run.actions);
                retained.artifacts.extend(&run.artifacts);
                retained.runs += 1;
                retained.going_on += usize::from(position >= retention.last);
            } else if silent >= retention.keep {
                retained.old.push(run.folder.clone());
            }
        }
    }
    retained
}

/// Removes a run's journal and logs: out of reach by one rename, so that nobody reads half of it.
pub(crate) fn forget(run: &Path, store: &Store) -> Result<(), String> {
    let aside = store.staging().map_err(|error| error.to_string())?;
    std::fs::rename(run, aside.path().join("run")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn run(number: u8, ended: bool, days: u32, now: SystemTime) -> PastRun {
        let digest = Digest::from_bytes([number; 32]);
        PastRun {
            folder: number.to_string().into(),
            workflow: None,
            ended,
            written: now - DAY * days,
            actions: [ActionKey::derive("test", &[number])].into(),
            artifacts: [digest].into(),
        }
    }

    #[test]
    fn the_last_runs_and_those_that_go_on_keep_what_they_gave() {
        let now = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let all = [
            vec![run(1, false, 0, now), run(2, true, 1, now), run(3, true, 40, now), run(4, false, 41, now)],
            vec![run(5, true, 90, now), run(6, false, 6, now), run(7, false, 8, now)],
        ];
        let told = |last, days| {
            let retained = retained(&all, Retention { last, keep: DAY * days }, now);
            let kept: Vec<u8> = retained.artifacts.iter().map(|digest| digest.as_bytes()[0]).collect();
            assert_eq!((retained.actions.len(), retained.runs), (kept.len(), kept.len()));
            let old: Vec<String> = retained.old.iter().map(|path| path.display().to_string()).collect();
            (kept, retained.going_on, old.join(" "))
        };
        assert_eq!(told(1, 30), (vec![1, 5, 6], 1, "3 4".into()));
        assert_eq!(told(2, 30), (vec![1, 2, 5, 6], 0, "3 4".into()));
        assert_eq!(told(0, 0), (vec![1, 6], 2, "2 3 4 5 7".into()));
        assert_eq!(told(9, 0), ((1..8).collect(), 0, String::new()));
    }

    #[test]
    fn what_has_given_nothing_is_told_from_what_is_not_there() {
        let instance = |stage: &str, variant: &str, action| InstanceHead {
            variant: variant.into(),
            seed: None,
            stage: stage.into(),
            at: BTreeMap::new(),
            action,
        };
        let instances = vec![
            instance("load", "baseline", 0),
            instance("fit", "baseline", 1),
            instance("pca", "small", 2),
        ];
        let output = |action: usize| Output {
            instance: instances[action].clone(),
            port: "table".into(),
            digest: Digest::of(b""),
        };
        let outputs = Outputs {
            baseline: "baseline".into(),
            outputs: vec![output(0), output(2)],
            instances: instances.clone(),
        };
        let told = |text: &str| match outputs.named(text, Some("baseline")) {
            Ok(found) => {
                found.iter().map(|output| output.instance.stage.clone()).collect::<Vec<_>>().join(" ")
            }
            Err(problem) => format!("{} | {}", problem.message, problem.help.unwrap_or_default()),
        };
        assert_eq!(
            (told("load"), told("load.table"), told("pca@small")),
            ("load".into(), "load".into(), "pca".into())
        );
        assert!(
            told("fit").starts_with("`fit` has given nothing in that run | it failed"),
            "{}",
            told("fit")
        );
        assert_eq!(told("pca"), "`pca` has no variant `baseline` | one of: small");
        assert_eq!(told("lod"), "there is no stage `lod` | did you mean `load`?");
        assert_eq!(told("load.tabel"), "`load` has no output `tabel` | did you mean `table`?");
    }

    #[test]
    fn what_a_journal_says_is_what_the_run_gave() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let workflow = root.path().join("w.yaml");
        let mut journal = journal::Journal::begin(&workflow, &store, 7).unwrap();
        let runs = all(&store).unwrap();
        assert!(matches!(&runs[..], [of_one] if of_one.len() == 1 && !of_one[0].ended));
        journal.write(&Event::Finished { milliseconds: 1 }).unwrap();
        let runs = all(&store).unwrap();
        assert!(runs[0][0].ended && runs[0][0].written.elapsed().unwrap_or_default() < DAY);
        forget(&runs[0][0].folder, &store).unwrap();
        assert!(all(&store).unwrap()[0].is_empty());
        assert_eq!(journal::runs(&workflow, &store).unwrap(), [] as [PathBuf; 0]);
    }
}
