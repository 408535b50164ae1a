//! What is wrong with a workflow, where, and what to do: all problems of a file are collected and shown at once.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::{LabeledSpan, NamedSource, Severity, SourceCode};

/// Text of a workflow file; diagnostics quote it.
#[derive(Clone)]
pub(crate) struct Source(Arc<File>);

struct File {
    text: NamedSource<String>,
    /// Folder that relative paths in it begin at; `None` for the command line.
    folder: Option<PathBuf>,
}

impl Source {
    pub(crate) fn new(path: &Path, text: String) -> Self {
        let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(PathBuf::from));
        let text = NamedSource::new(path.display().to_string(), text).with_language("yaml");
        Self(Arc::new(File { text, folder }))
    }

    /// Text given on the command line.
    pub(crate) fn argument(text: &str) -> Self {
        let text = NamedSource::new("command line", text.to_owned()).with_language("yaml");
        Self(Arc::new(File { text, folder: None }))
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn name(&self) -> &str {
        self.0.text.name()
    }

    pub(crate) fn text(&self) -> &str {
        self.0.text.inner()
    }

    /// Folder that relative paths in it begin at; `None` for the command line.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.0.folder.as_deref()
    }

    /// Line and column of a byte offset, both from 1.
    pub(crate) fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text()[..offset.min(self.text().len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
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
}

/// One problem.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostic {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: Option<String>,
    /// Where, with a word on each place; the first is the main one.
    pub(crate) labels: Vec<(Range<usize>, String)>,
    /// Places in other files, as `file:line:column: word`.
    elsewhere: Vec<String>,
    source: Source,
}

impl Diagnostic {
    pub(crate) fn new(at: &Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        let labels = vec![(at.span.clone(), label.into())];
        Self { message: message.into(), help: None, labels, elsewhere: Vec::new(), source: at.source.clone() }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a second place. One in another file cannot be drawn beside the first, so it is told in words.
    pub(crate) fn and(mut self, at: &Place, label: impl Into<String>) -> Self {
        let label = label.into();
        if at.source.same(&self.source) {
            self.labels.push((at.span.clone(), label));
        } else {
            let (line, column) = at.source.line_column(at.span.start);
            self.elsewhere.push(format!("{}:{line}:{column}: {label}", at.source.name()));
        }
        self
    }

    /// The file of the main place.
    pub(crate) fn file(&self) -> &str {
        self.source.name()
    }

    /// Line and column of the main place, both from 1.
    pub(crate) fn line_column(&self) -> (usize, usize) {
        self.source.line_column(self.labels.first().map_or(0, |(at, _)| at.start))
    }

    /// For programs: file, line, column, message, help.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let (line, column) = self.line_column();
        serde_json::json!({
            "file": self.source.name(), "line": line, "column": column,
            "message": self.to_string(), "label": self.labels.first().map(|(_, label)| label), "help": self.help,
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.elsewhere.iter().try_for_each(|place| write!(f, "\n{place}"))
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source.0.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(
            self.labels.iter().map(|(at, label)| LabeledSpan::new_with_span(Some(label.clone()), at.clone())),
        ))
    }
}

/// All problems that were found; never empty when it is an error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
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
            let file = files.iter().position(|file| file.same(&diagnostic.source)).unwrap_or_else(|| {
                files.push(diagnostic.source.clone());
                files.len() - 1
            });
            order.push((file, diagnostic.labels.first().map_or(0, |(at, _)| at.start)));
        }
        let mut sorted: Vec<_> = order.into_iter().zip(self.0).collect();
        sorted.sort_by_key(|(place, _)| *place);
        Err(Self(sorted.into_iter().map(|(_, diagnostic)| diagnostic).collect()))
    }
}

/// `; did you mean …?` for the nearest of the known names, else the list of them.
pub(crate) fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= 1 + wrong.len().max(name.len()) / 3)
        .min();
    match (nearest, known.as_slice()) {
        (Some((_, name)), _) => format!("did you mean `{name}`?"),
        (None, []) => "there is none to choose from".into(),
        (None, names) => format!("one of: {}", names.join(", ")),
    }
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
