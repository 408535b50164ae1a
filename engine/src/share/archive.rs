//! Reading an archive that anybody may have made: first all of it is checked, then it is written, and nothing is ever run.
//!
//! The first member announces all others, so that what has to be refused is refused at its announcement: names that lead out, that
//! are there twice or would be one file elsewhere, what is too much or too long. Then every member must be what was announced: its
//! name, a plain file, its length, its digest; and the file must end where the last one does.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use restage_cache::{Bundled, Digest, Hashed, Store, damage};
use serde::{Deserialize, de::DeserializeOwned};
use tar::{Archive, EntryType};

use super::{
    AllScores, BESIDE, CODE, DATA, FORMAT, JOURNAL, MANIFEST, Manifest, Member, PLAN, PlanHead, REPORT,
    RESULTS, SCORES, SCORES_FILE, ShareError, Sketch, WORKFLOW,
    names::{Seen, check, plain},
    sketch::inside,
};
use crate::{plugin::SourceList, run::event::Event, workflow};

/// More members than this are no workflow with its data.
const MAX_MEMBERS: usize = 100_000;
/// A manifest that is longer is none.
const MAX_MANIFEST: u64 = 64 << 20;
/// Longer plans, journals and scores are none.
const MAX_TEXT: u64 = 128 << 20;
const MAX_LOCK: u64 = 16 << 20;
const MAX_REPORT: u64 = 1 << 30;
/// What is kept in memory of all of them.
const MAX_KEPT: u64 = 512 << 20;

/// What a tar is made of.
const BLOCK: u64 = 512;

/// How much of a file is in memory at once.
const PART: usize = 1 << 20;

pub(super) const LOCK_SUFFIX: &str = ".lock";

/// An archive that was checked, all of it.
pub(crate) struct Opened {
    path: PathBuf,
    file: File,
    pub(crate) manifest: Manifest,
    pub(crate) plan: PlanHead,
    pub(crate) sketch: Sketch,
    /// Members that are read and not only unpacked.
    texts: BTreeMap<String, Vec<u8>>,
    /// Where the bytes of each member begin.
    starts: BTreeMap<String, u64>,
}

/// What was written.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Unpacked {
    /// Below the folder.
    pub(crate) files: Vec<String>,
    /// What the store took.
    pub(crate) results: Option<Bundled>,
}

/// Whether a file begins as an archive does.
pub(crate) fn is_share(path: &Path) -> bool {
    let mut begin = [0; MANIFEST.len() + 1];
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file
        && File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok()
        && begin.strip_suffix(&[0]) == Some(MANIFEST.as_bytes())
}

