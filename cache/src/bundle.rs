//! Bundles: results in one file, for who has no remote in common.
//!
//! A bundle is a plain tar of what a remote would hold: `FORMAT`, then manifests, then files, then records, under the names
//! that they have in a store. Unpacked it is a remote. Its members have names made of digests, so there is no path in it that
//! could lead anywhere; whatever else is in it (links, devices, other names, files that no manifest announces, more bytes
//! than announced) is refused before a byte of it is written. It is not compressed: Zarr's chunks are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tar::{Archive, Builder, Entry as Member, EntryType};

use crate::action::{self, Lookup, Record, Recorded};
use crate::assemble::Assembly;
use crate::digest::{ActionKey, Digest};
use crate::error::{Error, Result};
use crate::layout::{Layout, MANIFEST, RECORD, TREE};
use crate::manifest::{Entry, MAX_FILES, Manifest};
use crate::member::{Hashed, damage, plain_header};
use crate::store::{Staging, Store, check_format, format_line};

/// A manifest or a record that is longer is none.
const MAX_SMALL: u64 = 64 << 20;

/// More manifests, files and records than this are no bundle of results.
const MAX_MEMBERS: usize = 4 * MAX_FILES;

/// How much of a file is in memory at once.
const PART: usize = 1 << 20;

/// What is in a bundle, or what came of taking one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Bundled {
    /// Actions whose records are in it.
    pub records: BTreeSet<ActionKey>,
    /// Artifacts that are in it.
    pub artifacts: BTreeSet<Digest>,
    /// Bytes of its files, each content once.
    pub bytes: u64,
    /// Actions for which this store has another result: that one stays, the bundle's is kept beside it.
    pub different: BTreeSet<ActionKey>,
    /// What was asked for and is not in this store, or not whole.
    pub missing: Vec<Digest>,
}

/// What a member's name says that it is.
enum Name {
    Format,
    Manifest(Digest),
    File(Digest),
    Record(ActionKey),
}

impl Store {
    /// Writes the results of these actions, and these artifacts, into the bundle `to`, which must not be there. It appears
    /// whole or not at all.
    pub fn export(
        &self,
        actions: &BTreeSet<ActionKey>,
        artifacts: &BTreeSet<Digest>,
        to: &Path,
    ) -> Result<Bundled> {
        self.export_told(actions, artifacts, to, &|_, provenance| provenance)
    }

    /// The same; `tell` says what of a record's provenance, which decides nothing, others may read.
    pub fn export_told(
        &self,
        actions: &BTreeSet<ActionKey>,
        artifacts: &BTreeSet<Digest>,
        to: &Path,
        tell: &dyn Fn(&ActionKey, serde_json::Value) -> serde_json::Value,
    ) -> Result<Bundled> {
        let mut bundled = Bundled { artifacts: artifacts.clone(), ..Bundled::default() };
        let mut records = BTreeMap::new();
        for key in actions {
            match self.lookup(key)? {
                Lookup::Hit(record) => {
                    bundled.artifacts.extend(record.outputs.values());
                    let provenance = tell(key, record.provenance);
                    records.insert(*key, Record { provenance, ..record });
                }
                Lookup::Miss(_) => bundled.missing.push(*key.as_digest()),
            }
        }
        let mut manifests = BTreeMap::new();
        for digest in &bundled.artifacts {
            match self.manifest(digest)? {
                Some(manifest) => drop(manifests.insert(*digest, manifest)),
                None => bundled.missing.push(*digest),
            }
        }
        bundled.artifacts.retain(|digest| manifests.contains_key(digest));
        bundled.records = records.keys().copied().collect();
        let aside = beside(to);
        let written = self.write_bundle(&aside, &manifests, &records).and_then(|bytes| {
            self.disk().settle_outside(&aside, to)?;
            Ok(bytes)
        });
        if written.is_err() {
            // Nobody has its name; what cannot be removed is seen by its name for what it is.
            drop(self.disk().remove_file(&aside));
        }
        bundled.bytes = written?;
        Ok(bundled)
    }

