//! Text files of a section, gzipped or not: known by their first bytes, since names lie.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use restage_stage::{Error, Result};

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a file for reading its text, unpacked.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io(path))?);
    let packed = file.fill_buf().map_err(Error::io(path))?.starts_with(&GZIP);
    Ok(if packed {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

/// The whole text of a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(Error::io(path))?;
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..sound].iter().filter(|&&byte| byte == b'\n').count();
        Error::invalid(format!("{}: line {line} is not UTF-8 text; save the file as UTF-8", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_packed_is_known_by_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("plain.gz"), folder.path().join("packed.tsv"));
        std::fs::write(&plain, "a\tb\n").unwrap();
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
        encoder.write_all(b"a\tb\n").unwrap();
        encoder.finish().unwrap();
        assert_eq!((read(&plain).unwrap(), read(&packed).unwrap()), ("a\tb\n".into(), "a\tb\n".into()));
    }

    #[test]
    fn other_encodings_are_refused_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.tsv");
        std::fs::write(&path, b"a\nb\n\xe4\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 3 is not UTF-8 text"));
    }
}
