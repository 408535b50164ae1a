//! Action records: which artifacts an action gave, under its key. The first one stays.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::artifact::{Flaw, read_with_time};
use crate::digest::{ActionKey, Digest};
use crate::error::{Error, Result, is_absent};
use crate::layout::{RECORD, SEEN};
use crate::store::Store;

/// The version of the JSON on disk.
pub(crate) const VERSION: u32 = 1;

/// The time of a record is when it was last of use. A hit sets it if it is older than this.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The result of an action.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The artifact on each output port.
    pub outputs: Outputs,
    /// Who, when, where, from which sources, how long: for people to read. Decides nothing.
    #[serde(default)]
    pub provenance: serde_json::Value,
}

/// The artifact on each output port.
pub type Outputs = BTreeMap<String, Digest>;

/// The answer to [`Store::lookup`] and [`Store::outputs`].
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup<T = Record> {
    /// The action was done, and all its artifacts are there.
    Hit(T),
    /// It has to be done.
    Miss(MissReason),
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// No result was ever recorded.
    Never,
    /// There is a record, but this artifact of it is not in the cache.
    Gone {
        /// The output.
        port: String,
        /// What it was.
        digest: Digest,
    },
    /// There is a record, but this artifact of it is not whole.
    Damaged {
        /// The output.
        port: String,
        /// What it was.
        digest: Digest,
        /// The first path in the artifact's folder that is missing, cannot be read or was changed: `manifest`, or below
        /// `tree`.
        file: PathBuf,
    },
    /// There is a record that cannot be read, and why.
    Unreadable(String),
}

/// The answer to [`Store::record`].
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// This is the action's record now.
    First,
    /// There was one, with the same outputs.
    Same,
    /// There was one with other outputs: this one, which stays the action's record. Ours is kept beside it.
    Different(Box<Record>),
}

/// A record as it is on disk.
#[derive(Serialize, Deserialize)]
struct OnDisk<P> {
    version: u32,
    action: ActionKey,
    // The fields of `Record`, not flattened: serde would read those twice, and a plan reads thousands of records.
    outputs: Outputs,
    #[serde(default)]
    provenance: P,
}

/// A record, its bytes, and when it was last of use.
struct Written<P> {
    outputs: Outputs,
    provenance: P,
    bytes: Vec<u8>,
    used: SystemTime,
}

/// What is read first, to know whether the rest can be.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissReason::Never => write!(f, "was never run"),
            MissReason::Gone { port, digest } => {
                write!(f, "output `{port}` ({digest:.12}) is no longer in the cache")
            }
            MissReason::Damaged { port, digest, file } => write!(
                f,
                "output `{port}` ({digest:.12}) is damaged in the cache: its `{}` is missing or was changed",
                file.display()
            ),
            MissReason::Unreadable(why) => write!(f, "its record cannot be read: {why}"),
        }
    }
}

impl Store {
    /// The action's result, if there is one and all its artifacts are there. Looks at each file of them, but for those that
    /// this process looked at a moment ago.
    ///
    /// An error only if nothing can be said: a disk that does not answer is not a miss.
    pub fn lookup(&self, key: &ActionKey) -> Result<Lookup> {
        Ok(match self.find(key)? {
            Ok((outputs, provenance)) => Lookup::Hit(Record { outputs, provenance }),
            Err(reason) => Lookup::Miss(reason),
        })
    }

    /// Like [`Store::lookup`], without what is for people to read: for a plan, which looks up thousands.
    ///
    /// # Errors
    /// As there.
    pub fn outputs(&self, key: &ActionKey) -> Result<Lookup<Outputs>> {
        Ok(match self.find::<IgnoredAny>(key)? {
            Ok((outputs, _)) => Lookup::Hit(outputs),
            Err(reason) => Lookup::Miss(reason),
        })
    }

