//! What is done about damage that `verify.rs` found: good copies where there are any, else out of reach.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::action;
use crate::area::Area;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout::MANIFEST;
use crate::manifest::Manifest;
use crate::store::Store;
use crate::tree::hash_file;
use crate::verify::{Damage, Look, Verdict, Verification, look};

/// What was done about damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// It is whole again, from good copies. What was damaged is in the quarantine.
    Rebuilt,
    /// It is in the quarantine: what needs it is a miss, and will be done again.
    Quarantined,
    /// Somebody else repaired or removed it meanwhile.
    Settled,
    /// It could not be moved, and why.
    Failed(String),
}

impl Store {
    /// Files first: an artifact is not to be rebuilt from what is damaged.
    pub(crate) fn repair(&self, report: &mut Verification, good: &HashMap<Digest, PathBuf>) {
        for verified in &mut report.files {
            let Verdict::Damaged(damages) = &verified.verdict else { continue };
            let place = self.layout().file(&verified.digest);
            verified.repair = Some(if damages.iter().all(|damage| is_damaged(&place, damage)) {
                self.set_aside(Area::Files, &verified.digest, &place)
            } else {
                Repair::Settled
            });
        }
        for verified in &mut report.artifacts {
            let Verdict::Damaged(damages) = &verified.verdict else { continue };
            let place = self.layout().artifact(&verified.digest);
            if !damages.iter().any(|damage| is_damaged(&place.join(&damage.file), damage)) || !place.exists()
            {
                verified.repair = Some(Repair::Settled);
                continue;
            }
            let rebuilt = self.rebuild(&verified.digest, damages, good);
            self.lately().set(&verified.digest, None);
            verified.repair = Some(match rebuilt {
                Ok(true) => Repair::Rebuilt,
                _ => self.set_aside(Area::Artifacts, &verified.digest, &place),
            });
        }
        for record in &mut report.bad_records {
            let bytes = fs::read(&record.file);
            record.repair = match bytes.map(|bytes| action::parse(&bytes, &record.key).is_err()) {
                Ok(true) => Some(self.set_aside(Area::Records, record.key.as_digest(), &record.file)),
                Ok(false) => Some(Repair::Settled),
                Err(error) if error.kind() == ErrorKind::NotFound => Some(Repair::Settled),
                Err(_) => None,
            };
        }
    }

    fn set_aside(&self, area: Area, digest: &Digest, place: &Path) -> Repair {
        match self.quarantine(area, &digest.to_string(), place) {
            Ok(()) => Repair::Quarantined,
            Err(error) => Repair::Failed(error.to_string()),
        }
    }

    /// Puts good copies in place of an artifact's damaged files. False if there are none of some, or it did not help.
    fn rebuild(&self, digest: &Digest, damages: &[Damage], good: &HashMap<Digest, PathBuf>) -> Result<bool> {
        let copies: Option<Vec<&PathBuf>> = damages.iter().map(|damage| good.get(&damage.expected)).collect();
        let Some(copies) = copies else { return Ok(false) };
        let work = self.staging()?;
        for (number, (damage, copy)) in damages.iter().zip(copies).enumerate() {
            let place = self.layout().artifact(digest).join(&damage.file);
            let (linked, cloned) =
                (work.path().join(format!("link-{number}")), work.path().join(format!("clone-{number}")));
            let ours = match self.disk().link(copy, &linked) {
                Ok(()) => linked,
                Err(_) => self.disk().clone(copy, &cloned).map(|()| cloned)?,
            };
            if place.exists() {
                self.disk().swap(&ours, &place)?;
                let name = format!("{digest}-{number}");
                self.quarantine(Area::Artifacts, &name, &ours)?;
            } else {
                self.restore(&ours, &place)?;
            }
            if let Some(folder) = place.parent() {
                self.disk().sync_folder(folder)?;
            }
        }
        Ok(self.flaw(digest)?.is_none())
    }

    /// A file that is not there, and perhaps its folder neither.
    fn restore(&self, ours: &Path, place: &Path) -> Result<()> {
        if let Some(folder) = place.parent() {
            self.disk().create_folder(folder)?;
            self.disk().open_up(folder)?;
        }
        self.disk().rename(ours, place)
    }
}

/// Whether it still is: it is read once more. What cannot be read is not said to be.
fn is_damaged(path: &Path, damage: &Damage) -> bool {
    let found = match look(path) {
        Look::NoFile => return true,
        Look::Unreadable(_) => return false,
        Look::File { .. } if damage.file == Path::new(MANIFEST) => {
            fs::read(path).map(|bytes| Manifest::digest(&bytes))
        }
        Look::File { .. } => hash_file(path).map(|(_, digest)| digest),
    };
    found.is_ok_and(|found| found != damage.expected)
}
