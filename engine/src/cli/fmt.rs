//! `restage fmt`: workflow files in one style. What they say, comments among it, stays as it is.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use pretty_yaml::config::{FormatOptions, LanguageOptions, LayoutOptions, LineBreak};
use yaml_parser::SyntaxKind;

use super::{Failure, tell};
use crate::workflow;

/// Longer lines are broken.
const WIDTH: usize = 115;

#[derive(clap::Args)]
#[command(after_help = "Example: restage fmt --check workflows/*.yaml\n\n\
                        What stands below the comment `# fmt: skip` is left as it is.")]
pub(super) struct Arguments {
    /// The workflow files; they are changed in place
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Change nothing; name the files that would change, and end with status 1 if there are any
    #[arg(long)]
    check: bool,
}

/// Why a file was not formatted. It is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
    #[error("the formatter does not understand {}, line {line}: valid, but unusual; write it more plainly", path.display())]
    Unusual { path: PathBuf, line: usize },
    #[error("formatting {} would change {what}: it is left as it is", path.display())]
    Unsafe { path: PathBuf, what: &'static str },
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let mut would_change = false;
    let mut failed = None;
    for path in &arguments.files {
        match file(path, arguments.check) {
            Ok(false) => {}
            Ok(true) if arguments.check => {
                say!("{} would change", path.display());
                would_change = true;
            }
            Ok(true) => say!("{} formatted", path.display()),
            // One bad file does not keep the others from being formatted.
            Err(failure) => {
                tell(&failure, false);
                failed = Some(failure.exit());
            }
        }
    }
    failed.unwrap_or(ExitCode::from(u8::from(would_change)))
}

/// Formats a file; tells whether that changes it.
fn file(path: &Path, check: bool) -> Result<bool, Failure> {
    // The loader says what is wrong with a file that is not YAML, and where.
    workflow::check_yaml(path)?;
    let text = std::fs::read_to_string(path).map_err(|source| FormatError::Read(path.into(), source))?;
    let formatted = format(path, &text)?;
    let changes = formatted != text;
    if changes && !check {
        replace(path, &formatted).map_err(|source| FormatError::Write(path.into(), source))?;
    }
    Ok(changes)
}

fn format(path: &Path, text: &str) -> Result<String, FormatError> {
    // A byte-order mark means nothing, and goes.
    let content = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_break = if content.contains("\r\n") { LineBreak::Crlf } else { LineBreak::Lf };
    let options = FormatOptions {
        layout: LayoutOptions { print_width: WIDTH, line_break, ..LayoutOptions::default() },
        language: LanguageOptions {
            trailing_comma: false,
            ignore_comment_directive: "fmt: skip".into(),
            ..LanguageOptions::default()
        },
    };
    let formatted = pretty_yaml::format_text(content, &options).map_err(|error| {
        let line = content.get(..error.offset()).unwrap_or(content).matches('\n').count() + 1;
        FormatError::Unusual { path: path.into(), line }
    })?;
    let refused = |what| FormatError::Unsafe { path: path.into(), what };
    if values(content).is_none() || values(content) != values(&formatted) {
        return Err(refused("what it says"));
    }
    if comments(content) != comments(&formatted) {
        return Err(refused("its comments"));
    }
    Ok(formatted)
}

/// What the file says, in its order.
fn values(text: &str) -> Option<String> {
    let options = serde_yaml::options! { strict_booleans: true };
    let value: serde_json::Value = serde_yaml::from_str_with_options(text, options).ok()?;
    Some(value.to_string())
}

fn comments(text: &str) -> Option<Vec<String>> {
    let tokens = yaml_parser::parse(text).ok()?.descendants_with_tokens();
    let comments = tokens.filter_map(|element| element.into_token());
    let comments = comments.filter(|token| token.kind() == SyntaxKind::COMMENT);
    Some(comments.map(|token| token.text().trim_end().to_owned()).collect())
}

/// Replaces a file in one step: whoever reads it sees the old text or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // What a link leads to is changed, not the link.
    let path = path.canonicalize()?;
    let mut beside = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(std::fs::metadata(&path)?.permissions())?;
    beside.as_file().sync_all()?;
    beside.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn formatted(text: &str) -> String {
        format(Path::new("w.yaml"), text).unwrap()
    }

    #[test]
    fn shipped_workflows_are_formatted() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflows");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let workflows: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
        assert!(!workflows.is_empty());
        for path in workflows {
            assert!(!file(&path, true).unwrap(), "run `restage fmt workflows/*.yaml`: {}", path.display());
        }
    }

    #[test]
    fn style_changes_and_nothing_else() {
        let text = "\u{feff}# head\nname:   x   # why\n\n\n\nstages: # all of them\n  a: {uses: p/q,with: {x: 1.50, \
                    y: 0x1F, z: \"a: b\", w: 'it''s', v: ~, \"k\": yes}, # tail\n     in: { t: all}}\n  b:\n    \
                    with:\n      text: |\n        keep\n          this\n      list:\n      - 1\n      # between\n      \
                    -   - ü\n  # fmt: skip\n  c:    { uses:   p/q }\n# foot";
        let once = formatted(text);
        insta::assert_snapshot!(once);
        assert_eq!(formatted(&once), once);
        let windows = once.replace('\n', "\r\n");
        assert_eq!(formatted(&windows), windows, "line ends stay as they are");
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("w.yaml"), folder.path().join("link.yaml"));
        std::fs::write(&path, "restage:   1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(file(&link, true).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "restage:   1\n", "--check changes nothing");
        assert!(file(&link, false).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "restage: 1\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(!file(&link, false).unwrap());
    }

    #[test]
    fn what_is_not_yaml_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.yaml");
        for text in ["a: [1, 2\n", "a: 1\na:   2\n", "a: 1\n---\nb:   2\n"] {
            std::fs::write(&path, text).unwrap();
            let failure = file(&path, false).unwrap_err();
            assert!(failure.diagnostics().is_some(), "{failure}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