impl Opened {
    /// Reads an archive to its end, and writes nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, ShareError> {
        let refused = |member: &str, why: &str| ShareError::Refused {
            file: path.to_owned(),
            member: member.to_owned(),
            why: why.to_owned(),
        };
        let metadata = std::fs::metadata(path).map_err(ShareError::io("read", path))?;
        if !metadata.is_file() {
            return Err(refused("", "it is a folder, a device or a pipe, not a file"));
        }
        let mut file = File::open(path).map_err(ShareError::io("read", path))?;
        let mut begin = [0; 6];
        let _ = file.read(&mut begin).map_err(ShareError::io("read", path))?;
        let compressed: [&[u8]; 5] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK\x03\x04"];
        if compressed.iter().any(|magic| begin.starts_with(magic)) {
            return Err(refused("", "it is compressed; what `restage share pack` writes is a plain tar"));
        }
        let damaged =
            |error: io::Error| refused("", &format!("it is no tar, or is damaged: {}", damage(&error)));
        file.seek(SeekFrom::Start(0)).map_err(ShareError::io("read", path))?;
        let mut archive = Archive::new(BufReader::with_capacity(PART, &file));
        // Raw: no long names, no sparse files, no headers of others that have to be believed.
        let mut entries = archive.entries().map_err(damaged)?.raw(true);
        let mut first = match entries.next() {
            Some(entry) => entry.map_err(damaged)?,
            None => return Err(refused("", "it is empty")),
        };
        if &*first.path_bytes() != MANIFEST.as_bytes()
            || !matches!(first.header().entry_type(), EntryType::Regular)
        {
            return Err(refused(
                "",
                "it does not begin with `share.json`: this is nothing that `restage share pack` wrote",
            ));
        }
        let size = first.header().size().map_err(damaged)?;
        if size > MAX_MANIFEST {
            return Err(refused(MANIFEST, "it is far too long"));
        }
        let mut text = Vec::new();
        first.read_to_end(&mut text).map_err(damaged)?;
        if text.len() as u64 != size {
            return Err(refused(MANIFEST, "it is cut"));
        }
        let manifest = manifest(&text).map_err(|why| refused(MANIFEST, &why))?;
        announced(&manifest).map_err(|(member, why)| refused(&member, &why))?;
        let all = manifest.members.iter().map(|member| padded(member.size));
        let expected = all.fold(padded(size) + 2 * BLOCK, u64::saturating_add);
        if expected != metadata.len() {
            return Err(refused("", "it is cut, or has more in it than it announces"));
        }
        let (mut texts, mut starts) = (BTreeMap::new(), BTreeMap::new());
        for member in &manifest.members {
            let refused = |why: &str| refused(&member.name, why);
            let mut entry = match entries.next() {
                Some(entry) => entry.map_err(damaged)?,
                None => return Err(refused("it is announced, and is not there")),
            };
            if *entry.path_bytes() != *member.name.as_bytes() {
                let found = String::from_utf8_lossy(&entry.path_bytes()).escape_debug().to_string();
                return Err(refused(&format!("in its place is `{found}`, which is not announced there")));
            }
            if !matches!(entry.header().entry_type(), EntryType::Regular) {
                return Err(refused("it is no plain file"));
            }
            if entry.header().size().map_err(damaged)? != member.size {
                return Err(refused("it has another length than is announced"));
            }
            starts.insert(member.name.clone(), entry.raw_file_position());
            let mut kept = is_text(&member.name).then(Vec::new);
            let mut hashed = Hashed::new(&mut entry);
            match &mut kept {
                Some(kept) => drop(hashed.read_to_end(kept).map_err(damaged)?),
                None => drop(io::copy(&mut hashed, &mut io::sink()).map_err(damaged)?),
            }
            if hashed.digest() != member.digest {
                return Err(refused("its bytes are not those that are announced: it was changed or damaged"));
            }
            texts.extend(kept.map(|kept| (member.name.clone(), kept)));
        }
        if entries.next().is_some() {
            return Err(refused("", "it has more members than it announces"));
        }
        let plan = parsed(&texts, PLAN).map_err(|why| refused(PLAN, &why))?.unwrap_or_default();
        let own: BTreeMap<String, Vec<u8>> = texts
            .iter()
            .filter_map(|(name, text)| Some((name.strip_prefix(WORKFLOW)?.to_owned(), text.clone())))
            .collect();
        let sketch = Sketch::of(&own, &manifest.workflow)
            .map_err(|wrong| refused(&format!("{WORKFLOW}{}", wrong.file), &wrong.why))?;
        Ok(Self { path: path.to_owned(), file, manifest, plan, sketch, texts, starts })
    }

    /// The events of the run that is in it, if one is.
    pub(crate) fn events(&self) -> Option<Vec<Event>> {
        let text = String::from_utf8_lossy(self.texts.get(JOURNAL)?);
        Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The scores of that run.
    pub(crate) fn scores(&self) -> AllScores {
        parsed(&self.texts, SCORES).ok().flatten().unwrap_or_default()
    }

    /// What a plugin's identity is of.
    pub(crate) fn sources(&self, identity: &Digest) -> Option<SourceList> {
        parsed(&self.texts, &format!("{CODE}{identity}.json")).ok().flatten()
    }

    /// How many bytes its members of a kind have; `None` if there are none.
    pub(crate) fn size_of(&self, prefix: &str) -> Option<u64> {
        let sizes = self.manifest.members.iter().filter(|member| member.name.starts_with(prefix));
        sizes.map(|member| member.size).reduce(|a, b| a + b)
    }

    /// How many bytes its results have.
    pub(crate) fn results(&self) -> Option<u64> {
        self.size_of(RESULTS)
    }

    pub(crate) fn has_report(&self) -> bool {
        self.starts.contains_key(REPORT)
    }

    /// Writes its files into `folder`, which must not be there, and gives its results to the store.
    pub(crate) fn unpack(&self, folder: &Path, store: &Store) -> Result<Unpacked, ShareError> {
        if folder.symlink_metadata().is_ok() {
            return Err(ShareError::Occupied(folder.to_owned()));
        }
        // First what can still be refused.
        let results = match self.manifest.members.iter().find(|member| member.name == RESULTS) {
            Some(member) => Some(store.import_from(&self.path, self.bytes(member)?)?),
            None => None,
        };
        let parent =
            folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let aside = tempfile::Builder::new()
            .prefix(".restage-share")
            .tempdir_in(parent)
            .map_err(ShareError::io("write into", parent))?;
        let root = aside.path().join("it");
        std::fs::create_dir(&root).map_err(ShareError::io("write", &root))?;
        let mut files = Vec::new();
        for member in &self.manifest.members {
            let Some(place) = place(&member.name) else { continue };
            let path = root.join(&place);
            let above = path.parent().unwrap_or(&root);
            std::fs::create_dir_all(above).map_err(ShareError::io("write", above))?;
            let mut hashed = Hashed::new(self.bytes(member)?);
            let written = File::create_new(&path).and_then(|mut file| {
                io::copy(&mut hashed, &mut file)?;
                file.flush()
            });
            written.map_err(ShareError::io("write", &path))?;
            if hashed.digest() != member.digest {
                return Err(self.refused(&member.name, "it changed while it was read"));
            }
            files.push(place);
        }
        for data in self.manifest.data.iter().filter(|data| data.packed) {
            let place = inside(Path::new(&data.folder), &data.path).map(|place| root.join(place));
            let is_it = place.is_some_and(|place| {
                restage_cache::tree_digest(&place).is_ok_and(|digest| digest == data.digest)
            });
            if !is_it {
                return Err(self.refused(&data.path, "its data is not what its digest says"));
            }
        }
        // Nobody has the name, or this fails: a folder with anything in it is not replaced.
        std::fs::rename(&root, folder).map_err(ShareError::io("write", folder))?;
        Ok(Unpacked { files, results })
    }

    fn refused(&self, member: &str, why: &str) -> ShareError {
        ShareError::Refused { file: self.path.clone(), member: member.to_owned(), why: why.to_owned() }
    }

    fn bytes(&self, member: &Member) -> Result<impl Read + use<>, ShareError> {
        let mut file = self.file.try_clone().map_err(ShareError::io("read", &self.path))?;
        let start = self.starts.get(&member.name).copied().unwrap_or_default();
        file.seek(SeekFrom::Start(start)).map_err(ShareError::io("read", &self.path))?;
        Ok(BufReader::with_capacity(PART, file).take(member.size))
    }
}

