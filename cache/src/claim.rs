//! Claims: who computes an action now, so that others wait for the result and do not compute it too.
//!
//! A claim saves work; nothing is wrong without it. So claiming never fails, takes no lock, and where two claim at the
//! same instant in spite of everything, both compute and the first record stands.
//!
//! A claim is a file, created by a link that only one can win. Its owner touches it while it works. One whose owner is
//! dead is taken over: on the same machine the process is looked for; from another machine it is dead when the file has
//! not been touched for [`STALE`], by the clock of the file system on which it lies.
//!
//! A claim says which artifacts its owner reads, so that no sweep takes them meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, Digest};
use crate::error::Result;
use crate::inventory;
use crate::store::Store;

/// How often an owner says that it lives.
pub const BEAT: Duration = Duration::from_secs(15);

/// Five beats missed: the owner is gone, or its network is.
const STALE: Duration = Duration::from_secs(75);

/// The answer to [`Store::claim`].
#[derive(Debug)]
pub enum Claiming {
    /// Nobody else computes it: do, and drop the claim when the result is recorded.
    Ours(Claim),
    /// Somebody does: look for the result now and then, and claim again.
    Others(Holder),
}

/// The right, as far as others respect it, to compute an action. Given back when dropped.
#[derive(Debug)]
pub struct Claim {
    store: Store,
    /// Where it lies; `None` where none could be made.
    place: Option<PathBuf>,
    owner: String,
}

/// Who computes an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Where and which process it is, and which of its claims.
    owner: String,
    /// The user, where the environment names one.
    pub user: Option<String>,
    /// The machine.
    pub host: String,
    /// The process.
    pub process: u32,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// What it reads.
    #[serde(default)]
    reads: BTreeSet<Digest>,
}

/// What is being computed now, and from what: no sweep takes it.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) actions: BTreeSet<ActionKey>,
    pub(crate) reads: BTreeSet<Digest>,
}

impl Store {
    /// Claims an action that reads these artifacts, which no sweep takes as long. Whoever gets it should look the action up
    /// once more: the one before may just have recorded it.
    pub fn claim(&self, key: &ActionKey, reads: &BTreeSet<Digest>) -> Claiming {
        let place = self.layout().claim(key);
        let holder = Holder::us(self.owner().fresh_name(), reads.clone());
        let ours = |place: Option<PathBuf>| {
            Claiming::Ours(Claim { store: self.clone(), place, owner: holder.owner.clone() })
        };
        // Looked at before anything is written: who waits asks again and again, and a file server answers many who wait.
        if let Some(other) = self.living_holder(&place, || self.clock()) {
            return Claiming::Others(other);
        }
        let Ok(bytes) = serde_json::to_vec(&holder) else { return ours(None) };
        if self.disk().create_folder(&self.layout().claims()).is_err() {
            return ours(None);
        }
        match self.create_unsynced(&place, &bytes) {
            Ok(true) => return ours(Some(place)),
            Ok(false) => {}
            Err(_) => return ours(None),
        }
        match self.living_holder(&place, || self.clock()) {
            Some(other) => Claiming::Others(other),
            // Of two who take over at once the last one has the file, and for a moment both believe to: see above.
            None => match self.replace_unsynced(&place, &bytes) {
                Ok(()) => match read(&place) {
                    Some(other) if other.owner != holder.owner => Claiming::Others(other),
                    _ => ours(Some(place)),
                },
                Err(_) => ours(None),
            },
        }
    }

    /// Who holds the claim, unless it is dead or the claim says nothing. The file system's clock costs a folder: it is asked
    /// only where the claim is not young by ours, which is so at most [`STALE`] long for one that nobody touches.
    fn living_holder(&self, place: &Path, clock: impl FnOnce() -> SystemTime) -> Option<Holder> {
        let holder = read(place)?;
        if self.owner().is_dead(&holder.owner) {
            return None;
        }
        let touched = fs::metadata(place).and_then(|metadata| metadata.modified()).ok()?;
        let is_young = |now: SystemTime| now.duration_since(touched).is_ok_and(|age| age < STALE);
        let lives =
            is_young(SystemTime::now()) || clock().duration_since(touched).unwrap_or_default() < STALE;
        lives.then_some(holder)
    }

    /// Whether this process has the claim.
    pub(crate) fn is_claimed_by_us(&self, key: &ActionKey) -> bool {
        read(&self.layout().claim(key)).is_some_and(|holder| self.owner().is_ours(&holder.owner))
    }

    /// What living owners compute, and what they read.
    pub(crate) fn claimed(&self) -> Result<Claimed> {
        let mut claimed = Claimed::default();
        let claims = inventory::unless_gone(inventory::list(&self.layout().claims()))?.unwrap_or_default();
        let now = self.clock();
        for (name, place) in claims {
            let Ok(key) = name.parse() else { continue };
            if let Some(holder) = self.living_holder(&place, || now) {
                claimed.actions.insert(key);
                claimed.reads.extend(holder.reads);
            }
        }
        Ok(claimed)
    }
}

