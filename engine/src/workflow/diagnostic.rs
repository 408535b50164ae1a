//! What is wrong with a workflow, where, and what to do: all problems of a file are collected and shown at once.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Text of a workflow file; diagnostics quote it.
#[derive(Clone)]
pub(crate) struct Source(Arc<File>);

struct File {
    name: String,
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
    /// The file, absolute; `None` for the command line.
    path: Option<PathBuf>,
    /// Whether it is of a repository whose plugins are left out.
    guest: bool,
}

impl Source {
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self::named(path.display().to_string(), text, std::path::absolute(path).ok(), false)
    }

    /// A file of a git repository, under the name that people know it by. `guest`: plugins of the repository are left out.
    pub(super) fn of_git(path: &Path, name: String, text: String, guest: bool) -> Self {
        Self::named(name, text, Some(path.to_owned()), guest)
    }

    /// Text given on the command line.
    pub(crate) fn argument(text: &str) -> Self {
        Self::named("command line".to_owned(), text.to_owned(), None, false)
    }

    fn named(name: String, text: String, path: Option<PathBuf>, guest: bool) -> Self {
        let lines = [0].into_iter().chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self(Arc::new(File { name, text, lines, path, guest }))
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.0.text
    }

    /// Folder that relative paths in it begin at; `None` for the command line.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.0.path.as_deref()?.parent()
    }

    /// Whether it is of a repository whose plugins are left out.
    pub(crate) fn is_guest(&self) -> bool {
        self.0.guest
    }

    /// Line and column of a byte offset, both from 1.
    pub(crate) fn line_column(&self, offset: usize) -> (usize, usize) {
        let line = self.0.lines.partition_point(|begin| *begin <= offset).max(1);
        let begin = self.0.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text().get(begin..offset.min(self.text().len())).unwrap_or_default();
        let column = before.chars().count() + 1;
        (line, column)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name())
    }
}

/// Where a value was read from: some bytes of a source.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) source: Source,
    pub(crate) span: Range<usize>,
}

impl Place {
    /// Text given on the command line.
    pub(crate) fn argument(text: &str) -> Self {
        Self { source: Source::argument(text), span: 0..text.len() }
    }

    /// The place so many bytes later in another text.
    pub(super) fn shifted(&self, source: &Source, by: usize) -> Self {
        Self { source: source.clone(), span: self.span.start + by..self.span.end + by }
    }

    /// Line and column of its begin, both from 1.
    pub(crate) fn line_column(&self) -> (usize, usize) {
        self.source.line_column(self.span.start)
    }
}

/// Longer messages and labels quote something that nobody wrote by hand.
const MAX_MESSAGE: usize = 2000;
const MAX_LABEL: usize = 200;

/// One problem.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostic {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: Option<String>,
    /// Where, with a word on each place; the first is the main one, others may be in other files.
    pub(crate) labels: Vec<(Place, String)>,
}

impl Diagnostic {
    pub(crate) fn new(at: &Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        let labels = vec![(at.clone(), cut(label.into(), MAX_LABEL))];
        Self { message: cut(message.into(), MAX_MESSAGE), help: None, labels }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(cut(help.into(), MAX_MESSAGE));
        self
    }

    /// Adds a second place.
    pub(crate) fn and(mut self, at: &Place, label: impl Into<String>) -> Self {
        self.labels.push((at.clone(), cut(label.into(), MAX_LABEL)));
        self
    }

    /// The same, so many bytes later in another text.
    pub(super) fn shifted(mut self, source: &Source, by: usize) -> Self {
        for (at, _) in &mut self.labels {
            *at = at.shifted(source, by);
        }
        self
    }

    fn main(&self) -> Option<&Place> {
        self.labels.first().map(|(at, _)| at)
    }

    /// The file of the main place.
    pub(crate) fn file(&self) -> &str {
        self.main().map_or("", |at| at.source.name())
    }

    /// Where the main place begins, in bytes.
    pub(crate) fn offset(&self) -> usize {
        self.main().map_or(0, |at| at.span.start)
    }