    fn write_bundle(
        &self,
        to: &Path,
        manifests: &BTreeMap<Digest, Manifest>,
        records: &BTreeMap<ActionKey, Record>,
    ) -> Result<u64> {
        let names = Layout::new(PathBuf::new());
        let writer = self.disk().start(to)?;
        let mut tar = Builder::new(io::BufWriter::with_capacity(PART, writer));
        let told = |error| Error::io("write", to)(error);
        append(&mut tar, &names.format(), format_line().as_bytes()).map_err(told)?;
        for (digest, manifest) in manifests {
            let encoded =
                manifest.encode().map_err(|why| Error::Manifest { folder: to.to_path_buf(), why })?;
            append(&mut tar, &names.artifact(digest).join(MANIFEST), &encoded).map_err(told)?;
        }
        let mut bytes = 0;
        let mut seen = BTreeSet::new();
        for (digest, manifest) in manifests {
            for entry in manifest.entries().iter().filter(|entry| seen.insert(entry.digest)) {
                let from = self.layout().artifact(digest).join(TREE).join(&entry.path);
                let file = File::open(&from).map_err(Error::io("read", &from))?;
                let mut hashed = Hashed::new(file.take(entry.size));
                let header = plain_header(entry.size);
                tar.append_data(&mut header.clone(), names.file(&entry.digest), &mut hashed).map_err(told)?;
                // A file that is damaged here must not travel under a good name.
                if hashed.digest() != entry.digest {
                    return Err(Error::Damaged { path: from });
                }
                bytes += entry.size;
            }
        }
        for (key, record) in records {
            append(&mut tar, &names.action(key).join(RECORD), &action::encode(key, record)?).map_err(told)?;
        }
        let buffer = tar.into_inner().map_err(told)?;
        let writer = buffer.into_inner().map_err(|error| told(error.into_error()))?;
        writer.sync()?;
        Ok(bytes)
    }

    /// Takes what is in the bundle `from`. Everything in it is checked: what it is, how long it is, what it holds. Nothing
    /// of it is run, and a bundle that is refused leaves nothing.
    pub fn import(&self, from: &Path) -> Result<Bundled> {
        let file = File::open(from).map_err(Error::io("read", from))?;
        self.import_from(from, file)
    }

    /// The same of a bundle that is a part of the file `from`.
    pub fn import_from(&self, from: &Path, bundle: impl Read) -> Result<Bundled> {
        let mut archive = Archive::new(BufReader::with_capacity(PART, bundle));
        let work = self.staging()?;
        let mut taking = Taking {
            store: self,
            from,
            work,
            format: false,
            manifests: BTreeMap::new(),
            wanted: BTreeMap::new(),
            arrived: BTreeSet::new(),
            records: BTreeMap::new(),
        };
        // Raw: no long names, no sparse files, no headers of others that have to be believed.
        let members = archive.entries().map_err(|error| taking.refused("", &damage(&error)))?.raw(true);
        for (number, member) in members.enumerate() {
            if number >= MAX_MEMBERS {
                return Err(taking.refused("", "it has more members than a bundle may have"));
            }
            let member = member.map_err(|error| taking.refused("", &damage(&error)))?;
            taking.take(member)?;
        }
        taking.finish()
    }

    /// The manifest of an artifact that is whole.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        if self.flaw_lately(digest)?.is_some() {
            return Ok(None);
        }
        let path = self.layout().artifact(digest).join(MANIFEST);
        let encoded = std::fs::read(&path).map_err(Error::io("read", &path))?;
        Ok(Manifest::decode(&encoded, digest))
    }
}

/// A bundle that is being taken.
struct Taking<'a> {
    store: &'a Store,
    from: &'a Path,
    work: Staging,
    format: bool,
    manifests: BTreeMap<Digest, Manifest>,
    /// Which files the manifests announce, and how long they are.
    wanted: BTreeMap<Digest, u64>,
    arrived: BTreeSet<Digest>,
    records: BTreeMap<ActionKey, Record>,
}

