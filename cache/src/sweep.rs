//! Doing what `gc.rs` planned, so that being killed at any instant, and others at work meanwhile, do no harm.
//!
//! - Everything is moved to `trash/<seconds>-<owner>/` by one rename each; trash is deleted by a sweep that comes more than
//!   the grace period later. What is needed again meanwhile is a plain miss: nobody looks into the trash.
//! - Records go first, and that is on disk before any artifact goes: no record points at nothing because of a sweep. Then
//!   artifacts, then files that only they had.
//! - What was used between the plan and its rename has another time (a hit touches its record, publishing touches the
//!   artifact that is there already); it is looked at just before the rename and just after, and put back.
//! - Roots are read again before artifacts go, and once more after: what a root reaches by then is put back. What that
//!   cannot see is a run that has published or found an artifact and not yet recorded; that is what the grace is for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::area::Area;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::gc::{Amount, GcPlan, Removal};
use crate::inventory;
use crate::store::Store;

/// What a sweep did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GcReport {
    /// What was moved to the trash, and under [`Area::Trash`] how many earlier sweeps' were deleted. Bytes as planned.
    pub swept: BTreeMap<Area, Amount>,
    /// Things that were used meanwhile and stay: how many.
    pub spared: u64,
    /// What could not be removed, as things of other users, and why.
    pub refused: Vec<Refused>,
}

/// Something that could not be removed.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// What kind of thing.
    pub area: Area,
    /// Its digest, key, or the name of its folder.
    pub name: String,
    /// What the operating system says.
    pub why: String,
}

/// A sweep at work.
struct Sweep<'a> {
    store: &'a Store,
    /// Where things go.
    trash: PathBuf,
    report: GcReport,
    done: u64,
    total: u64,
    progress: &'a dyn Fn(u64, u64),
}

impl Store {
    /// Does what was planned. Any number of processes may use the store meanwhile, and sweep it too.
    ///
    /// `progress` is told how many things of how many are done. After an error what is left is sound, and the next sweep
    /// goes on. What another user owns and is not ours to move is no error: see [`GcReport::refused`].
    pub fn run_gc(&self, plan: &GcPlan, progress: &dyn Fn(u64, u64)) -> Result<GcReport> {
        let seconds = plan.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let trash = self.layout().trash().join(format!("{seconds}-{}", self.owner().fresh_name()));
        let total = (plan.removals.len() + plan.trash.len()) as u64;
        let mut sweep = Sweep { store: self, trash, report: GcReport::default(), done: 0, total, progress };
        sweep.delete(plan);
        let of = |area| plan.removals.iter().filter(move |removal| removal.area == area);

        of(Area::Records).for_each(|removal| drop(sweep.move_away(removal)));
        // Also where the reply says that nothing was moved, as it may be wrong.
        let homes = of(Area::Records).filter_map(|removal| removal.path.parent());
        let homes: Vec<PathBuf> = homes.filter(|home| home.is_dir()).map(Path::to_path_buf).collect();
        self.disk().sync_all(self.layout().current(), &[], &homes)?;

        let artifacts = sweep.move_artifacts(plan)?;
        let mut gone: HashMap<Digest, u64> = HashMap::new();
        let contents = artifacts.iter().flat_map(|removal| &removal.contents);
        contents.for_each(|digest| *gone.entry(*digest).or_default() += 1);
        for removal in of(Area::Files) {
            let known = removal.name.parse().ok().and_then(|digest| gone.get(&digest)).copied().unwrap_or(0);
            if links(&removal.path).is_some_and(|links| links <= 1 + known) {
                sweep.move_away(removal);
            }
        }
        [Area::Scratch, Area::Staging, Area::Hints].into_iter().flat_map(of).for_each(|removal| {
            sweep.move_away(removal);
        });
        self.remove_bare_homes(plan)?;
        Ok(sweep.report)
    }

    /// Removes folders of actions without any record. They are in nobody's way, so it is never an error that one stays.
    fn remove_bare_homes(&self, plan: &GcPlan) -> Result<()> {
        let young = plan.now.checked_sub(plan.options.grace).unwrap_or(UNIX_EPOCH);
        for (_, home) in inventory::sharded(&self.layout().actions())? {
            // A file in it, or something that is being recorded, keeps it: only empty folders can be removed so.
            let is_old = modified(&home).is_some_and(|modified| modified <= young);
            let names = inventory::list(&home).unwrap_or_default();
            if is_old && names.iter().all(|(_, path)| path.is_dir()) {
                names.iter().for_each(|(_, path)| drop(self.disk().remove_empty(path)));
                drop(self.disk().remove_empty(&home));
            }
        }
        Ok(())
    }
}