    /// Line and column of the main place, both from 1.
    pub(crate) fn line_column(&self) -> (usize, usize) {
        self.main().map_or((1, 1), Place::line_column)
    }

    /// For programs: file, line, column, message, label, help, and the other places.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let (line, column) = self.line_column();
        let others = self.labels.iter().skip(1).map(|(at, label)| {
            let (line, column) = at.line_column();
            serde_json::json!({ "file": at.source.name(), "line": line, "column": column, "label": label })
        });
        serde_json::json!({
            "file": self.file(), "line": line, "column": column, "message": self.message,
            "label": self.labels.first().map(|(_, label)| label), "help": self.help,
            "others": others.collect::<Vec<_>>(),
        })
    }
}

fn cut(mut text: String, longest: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(longest) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// Nobody mends more than this at once; beyond it, no more are looked for.
pub(crate) const MAX_PROBLEMS: usize = 1000;

/// All problems that were found; never empty when it is an error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if !self.full() {
            self.0.push(diagnostic);
        }
    }

    /// Whether there are so many that it is no use to look for more.
    pub(crate) fn full(&self) -> bool {
        self.0.len() >= MAX_PROBLEMS
    }

    /// `value` if nothing was found.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        // File by file in the order in which they were met, each from its top.
        let mut files: Vec<Source> = Vec::new();
        let mut order: Vec<(usize, usize)> = Vec::new();
        for diagnostic in &self.0 {
            let Some(at) = diagnostic.main() else { continue };
            let file = files.iter().position(|file| file.same(&at.source)).unwrap_or_else(|| {
                files.push(at.source.clone());
                files.len() - 1
            });
            order.push((file, at.span.start));
        }
        let mut sorted: Vec<_> = order.into_iter().zip(self.0).collect();
        sorted.sort_by_key(|(place, _)| *place);
        Err(Self(sorted.into_iter().map(|(_, diagnostic)| diagnostic).collect()))
    }
}

/// Among more names than this, or longer ones, the nearest is not looked for.
const MAX_COMPARED: usize = 500;
const MAX_NAME: usize = 100;
/// More names than this are not listed.
const MAX_LISTED: usize = 20;

/// `did you mean …?` for the nearest of the known names, else the list of them.
pub(crate) fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(name) = nearest(wrong, &known) {
        return format!("did you mean `{name}`?");
    }
    let listed = known.iter().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
    match known.len() {
        0 => "there is none to choose from".into(),
        count if count > MAX_LISTED => format!("one of: {listed}, and {} more", count - MAX_LISTED),
        _ => format!("one of: {listed}"),
    }
}

/// The name that was meant, if one is near enough: but for a few letters, or but for what stands before it.
pub(crate) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    if wrong.len() > MAX_NAME {
        return None;
    }
    let lower = wrong.to_lowercase();
    let distance = |name: &&'a str| {
        let longest = wrong.len().max(name.len());
        if longest > MAX_NAME || wrong.len().abs_diff(name.len()) > 1 + longest / 3 {
            return None;
        }
        let distance = strsim::damerau_levenshtein(&lower, &name.to_lowercase());
        (distance <= 1 + longest / 3 && distance < longest).then_some((distance, *name))
    };
    let known = || known.iter().take(MAX_COMPARED);
    let near = known().filter_map(distance).min();
    let last_part = || known().find(|name| name.rsplit(['/', '.']).next() == Some(wrong)).copied();
    near.map(|(_, name)| name).or_else(last_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        assert_eq!(suggest("pretrian", ["embed", "pretrain"]), "did you mean `pretrain`?");
        assert_eq!(suggest("zzz", ["embed", "pretrain"]), "one of: embed, pretrain");
    }

    #[test]
    fn line_and_column_count_characters_from_one() {
        let source = Source::new(Path::new("w.yaml"), "a: 1\nä: [2]\n".into());
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column("a: 1\nä: ".len()), (2, 4));
    }
}
