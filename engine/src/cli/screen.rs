//! The lines at the bottom of the terminal that are drawn again and again. Whatever else is told goes above them.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use unicode_width::UnicodeWidthStr;

/// What is drawn now.
static DRAWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The terminal's columns and rows; `None` if standard error is none.
pub(super) fn size() -> Option<(usize, usize)> {
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stderr).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Draws lines instead of those that are drawn. They must be narrower than the terminal.
pub(super) fn draw(lines: Vec<String>) {
    replace("", Some(lines));
}

/// Writes to standard error, above what is drawn.
pub(super) fn above(text: &str) {
    replace(text, None);
}

fn replace(text: &str, lines: Option<Vec<String>>) {
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = lines.unwrap_or_else(|| drawn.clone());
    let bytes = if drawn.is_empty() && lines.is_empty() {
        text.to_owned()
    } else {
        redrawn(&drawn, text, &lines, size().map_or(usize::MAX, |(columns, _)| columns))
    };
    // Nobody is left to be told that nothing can be told.
    let _ = io::stderr().lock().write_all(bytes.as_bytes());
    *drawn = lines;
}

/// What makes of drawn lines a text and other lines below it: each is written over what stood there, so nothing flickers.
fn redrawn(drawn: &[String], text: &str, lines: &[String], columns: usize) -> String {
    // A terminal that became narrower has broken the lines.
    let rows = |line: &String| width(line).div_ceil(columns).max(1);
    let up: usize = drawn.iter().map(rows).sum();
    let mut bytes = String::new();
    if up > 0 {
        bytes.push_str(&format!("\x1b[{up}A\r"));
    }
    for line in text.lines().chain(lines.iter().map(String::as_str)) {
        bytes.push_str(line);
        bytes.push_str("\x1b[K\n");
    }
    bytes.push_str("\x1b[J");
    bytes
}

/// How many columns a text takes, whatever its colours.
pub(super) fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().width()
}

/// Standard error for logs: each of their writes is whole lines.
pub(super) struct Above;

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        above(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn lines_are_written_over_those_before() {
        let (one, two) = (lines(&["head", "a"]), lines(&["head"]));
        assert_eq!(redrawn(&[], "", &one, 80), "head\x1b[K\na\x1b[K\n\x1b[J");
        assert_eq!(redrawn(&one, "", &two, 80), "\x1b[2A\rhead\x1b[K\n\x1b[J");
        assert_eq!(
            redrawn(&two, "told\nmore\n", &two, 80),
            "\x1b[1A\rtold\x1b[K\nmore\x1b[K\nhead\x1b[K\n\x1b[J"
        );
        assert_eq!(redrawn(&two, "", &[], 80), "\x1b[1A\r\x1b[J");
    }

    #[test]
    fn a_terminal_that_became_narrower_has_broken_them() {
        let drawn = lines(&["12345678", "\x1b[31m1234\x1b[0m", ""]);
        assert!(redrawn(&drawn, "", &[], 4).starts_with("\x1b[4A\r"));
    }
}
