//! Names of members: what may be one, and which two would be one file somewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

/// Longer names are none that a plain tar holds.
const MAX_NAME: usize = 255;

/// A relative path without steps up, as one text; `None` if it is none.
pub(super) fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("its name is empty or too long");
    }
    if name.starts_with('/') || name.get(1..2) == Some(":") {
        return Err("its name is an absolute path");
    }
    if name.contains('\\') || name.chars().any(char::is_control) {
        return Err("its name has a backslash or a control character");
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("its name has a part that is empty, `.` or `..`");
    }
    if name.split('/').any(|part| part.ends_with([' ', '.'])) {
        return Err("a part of its name ends with a space or a full stop, which some systems leave out");
    }
    Ok(())
}

/// Names that were seen, as a file system would tell them apart that knows neither case nor forms of Unicode.
#[derive(Default)]
pub(super) struct Seen {
    files: BTreeMap<String, String>,
    folders: BTreeSet<String>,
}

impl Seen {
    pub(super) fn add(&mut self, name: &str) -> Result<(), String> {
        check(name)?;
        let own = folded(name);
        if let Some(other) = self.files.get(&own) {
            return Err(if other == name {
                "it is there twice".into()
            } else {
                format!(
                    "its name differs from `{}` only by case, or by how Unicode writes it",
                    other.escape_debug()
                )
            });
        }
        let folders: Vec<String> =
            own.match_indices('/').filter_map(|(end, _)| own.get(..end)).map(str::to_owned).collect();
        if self.folders.contains(&own) || folders.iter().any(|folder| self.files.contains_key(folder)) {
            return Err("its name is that of a folder, too".into());
        }
        self.folders.extend(folders);
        self.files.insert(own, name.to_owned());
        Ok(())
    }
}

/// Without case and forms of Unicode.
fn folded(name: &str) -> String {
    let normal = icu_normalizer::ComposingNormalizerBorrowed::new_nfkc();
    let upper = normal.normalize(name).to_uppercase();
    normal.normalize(&upper.to_lowercase()).into_owned()
}

/// Somebody else's text for a terminal: nothing in it moves the cursor, colours, or turns the line around.
pub(crate) fn clean(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            cleaned.extend(c.escape_unicode());
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// A path without `.` and `..`, by its text alone.
pub(crate) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// The way from one folder to a file, both absolute; `None` if they have nothing but the root in common.
pub(super) fn way(from: &Path, to: &Path) -> Option<String> {
    let (from, to) = (plain(from), plain(to));
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if common < 2 {
        return None;
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.components().skip(common)).collect();
    way.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_paths_without_tricks_are_names() {
        for good in ["a", "workflow/parts/a b.yaml", "data/été/x", "a..b", ".a"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/a", "a//b", "../a", "a/..", "a/./b", "C:/a", "a\\b", "a\0", "a\nb", "a/", "a. /b", "a.",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_would_be_one_file_somewhere_is_refused() {
        for (first, second) in [
            ("a/b", "a/b"),
            ("a/B", "a/b"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{212a}", "k"),
            ("a", "a/b"),
            ("a/b", "A"),
        ] {
            let mut seen = Seen::default();
            seen.add(first).unwrap();
            assert!(seen.add(second).is_err(), "{first} {second}");
        }
        let mut seen = Seen::default();
        for name in ["a/b", "a/c", "ab", "b"] {
            seen.add(name).unwrap();
        }
    }

    #[test]
    fn nothing_in_a_text_moves_the_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}d é");
    }

    #[test]
    fn the_way_to_a_file_does_not_name_what_is_above() {
        let way = |from: &str, to: &str| way(Path::new(from), Path::new(to));
        assert_eq!(way("/h/me/flows", "/h/me/flows/a.yaml").as_deref(), Some("a.yaml"));
        assert_eq!(way("/h/me/flows", "/h/me/flows/../data/x").as_deref(), Some("../data/x"));
        assert_eq!(way("/h/me", "/groups/x"), None);
    }
}
