//! JPEG by rows from the top, as libjpeg decodes it: the decoder of Python's readers, so pixels are theirs. A slide is in
//! memory by some rows at a time, unless it is progressive: its rows come all together, at the file's end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

use mozjpeg::Decompress;
use restage_stage::{Error, Result};

/// Rows that are decoded at a time.
const ROWS: usize = 256;

/// Height and width.
pub(super) fn dimensions(path: &Path) -> Result<(usize, usize)> {
    guarded(path, || {
        let image = Decompress::new_reader(Whole::open(path)?).map_err(unreadable(path))?;
        Ok((image.height(), image.width()))
    })
}

/// Gives RGB pixels of some rows after the other to `take`.
pub(super) fn rows(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    guarded(path, || {
        let image = Decompress::new_reader(Whole::open(path)?).map_err(unreadable(path))?;
        let mut image = image.rgb().map_err(unreadable(path))?;
        let (height, row) = (image.height(), 3 * image.width());
        let mut band = vec![0; ROWS.min(height) * row];
        for start in (0..height).step_by(ROWS) {
            let rows = ROWS.min(height - start);
            take(image.read_scanlines_into(&mut band[..rows * row]).map_err(unreadable(path))?)?;
        }
        image.finish().map_err(unreadable(path))
    })
}

/// libjpeg has its errors unwind the stack; they come out as ours. What else unwinds is a mistake of somebody else's.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|payload| {
        match payload
            .downcast_ref::<String>()
            .and_then(|message| message.strip_prefix("libjpeg fatal error: "))
        {
            Some(message) => Err(unreadable(path)(io::Error::other(message.to_owned()))),
            None => resume_unwind(payload),
        }
    })
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::other(format!("cannot read the image {}: is it whole, and in gray or colour?", path.display()))
}

/// A file of which libjpeg may not make up the end: it would paint in gray what is missing.
struct Whole(BufReader<File>);

impl Whole {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self(BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io(path))?)))
    }
}

impl Read for Whole {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl BufRead for Whole {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.0.fill_buf()? {
            [] => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is cut off")),
            bytes => Ok(bytes),
        }
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}
