//! The files that a workflow consists of, and their names in an archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::super::{
    ShareError,
    archive::LOCK_SUFFIX,
    hide::Hidden,
    names::{plain, way},
    sketch::Parsed,
};

/// The files of a workflow, and the folder that they have in common.
pub(super) struct Files {
    pub(super) root: PathBuf,
    pub(super) workflow: PathBuf,
    /// Folders of the files as they are called here, which may be over links, and as they are; the workflow's comes first.
    folders: Vec<(PathBuf, PathBuf)>,
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Files {
    /// A workflow, what it imports from beside it, and the locks of their folders.
    pub(super) fn of(workflow: &Path) -> Result<Self, ShareError> {
        let folder = workflow.parent().unwrap_or(Path::new("/"));
        let canonical = std::fs::canonicalize(folder).map_err(ShareError::io("read", folder))?;
        let first = canonical.join(workflow.file_name().unwrap_or_default());
        let mut files = BTreeMap::new();
        let mut queue = vec![first.clone()];
        while let Some(path) = queue.pop() {
            if files.contains_key(&path) {
                continue;
            }
            let text = std::fs::read(&path).map_err(ShareError::io("read", &path))?;
            let parsed = Parsed::of(&path.display().to_string(), &text)
                .map_err(|wrong| ShareError::Unpackable { path: wrong.file, why: wrong.why })?;
            let folder = path.parent().unwrap_or(Path::new("/"));
            for written in parsed.imports().filter_map(|(_, path, _)| path) {
                let refused = |why| ShareError::Import { file: path.clone(), written: written.into(), why };
                if Path::new(written).is_absolute() {
                    return Err(refused("is an absolute path: others have no such place"));
                }
                let place = plain(&folder.join(written));
                let same = |path: &Path| std::fs::canonicalize(path).ok();
                if same(&place).is_none() || same(&place) != same(&folder.join(written)) {
                    return Err(refused("leads over a link, or is not there"));
                }
                queue.push(place);
            }
            files.insert(path, text);
        }
        let folders: BTreeSet<PathBuf> =
            files.keys().filter_map(|path| Some(path.parent()?.to_owned())).collect();
        for folder in &folders {
            let beside = std::fs::read_dir(folder).map_err(ShareError::io("read", folder))?;
            let mut locks: Vec<PathBuf> = beside.flatten().map(|entry| entry.path()).collect();
            locks.retain(|lock| {
                let name = lock.file_name().unwrap_or_default();
                let of_file = |file: &PathBuf| {
                    file.file_name().is_some_and(|file| {
                        Path::new(file).with_extension("lock") == Path::new(name)
                            || name.to_str() == Some(&format!("{}{LOCK_SUFFIX}", file.to_string_lossy()))
                    })
                };
                lock.is_file()
                    && (name == "restage.lock"
                        || files.keys().any(|file| file.parent() == Some(folder) && of_file(file)))
            });
            for lock in locks {
                let text = std::fs::read(&lock).map_err(ShareError::io("read", &lock))?;
                files.insert(lock, text);
            }
        }
        let own = first.parent().unwrap_or(Path::new("/")).to_owned();
        let root = files.keys().fold(own.clone(), |root, path| common(&root, path));
        let mut all = vec![(folder.to_owned(), own.clone())];
        for real in folders {
            let called = way(&own, &real).map(|way| plain(&folder.join(way)));
            all.extend(called.map(|called| (called, real.clone())));
            all.push((real.clone(), real));
        }
        Ok(Self { root, workflow: first, folders: all, files })
    }

    /// A folder's name below the root.
    pub(super) fn place(&self, folder: &Path) -> String {
        let below = folder.strip_prefix(&self.root).ok().and_then(Path::to_str);
        below.unwrap_or_default().to_owned()
    }

    /// The name of a file below the root.
    pub(super) fn below(&self, path: &Path) -> Result<String, ShareError> {
        let below = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        below.map(str::to_owned).ok_or_else(|| ShareError::Unpackable {
            path: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            why: "its name is not UTF-8, or it lies elsewhere than the workflow".into(),
        })
    }

    /// A path as a file writes it, and the folder of that file. What no file has as a text is taken from the workflow's folder.
    pub(super) fn written(&self, path: &Path, hidden: &Hidden) -> (String, PathBuf) {
        let own = self.folders.first().map(|(_, real)| real.clone()).unwrap_or_default();
        let stands =
            |text: &str| self.files.values().any(|file| String::from_utf8_lossy(file).contains(text));
        let mut candidates = self.folders.iter().filter_map(|(called, real)| {
            let below = path.strip_prefix(called).ok()?.to_str()?;
            Some((hidden.text(below), real.clone()))
        });
        let first = candidates.next();
        if let Some(found) = first.iter().cloned().chain(candidates).find(|(text, _)| stands(text)) {
            return found;
        }
        let told = hidden.text(&path.to_string_lossy());
        if Path::new(&told).is_relative() || stands(&told) {
            return (told, own);
        }
        if let Some(first) = first {
            return first;
        }
        // A place of this machine, which is nobody's business.
        let called = self.folders.first().map(|(called, _)| called.as_path()).unwrap_or(Path::new("/"));
        let name = || format!("…/{}", path.file_name().unwrap_or_default().to_string_lossy());
        (way(called, path).unwrap_or_else(name), own)
    }
}

/// The folder that two paths have in common.
pub(super) fn common(folder: &Path, path: &Path) -> PathBuf {
    folder.components().zip(path.components()).take_while(|(a, b)| a == b).map(|(part, _)| part).collect()
}
