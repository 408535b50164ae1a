//! Workflow files as text: regular files, no longer than any workflow, in UTF-8.

use std::{fs::File, io::Read, path::Path};

use super::diagnostic::nearest;

/// Longer files than this are nobody's workflow.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Why a file is no workflow's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Nothing is there.
    #[error("there is no such file")]
    Missing,
    /// The system refuses.
    #[error("{0}")]
    Refused(std::io::Error),
    /// Nothing that can be read to an end: a folder, a device, a pipe.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// Longer than any workflow.
    #[error("it is longer than 1 MiB, which no workflow is")]
    TooLong,
    /// Bytes that are no text.
    #[error("it is not UTF-8 text: byte {byte} of line {line} belongs to no character")]
    NotText {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        byte: usize,
    },
}

impl FileError {
    /// What to do, where the reason itself does not say so.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Self::TooLong => Some("is it a data file? give its path as a param of a stage instead"),
            Self::NotText { .. } => Some("a workflow is a YAML file; save it as UTF-8"),
            Self::Missing | Self::Refused(_) | Self::NotAFile(_) => None,
        }
    }
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Refused(error),
        }
    }
}

/// The file that was meant, if one beside it has a near name.
pub(super) fn near(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).ok()?.take(1000).flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    nearest(name, &names).map(|name| format!("did you mean `{name}`?"))
}

/// Reads a file, and not a byte more of it than a workflow may have.
pub(super) fn read(path: &Path) -> Result<String, FileError> {
    // Asked before it is opened: opening a pipe waits for somebody to write, and a device may never end.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(FileError::NotAFile("a folder"));
    }
    if !kind.is_file() {
        return Err(FileError::NotAFile("a device or a pipe"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    text(bytes)
}

/// The text of a file's bytes.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, FileError> {
    if bytes.len() > MAX_BYTES {
        return Err(FileError::TooLong);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let right = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let mut line = right.split(|byte| *byte == b'\n');
        FileError::NotText { line: line.clone().count(), byte: line.next_back().map_or(0, <[u8]>::len) + 1 }
    })?;
    // Editors on other systems begin files with a byte-order mark; it means nothing here.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_told_where() {
        let error = text(b"a: 1\nb: \xff\n".to_vec()).unwrap_err();
        assert!(matches!(error, FileError::NotText { line: 2, byte: 4 }), "{error}");
    }

    #[test]
    fn a_byte_order_mark_means_nothing() {
        assert_eq!(text("\u{feff}a: 1".into()).unwrap(), "a: 1");
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let refused = |path: &str| read(Path::new(path)).unwrap_err().to_string();
        assert_eq!(refused("/dev/zero"), "it is a device or a pipe, not a file");
        assert_eq!(refused("/"), "it is a folder, not a file");
    }
}
