//! What an artifact tells of how it came to be that matters to whoever judges results: that something was fitted on spots
//! that may be tested on, that a split flatters, that labels were shuffled. Marks go from a stage's inputs to its outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The attribute of an artifact's root group that holds its marks; where there is no such group, the JSON file
/// `restage_saw.json` in its folder has it.
pub const ATTRIBUTE: &str = "restage_saw";

/// What a mark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// The split lets what is tested on resemble what is trained on more than new tissue would.
    Optimistic,
    /// Something was fitted on the inputs, never the labels, of spots that may be tested on.
    Transductive,
    /// Training labels were shuffled: results should be those of chance.
    Permuted,
}

/// Marks: what each says in plain words, and of which sections. Equal words of several sections are one mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<(MarkKind, String), BTreeSet<String>>);

/// One mark, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What it is about.
    pub kind: MarkKind,
    /// In plain words, the stage type first.
    pub what: String,
    /// Of which sections the spots were; none: it holds whatever is tested on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<String>,
}

impl Mark {
    /// Whether it matters to a test on these spots.
    pub fn concerns<'a>(&self, spots: impl IntoIterator<Item = &'a str>) -> bool {
        self.sections.is_empty()
            || spots.into_iter().any(|spot| self.sections.iter().any(|name| name == section(spot)))
    }
}

