//! What a run gave, in formats that other tools read: TensorBoard's, a Workflow Run RO-Crate, plain JSON.

mod metrics;
mod rocrate;
mod tensorboard;
mod zip;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
};

use restage_cache::{ActionKey, Store};

pub(crate) use metrics::metrics;
pub(crate) use rocrate::{Crate, DESCRIPTOR};
use tensorboard::{Point, event_file};
pub(crate) use zip::zip;

use crate::{
    plan::name,
    report::{ActionOutcome, Outcome, page::kept_curves},
    run::{
        event::{ActionId, InstanceHead},
        journal::{self, JournalError},
    },
};

/// Gives actions that were computed by earlier runs of the workflow the curves that those told; of others, as of another workflow or
/// a team mate, those that their metrics keep.
pub(crate) fn find_curves(outcome: &mut Outcome, run: &Path, store: &Store) -> Result<(), JournalError> {
    let mut lacking: BTreeMap<ActionKey, Vec<ActionId>> = BTreeMap::new();
    for (id, action) in outcome.actions.iter().enumerate().filter(|(_, action)| action.curves.is_empty()) {
        if let Some(done) = action.done() {
            lacking.entry(done.key).or_default().push(id);
        }
    }
    let earlier = journal::runs(&outcome.workflow, store)?;
    for folder in earlier.iter().filter(|folder| folder.as_path() != run) {
        if lacking.is_empty() {
            break;
        }
        let Some(other) = Outcome::of(journal::events(folder)?) else { continue };
        for ActionOutcome { state, curves, times, .. } in other.actions {
            let crate::report::ActionState::Done(done) = state else { continue };
            if curves.is_empty() {
                continue;
            }
            for id in lacking.remove(&done.key).into_iter().flatten() {
                if let Some(action) = outcome.actions.get_mut(id) {
                    (action.curves, action.times) = (curves.clone(), times.clone());
                }
            }
        }
    }
    for action in outcome.actions.iter_mut().filter(|action| action.curves.is_empty()) {
        let points = |values: Vec<f64>| (0..).zip(values.into_iter().map(Some)).collect();
        let kept = kept_curves(action, store).into_iter();
        action.curves = kept.map(|(name, values)| (name, points(values))).collect();
    }
    Ok(())
}

/// Event files for TensorBoard, by the folder that each goes to: variant, seed, stage. What variants share is in the folder of
/// the baseline, or of the first that has it.
pub(crate) fn event_files(outcome: &Outcome) -> BTreeMap<PathBuf, Vec<u8>> {
    let seconds = |milliseconds: u64| milliseconds as f64 / 1000.0;
    let began = seconds(outcome.time);
    let mut files = BTreeMap::new();
    for (id, instance) in owners(outcome) {
        let Some(action) = outcome.actions.get(id).filter(|action| !action.curves.is_empty()) else {
            continue;
        };
        // Stages have charts of their own, variants and seeds are lines in them.
        let tags: Vec<String> =
            action.curves.keys().map(|curve| format!("{}/{curve}", instance.stage)).collect();
        let points = tags.iter().zip(&action.curves).flat_map(|(tag, (curve, points))| {
            let times = action.times.get(curve).map_or(&[][..], Vec::as_slice);
            points.iter().enumerate().map(move |(at, (step, value))| {
                let time = times.get(at).filter(|time| **time > 0).map_or(began, |time| seconds(*time));
                Point { tag, step: *step, value: *value, time }
            })
        });
        let folder = unused(&files, &folder(instance));
        files.insert(folder, event_file(began, points));
    }
    files
}

/// Of each action the instance that it is shown as: the baseline's, or the first.
fn owners(outcome: &Outcome) -> BTreeMap<ActionId, &InstanceHead> {
    let mut owners = BTreeMap::new();
    let (baseline, others): (Vec<_>, Vec<_>) =
        outcome.instances.iter().partition(|instance| instance.variant == outcome.baseline);
    for instance in baseline.into_iter().chain(others) {
        owners.entry(instance.action).or_insert(instance);
    }
    owners
}

fn folder(instance: &InstanceHead) -> PathBuf {
    let mut folder = PathBuf::from(file_name(&instance.variant));
    folder.extend(instance.seed.map(|seed| format!("seed {seed}")));
    folder.join(file_name(&name(&instance.stage, &instance.at)))
}

/// A name as one that files may have everywhere.
fn file_name(name: &str) -> String {
    let kept = |char: char| char.is_alphanumeric() || " -_.,[]()=+%".contains(char);
    let name: String = name.chars().map(|char| if kept(char) { char } else { '_' }).collect();
    let name = name.trim_matches(['.', ' ']);
    if name.is_empty() { "_".to_owned() } else { name.to_owned() }
}

/// The folder, or one like it if two names have become the same.
fn unused(files: &BTreeMap<PathBuf, Vec<u8>>, folder: &Path) -> PathBuf {
    let numbered = (2..).map(|number| PathBuf::from(format!("{} {number}", folder.display())));
    let mut candidates = std::iter::once(folder.to_owned()).chain(numbered);
    candidates.find(|folder| !files.contains_key(folder)).unwrap_or_else(|| folder.to_owned())
}

/// Writes a file whole: nobody sees half of it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// What the system's default makes of a new file; a temporary one would be its owner's only.
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// Stages of a workflow in the order in which its run names them.
fn stages(outcome: &Outcome) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    outcome
        .instances
        .iter()
        .map(|instance| instance.stage.as_str())
        .filter(|stage| seen.insert(*stage))
        .collect()
}