/// What is read first, to know whether the rest can be.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn manifest(text: &[u8]) -> Result<Manifest, String> {
    let format: Format =
        serde_json::from_slice(text).map_err(|error| format!("it cannot be read: {error}"))?;
    if format.format != FORMAT {
        return Err(format!("it has format {}, this restage knows {FORMAT}: update restage", format.format));
    }
    serde_json::from_slice(text).map_err(|error| format!("it cannot be read: {error}"))
}

/// Checks what is announced, before anything of it is read.
fn announced(manifest: &Manifest) -> Result<(), (String, String)> {
    if manifest.members.len() > MAX_MEMBERS {
        return Err((String::new(), format!("it has more than {MAX_MEMBERS} members")));
    }
    let (mut members, mut places) = (Seen::default(), Seen::default());
    let mut kept = 0_u64;
    for Member { name, size, .. } in &manifest.members {
        let wrong = |why: String| (name.clone(), why);
        members.add(name).map_err(wrong)?;
        let most = most(name).ok_or_else(|| wrong("it has a name that nothing of an archive has".into()))?;
        if *size > most {
            return Err(wrong(match name.starts_with(WORKFLOW) {
                true => "it is longer than 1 MiB, which no workflow is".into(),
                false => "it is far too long for what it should be".into(),
            }));
        }
        if is_text(name) {
            kept = kept.saturating_add(*size);
        }
        if let Some(place) = place(name) {
            places.add(&place).map_err(wrong)?;
        }
        let below = name.strip_prefix(WORKFLOW).or_else(|| name.strip_prefix(DATA));
        if below.is_some_and(|name| {
            name.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(BESIDE))
        }) {
            return Err(wrong(format!("`{BESIDE}` is for what is none of the workflow's files")));
        }
    }
    if kept > MAX_KEPT {
        return Err((String::new(), "it is far too long without its data and results".into()));
    }
    let folders = manifest.plugins.iter().map(|plugin| &plugin.folder);
    for folder in folders.chain(manifest.data.iter().map(|data| &data.folder)) {
        if !folder.is_empty() && check(folder).is_err() {
            return Err((MANIFEST.into(), "it names a folder that leads out".into()));
        }
    }
    if manifest.members.iter().all(|member| member.name != format!("{WORKFLOW}{}", manifest.workflow)) {
        return Err((MANIFEST.into(), "the workflow that it names is not in it".into()));
    }
    Ok(())
}

