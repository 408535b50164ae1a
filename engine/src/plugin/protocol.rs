//! What engine and host say to each other: length-prefixed JSON frames over a socket pair. No I/O policy here.

use std::io::{self, Read, Write};

use restage_stage::{
    catalogue::Catalogue,
    task::{Event, Task},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::sandbox::{Access, Sandbox};

/// The largest frame; a length beyond it means that the stream is not ours.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// From the engine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Load the library; once per host.
    Load { library: std::path::PathBuf },
    /// Canonicalise params: one answer for each.
    Check { stage: String, params: Vec<serde_json::Value> },
    /// Run a task.
    Run { task: Box<Task>, access: Access },
    /// Ask the running task to stop.
    Cancel,
}

/// From the host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "lowercase")]
pub(crate) enum Response {
    /// The library is loaded.
    Loaded { catalogue: Catalogue },
    /// The library cannot be used.
    Refused { message: String },
    /// Canonical params, or what is wrong with them.
    Checked { answers: Vec<Result<serde_json::Value, Vec<String>>> },
    /// Something happened in the running task.
    Event { event: Event },
    /// The task ended in one of the ways that leave the host usable.
    Finished { status: u32, messages: Vec<String>, sandbox: Sandbox },
}

/// A frame's bytes.
pub(crate) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let len = frame.len() - 4;
    let prefix = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME);
    let prefix = prefix.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "frame too large"))?;
    frame[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(frame)
}

/// The length of the frame that follows a prefix.
pub(crate) fn frame_len(prefix: [u8; 4]) -> io::Result<usize> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame of the plugin protocol"));
    }
    Ok(len)
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn read<T: DeserializeOwned>(mut stream: impl Read) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut frame = vec![0; frame_len(prefix)?];
    stream.read_exact(&mut frame)?;
    Ok(Some(serde_json::from_slice(&frame)?))
}

/// Writes one frame.
pub(crate) fn write<T: Serialize>(mut stream: impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_stray_stream_is_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Request::Cancel).unwrap();
        let mut stream = bytes.as_slice();
        assert!(matches!(read::<Request>(&mut stream).unwrap(), Some(Request::Cancel)));
        assert!(read::<Request>(&mut stream).unwrap().is_none());
        assert!(read::<Request>(b"\xff\xff\xff\xff....".as_slice()).is_err());
        assert!(read::<Request>(b"\x08\x00\x00\x00{\"a\"".as_slice()).is_err());
    }
}
