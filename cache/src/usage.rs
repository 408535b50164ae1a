//! Who holds the space.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use crate::area::Area;
use crate::digest::Digest;
use crate::error::Result;
use crate::inventory::{self, Sized};
use crate::reach::entries;
use crate::store::Store;

/// What a store takes: [`Store::usage`].
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Each artifact, the largest first.
    pub artifacts: Vec<ArtifactUsage>,
    /// Each part of the store.
    pub areas: BTreeMap<Area, AreaUsage>,
    /// Of everything, each file counted once.
    pub bytes: u64,
    /// Size of each file of each artifact, by the digest of its content.
    #[serde(skip)]
    contents: HashMap<Digest, HashMap<Digest, u64>>,
}

/// What an artifact takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ArtifactUsage {
    /// The artifact.
    pub digest: Digest,
    /// How many files it has. None where its manifest is damaged.
    pub files: Option<u64>,
    /// Of all its files together, as a reader sees it.
    pub bytes: u64,
    /// Of the files whose content no other artifact has.
    pub own: u64,
}

/// What a part of the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AreaUsage {
    /// How many files it has, by their names.
    pub files: u64,
    /// Of its files, each counted once.
    pub bytes: u64,
    /// Of its files that no other part has: what would be free without it.
    pub alone: u64,
}

/// What the artifacts of one label take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Of all its artifacts, each content counted once.
    pub bytes: u64,
    /// Of the contents that no other label reaches. Artifacts without a label do not count.
    pub only: u64,
    /// How many of its artifacts are not in the store.
    pub missing: u64,
}

impl Store {
    /// Looks at each file in the store.
    pub fn usage(&self) -> Result<Usage> {
        let held = inventory::artifacts(self.layout())?;
        let contents: HashMap<Digest, HashMap<Digest, u64>> = held
            .iter()
            .map(|held| (held.digest, entries(Some(held)).map(|entry| (entry.digest, entry.size)).collect()))
            .collect();
        let holders = holders(contents.values());
        let mut artifacts: Vec<ArtifactUsage> = held
            .iter()
            .map(|held| ArtifactUsage {
                digest: held.digest,
                files: held.manifest.as_ref().map(|manifest| manifest.entries().len() as u64),
                bytes: entries(Some(held)).map(|entry| entry.size).sum(),
                own: contents.get(&held.digest).map_or(0, |files| alone(files, &holders)),
            })
            .collect();
        artifacts.sort_by_key(|artifact| (std::cmp::Reverse(artifact.bytes), artifact.digest));
        let (areas, bytes) = self.areas()?;
        Ok(Usage { artifacts, areas, bytes, contents })
    }

    fn areas(&self) -> Result<(BTreeMap<Area, AreaUsage>, u64)> {
        let layout = self.layout();
        let folders = Area::ALL.map(|area| (area, area.folder(layout)));
        let all = inventory::below(layout.root())?;
        let area_of = |path: &Path| {
            let inside = |folder: &Option<_>| folder.as_ref().is_some_and(|folder| path.starts_with(folder));
            folders.iter().find(|(_, folder)| inside(folder)).map_or(Area::Other, |(area, _)| *area)
        };
        let placed: Vec<(Area, &Sized)> = all.par_iter().map(|file| (area_of(&file.path), file)).collect();
        let mut inodes: HashMap<(u64, u64), (u64, BTreeSet<Area>)> = HashMap::new();
        let mut areas: BTreeMap<Area, AreaUsage> =
            Area::ALL.map(|area| (area, AreaUsage::default())).into_iter().collect();
        for (area, file) in placed {
            let usage = areas.entry(area).or_default();
            usage.files += 1;
            let (_, holders) = inodes.entry(file.inode).or_insert_with(|| (file.bytes, BTreeSet::new()));
            usage.bytes += if holders.insert(area) { file.bytes } else { 0 };
        }
        for (bytes, holders) in inodes.values() {
            if let (1, Some(area)) = (holders.len(), holders.first()) {
                areas.entry(*area).or_default().alone += bytes;
            }
        }
        Ok((areas, inodes.values().map(|(bytes, _)| bytes).sum()))
    }
}

impl Usage {
    /// For each label what its artifacts take, and what of that no other label reaches. The caller knows what a label is: a
    /// stage, a workflow.
    pub fn by_label<L: Ord + Clone>(&self, labels: &BTreeMap<L, BTreeSet<Digest>>) -> BTreeMap<L, Share> {
        let reached: BTreeMap<&L, HashMap<Digest, u64>> = labels
            .iter()
            .map(|(label, artifacts)| {
                let known = artifacts.iter().filter_map(|digest| self.contents.get(digest));
                (label, known.flatten().map(|(digest, bytes)| (*digest, *bytes)).collect())
            })
            .collect();
        let holders = holders(reached.values());
        let share = |(label, artifacts): (&L, &BTreeSet<Digest>)| {
            let files = reached.get(label);
            let missing =
                artifacts.iter().filter(|digest| !self.contents.contains_key(digest)).count() as u64;
            let bytes = files.map_or(0, |files| files.values().sum());
            let only = files.map_or(0, |files| alone(files, &holders));
            (label.clone(), Share { bytes, only, missing })
        };
        labels.iter().map(share).collect()
    }
}

/// How many of these have each content.
fn holders<'a>(all: impl Iterator<Item = &'a HashMap<Digest, u64>>) -> HashMap<Digest, u64> {
    let mut holders = HashMap::new();
    all.flat_map(HashMap::keys).for_each(|digest| *holders.entry(*digest).or_default() += 1);
    holders
}

/// Bytes of the contents that only one has.
fn alone(files: &HashMap<Digest, u64>, holders: &HashMap<Digest, u64>) -> u64 {
    files.iter().filter(|(digest, _)| holders.get(digest) == Some(&1)).map(|(_, bytes)| bytes).sum()
}