impl Taking<'_> {
    fn take(&mut self, mut member: Member<'_, impl Read>) -> Result<()> {
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let refused = |why: &str| Error::Bundle {
            file: self.from.to_path_buf(),
            member: path.escape_debug().to_string(),
            why: why.to_owned(),
        };
        // What anything but a plain file would be: a link, a device, a name or a size that comes from elsewhere.
        if !matches!(member.header().entry_type(), EntryType::Regular) {
            return Err(refused("it is no plain file"));
        }
        let size = member.header().size().map_err(|error| refused(&damage(&error)))?;
        let name = parse(&path).ok_or_else(|| refused("it has a name that nothing of a bundle has"))?;
        if !self.format && !matches!(name, Name::Format) {
            return Err(refused("it comes before `FORMAT`: this is no bundle"));
        }
        if let Name::File(digest) = name {
            return match self.wanted.get(&digest) {
                None => Err(refused("no manifest before it announces it")),
                Some(announced) if *announced != size => {
                    Err(refused(&format!("it has {size} bytes where a manifest announces {announced}")))
                }
                Some(_) if !self.arrived.insert(digest) => Err(refused("it is there twice")),
                Some(_) => self.take_file(&digest, size, &mut member, &refused),
            };
        }
        if size > MAX_SMALL {
            return Err(refused("it is far too long for what it should be"));
        }
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(|error| refused(&damage(&error)))?;
        match name {
            Name::Format => {
                check_format(&bytes, self.from, self.from)?;
                self.format = true;
            }
            Name::Manifest(digest) => {
                let manifest = Manifest::admit(&bytes, &digest).map_err(|(file, why)| {
                    let of = if file.is_empty() {
                        String::new()
                    } else {
                        format!("its file `{}` ", file.escape_debug())
                    };
                    refused(&format!("{of}{why}"))
                })?;
                for Entry { digest, size, .. } in manifest.entries() {
                    if *self.wanted.entry(*digest).or_insert(*size) != *size {
                        return Err(refused("it announces a file with two sizes"));
                    }
                }
                if self.manifests.insert(digest, manifest).is_some() {
                    return Err(refused("it is there twice"));
                }
            }
            Name::Record(key) => {
                let record = action::parse(&bytes, &key).map_err(|why| refused(&why))?;
                if self.records.insert(key, record).is_some() {
                    return Err(refused("it is there twice"));
                }
            }
            Name::File(_) => {}
        }
        Ok(())
    }

    fn take_file(
        &self,
        digest: &Digest,
        size: u64,
        member: &mut impl Read,
        refused: &dyn Fn(&str) -> Error,
    ) -> Result<()> {
        let place = self.place(digest);
        let mut file = self.store.disk().start(&place)?;
        let mut hashed = Hashed::new(member);
        let mut part = Vec::with_capacity(PART.min(size as usize));
        loop {
            part.clear();
            (&mut hashed)
                .take(PART as u64)
                .read_to_end(&mut part)
                .map_err(|error| refused(&damage(&error)))?;
            if part.is_empty() {
                break;
            }
            file.append(&part)?;
        }
        if hashed.digest() != *digest {
            return Err(refused("its bytes are not those that its name says: the bundle is damaged or cut"));
        }
        file.finish()
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.work.path().join(digest.to_string())
    }

    /// All was read: artifacts first, then records.
    fn finish(self) -> Result<Bundled> {
        if !self.format {
            return Err(self.refused("", "it is empty"));
        }
        let mut bundled = Bundled::default();
        for record in self.records.values() {
            if let Some(digest) = record.outputs.values().find(|digest| !self.manifests.contains_key(digest))
            {
                return Err(self.refused(
                    "",
                    &format!("it has a record of artifact {digest:.12}, and not the artifact"),
                ));
            }
        }
        for (digest, manifest) in &self.manifests {
            bundled.artifacts.insert(*digest);
            if self.store.flaw_lately(digest)?.is_none() {
                continue;
            }
            let assembly = Assembly::begin(self.store, digest, manifest)?;
            for entry in assembly.lacking() {
                if !self.arrived.contains(&entry.digest) {
                    return Err(self.refused(
                        "",
                        &format!("it lacks the file `{}` of artifact {digest:.12}", entry.path),
                    ));
                }
                if !assembly.share(&self.place(&entry.digest), &assembly.place(entry)) {
                    return Err(self.refused("", "its files cannot be linked within the store"));
                }
            }
            assembly.finish()?;
        }
        for (key, record) in &self.records {
            bundled.records.insert(*key);
            if let Recorded::Different(_) = self.store.record(key, record)? {
                bundled.different.insert(*key);
            }
        }
        bundled.bytes = self.arrived.iter().filter_map(|digest| self.wanted.get(digest)).sum();
        Ok(bundled)
    }

    fn refused(&self, member: &str, why: &str) -> Error {
        Error::Bundle { file: self.from.to_path_buf(), member: member.to_owned(), why: why.to_owned() }
    }
}

/// The one spelling of each name.
fn parse(path: &str) -> Option<Name> {
    let names = Layout::new(PathBuf::new());
    let is = |place: PathBuf| place.to_str() == Some(path);
    if is(names.format()) {
        return Some(Name::Format);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let (first, rest) = (parts.get(2)?, parts.get(3)?);
    let digest: Digest = format!("{first}{rest}").parse().ok()?;
    let key = ActionKey::from_digest(digest);
    if is(names.file(&digest)) {
        Some(Name::File(digest))
    } else if is(names.artifact(&digest).join(MANIFEST)) {
        Some(Name::Manifest(digest))
    } else if is(names.action(&key).join(RECORD)) {
        Some(Name::Record(key))
    } else {
        None
    }
}

fn append(tar: &mut Builder<impl io::Write>, name: &Path, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut plain_header(bytes.len() as u64), name, bytes)
}

/// Where the bundle is written before it has its name.
fn beside(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    to.with_file_name(name)
}
