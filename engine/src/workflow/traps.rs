//! The traps of YAML, and what the YAML crate says of broken text, in words for people.

use serde_yaml::{
    Error, ExternalMessageSource,
    budget::BudgetBreach,
    granit_parser::{ErrorKind, Event, Parser},
};

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place, Source},
    reference::is_name,
};

/// A key that a mapping has twice.
pub(super) fn twice(key: &str, at: &Place, first: &Place) -> Diagnostic {
    Diagnostic::new(at, format!("`{key}` is given twice"), "again here")
        .and(first, "first here")
        .help("keep one of them, or give the other another name")
}

/// Tells tags, but for those of YAML itself: in other languages they make objects, here they would mean nothing.
pub(super) fn tagged(source: &Source, problems: &mut Diagnostics) {
    const PLAIN: [&str; 7] = ["str", "int", "float", "bool", "null", "seq", "map"];
    if !source.text().contains('!') {
        return;
    }
    for (event, span) in Parser::new_from_str(source.text()).map_while(Result::ok) {
        let (Event::Scalar(_, _, _, Some(tag))
        | Event::SequenceStart(_, _, Some(tag))
        | Event::MappingStart(_, _, Some(tag))) = event
        else {
            continue;
        };
        if tag.handle() == "tag:yaml.org,2002:" && PLAIN.contains(&tag.suffix()) {
            continue;
        }
        let text = source.text();
        // The place is the value's; what a reader wants to see is the tag before it.
        let value = span.start.byte_offset().unwrap_or(0).min(text.len());
        let before = text.get(..value).unwrap_or_default().trim_end();
        let start = before.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let is_tag = before.get(start..).is_some_and(|word| word.starts_with('!'));
        let span = if is_tag { start..before.len() } else { value..value };
        let at = Place { source: source.clone(), span };
        problems.push(
            Diagnostic::new(&at, "a tag (`!name`) means nothing in a workflow", "remove it")
                .help("to mean text, put the whole value in quotes"),
        );
    }
}

/// What keeps a text from being read as YAML.
pub(super) fn explain(error: &Error, at: Place) -> Diagnostic {
    let words = known(error, &at).unwrap_or_else(|| {
        let message = error.to_string();
        // The excerpt shows the place.
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        Words::new(format!("this is not YAML: {message}"), "here", "")
    });
    if let (Error::ExternalMessage { .. }, Some(bracket)) = (error, unclosed_above(&at)) {
        let open = at.source.text().get(bracket.span.clone()).unwrap_or_default();
        return Diagnostic::new(&bracket, format!("`{open}` is never closed"), "it is opened here")
            .and(&at, "this is read as a part of it")
            .help(format!("add `{}` before this", close(open)));
    }
    let at = words.at.unwrap_or(at);
    let diagnostic = Diagnostic::new(&at, words.message, words.label);
    if words.help.is_empty() { diagnostic } else { diagnostic.help(words.help) }
}

/// What is told of a trap.
struct Words {
    message: String,
    label: &'static str,
    help: String,
    /// A better place than the parser's, which tells where it gave up.
    at: Option<Place>,
}

impl Words {
    fn new(message: impl Into<String>, label: &'static str, help: impl Into<String>) -> Self {
        Self { message: message.into(), label, help: help.into(), at: None }
    }

    fn at(mut self, place: Place) -> Self {
        self.at = Some(place);
        self
    }
}

