//! What a sweep would remove, and why the rest stays.
//!
//! **Roots**: pins; what is being computed now and what that reads; the artifacts and actions that the caller names;
//! records that were of use within `keep`. What a root reaches stays, and so does all that is younger than `grace`. With `max_bytes`, records go on being given up, those first
//! whose bytes are the cheapest to compute again, until what stays is small enough.
//!
//! A root that cannot be read is an error, and nothing is removed. `sweep.rs` does what is planned here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::Hash;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::Serialize;

use crate::area::{Area, millis};
use crate::digest::{ActionKey, Digest};
use crate::error::Result;
use crate::inventory::{self, Held, Noted, Sized};
use crate::reach::{Reach, contents, outputs};
use crate::store::Store;

/// What to keep.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Records that were of use this short a time ago stay. 30 days. A hit is noted once a day, so less than a day may take
    /// what is in use.
    pub keep: Duration,
    /// What is younger than this stays in any case, and trash this long. 72 hours. Less than the longest run takes what that
    /// run goes on to use.
    pub grace: Duration,
    /// What stays shall be no more than this. `None` for no limit.
    pub max_bytes: Option<u64>,
    /// Artifacts to keep.
    pub artifacts: BTreeSet<Digest>,
    /// Actions whose results to keep.
    pub actions: BTreeSet<ActionKey>,
}

impl Default for GcOptions {
    fn default() -> GcOptions {
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        let (artifacts, actions) = (BTreeSet::new(), BTreeSet::new());
        GcOptions { keep: hours(30 * 24), grace: hours(72), max_bytes: None, artifacts, actions }
    }
}

/// How many things, and what they take on disk. Bytes that several things have are put down to the first of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Amount {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Something that is to go.
#[derive(Debug, Clone, Serialize)]
pub struct Removal {
    /// What kind of thing.
    pub area: Area,
    /// Its digest, key, or the name of its folder.
    pub name: String,
    /// What its going sets free, beside what goes before it.
    pub bytes: u64,
    /// When it was last of use or changed, in milliseconds since 1970.
    pub last_use: u64,
    #[serde(skip)]
    pub(crate) path: PathBuf,
    #[serde(skip)]
    pub(crate) modified: SystemTime,
    /// Of an artifact: the digests of its files.
    #[serde(skip)]
    pub(crate) contents: Vec<Digest>,
}

impl Removal {
    pub(crate) fn new(area: Area, name: String, path: PathBuf, modified: SystemTime) -> Removal {
        let last_use = millis(modified);
        Removal { area, name, bytes: 0, last_use, path, modified, contents: Vec::new() }
    }
}

/// For how many artifacts what is the first reason to stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KeptBy {
    /// A pin.
    pub pins: u64,
    /// Somebody computes with it now.
    pub claims: u64,
    /// The caller named it, or an action that gave it.
    pub asked: u64,
    /// A record that was of use lately.
    pub records: u64,
    /// It is younger than the grace period.
    pub grace: u64,
    /// Nothing else, but it is another user's.
    pub others: u64,
}

/// What a sweep would do: [`Store::plan_gc`]. To print it is a dry run.
#[derive(Debug, Clone, Serialize)]
pub struct GcPlan {
    /// What stays, by area.
    pub kept: BTreeMap<Area, Amount>,
    /// Why artifacts stay.
    pub kept_by: KeptBy,
    /// What goes, by area. Trash is what earlier sweeps left, and is deleted; all else becomes trash, and takes its bytes
    /// until a sweep after the grace period.
    pub removable: BTreeMap<Area, Amount>,
    /// What goes, in this order: records, artifacts, files, then what is nobody's.
    pub removals: Vec<Removal>,
    /// By how much what stays is more than was allowed, as roots and young things are not given up for that.
    pub over: u64,
    /// Artifacts that stay only because they are another user's, with all their bytes. That user's sweep, or an administrator's,
    /// removes them.
    pub others: Amount,
    #[serde(skip)]
    pub(crate) trash: Vec<PathBuf>,
    #[serde(skip)]
    pub(crate) options: GcOptions,
    #[serde(skip)]
    pub(crate) now: SystemTime,
}

impl Store {
    /// Plans a sweep. Removes nothing. Looks at each file in the store.
    pub fn plan_gc(&self, options: &GcOptions) -> Result<GcPlan> {
        self.plan_gc_at(options, self.clock())
    }

    /// The file system's time: ages are differences of its times, and its clock may be another machine's.
    pub(crate) fn clock(&self) -> SystemTime {
        let look = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        self.staging().ok().and_then(|staging| look(staging.path())).unwrap_or_else(SystemTime::now)
    }