impl Claim {
    /// Says that the owner lives; call it every [`BEAT`].
    pub fn beat(&self) {
        if let Some(place) = &self.place {
            // One that could not be touched looks dead after a while, and costs a computation.
            drop(self.store.disk().touch(place));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        // One that was taken over meanwhile is another's.
        if read(place).is_some_and(|holder| holder.owner == self.owner) {
            drop(self.store.disk().remove_file(place));
        }
    }
}

impl Holder {
    fn us(owner: String, reads: BTreeSet<Digest>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            owner,
            user: std::env::var("USER").ok(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            process: std::process::id(),
            since: u64::try_from(since).unwrap_or(u64::MAX),
            reads,
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, host, process, .. } = self;
        match user {
            Some(user) => write!(f, "{user} on {host} (process {process})"),
            None => write!(f, "process {process} on {host}"),
        }
    }
}

fn read(place: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn key() -> ActionKey {
        ActionKey::derive("test", b"action")
    }

    fn claimed_by(store: &Store) -> Claiming {
        store.claim(&key(), &BTreeSet::new())
    }

    #[test]
    fn one_has_it_until_it_is_given_back() {
        let (_folder, store) = store();
        let Claiming::Ours(claim) = claimed_by(&store) else { panic!("nobody else is there") };
        let Claiming::Others(holder) = claimed_by(&store) else { panic!("it is taken") };
        assert_eq!(holder.process, std::process::id());
        let Claiming::Ours(_other) = store.claim(&ActionKey::derive("test", b"other"), &BTreeSet::new())
        else {
            panic!("free")
        };
        drop(claim);
        assert!(matches!(claimed_by(&store), Claiming::Ours(_)));
    }

    #[test]
    fn a_dead_owners_claim_is_taken_over() {
        let (_folder, store) = store();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let alive = store.owner().fresh_name();
        let pid = format!(".{}.", std::process::id());
        let dead = Holder::us(alive.replace(&pid, &format!(".{}.", child.id())), BTreeSet::new());
        let place = store.layout().claim(&key());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, serde_json::to_vec(&dead).unwrap()).unwrap();
        assert!(matches!(claimed_by(&store), Claiming::Ours(_)));
    }

    #[test]
    fn one_from_elsewhere_is_believed_until_it_misses_its_beats() {
        let (_folder, store) = store();
        let elsewhere = Holder::us("host.boot.namespace.7.1-0".into(), BTreeSet::new());
        let place = store.layout().claim(&key());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, serde_json::to_vec(&elsewhere).unwrap()).unwrap();
        assert!(matches!(claimed_by(&store), Claiming::Others(holder) if holder == elsewhere));
        let past = SystemTime::now() - STALE - Duration::from_secs(5);
        fs::File::options().write(true).open(&place).unwrap().set_modified(past).unwrap();
        let Claiming::Ours(claim) = claimed_by(&store) else { panic!("it is stale") };
        let age = || fs::metadata(&place).unwrap().modified().unwrap().elapsed().unwrap_or_default();
        assert!(age() < STALE);
        fs::File::open(&place).unwrap().set_modified(past).unwrap();
        claim.beat();
        assert!(age() < STALE, "a beat keeps it");
    }

    #[test]
    fn checkpoints_go_to_who_goes_on() {
        let (_folder, store) = store();
        let write = |text: &str| fs::write(store.scratch(&key()).unwrap().join("step"), text).unwrap();
        let left = || fs::read_to_string(store.scratch(&key()).unwrap().join("step")).ok();
        let named = |name: &str| store.layout().scratches().join(format!("{}.{name}", key()));
        write("1");
        let ours = store.scratch(&key()).unwrap();
        store.leave_scratch(&key()).unwrap();
        assert!(!ours.exists());
        assert_eq!(left().as_deref(), Some("1"), "anybody's");

        let elsewhere = named("host.boot.namespace.7.1-0");
        fs::rename(store.scratch(&key()).unwrap(), &elsewhere).unwrap();
        assert_eq!(left(), None, "another machine may be at work on it");
        fs::remove_dir(store.scratch(&key()).unwrap()).unwrap();
        let Claiming::Ours(_claim) = claimed_by(&store) else { panic!("free") };
        assert_eq!(left().as_deref(), Some("1"), "it would have the claim");
        store.leave_scratch(&key()).unwrap();
        store.discard_scratch(&key()).unwrap();
        assert_eq!(fs::read_dir(store.layout().scratches()).unwrap().count(), 0);
    }

    #[test]
    fn who_asks_for_what_is_taken_writes_nothing() {
        let (_folder, store) = store();
        let Claiming::Ours(_claim) = claimed_by(&store) else { panic!("nobody else is there") };
        let number = || store.aside().unwrap().file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let stagings = || fs::metadata(store.layout().stagings()).unwrap().modified().unwrap();
        let (before, then) = (number(), stagings());
        assert!(matches!(claimed_by(&store), Claiming::Others(_)));
        assert_eq!(number(), before + 1, "no file was made");
        assert_eq!(stagings(), then, "and no folder");
    }

    #[test]
    fn what_says_nothing_is_nobodys() {
        let (_folder, store) = store();
        let place = store.layout().claim(&key());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, "").unwrap();
        let Claiming::Ours(claim) = claimed_by(&store) else { panic!("an empty claim is nobody's") };
        fs::remove_file(&place).unwrap();
        drop(claim);
        assert!(!place.exists());
    }

    #[test]
    fn of_many_at_once_one_gets_it() {
        let (_folder, store) = store();
        let claims: Vec<Claiming> = std::thread::scope(|scope| {
            let claim = || claimed_by(&store);
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let ours = claims.iter().filter(|claim| matches!(claim, Claiming::Ours(_))).count();
        assert_eq!(ours, 1);
    }
}