fn known(error: &Error, at: &Place) -> Option<Words> {
    Some(match error {
        Error::NonFiniteFloat { value, .. } => Words::new(
            format!("`{value}` is not a number that a workflow can hold"),
            "expected a finite number",
            format!("to mean the text, put it in quotes: \"{value}\""),
        ),
        Error::MultipleDocuments { .. } => documents(),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::Budget {
            breach: BudgetBreach::AliasAnchorRatio { .. } | BudgetBreach::Aliases { .. },
            ..
        } => Words::new(
            "the aliases (`*name`) stand for more values than any workflow has",
            "one alias too many",
            "aliases of aliases multiply; use `params:` with `${params.name}`, or `foreach:`",
        ),
        Error::UnknownAnchor { .. } => alias(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => Words::new(
            "an alias inside the value that it stands for",
            "this never ends",
            "give the value here instead of the alias",
        ),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => Words::new(
            "`<<` takes a mapping, or a list of mappings",
            "expected e.g. `<<: *defaults`",
            "it brings the keys of another mapping, which `&defaults` marks",
        ),
        Error::NullIntoString { .. } => {
            Words::new("a name is missing before the colon", "expected `name:`", "every value has a name")
        }
        // What the tree itself cannot hold: see `node.rs`.
        Error::Message { msg, .. } => Words::new(
            msg.split(" at line ").next().unwrap_or(msg),
            "not a value of a workflow",
            "to mean the text, put it in quotes",
        ),
        Error::Unexpected { expected: "string scalar", .. } => Words::new(
            "a name that is a list or a mapping",
            "expected text before the colon",
            "text with braces or brackets needs quotes",
        ),
        Error::UnsupportedTag { .. } | Error::TaggedScalarCannotDeserializeIntoString { .. } => tag(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => deep(),
        Error::Budget { .. } => Words::new(
            "the file holds more than any workflow does",
            "here it is too much",
            "are there data in it? put them in a file, and give its path as a param",
        ),
        Error::AliasError { error, .. } => return known(error, at),
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => return syntax(error.kind(), at),
            _ => return None,
        },
        _ => return None,
    })
}

/// What the parser says of broken syntax.
fn syntax(kind: &ErrorKind, at: &Place) -> Option<Words> {
    use ErrorKind::*;
    if let Some(tab) = tab(at) {
        return Some(tab);
    }
    Some(match kind {
        UnclosedFlowCollection { open } => unclosed(&open.to_string()),
        UnexpectedEofFlowSequence => unclosed("["),
        UnexpectedEofFlowMapping | UnexpectedEofImplicitFlowMapping => unclosed("{"),
        MismatchedFlowCollectionEnd { open, close } => Words::new(
            format!("`{open}` is opened, and `{close}` comes first"),
            "it is opened here",
            "close brackets in the order in which they were opened",
        ),
        MisplacedFlowCollectionEnd => Words::new(
            "this bracket closes nothing",
            "one too many",
            "remove it; to mean text, put it in quotes",
        ),
        ExpectedFlowMappingSeparator => Words::new(
            "between braces, something is not `name: value`",
            "expected `,` or `}`",
            "separate values by commas; text with `{`, `}`, `[`, `]` or `,` needs quotes",
        ),
        ExpectedFlowSequenceSeparator => Words::new(
            "a comma is missing between two values of a list",
            "expected `,` or `]`",
            "separate values by commas; text with `{`, `}`, `[`, `]` or `,` needs quotes",
        ),
        UnclosedQuotedScalar | DocumentIndicatorInQuotedScalar => {
            Words::new("a quote is never closed", "it begins here", "close it with the quote it begins with")
        }
        InvalidTrailingSingleQuotedScalar | InvalidTrailingDoubleQuotedScalar => Words::new(
            "there is more after the closing quote",
            "expected the end of the value",
            "put the whole value in quotes; a quote inside single quotes is written twice: 'it''s'",
        ),
        UnknownQuotedScalarEscape | InvalidQuotedScalarHexEscape | InvalidUnicodeEscape => Words::new(
            "in double quotes, `\\` begins an escape, and there is none like this",
            "unknown escape",
            "write `\\\\` for the character itself, or use single quotes: 'C:\\data'",
        ),
        UnexpectedCharacter { character } if character.is_control() => Words::new(
            format!("the character U+{:04X} is not text", u32::from(*character)),
            "remove it",
            "was it saved by a program that writes no plain text?",
        ),
        UnexpectedCharacter { character } => Words::new(
            match character {
                '`' => "a value cannot begin with a backtick".to_owned(),
                _ => format!("a value cannot begin with `{character}`"),
            },
            "a sign that YAML keeps for itself",
            "put the value in quotes",
        ),
        MappingValueNotAllowed | InvalidColonPlacement | InvalidMappingValueWhitespace => second_colon(at),
        SimpleKeyExpected
        | InvalidSimpleKey
        | ExpectedBlockMappingKey
        | ExpectedNodeContent
        | ExpectedDocumentStart
        | MappingKeyNotAllowed => no_pair(at),
        InvalidIndentation
        | InvalidFlowScalarIndent
        | InvalidQuotedScalarIndent
        | InvalidBlockScalarIndent => indentation(),
        BlockSequenceEntryNotAllowed | ExpectedBlockSequenceEntry | BlockEntryInFlowCollection => item(),
        MissingAnchorOrAliasName => alias(),
        RecursionLimitExceeded => deep(),
        MultipleDocumentsUnsupported => documents(),
        BomInsideDocument => Words::new(
            "a byte-order mark inside the file",
            "an invisible character",
            "remove it; were two files put together?",
        ),
        UndeclaredTagHandle
        | ExpectedTagBang
        | InvalidGlobalTagCharacter
        | InvalidTagTerminator
        | MissingTagUri
        | UnclosedVerbatimTag => tag(),
        DirectiveDisallowed
        | InvalidDirectiveName
        | MissingDirectiveName
        | MissingDocumentEndBeforeDirective
        | InvalidDirectiveTerminator
        | UnsupportedYamlMajorVersion
        | TooManyReservedDirectiveParams { .. } => Words::new(
            "a line that begins with `%` is no part of a workflow",
            "a directive to YAML",
            "remove it; to mean text, put it in quotes",
        ),
        _ => return None,
    })
}

fn deep() -> Words {
    let message = "the file is nested more deeply than any workflow is";
    Words::new(
        message,
        "one level too many",
        "is a bracket not closed, or does each line begin with more spaces?",
    )
}

fn tag() -> Words {
    Words::new("tags (`!name`) mean nothing in a workflow", "remove it", "to mean text, put it in quotes")
}

fn documents() -> Words {
    Words::new(
        "the file has more than one document",
        "the second one begins here",
        "a workflow is one document: remove the line `---`, or make two files",
    )
}

fn alias() -> Words {
    Words::new(
        "`*` begins an alias, and there is no anchor of that name above",
        "expected `&name` above",
        "`*name` stands for the value that `&name` marks; to mean text, put it in quotes: \"*.txt\"",
    )
}

fn unclosed(open: &str) -> Words {
    let help = format!("add `{}`", close(open));
    Words::new(format!("`{open}` is never closed"), "it is opened here", help)
}

fn close(open: &str) -> &'static str {
    if open == "[" { "]" } else { "}" }
}