impl<'a> Sweep<'a> {
    /// Deletes what earlier sweeps moved away.
    fn delete(&mut self, plan: &GcPlan) {
        let planned = plan.removable.get(&Area::Trash).copied().unwrap_or_default();
        for folder in &plan.trash {
            match self.store.disk().remove(folder) {
                Ok(()) => self.report.swept.entry(Area::Trash).or_default().count += 1,
                Err(error) => self.refused(Area::Trash, folder.to_string_lossy().into_owned(), &error),
            }
            self.step();
        }
        if let Some(deleted) = self.report.swept.get_mut(&Area::Trash) {
            deleted.bytes = planned.bytes;
        }
    }

    /// Moves the artifacts away that no root reaches. Returns those that went.
    fn move_artifacts(&mut self, plan: &'a GcPlan) -> Result<Vec<&'a Removal>> {
        let reached = self.store.reached(&plan.options)?;
        let is_reached = |removal: &Removal, reached: &HashSet<Digest>| {
            removal.name.parse().is_ok_and(|digest: Digest| reached.contains(&digest))
        };
        let mut moved = Vec::new();
        for removal in plan.removals.iter().filter(|removal| removal.area == Area::Artifacts) {
            if is_reached(removal, &reached) {
                self.report.spared += 1;
                self.step();
            } else {
                moved.extend(self.move_away(removal));
            }
        }
        let again = self.store.reached(&plan.options);
        let (back, gone): (Vec<_>, Vec<_>) = moved.into_iter().partition(|(removal, _)| match &again {
            Ok(reached) => is_reached(removal, reached),
            Err(_) => true,
        });
        for (removal, place) in back {
            self.put_back(removal, &place);
        }
        again.map(|_| gone.into_iter().map(|(removal, _)| removal).collect())
    }

    /// Moves a thing to the trash, and says where it is now; nothing if it was used since it was listed, or is gone.
    fn move_away<'r>(&mut self, removal: &'r Removal) -> Option<(&'r Removal, PathBuf)> {
        let moved = self.try_move(removal);
        self.step();
        moved.map(|place| (removal, place))
    }

    fn try_move(&mut self, removal: &Removal) -> Option<PathBuf> {
        let now = last_use(removal.area, &removal.path)?;
        if now != removal.modified {
            self.report.spared += 1;
            return None;
        }
        let folder = self.trash.join(removal.area.word());
        // Records that disagree about one action have one name.
        let place = folder.join(format!("{}.{}", removal.name, self.done));
        let disk = self.store.disk();
        match disk.create_folder(&folder).and_then(|()| disk.rename(&removal.path, &place)) {
            Err(error) if error.is_missing() => return None,
            Err(error) => {
                self.refused(removal.area, removal.name.clone(), &error);
                return None;
            }
            Ok(()) => {}
        }
        let amount = self.report.swept.entry(removal.area).or_default();
        amount.add(removal.bytes);
        if last_use(removal.area, &place) != Some(removal.modified) {
            self.put_back(removal, &place);
            return None;
        }
        Some(place)
    }

    /// A thing that somebody needs after all. If there is another in its place by now, that one stays.
    fn put_back(&mut self, removal: &Removal, place: &Path) {
        let disk = self.store.disk();
        let back =
            if place.is_dir() { disk.rename(place, &removal.path) } else { disk.link(place, &removal.path) };
        let amount = self.report.swept.entry(removal.area).or_default();
        match back {
            Err(error) if !removal.path.exists() => {
                self.refused(removal.area, removal.name.clone(), &error);
            }
            _ => {
                amount.count -= 1;
                amount.bytes -= removal.bytes;
                self.report.spared += 1;
            }
        }
    }

    fn refused(&mut self, area: Area, name: String, error: &Error) {
        self.report.refused.push(Refused { area, name, why: error.to_string() });
    }

    fn step(&mut self) {
        self.done += 1;
        (self.progress)(self.done, self.total);
    }
}

/// When a thing was last of use: for folders that somebody works in, when anything in them changed.
fn last_use(area: Area, path: &Path) -> Option<SystemTime> {
    match area {
        Area::Scratch | Area::Staging => inventory::newest(path).ok().flatten(),
        _ => modified(path),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok()
}

fn links(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|meta| meta.nlink())
}
