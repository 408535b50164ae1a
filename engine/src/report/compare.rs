//! Two folders that should hold the same: what is equal to the last bit, what is near enough, and what is not; Zarr arrays
//! by their values, everything else by its bytes.

mod spread;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use restage_stage::catalogue::Tolerance;
use serde::Serialize;
use serde_json::{Map, Value};
pub(crate) use spread::Spread;

/// How near two results are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The same bytes.
    BitEqual,
    /// The same values in other bytes, or values as near as the stage type says.
    Within,
    /// Neither.
    Different,
}

/// One part of a folder, then and now.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// An array or group by its path, `/` for the root; another file by its path in the folder.
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) verdict: Verdict,
    /// What differs; none if the bytes are the same.
    #[serde(flatten)]
    pub(crate) difference: Option<Difference>,
}

/// What of a name is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    Array,
    Attributes,
    File,
}

/// What differs.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "difference", rename_all = "kebab-case")]
pub(crate) enum Difference {
    /// It was there and is not.
    Missing,
    /// It was not there and is.
    New,
    /// It is another kind of thing: its shape, type, …
    Kind { what: &'static str, then: Value, now: Value },
    /// Values differ.
    Values(Spread),
    /// All values are the same, and stored in other bytes: chunks, compression, the sign of a zero.
    Stored,
    /// Other content, of so many bytes.
    Content { then: u64, now: u64 },
    /// The bytes differ, and what they say cannot be read.
    Unreadable { why: String },
}

/// Compares what a folder held with what another one holds. Nothing is read twice, and of what is the same in bytes no
/// array is decoded.
///
/// # Errors
/// If a file cannot be read; an array that cannot be understood is a finding.
pub(crate) fn compare(then: &Path, now: &Path, tolerance: Tolerance) -> io::Result<Vec<Finding>> {
    let sides = (parts(then)?, parts(now)?);
    let names: BTreeSet<&String> = sides.0.keys().chain(sides.1.keys()).collect();
    let mut findings = Vec::new();
    for name in names {
        match (sides.0.get(name), sides.1.get(name)) {
            (Some(a), Some(b)) => pair(name, (then, a), (now, b), tolerance, &mut findings)?,
            (Some(was), None) => findings.push(different(name, was.part(), Difference::Missing)),
            (None, Some(is)) => findings.push(different(name, is.part(), Difference::New)),
            (None, None) => {}
        }
    }
    Ok(findings)
}

/// A thing in a folder.
enum Thing {
    Group(Map<String, Value>),
    /// Its metadata without the attributes, these, and the files of its chunks by their paths in it.
    Array {
        metadata: Map<String, Value>,
        attributes: Map<String, Value>,
        chunks: BTreeMap<PathBuf, PathBuf>,
    },
    File(PathBuf),
}

impl Thing {
    fn part(&self) -> Part {
        match self {
            Self::Group(_) => Part::Attributes,
            Self::Array { .. } => Part::Array,
            Self::File(_) => Part::File,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Group(_) => "group",
            Self::Array { .. } => "array",
            Self::File(_) => "file",
        }
    }
}

const METADATA: &str = "zarr.json";

/// What lies in a folder, by name.
fn parts(root: &Path) -> io::Result<BTreeMap<String, Thing>> {
    let mut parts = BTreeMap::new();
    let mut pending = vec![(root.to_owned(), String::new())];
    while let Some((folder, node)) = pending.pop() {
        let metadata = node_metadata(&folder);
        let is_node = metadata.is_some();
        if let Some((kind, mut metadata)) = metadata {
            let attributes = match metadata.remove("attributes") {
                Some(Value::Object(attributes)) => attributes,
                _ => Map::new(),
            };
            let name = if node.is_empty() { "/".to_owned() } else { node.clone() };
            if kind == "array" {
                let chunks = files(&folder)?;
                parts.insert(name, Thing::Array { metadata, attributes, chunks });
                continue;
            }
            parts.insert(name, Thing::Group(attributes));
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = format!("{node}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                pending.push((entry.path(), name));
            } else if !(is_node && entry.file_name() == METADATA) {
                parts.insert(name, Thing::File(entry.path()));
            }
        }
    }
    Ok(parts)
}

/// Whether a folder is a Zarr group or array, and what it says of itself.
fn node_metadata(folder: &Path) -> Option<(String, Map<String, Value>)> {
    let metadata: Map<String, Value> = serde_json::from_slice(&fs::read(folder.join(METADATA)).ok()?).ok()?;
    let kind = metadata.get("node_type")?.as_str()?.to_owned();
    matches!(kind.as_str(), "group" | "array").then_some((kind, metadata))
}

/// The files below an array but its metadata.
fn files(array: &Path) -> io::Result<BTreeMap<PathBuf, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![(array.to_owned(), PathBuf::new())];
    while let Some((folder, inside)) = pending.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let inside = inside.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push((entry.path(), inside));
            } else if inside != Path::new(METADATA) {
                files.insert(inside, entry.path());
            }
        }
    }
    Ok(files)
}

/// A thing with the folder that it is somewhere in.
type In<'a> = (&'a Path, &'a Thing);