/// The bracket above a line that begins no deeper than the bracket's own line: it was meant to be closed there.
fn unclosed_above(at: &Place) -> Option<Place> {
    let text = at.source.text();
    let mut open: Vec<usize> = Vec::new();
    let mut quote = None;
    // What stands before, but for spaces: quotes and comments begin where values do.
    let mut before = ' ';
    for (index, c) in text.get(..at.span.start)?.char_indices() {
        match (quote, c) {
            (Some('#'), '\n') => quote = None,
            (Some(end), c) if end == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if "[{,:-\n ".contains(before) => quote = Some(c),
            (None, '#') => quote = Some('#'),
            (None, '[' | '{') => open.push(index),
            (None, ']' | '}') => drop(open.pop()),
            _ => {}
        }
        if c != ' ' {
            before = c;
        }
    }
    let indent = |place: &Place| {
        let (begin, line) = line(place);
        (begin, line.len() - line.trim_start().len())
    };
    let (begin, depth) = indent(at);
    let bracket = |index: usize| Place { source: at.source.clone(), span: index..index + 1 };
    open.into_iter().map(bracket).find(|bracket| {
        let (own, own_depth) = indent(bracket);
        own < begin && depth <= own_depth
    })
}

fn indentation() -> Words {
    Words::new(
        "this line begins with more or fewer spaces than it may",
        "fits no level above",
        "lines that belong together begin with the same number of spaces",
    )
}