    pub(crate) fn plan_gc_at(&self, options: &GcOptions, now: SystemTime) -> Result<GcPlan> {
        let since = |age: Duration| now.checked_sub(age).unwrap_or(UNIX_EPOCH);
        let (young, recent) = (since(options.grace), since(options.keep));
        let pinned: BTreeSet<Digest> = self.pins()?.into_iter().flat_map(|pin| pin.artifacts).collect();
        let claimed = self.claimed()?;
        let records = inventory::records(self.layout())?;
        let artifacts = inventory::artifacts(self.layout())?;
        let files = inventory::files(self.layout())?;

        let mut reach = Reach::new(&artifacts);
        let named: BTreeSet<Digest> =
            [&pinned, &claimed.reads, &options.artifacts].into_iter().flatten().copied().collect();
        named.iter().for_each(|digest| reach.hold(digest));
        artifacts.iter().filter(|held| held.modified > young).for_each(|held| reach.hold(&held.digest));

        let actions: BTreeSet<ActionKey> = claimed.actions.union(&options.actions).copied().collect();
        let asked = |noted: &Noted| actions.contains(&noted.key) || is_within(noted, &named);
        let stays = |noted: &Noted| asked(noted) || noted.modified > young || noted.modified > recent;
        // A folder that is not ours to write to cannot get another parent. To give up its record would free nothing.
        let user = rustix::process::geteuid();
        let is_others = |held: &Held| !user.is_root() && held.user != user.as_raw();
        let of_others: BTreeSet<Digest> =
            artifacts.iter().filter(|held| is_others(held)).map(|held| held.digest).collect();
        let in_vain = |noted: &Noted| is_within(noted, &of_others);
        let (mut kept, rest): (Vec<&Noted>, Vec<&Noted>) = records.iter().partition(|n| stays(n));
        outputs(&kept).for_each(|digest| reach.hold(digest));
        let others: Vec<&Held> = artifacts
            .iter()
            .filter(|held| of_others.contains(&held.digest) && !reach.holds(&held.digest))
            .collect();
        let only_others: BTreeSet<Digest> = others.iter().map(|held| held.digest).collect();
        let mut amount_of_others = Amount::default();
        for held in others {
            reach.hold(&held.digest);
            amount_of_others
                .add(held.manifest.iter().flat_map(|all| all.entries()).map(|entry| entry.size).sum());
        }
        let (unmoved, mut given_up): (Vec<&Noted>, Vec<&Noted>) = rest.into_iter().partition(|n| in_vain(n));
        kept.extend(unmoved);
        if let Some(most) = options.max_bytes {
            let may_go = |noted: &&Noted| {
                !asked(noted) && !in_vain(noted) && noted.modified <= young && reach.bytes_of(noted) > 0
            };
            let mut order: Vec<&Noted> = kept.iter().copied().filter(may_go).collect();
            order.sort_by_cached_key(|noted| (reach.worth(noted), noted.modified, noted.path.clone()));
            let mut order = order.into_iter();
            while reach.bytes > most {
                let Some(noted) = order.next() else { break };
                outputs(&[noted]).for_each(|digest| reach.release(digest));
                given_up.push(noted);
            }
            let gone: HashSet<&PathBuf> = given_up.iter().map(|noted| &noted.path).collect();
            kept.retain(|noted| !gone.contains(&noted.path));
        }
        given_up.sort_by_key(|noted| &noted.path);

        let mut removals: Vec<Removal> = given_up
            .into_iter()
            .map(|noted| {
                Removal::new(Area::Records, noted.key.to_string(), noted.path.clone(), noted.modified)
            })
            .collect();
        let (stay, go): (Vec<&Held>, Vec<&Held>) =
            artifacts.iter().partition(|held| reach.holds(&held.digest));
        removals.extend(go.iter().map(|held| Removal {
            contents: contents(held).collect(),
            ..Removal::new(Area::Artifacts, held.digest.to_string(), held.place.clone(), held.modified)
        }));
        let wanted: HashSet<Digest> = stay.iter().flat_map(|held| contents(held)).collect();
        let links = count(go.iter().flat_map(|held| contents(held)));
        // A file that has more names than we know of is another's business: of an artifact that cannot be read, or of one
        // that is being published.
        let is_free = |digest: &Digest, file: &Sized| {
            let known = links.get(digest).copied().unwrap_or(0);
            !wanted.contains(digest) && file.links <= 1 + known && file.modified <= young
        };
        let free = files.iter().filter(|(digest, file)| is_free(digest, file));
        removals.extend(free.map(|(digest, file)| {
            Removal::new(Area::Files, digest.to_string(), file.path.clone(), file.modified)
        }));
        removals.extend(self.leftovers(now, options.grace)?);
        let trash = self.old_trash(now, options.grace)?;

        let asked_for = outputs(&kept.iter().copied().filter(|noted| asked(noted)).collect::<Vec<_>>())
            .chain(&options.artifacts)
            .copied()
            .collect();
        let of_records = outputs(&kept).copied().collect();
        let kept_by = kept_by(&stay, [&pinned, &claimed.reads, &asked_for, &only_others, &of_records]);
        let (kept, removable) = self.weigh(&mut removals, &trash)?;
        let over = options.max_bytes.map_or(0, |most| reach.bytes.saturating_sub(most));
        let (others, options) = (amount_of_others, options.clone());
        Ok(GcPlan { kept, kept_by, removable, removals, over, others, trash, options, now })
    }