fn pair(
    name: &str,
    then: In<'_>,
    now: In<'_>,
    tolerance: Tolerance,
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    match (then.1, now.1) {
        (Thing::File(was), Thing::File(is)) => {
            let difference = if same_bytes(was, is)? {
                None
            } else {
                Some(Difference::Content { then: fs::metadata(was)?.len(), now: fs::metadata(is)?.len() })
            };
            findings.push(finding(name.trim_start_matches('/'), Part::File, difference));
        }
        (Thing::Group(was), Thing::Group(is)) => {
            if !(was.is_empty() && is.is_empty()) {
                findings.push(finding(name, Part::Attributes, attributes(was, is, tolerance)));
            }
        }
        (
            Thing::Array { metadata, attributes: was, chunks },
            Thing::Array { metadata: metadata_now, attributes: is, chunks: chunks_now },
        ) => {
            let difference = match kind_difference(metadata, metadata_now) {
                Some(difference) => Some(difference),
                None if metadata == metadata_now && same_files(chunks, chunks_now)? => None,
                None => Some(values(name, (then.0, now.0), metadata, tolerance)),
            };
            findings.push(finding(name, Part::Array, difference));
            if was != is {
                findings.push(finding(name, Part::Attributes, attributes(was, is, tolerance)));
            }
        }
        (was, is) => {
            let (then, now) = (was.kind().into(), is.kind().into());
            findings.push(different(name, is.part(), Difference::Kind { what: "kind", then, now }));
        }
    }
    Ok(())
}

/// What no value of one array can be compared across.
fn kind_difference(then: &Map<String, Value>, now: &Map<String, Value>) -> Option<Difference> {
    let what = ["shape", "data_type", "dimension_names"]
        .into_iter()
        .find(|what| then.get(*what) != now.get(*what))?;
    let of = |metadata: &Map<String, Value>| metadata.get(what).cloned().unwrap_or_default();
    Some(Difference::Kind { what, then: of(then), now: of(now) })
}

fn values(
    name: &str,
    roots: (&Path, &Path),
    metadata: &Map<String, Value>,
    tolerance: Tolerance,
) -> Difference {
    let data_type = metadata.get("data_type").and_then(Value::as_str).unwrap_or_default();
    match values::compare(roots, name, data_type, tolerance) {
        Ok(spread) if spread.differing == 0 => Difference::Stored,
        Ok(spread) => Difference::Values(spread),
        Err(why) => Difference::Unreadable { why },
    }
}

fn attributes(
    then: &Map<String, Value>,
    now: &Map<String, Value>,
    tolerance: Tolerance,
) -> Option<Difference> {
    let mut spread = Spread::default();
    spread::of_maps(then, now, "", tolerance, &mut spread);
    (spread.differing > 0).then_some(Difference::Values(spread))
}

fn finding(name: &str, part: Part, difference: Option<Difference>) -> Finding {
    let verdict = match &difference {
        None => Verdict::BitEqual,
        Some(Difference::Stored) => Verdict::Within,
        Some(Difference::Values(spread)) if spread.beyond == 0 => Verdict::Within,
        Some(_) => Verdict::Different,
    };
    Finding { name: name.to_owned(), part, verdict, difference }
}

fn different(name: &str, part: Part, difference: Difference) -> Finding {
    let name = if part == Part::File { name.trim_start_matches('/') } else { name };
    finding(name, part, Some(difference))
}

fn same_files(then: &BTreeMap<PathBuf, PathBuf>, now: &BTreeMap<PathBuf, PathBuf>) -> io::Result<bool> {
    if !then.keys().eq(now.keys()) {
        return Ok(false);
    }
    for (was, is) in then.values().zip(now.values()) {
        if !same_bytes(was, is)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_bytes(then: &Path, now: &Path) -> io::Result<bool> {
    const PART: u64 = 1 << 20;
    let (mut then, mut now) = (File::open(then)?, File::open(now)?);
    if then.metadata()?.len() != now.metadata()?.len() {
        return Ok(false);
    }
    let (mut was, mut is) = (Vec::new(), Vec::new());
    loop {
        was.clear();
        is.clear();
        Read::by_ref(&mut then).take(PART).read_to_end(&mut was)?;
        Read::by_ref(&mut now).take(PART).read_to_end(&mut is)?;
        if was != is {
            return Ok(false);
        }
        if was.is_empty() {
            return Ok(true);
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.part {
            Part::Array => write!(f, "array `{}`", self.name)?,
            Part::Attributes => write!(f, "attributes of `{}`", self.name)?,
            Part::File => write!(f, "file `{}`", self.name)?,
        }
        match &self.difference {
            None => f.write_str(": the same bytes"),
            Some(Difference::Missing) => f.write_str(": was there, is not"),
            Some(Difference::New) => f.write_str(": was not there, is"),
            Some(Difference::Kind { what, then, now }) => write!(f, ": {what} was {then}, is {now}"),
            Some(Difference::Values(spread)) => write!(f, ": {spread}"),
            Some(Difference::Stored) => f.write_str(": the same values, stored in other bytes"),
            Some(Difference::Content { then, now }) => {
                write!(f, ": other content; was {then} bytes, is {now} bytes")
            }
            Some(Difference::Unreadable { why }) => write!(f, ": other bytes, which cannot be read: {why}"),
        }
    }
}