impl Marks {
    /// Adds a mark of the sections of these spots; without spots it holds whatever is tested on.
    pub fn add<'a>(&mut self, kind: MarkKind, what: &str, spots: impl IntoIterator<Item = &'a str>) {
        let sections = spots.into_iter().map(section).map(str::to_owned).collect();
        self.join(kind, what.to_owned(), sections);
    }

    /// Adds all marks of others.
    pub fn extend(&mut self, others: Self) {
        for ((kind, what), sections) in others.0 {
            self.join(kind, what, sections);
        }
    }

    fn join(&mut self, kind: MarkKind, what: String, sections: BTreeSet<String>) {
        let everywhere = sections.is_empty();
        let known = self.0.entry((kind, what));
        let is_new = matches!(known, std::collections::btree_map::Entry::Vacant(_));
        let known = known.or_default();
        if everywhere || (known.is_empty() && !is_new) {
            known.clear();
        } else {
            known.extend(sections);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, by kind and words.
    pub fn iter(&self) -> impl Iterator<Item = Mark> {
        self.0.iter().map(|((kind, what), sections)| Mark {
            kind: *kind,
            what: what.clone(),
            sections: sections.iter().cloned().collect(),
        })
    }

    /// The marks of an artifact; none where it is no folder.
    ///
    /// # Errors
    /// If its root cannot be read, or holds something else under the attribute.
    pub fn read(artifact: &Path) -> Result<Self> {
        let Some(root) = Root::open(artifact)? else { return Ok(Self::default()) };
        let Some(list) = root.attributes().and_then(|attributes| attributes.get(ATTRIBUTE)) else {
            return Ok(Self::default());
        };
        let marks: Vec<Mark> = serde_json::from_value(list.clone()).map_err(|error| {
            Error::invalid(format!("{}: has a wrong attribute `{ATTRIBUTE}`: {error}", artifact.display()))
        })?;
        Ok(marks.into_iter().collect())
    }

    /// Writes them into an artifact that is written already; false where it is no folder and they cannot be kept.
    ///
    /// # Errors
    /// If its root cannot be read or written.
    pub fn write(&self, artifact: &Path) -> Result<bool> {
        let Some(mut root) = Root::open(artifact)? else { return Ok(false) };
        let list = self.iter().collect::<Vec<_>>();
        let list = serde_json::to_value(list).map_err(Error::other("cannot write marks"))?;
        root.insert(list)?;
        Ok(true)
    }
}

impl FromIterator<Mark> for Marks {
    fn from_iter<T: IntoIterator<Item = Mark>>(marks: T) -> Self {
        let mut all = Self::default();
        marks
            .into_iter()
            .for_each(|mark| all.join(mark.kind, mark.what, mark.sections.into_iter().collect()));
        all
    }
}

/// The section in the name of a spot, `<section>_<barcode>`. Barcodes of Visium HD, `s_008um_00269_00526-1`, have `_` too.
pub fn section(spot: &str) -> &str {
    let last = |text: &'_ str| text.rsplit_once('_').map(|(front, _)| front.len());
    let hd = (0..4).try_fold(spot.len(), |end, _| last(&spot[..end]));
    match hd {
        Some(end) if spot[end..].starts_with("_s_") && spot[end..].contains("um_") => &spot[..end],
        _ => last(spot).map_or(spot, |end| &spot[..end]),
    }
}

/// The metadata of a root group: of Zarr 3 in `zarr.json`, of Zarr 2, which Python may write, in `.zattrs`; of a folder of
/// anything else a file of their own.
struct Root {
    file: PathBuf,
    is_v3: bool,
    json: Map<String, Value>,
}

impl Root {
    fn open(artifact: &Path) -> Result<Option<Self>> {
        for (name, beside, is_v3) in [("zarr.json", "zarr.json", true), (".zattrs", ".zgroup", false)] {
            if artifact.join(beside).is_file() {
                return Self::read(artifact.join(name), is_v3).map(Some);
            }
        }
        artifact.is_dir().then(|| Self::read(artifact.join(format!("{ATTRIBUTE}.json")), false)).transpose()
    }

    fn read(file: PathBuf, is_v3: bool) -> Result<Self> {
        let json = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(Error::other(format!("{} is no JSON object", file.display())))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(Error::io(file)(error)),
        };
        Ok(Self { file, is_v3, json })
    }

    fn attributes(&self) -> Option<&Map<String, Value>> {
        if self.is_v3 { self.json.get("attributes")?.as_object() } else { Some(&self.json) }
    }

    fn insert(&mut self, marks: Value) -> Result<()> {
        let attributes = if self.is_v3 {
            let attributes = self.json.entry("attributes").or_insert_with(|| Map::new().into());
            attributes.as_object_mut().ok_or_else(|| {
                Error::invalid(format!("{}: `attributes` is no JSON object", self.file.display()))
            })?
        } else {
            &mut self.json
        };
        attributes.insert(ATTRIBUTE.into(), marks);
        let text = serde_json::to_string_pretty(&self.json).map_err(Error::other("cannot write marks"))?;
        // Beside it and renamed: the file may be a link to one that is somebody else's.
        let fresh = self.file.with_extension("marked");
        std::fs::write(&fresh, text).map_err(Error::io(&fresh))?;
        std::fs::rename(&fresh, &self.file).map_err(Error::io(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spot_s_section_is_what_stands_before_its_barcode() {
        assert_eq!(section("A1_10x13"), "A1");
        assert_eq!(section("V1_Breast_AAAC-1"), "V1_Breast");
        assert_eq!(section("V1_Breast_s_008um_00269_00526-1"), "V1_Breast");
        assert_eq!(section("alone"), "alone");
    }

    #[test]
    fn equal_words_are_one_mark_of_all_their_sections() {
        let mut marks = Marks::default();
        marks.add(MarkKind::Transductive, "fitted", ["B1_x", "A1_y"]);
        marks.add(MarkKind::Transductive, "fitted", ["A1_z", "C_z"]);
        let only = marks.iter().collect::<Vec<_>>();
        assert_eq!((only.len(), &only[0].sections[..]), (1, &["A1".into(), "B1".into(), "C".into()][..]));
        assert!(only[0].concerns(["D_1", "C_9"]) && !only[0].concerns(["D_1", "A_1"]));
        // What holds everywhere does not shrink to some sections, in whichever order it is told.
        for order in [[true, false], [false, true]] {
            let mut marks = Marks::default();
            for everywhere in order {
                marks.add(MarkKind::Optimistic, "split", (!everywhere).then_some("A_1"));
            }
            assert!(marks.iter().all(|mark| mark.sections.is_empty() && mark.concerns(["Z_1"])));
        }
    }

    #[test]
    fn marks_lie_in_the_root_of_either_zarr_or_in_a_file_of_their_own() {
        let mut marks = Marks::default();
        marks.add(MarkKind::Permuted, "shuffled", []);
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("zarr.json", r#"{"zarr_format":3,"attributes":{"a":1}}"#), (".zgroup", "{}")]
        {
            let artifact = folder.path().join(name.trim_start_matches('.'));
            std::fs::create_dir(&artifact).unwrap();
            std::fs::write(artifact.join(name), content).unwrap();
            assert!(Marks::read(&artifact).unwrap().is_empty());
            assert!(marks.write(&artifact).unwrap());
            assert_eq!(Marks::read(&artifact).unwrap(), marks);
        }
        let kept: Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("zarr.json/zarr.json")).unwrap())
                .unwrap();
        assert_eq!(kept["attributes"]["a"], 1);
        let plain = folder.path().join("plain");
        std::fs::create_dir(&plain).unwrap();
        assert!(Marks::read(&plain).unwrap().is_empty());
        assert!(marks.write(&plain).unwrap());
        assert_eq!(Marks::read(&plain).unwrap(), marks);
        let file = folder.path().join("file");
        std::fs::write(&file, "text").unwrap();
        assert!(!marks.write(&file).unwrap() && Marks::read(&file).unwrap().is_empty());
    }
}
