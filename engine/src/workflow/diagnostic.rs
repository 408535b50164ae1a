//! What is wrong with a workflow, where, and what to do: all problems of a file are collected and shown at once.

use std::{fmt, ops::Range, path::Path, sync::Arc};

use miette::{LabeledSpan, NamedSource, Severity, SourceCode};

/// Text of a workflow file; diagnostics quote it.
#[derive(Clone)]
pub(crate) struct Source(Arc<NamedSource<String>>);

impl Source {
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self(Arc::new(NamedSource::new(path.display().to_string(), text).with_language("yaml")))
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn name(&self) -> &str {
        self.0.name()
    }

    pub(crate) fn text(&self) -> &str {
        self.0.inner()
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
        Self { source: Source::new(Path::new("command line"), text.to_owned()), span: 0..text.len() }
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
    source: Source,
}

impl Diagnostic {
    pub(crate) fn new(at: &Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        let labels = vec![(at.span.clone(), label.into())];
        Self { message: message.into(), help: None, labels, source: at.source.clone() }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a second place of the same file.
    pub(crate) fn and(mut self, at: &Place, label: impl Into<String>) -> Self {
        if at.source.same(&self.source) {
            self.labels.push((at.span.clone(), label.into()));
        }
        self
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
            "message": self.message, "label": self.labels.first().map(|(_, label)| label), "help": self.help,
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
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
        Some(&*self.source.0)
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
    pub(crate) fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by_key(|diagnostic| diagnostic.labels.first().map_or(0, |(at, _)| at.start));
        Err(self)
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