/// The line of a place, and where it begins.
fn line(at: &Place) -> (usize, &str) {
    let text = at.source.text();
    let begin = text.get(..at.span.start).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    (begin, text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default())
}

/// A tab among the spaces that a line begins with, or the one above or below it.
fn tab(at: &Place) -> Option<Words> {
    let text = at.source.text();
    let (begin, here) = line(at);
    let above =
        text.get(..begin.saturating_sub(1)).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let below = (begin + here.len() + 1).min(text.len());
    let in_front = |start: usize| {
        let line = text.get(start..)?.lines().next()?;
        let tab = line.find('\t')?;
        (line.len() - line.trim_start().len() > tab && !line.trim().is_empty()).then_some(start + tab)
    };
    let found = [begin, above, below].into_iter().find_map(in_front)?;
    let place = Place { source: at.source.clone(), span: found..found + 1 };
    let words = Words::new(
        "a tab at the begin of a line",
        "expected spaces",
        "YAML is indented with spaces: let your editor write spaces for tabs",
    );
    Some(words.at(place))
}

/// A colon too many: in text without quotes, or because the line belongs to another level.
fn second_colon(at: &Place) -> Words {
    let (begin, text) = line(at);
    let before = text.get(..at.span.start.saturating_sub(begin)).unwrap_or_default();
    if before.contains(": ") || before.contains("{") {
        return Words::new(
            "a second `: ` in one value",
            "expected text without `: `",
            "text that has a colon and a space in it needs quotes",
        );
    }
    let words = Words::new(
        "a `name: value` line where there can be none",
        "the line above has a value already",
        "begin the line with as many spaces as those that it belongs to; text of several lines needs quotes",
    );
    let start = begin + (text.len() - text.trim_start().len());
    words.at(Place { source: at.source.clone(), span: start..at.span.start.max(start) })
}

/// YAML takes longer ones for no names.
const MAX_NAME: usize = 1024;

/// A line that is no `name: value`, or not where it may be.
fn no_pair(at: &Place) -> Words {
    let (begin, text) = line(at);
    let before = text.get(..at.span.start.saturating_sub(begin)).unwrap_or_default().trim();
    let content = text.trim();
    if before.ends_with(['}', ']', '"', '\'']) {
        return Words::new(
            "there is more after the end of a value",
            "expected the end of the line",
            "text that begins with a bracket or a quote needs quotes around all of it",
        );
    }
    if text.find(": ").or(text.find(":\n")).unwrap_or(text.len()) > MAX_NAME {
        return Words::new(
            "a name is too long",
            "the name of this line",
            "a name has at most 1024 characters",
        );
    }
    if content.starts_with("- ") {
        return item();
    }
    if let Some((name, value)) = squeezed(content) {
        return Words::new(
            "after a colon a space is missing",
            "expected `name: value`",
            format!("write `{name}: {value}`"),
        );
    }
    if content.contains(": ") || content.ends_with(':') {
        return indentation();
    }
    Words::new(
        "this is no `name: value` line",
        "expected `name: value`",
        "is a colon missing? is a bracket or a quote above not closed?",
    )
}

/// `name:value`, which to YAML is a text, in its two parts.
pub(super) fn squeezed(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    (is_name(name)
        && !name.chars().all(|c| c.is_ascii_digit())
        && !value.starts_with([' ', '/', ':', '\\'])
        && !value.is_empty())
    .then_some((name, value))
}

fn item() -> Words {
    Words::new(
        "a list item (`-`) where there is no list",
        "expected `name: value`",
        "a list has all its items at one level, below its name: and nothing else there",
    )
}
