//! The parts of a store that upkeep tells apart, and putting damaged things out of reach.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::Result;
use crate::layout::Layout;
use crate::store::Store;

/// A part of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Area {
    /// Results of actions, and those that disagree with them.
    Records,
    /// Artifacts with their files.
    Artifacts,
    /// Files by their content, for artifacts to share.
    Files,
    /// Work of living processes, and of dead ones that nobody has removed.
    Staging,
    /// Checkpoints of actions that are not done.
    Scratch,
    /// What is known of files outside the store.
    Hints,
    /// Names that keep artifacts.
    Pins,
    /// What sweeps moved out of the way.
    Trash,
    /// What was found damaged.
    Quarantine,
    /// The caller's own folders, and all else.
    Other,
}

impl Area {
    /// All of them, those first to which bytes are put down that several have.
    pub const ALL: [Area; 10] = [
        Area::Artifacts,
        Area::Files,
        Area::Records,
        Area::Staging,
        Area::Scratch,
        Area::Hints,
        Area::Pins,
        Area::Trash,
        Area::Quarantine,
        Area::Other,
    ];

    /// One lower-case word.
    pub fn word(self) -> &'static str {
        match self {
            Area::Records => "records",
            Area::Artifacts => "artifacts",
            Area::Files => "files",
            Area::Staging => "staging",
            Area::Scratch => "scratch",
            Area::Hints => "hints",
            Area::Pins => "pins",
            Area::Trash => "trash",
            Area::Quarantine => "quarantine",
            Area::Other => "other",
        }
    }

    /// Its folder; none for what is not one folder.
    pub(crate) fn folder(self, layout: &Layout) -> Option<PathBuf> {
        match self {
            Area::Records => Some(layout.actions()),
            Area::Artifacts => Some(layout.artifacts()),
            Area::Files => Some(layout.files()),
            Area::Staging => Some(layout.stagings()),
            Area::Scratch => Some(layout.scratches()),
            Area::Hints => Some(layout.outsides()),
            Area::Pins => Some(layout.pins()),
            Area::Trash => Some(layout.trash()),
            Area::Quarantine => Some(layout.quarantine()),
            Area::Other => None,
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Store {
    /// Moves something damaged out of reach, by one rename: nothing of it is lost, and what needs it is a miss.
    pub(crate) fn quarantine(&self, area: Area, name: &str, place: &Path) -> Result<()> {
        let folder = self.layout().quarantine();
        self.disk().create_folder(&folder)?;
        // The same thing may be damaged more than once.
        let fresh = self.owner().fresh_name();
        self.disk().rename(place, &folder.join(format!("{area}-{name}.{fresh}")))
    }
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