    /// Everything that a root reaches now: pins, what is computed with, what the caller named, and the records that are there.
    pub(crate) fn reached(&self, options: &GcOptions) -> Result<HashSet<Digest>> {
        let records = inventory::records(self.layout())?;
        let recorded = records.iter().filter_map(|noted| noted.record.as_ref().ok());
        let recorded = recorded.flat_map(|record| record.outputs.values().copied());
        let pinned = self.pins()?.into_iter().flat_map(|pin| pin.artifacts);
        let read = self.claimed()?.reads;
        Ok(recorded.chain(pinned).chain(read).chain(options.artifacts.iter().copied()).collect())
    }

    /// What earlier sweeps of this user moved away longer ago than the grace period. Their folders begin with the time, in
    /// seconds. What others moved holds folders that only they can empty.
    fn old_trash(&self, now: SystemTime, grace: Duration) -> Result<Vec<PathBuf>> {
        let all = inventory::unless_gone(inventory::list(&self.layout().trash()))?.unwrap_or_default();
        let is_old = |name: &str| {
            let seconds = name.split('-').next().and_then(|text| text.parse().ok());
            let swept = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
            swept.is_some_and(|swept| now.duration_since(swept).is_ok_and(|age| age > grace))
        };
        let user = rustix::process::geteuid();
        let is_ours = |path: &Path| {
            user.is_root() || fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == user.as_raw())
        };
        let mut old: Vec<PathBuf> = all
            .into_iter()
            .filter(|(name, path)| is_old(name) && is_ours(path))
            .map(|(_, path)| path)
            .collect();
        old.sort();
        Ok(old)
    }

    /// What stays and what goes, by area, in bytes on disk. Puts down to each removal what its going sets free.
    fn weigh(&self, removals: &mut [Removal], trash: &[PathBuf]) -> Result<(Amounts, Amounts)> {
        let walked: Vec<Vec<Sized>> =
            removals.par_iter().map(|removal| inventory::below(&removal.path)).collect::<Result<_>>()?;
        let trashed: Vec<Vec<Sized>> =
            trash.par_iter().map(|path| inventory::below(path)).collect::<Result<_>>()?;
        let names = count(walked.iter().chain(&trashed).flatten().map(|file| file.inode));
        let mut counted: HashSet<(u64, u64)> = HashSet::new();
        let mut freed = |files: &[Sized]| -> u64 {
            let goes = |file: &&Sized| names.get(&file.inode).is_some_and(|names| *names >= file.links);
            files.iter().filter(goes).filter(|file| counted.insert(file.inode)).map(|file| file.bytes).sum()
        };
        let mut going = Amounts::new();
        for (removal, files) in removals.iter_mut().zip(&walked) {
            removal.bytes = freed(files);
            going.entry(removal.area).or_default().add(removal.bytes);
        }
        for files in &trashed {
            going.entry(Area::Trash).or_default().add(freed(files));
        }
        let paths: HashSet<&Path> = removals.iter().map(|removal| removal.path.as_path()).collect();
        let mut kept = Amounts::new();
        for (area, base) in [
            (Area::Artifacts, self.layout().artifacts()),
            (Area::Files, self.layout().files()),
            (Area::Records, self.layout().actions()),
        ] {
            let things: Vec<PathBuf> = match area {
                Area::Records => inventory::below(&base)?.into_iter().map(|file| file.path).collect(),
                _ => inventory::sharded(&base)?.into_iter().map(|(_, path)| path).collect(),
            };
            let things: Vec<PathBuf> =
                things.into_iter().filter(|path| !paths.contains(path.as_path())).collect();
            let walked: Vec<Vec<Sized>> =
                things.par_iter().map(|path| inventory::below(path)).collect::<Result<_>>()?;
            for files in walked {
                let new = files.iter().filter(|file| counted.insert(file.inode));
                kept.entry(area).or_default().add(new.map(|file| file.bytes).sum());
            }
        }
        Ok((kept, going))
    }
}

type Amounts = BTreeMap<Area, Amount>;

/// Whether each of the record's artifacts, and there is one, is among these.
fn is_within(noted: &Noted, artifacts: &BTreeSet<Digest>) -> bool {
    let Ok(record) = &noted.record else { return false };
    !record.outputs.is_empty() && record.outputs.values().all(|digest| artifacts.contains(digest))
}

fn kept_by(kept: &[&Held], [pins, claims, asked, others, records]: [&BTreeSet<Digest>; 5]) -> KeptBy {
    let mut by = KeptBy::default();
    for held in kept {
        let reason = if pins.contains(&held.digest) {
            &mut by.pins
        } else if claims.contains(&held.digest) {
            &mut by.claims
        } else if asked.contains(&held.digest) {
            &mut by.asked
        } else if others.contains(&held.digest) {
            &mut by.others
        } else if records.contains(&held.digest) {
            &mut by.records
        } else {
            &mut by.grace
        };
        *reason += 1;
    }
    by
}

fn count<T: Hash + Eq>(all: impl Iterator<Item = T>) -> HashMap<T, u64> {
    let mut times = HashMap::new();
    all.for_each(|one| *times.entry(one).or_default() += 1);
    times
}
