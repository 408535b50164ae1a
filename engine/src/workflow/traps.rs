//! The traps of YAML, and what the YAML crate says of broken text, in words for people.

use serde_yaml::{Error, budget::BudgetBreach};

use super::diagnostic::{Diagnostic, Place};

/// A key that a mapping has twice.
pub(super) fn twice(key: &str, at: &Place, first: &Place) -> Diagnostic {
    Diagnostic::new(at, format!("`{key}` is given twice"), "again here")
        .and(first, "first here")
        .help("keep one of them, or give the other another name")
}

/// What keeps a text from being read as YAML.
pub(super) fn explain(error: &Error, at: Place) -> Diagnostic {
    let words = known(error, &at).unwrap_or_else(|| {
        let message = error.to_string();
        // The excerpt shows the place.
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        Words::new(format!("this is not YAML: {message}"), "here", "")
    });
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
        Error::MultipleDocuments { .. } => Words::new(
            "the file has more than one document",
            "the second one begins here",
            "a workflow is one document: remove the line `---`, or make two files",
        ),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => Words::new(
            "the aliases (`*name`) stand for more values than any workflow has",
            "one alias too many",
            "aliases of aliases multiply; use `params:` with `${params.name}`, or `foreach:`",
        ),
        Error::UnknownAnchor { .. } => Words::new(
            "there is no anchor of that name above",
            "`*` begins an alias",
            "`*name` stands for the value that `&name` marks; to mean text, put it in quotes",
        ),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            Words::new("an alias inside the value that it stands for", "this never ends", "remove the alias")
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => Words::new(
            "`<<` takes a mapping, or a list of mappings",
            "expected e.g. `<<: *defaults`",
            "it brings the keys of another mapping, which `&defaults` marks",
        ),
        Error::NullIntoString { .. } => Words::new(
            "a key is missing",
            "expected a name before the colon",
            "names are text; put it in quotes",
        ),
        Error::UnsupportedTag { .. } | Error::TaggedScalarCannotDeserializeIntoString { .. } => tag(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => deep(),
        Error::Budget {
            breach: BudgetBreach::AliasAnchorRatio { .. } | BudgetBreach::Aliases { .. },
            ..
        } => {
            return known(
                &Error::AliasReplayLimitExceeded {
                    total_replayed_events: 0,
                    max_total_replayed_events: 0,
                    location: serde_yaml::Location::UNKNOWN,
                },
                at,
            );
        }
        Error::Budget { .. } => Words::new(
            "the file holds more than any workflow does",
            "here it is too much",
            "are there data in it? put them in a file, and give its path as a param",
        ),
        Error::AliasError { error, .. } => return known(error, at),
        _ => return syntax(&error.to_string(), at),
    })
}

fn deep() -> Words {
    Words::new(
        "the file is nested more deeply than any workflow is",
        "one level too many",
        "close some brackets",
    )
}

fn tag() -> Words {
    Words::new("tags (`!name`) mean nothing in a workflow", "remove it", "to mean text, put it in quotes")
}

/// What the parser says of broken syntax.
fn syntax(_message: &str, _at: &Place) -> Option<Words> {
    None
}
