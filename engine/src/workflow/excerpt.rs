//! A problem as it is drawn: with the lines around it, shortened where they are long, and with its places in other
//! files below it.

use std::{fmt, ops::Range};

use miette::{LabeledSpan, MietteError, MietteSpanContents, Severity, SourceCode, SourceSpan, SpanContents};

use super::diagnostic::{Diagnostic, Place, Source};

/// Longer lines are shortened.
const MAX_LINE: usize = 200;
/// What is kept of a long line before and after a label's begin.
const AROUND: usize = 70;
/// Lines that are drawn above and below a label.
const CONTEXT: usize = 1;

/// A problem ready to be drawn.
pub(crate) fn draw(diagnostic: &Diagnostic) -> impl miette::Diagnostic + fmt::Debug {
    let mut files: Vec<(&Source, Vec<&(Place, String)>)> = Vec::new();
    for label in &diagnostic.labels {
        match files.iter_mut().find(|(source, _)| source.same(&label.0.source)) {
            Some((_, labels)) => labels.push(label),
            None => files.push((&label.0.source, vec![label])),
        }
    }
    let mut parts = files.into_iter().map(|(source, labels)| Excerpt::new(source, &labels));
    let first = parts.next();
    let others = parts.map(|excerpt| {
        let message = format!("the other place is in {}", excerpt.name);
        Drawn { message, help: None, excerpt: Some(excerpt), others: Vec::new(), severity: Severity::Advice }
    });
    Drawn {
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
        others: others.collect(),
        excerpt: first,
        severity: Severity::Error,
    }
}

#[derive(Debug)]
struct Drawn {
    message: String,
    help: Option<String>,
    excerpt: Option<Excerpt>,
    others: Vec<Drawn>,
    severity: Severity,
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Drawn {}

impl miette::Diagnostic for Drawn {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.excerpt.as_ref().map(|excerpt| excerpt as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let labels = &self.excerpt.as_ref()?.labels;
        Some(Box::new(labels.iter().enumerate().map(|(index, (span, _, label))| {
            let label = Some(label.clone()).filter(|label| !label.is_empty());
            match index {
                0 => LabeledSpan::new_primary_with_span(label, span.clone()),
                _ => LabeledSpan::new_with_span(label, span.clone()),
            }
        })))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.others.iter().map(|other| other as &dyn miette::Diagnostic)))
    }
}

/// The lines of a file around some labels.
#[derive(Debug)]
struct Excerpt {
    name: String,
    text: String,
    /// Lines of the file before the excerpt.
    lines_before: usize,
    /// Where in the excerpt, the true column from 1, and the word on it; the main one first.
    labels: Vec<(Range<usize>, usize, String)>,
}

impl Excerpt {
    fn new(source: &Source, labels: &[&(Place, String)]) -> Self {
        let text = source.text();
        let spans = || labels.iter().map(|(at, _)| at.span.clone());
        let first = spans().map(|span| span.start).min().unwrap_or(0).min(text.len());
        let last = spans().map(|span| span.end).max().unwrap_or(0).clamp(first, text.len());
        let begin = begin_above(text, first);
        let end = end_below(text, last);
        let lines_before = source.line_column(begin).0 - 1;
        let mut copy = Shortened { kept: Vec::new(), text: String::new() };
        let mut offset = begin;
        for line in text.get(begin..end).unwrap_or_default().split_inclusive('\n') {
            copy.line(text, offset..offset + line.len(), spans());
            offset += line.len();
        }
        let labels = labels.iter().map(|(at, word)| {
            let span = copy.place(at.span.start)..copy.place(at.span.end).max(copy.place(at.span.start));
            (span, source.line_column(at.span.start).1, word.clone())
        });
        let labels = labels.collect();
        Self { name: source.name().to_owned(), lines_before, labels, text: copy.text }
    }
}

/// Begin of the line some lines above an offset.
fn begin_above(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.rmatch_indices('\n').nth(CONTEXT).map_or(0, |(end, _)| end + 1)
}

/// End of the line some lines below an offset.
fn end_below(text: &str, offset: usize) -> usize {
    let after = text.get(offset..).unwrap_or_default();
    after.match_indices('\n').nth(CONTEXT).map_or(text.len(), |(end, _)| offset + end + 1)
}

/// Lines copied from a file, the long ones only around labels.
struct Shortened {
    /// Which bytes of the file went where, in order.
    kept: Vec<(Range<usize>, usize)>,
    text: String,
}