/// The longest that a member may be; `None` for a name that nothing has.
fn most(name: &str) -> Option<u64> {
    Some(match name {
        PLAN | JOURNAL | SCORES => MAX_TEXT,
        REPORT => MAX_REPORT,
        RESULTS => u64::MAX,
        _ if name.starts_with(WORKFLOW) && name.ends_with(LOCK_SUFFIX) => MAX_LOCK,
        _ if name.starts_with(WORKFLOW) => workflow::MAX_BYTES as u64,
        _ if name.starts_with(DATA) => u64::MAX,
        _ => {
            let identity = name.strip_prefix(CODE)?.strip_suffix(".json")?;
            identity.parse::<Digest>().ok().map(|_| MAX_LOCK)?
        }
    })
}

/// Whether a member is kept in memory.
fn is_text(name: &str) -> bool {
    matches!(name, PLAN | JOURNAL | SCORES) || name.starts_with(WORKFLOW) || name.starts_with(CODE)
}

/// Where a member goes below the folder.
fn place(name: &str) -> Option<String> {
    match name {
        JOURNAL => Some(format!("{BESIDE}/journal.jsonl")),
        SCORES => Some(format!("{BESIDE}/{SCORES_FILE}")),
        REPORT => Some(format!("{BESIDE}/report.html")),
        _ => name.strip_prefix(WORKFLOW).or_else(|| name.strip_prefix(DATA)).map(str::to_owned),
    }
}

fn parsed<T: DeserializeOwned>(texts: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<Option<T>, String> {
    let text = texts.get(name).map(|text| serde_json::from_slice(text));
    text.transpose().map_err(|error| format!("it cannot be read: {error}"))
}

/// What a member takes, with its header.
fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_add(1).saturating_mul(BLOCK)
}

/// Where a path of the workflow leads when it lies in `folder`.
pub(crate) fn led(folder: &Path, below: &str, path: &str) -> PathBuf {
    plain(&folder.join(below).join(path))
}
