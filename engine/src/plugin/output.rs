//! What a plugin prints, as log lines of bounded length.

use restage_stage::task::Event;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader},
    sync::mpsc,
};

/// A line longer than this is cut.
const MAX_LINE: usize = 8 << 10;

/// Reads a stream to its end and hands its lines on, until nobody takes them.
pub(super) async fn lines<T>(
    stream: impl AsyncRead + Unpin,
    name: &'static str,
    sender: mpsc::Sender<T>,
    wrap: impl Fn(Event) -> T,
) {
    let mut stream = BufReader::new(stream);
    while let Some(message) = line(&mut stream).await {
        let event = Event::Log { level: "INFO".into(), target: name.into(), message };
        if sender.send(wrap(event)).await.is_err() {
            return;
        }
    }
}

/// The next line; of a long one the beginning, and how much more there was.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let (mut line, mut cut) = (Vec::new(), 0);
    while let Ok(bytes @ [_, ..]) = stream.fill_buf().await {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let kept = part.len().min(MAX_LINE - line.len());
        line.extend_from_slice(&part[..kept]);
        cut += part.len() - kept;
        let used = end.map_or(part.len(), |end| end + 1);
        stream.consume(used);
        if end.is_some() {
            return Some(text(&line, cut));
        }
    }
    // What came before the end, or an error, of the stream is a line as well.
    (!line.is_empty()).then(|| text(&line, cut))
}

fn text(line: &[u8], cut: usize) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if cut == 0 {
        text.to_owned()
    } else {
        format!("{text} … (and {} more)", bytesize::ByteSize::b(cut as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_as_they_are_and_long_ones_are_cut() {
        let long = "x".repeat(3 * MAX_LINE);
        let text = format!("one\r\n\n{long}\nlast");
        let mut stream = BufReader::with_capacity(100, text.as_bytes());
        assert_eq!(line(&mut stream).await.as_deref(), Some("one"));
        assert_eq!(line(&mut stream).await.as_deref(), Some(""));
        let cut = line(&mut stream).await.unwrap();
        assert!(cut.starts_with("xxx") && cut.ends_with("… (and 16.0 KiB more)"), "{}", &cut[MAX_LINE..]);
        assert_eq!(line(&mut stream).await.as_deref(), Some("last"));
        assert_eq!(line(&mut stream).await, None);
    }
}
