//! What is nobody's: folders of processes that are gone, and hints on paths that are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::area::Area;
use crate::error::Result;
use crate::gc::Removal;
use crate::inventory;
use crate::outside;
use crate::store::Store;

/// A folder of a process that cannot be judged from here is left when nothing in it was written to for so long, whatever
/// the caller wants kept: it may be another machine's, in use.
const IDLE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Store {
    /// Folders of dead processes, and hints on paths that are gone.
    pub(crate) fn leftovers(&self, now: SystemTime, grace: Duration) -> Result<Vec<Removal>> {
        let layout = self.layout();
        let since = |age: Duration| now.checked_sub(age).unwrap_or(UNIX_EPOCH);
        let (young, idle) = (since(grace), since(grace.max(IDLE)));
        let mut found = Vec::new();
        for (area, folder) in [(Area::Scratch, layout.scratches()), (Area::Staging, layout.stagings())] {
            for (name, path) in inventory::list(&folder)? {
                // A checkpoint's folder is named `<action key>.<owner>`.
                let owner =
                    if area == Area::Scratch { name.split_once('.').map(|(_, owner)| owner) } else { None };
                let owner = owner.unwrap_or(&name);
                let dead = self.owner().is_dead(owner);
                let oldest = if dead { young } else { idle };
                let Some(modified) = inventory::newest(&path)? else { continue };
                if (dead || self.owner().is_elsewhere(owner)) && modified <= oldest {
                    found.push(Removal::new(area, name, path, modified));
                }
            }
        }
        for (name, path) in inventory::unless_gone(inventory::list(&layout.outsides()))?.unwrap_or_default() {
            let Some(modified) = inventory::newest(&path)? else { continue };
            if modified <= young && !outside::is_of_use(&path) {
                found.push(Removal::new(Area::Hints, name, path, modified));
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}