impl Shortened {
    /// Copies a line.
    fn line(&mut self, whole: &str, line: Range<usize>, labels: impl Iterator<Item = Range<usize>>) {
        let text = whole.get(line.clone()).unwrap_or_default();
        let content = line.start + text.trim_end_matches(['\r', '\n']).len();
        if text.chars().nth(MAX_LINE).is_none() {
            return self.keep(whole, line);
        }
        let mut pieces: Vec<Range<usize>> = labels
            .filter(|label| label.start < line.end && line.start <= label.end)
            .map(|label| {
                let start = label.start.max(line.start);
                let behind = label.end.min(start + AROUND) + AROUND;
                start.saturating_sub(AROUND).max(line.start)..behind.min(content)
            })
            .collect();
        if pieces.is_empty() {
            pieces.push(line.start..(line.start + 2 * AROUND).min(content));
        }
        pieces.sort_by_key(|piece| piece.start);
        let mut done = line.start;
        for piece in pieces {
            let start = whole.floor_char_boundary(piece.start).max(done);
            let end = whole.ceil_char_boundary(piece.end).min(content);
            if start > done {
                self.text.push('…');
            }
            if start < end {
                self.keep(whole, start..end);
                done = end;
            }
        }
        if done < content {
            self.text.push('…');
        }
        self.keep(whole, content..line.end);
    }

    fn keep(&mut self, whole: &str, range: Range<usize>) {
        self.kept.push((range.clone(), self.text.len()));
        self.text.push_str(whole.get(range).unwrap_or_default());
    }

    /// Where an offset of the file is in the copy; what was left out is where it was left out.
    fn place(&self, offset: usize) -> usize {
        let before = self.kept.partition_point(|(range, _)| range.start <= offset);
        match before.checked_sub(1).and_then(|index| self.kept.get(index)) {
            Some((range, at)) => at + (offset.min(range.end) - range.start),
            None => 0,
        }
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let found = self.text.as_str().read_span(span, before, after)?;
        let is_it = |(at, ..): &&(Range<usize>, usize, String)| {
            (at.start, at.len()) == (span.offset(), span.len()) && (before, after) == (0, 0)
        };
        // Read without context, it is for the head, which tells the place in the file.
        let column = self.labels.iter().find(is_it).map_or(found.column(), |(_, column, _)| column - 1);
        Ok(Box::new(
            MietteSpanContents::new_named(
                self.name.clone(),
                found.data(),
                *found.span(),
                found.line() + self.lines_before,
                column,
                found.line_count(),
            )
            .with_language("yaml"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use miette::{GraphicalReportHandler, GraphicalTheme};

    use super::*;

    fn drawn(diagnostic: &Diagnostic) -> String {
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::none()).with_wrap_lines(false);
        handler.render_report(&mut text, &draw(diagnostic)).unwrap();
        text
    }

    fn place(source: &Source, word: &str) -> Place {
        let start = source.text().find(word).unwrap();
        Place { source: source.clone(), span: start..start + word.len() }
    }

    #[test]
    fn a_long_line_is_cut_and_its_column_is_true() {
        let text = format!("a: 1\nb: [{}wrong, {}]\n", "ä, ".repeat(1000), "ö, ".repeat(300_000));
        let source = Source::new(Path::new("w.yaml"), text);
        let text = drawn(&Diagnostic::new(&place(&source, "wrong"), "it is wrong", "here"));
        assert!(text.contains("w.yaml:2:3005]"), "{text}");
        assert!(text.contains("… ä") || text.contains("…ä") || text.contains("…, ä"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 250), "{text}");
    }

    #[test]
    fn lines_are_counted_from_the_top_of_the_file() {
        let source =
            Source::new(Path::new("w.yaml"), "x: 1\n".repeat(50) + "here: 1\n" + &"y: 1\n".repeat(50));
        let text = drawn(&Diagnostic::new(&place(&source, "here"), "it is wrong", "here"));
        assert!(text.contains("w.yaml:51:1]") && text.contains(" 51 |"), "{text}");
    }

    #[test]
    fn a_place_in_another_file_is_drawn_below() {
        let source = Source::new(Path::new("a.yaml"), "a: 1\n".into());
        let other = Source::new(Path::new("b.yaml"), "\nb: 2\n".into());
        let problem = Diagnostic::new(&place(&source, "1"), "they differ", "this one")
            .and(&place(&other, "2"), "from this one");
        let text = drawn(&problem);
        assert!(text.contains("a.yaml:1:4]") && text.contains("b.yaml:2:4]"), "{text}");
    }
}
