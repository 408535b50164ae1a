//! Pins: names that keep artifacts from every sweep.
//!
//! A pin is one file, written whole. One that cannot be read stops every sweep: nobody can say what it keeps.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::area::millis;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::Store;

/// The version of the JSON on disk.
const VERSION: u32 = 1;

/// What the names of the files end with.
const ENDING: &str = ".json";

/// A name that keeps artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The name.
    pub name: String,
    /// What it keeps.
    pub artifacts: BTreeSet<Digest>,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
}

/// A pin as it is on disk.
#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    #[serde(flatten)]
    pin: Pin,
}

impl Store {
    /// Keeps these artifacts, which must be there, until [`Store::unpin`]. A pin of that name is replaced. On disk when this
    /// returns.
    ///
    /// A name is up to 100 letters, digits, `-`, `_` and `.`, a letter or a digit first.
    pub fn pin(&self, name: &str, artifacts: &BTreeSet<Digest>) -> Result<Pin> {
        let place = self.pin_place(name)?;
        self.check_pinnable(name, artifacts)?;
        artifacts.iter().try_for_each(|digest| self.sync_names(digest))?;
        let created = millis(SystemTime::now());
        let pin = Pin { name: name.to_owned(), artifacts: artifacts.clone(), created };
        let on_disk = OnDisk { version: VERSION, pin };
        let mut bytes = serde_json::to_vec_pretty(&on_disk)
            .map_err(|error| Error::Pin { path: place.clone(), why: error.to_string() })?;
        bytes.push(b'\n');
        self.disk().create_folder(&self.layout().pins())?;
        self.replace(&place, &bytes)?;
        self.disk().sync_folder(&self.layout().pins())?;
        self.disk().sync_folder(self.layout().current())?;
        // A sweep that read the pins before this one was there may have taken something.
        self.check_pinnable(name, artifacts)?;
        Ok(on_disk.pin)
    }

    /// Removes a pin; what it kept is kept no longer. False if there is none.
    pub fn unpin(&self, name: &str) -> Result<bool> {
        let place = self.pin_place(name)?;
        if !place.try_exists().map_err(Error::io("look at", &place))? {
            return Ok(false);
        }
        let aside = self.staging()?;
        self.disk().rename(&place, &aside.path().join("pin"))?;
        self.disk().sync_folder(&self.layout().pins())?;
        Ok(true)
    }

    /// All pins, by name. An error if there is any that cannot be read.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let folder = self.layout().pins();
        let listing = |error| Error::io("list the folder", &folder)(error);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(listing)?,
        };
        let mut pins = Vec::new();
        for entry in entries {
            let path = entry.map_err(listing)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Files with a dot first are a system's own, as those that a network file system leaves.
            if name.starts_with('.') {
                continue;
            }
            let odd = |why: &str| Error::Pin { path: path.clone(), why: why.to_owned() };
            let name = name
                .strip_suffix(ENDING)
                .filter(|name| is_name(name))
                .ok_or_else(|| odd("it is not named like one"))?;
            match fs::read(&path) {
                // Removed since the folder was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(odd(&error.to_string())),
                Ok(bytes) => pins.push(parse(&bytes, name).map_err(|why| odd(&why))?),
            }
        }
        pins.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pins)
    }

    fn pin_place(&self, name: &str) -> Result<PathBuf> {
        if !is_name(name) {
            return Err(Error::PinName(name.to_owned()));
        }
        Ok(self.layout().pins().join(format!("{name}{ENDING}")))
    }

    fn check_pinnable(&self, name: &str, artifacts: &BTreeSet<Digest>) -> Result<()> {
        for digest in artifacts {
            if self.flaw(digest)?.is_some() {
                return Err(Error::NothingToPin { name: name.to_owned(), digest: *digest });
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn parse(bytes: &[u8], name: &str) -> Result<Pin, String> {
    let OnDisk { version, pin } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, this restage knows {VERSION}"));
    }
    if pin.name != name {
        return Err(format!("it is the pin `{}`", pin.name));
    }
    Ok(pin)
}
