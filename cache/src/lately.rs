//! What this process found whole a moment ago, so that an artifact that many actions share is not looked at file by file
//! for each of them.
//!
//! Only who reads believes it. Publishing and recording look at every file, and what they find replaces what was known.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::stat::Stat;

/// How long it is believed. A reader may open an artifact this long after it was looked at anyway, and a network file
/// system may show what was there this long ago.
const MOMENT: Duration = Duration::from_secs(30);

/// The outside of an artifact: its manifest and the folder of its tree. An artifact that is gone, was replaced by a repaired
/// one or lost something at the top of its tree has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) manifest: Stat,
    pub(crate) tree: Stat,
}

/// When which artifacts were found whole.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    found: Mutex<HashMap<Digest, (Instant, Outside)>>,
}

impl Lately {
    /// Whether the artifact, which looks like this from outside, was found whole.
    pub(crate) fn knows(&self, digest: &Digest, outside: &Outside, now: Instant) -> bool {
        let known = self.found().get(digest).copied();
        known.is_some_and(|(then, known)| known == *outside && now.saturating_duration_since(then) < MOMENT)
    }

    /// Takes down what was found: what a whole artifact looked like from outside before the look at its files, and when.
    pub(crate) fn set(&self, digest: &Digest, whole: Option<(Instant, Outside)>) {
        match whole {
            Some(whole) => drop(self.found().insert(*digest, whole)),
            None => drop(self.found().remove(digest)),
        }
    }

    /// Every state of the map is a good one, so a thread that panicked with it has spoilt nothing.
    fn found(&self) -> MutexGuard<'_, HashMap<Digest, (Instant, Outside)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn it_is_known_for_a_moment_and_while_it_looks_the_same() {
        let (here, there) = (Stat::of(Path::new(".")).unwrap(), Stat::of(Path::new("/")).unwrap());
        let outside = Outside { manifest: here, tree: here };
        let digest = Digest::of(b"an artifact");
        let (lately, then) = (Lately::default(), Instant::now());
        assert!(!lately.knows(&digest, &outside, then));
        lately.set(&digest, Some((then, outside)));
        assert!(lately.knows(&digest, &outside, then + MOMENT / 2));
        assert!(!lately.knows(&digest, &outside, then + MOMENT));
        assert!(!lately.knows(&digest, &Outside { manifest: there, ..outside }, then));
        assert!(!lately.knows(&digest, &Outside { tree: there, ..outside }, then));
        assert!(!lately.knows(&Digest::of(b"another"), &outside, then));
        lately.set(&digest, None);
        assert!(!lately.knows(&digest, &outside, then));
    }
}