    fn find<P: DeserializeOwned + Default>(
        &self,
        key: &ActionKey,
    ) -> Result<Result<(Outputs, P), MissReason>> {
        let Written { outputs, provenance, bytes, used } = match self.read::<P>(key)? {
            Ok(written) => written,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some((port, digest, flaw)) = self.missing(&outputs, Store::flaw_lately)? else {
            // Last: a record that is still there now keeps its artifacts from every sweep to come.
            let stays = self.used(&self.layout().action(key).join(RECORD), &bytes, used);
            return Ok(if stays { Ok((outputs, provenance)) } else { Err(MissReason::Never) });
        };
        let port = port.clone();
        Ok(Err(match flaw {
            Flaw::Gone => MissReason::Gone { port, digest },
            Flaw::Damaged(file) => MissReason::Damaged { port, digest, file },
        }))
    }

    /// What is recorded of the action, whether or not its artifacts are still there. `None` if nothing readable is.
    pub fn recorded(&self, key: &ActionKey) -> Result<Option<Record>> {
        let written = self.read(key)?.ok();
        Ok(written.map(|Written { outputs, provenance, .. }| Record { outputs, provenance }))
    }

    /// Notes that a record was of use, at most once a day. False if it was swept away meanwhile; that it cannot be noted
    /// is no error.
    fn used(&self, place: &Path, bytes: &[u8], used: SystemTime) -> bool {
        if !SystemTime::now().duration_since(used).is_ok_and(|age| age >= FRESH) {
            return true;
        }
        match self.disk().touch(place) {
            Ok(()) => true,
            Err(error) if error.is_missing() => false,
            Err(_) => {
                // Another user's file. A copy takes its name by a swap, which cannot bring back what was swept away.
                drop(self.staging().and_then(|staging| {
                    let ours = staging.path().join("file");
                    self.disk().write(&ours, bytes)?;
                    self.disk().swap(&ours, place)
                }));
                true
            }
        }
    }

    /// Records the result of an action, whose artifacts must have been published. On disk when this returns.
    ///
    /// The first record of an action stays, unless it is of no use: unreadable, or an artifact of it is gone or damaged.
    pub fn record(&self, key: &ActionKey, record: &Record) -> Result<Recorded> {
        if let Some((port, digest, _)) = self.missing(&record.outputs, Store::flaw)? {
            return Err(Error::Unpublished { port: port.clone(), digest });
        }
        let bytes = encode(key, record)?;
        let home = self.layout().action(key);
        let place = home.join(RECORD);
        let ours = self.aside()?;
        self.disk().write_unsynced(&ours, &bytes)?;
        // Before the record is seen: its bytes, and the names of what it names, which nobody has flushed yet.
        let shards = record
            .outputs
            .values()
            .filter_map(|digest| Some(self.layout().artifact(digest).parent()?.into()));
        let folders: Vec<PathBuf> = shards.chain([self.layout().artifacts()]).collect();
        let current = self.layout().current();
        let flushed = self.disk().sync_all(current, std::slice::from_ref(&ours), &folders);
        self.disk().create_folder(&home)?;
        let created = flushed.and_then(|()| match self.give_name(&ours, &place) {
            // A sweep has just removed the folder, which was empty and old.
            Err(error) if error.is_missing() => {
                self.disk().create_folder(&home)?;
                self.give_name(&ours, &place)
            }
            other => other,
        });
        // Where it is not wanted any more or has its name, or what is left is swept with this process's other things.
        drop(self.disk().remove_file(&ours));
        let recorded = if created? {
            Recorded::First
        } else {
            match self.lookup(key)? {
                Lookup::Hit(first) if first.outputs == record.outputs => return Ok(Recorded::Same),
                Lookup::Hit(first) => {
                    self.keep_beside(key, record, &bytes)?;
                    Recorded::Different(Box::new(first))
                }
                Lookup::Miss(_) => {
                    self.replace(&place, &bytes)?;
                    Recorded::First
                }
            }
        };
        let shard = home.parent().map(Path::to_path_buf);
        let names: Vec<PathBuf> = [home].into_iter().chain(shard).chain([self.layout().actions()]).collect();
        self.disk().sync_all(current, &[], &names)?;
        Ok(recorded)
    }

    /// Keeps a record that disagrees with the action's, once for each set of outputs.
    fn keep_beside(&self, key: &ActionKey, record: &Record, bytes: &[u8]) -> Result<()> {
        let seen = self.layout().action(key).join(SEEN);
        let outputs = outputs_digest(key, record)?;
        self.disk().create_folder(&seen)?;
        self.create(&seen.join(format!("{outputs}.json")), bytes)?;
        self.disk().sync_folder(&seen)
    }

    /// The first output whose artifact is not there or not whole, and why: what `flaw` says.
    fn missing<'a>(
        &self,
        outputs: &'a Outputs,
        flaw: fn(&Store, &Digest) -> Result<Option<Flaw>>,
    ) -> Result<Option<(&'a String, Digest, Flaw)>> {
        for (port, digest) in outputs {
            if let Some(flaw) = flaw(self, digest)? {
                return Ok(Some((port, *digest, flaw)));
            }
        }
        Ok(None)
    }

    fn read<P: DeserializeOwned + Default>(&self, key: &ActionKey) -> Result<Result<Written<P>, MissReason>> {
        let path = self.layout().action(key).join(RECORD);
        Ok(match read_with_time(&path) {
            Ok((bytes, used)) => match read_as(&bytes, key) {
                Ok((outputs, provenance)) => Ok(Written { outputs, provenance, bytes, used }),
                Err(why) => Err(MissReason::Unreadable(why)),
            },
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(MissReason::Unreadable(error.to_string()))
            }
            Err(error) if is_absent(&error) => Err(MissReason::Never),
            Err(error) => return Err(Error::io("read", &path)(error)),
        })
    }
}

/// The bytes of a record on disk.
pub(crate) fn encode(key: &ActionKey, record: &Record) -> Result<Vec<u8>> {
    let Record { outputs, provenance } = record.clone();
    let on_disk = OnDisk { version: VERSION, action: *key, outputs, provenance };
    let mut bytes =
        serde_json::to_vec_pretty(&on_disk).map_err(|source| Error::Record { key: *key, source })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What a record is named by among those that disagree.
pub(crate) fn outputs_digest(key: &ActionKey, record: &Record) -> Result<Digest> {
    let outputs =
        serde_json::to_vec(&record.outputs).map_err(|source| Error::Record { key: *key, source })?;
    Ok(Digest::of(&outputs))
}

/// The version of the record that these bytes are, whether or not we can read the rest.
pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
    serde_json::from_slice(bytes).ok().map(|Version { version }| version)
}

/// The record of `key`, or why the bytes are not one.
pub(crate) fn parse(bytes: &[u8], key: &ActionKey) -> Result<Record, String> {
    read_as(bytes, key).map(|(outputs, provenance)| Record { outputs, provenance })
}

fn read_as<P: DeserializeOwned + Default>(bytes: &[u8], key: &ActionKey) -> Result<(Outputs, P), String> {
    let read = serde_json::from_slice::<OnDisk<P>>(bytes);
    // Another version's may have another form.
    let version = match &read {
        Ok(on_disk) => Some(on_disk.version),
        Err(_) => serde_json::from_slice(bytes).ok().map(|Version { version }| version),
    };
    if let Some(version) = version.filter(|version| *version != VERSION) {
        return Err(format!("it has version {version}, this restage knows {VERSION}"));
    }
    let OnDisk { action, outputs, provenance, .. } = read.map_err(|error| error.to_string())?;
    if action != *key {
        return Err(format!("it is the record of action {action}"));
    }
    Ok((outputs, provenance))
}
