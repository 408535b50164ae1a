//! Words and numbers of a page.

use std::cmp::Ordering;

pub(super) use super::super::graph::escape_xml as escape;

/// A name of a metric for people: `evaluate.macro_f1` is `macro F1`.
pub(super) fn metric(name: &str) -> String {
    let name = name.rsplit_once('.').map_or(name, |(_, name)| name);
    let words = name.split('_').map(|word| match word {
        "f1" | "ari" | "nmi" | "ami" | "mcc" | "ece" | "nll" | "auc" | "auroc" => word.to_uppercase(),
        word => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Names of metrics side by side: those that would read the same say of which stage they are.
pub(super) fn metrics(names: &[String]) -> Vec<String> {
    let said: Vec<String> = names.iter().map(|name| metric(name)).collect();
    let is_one = |word: &String| said.iter().filter(|other| *other == word).count() == 1;
    let told = |(name, word): (&String, &String)| match name.rsplit_once('.') {
        Some((stage, _)) if !is_one(word) => format!("{word} ({stage})"),
        _ => word.clone(),
    };
    names.iter().zip(&said).map(told).collect()
}

/// Whether less of a metric is better, by its name: errors, losses, and what measures disorder.
pub(super) fn less_is_better(name: &str) -> bool {
    let name = name.rsplit_once('.').map_or(name, |(_, name)| name);
    let words = ["loss", "error", "nll", "ece", "brier", "chaos", "pas", "seconds", "mse", "mae"];
    name.split('_').any(|word| words.contains(&word))
}

/// With a capital, as a sentence begins.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// A sentence as HTML: what stands between backticks is a name, set as one.
pub(super) fn prose(text: &str) -> String {
    let escaped = escape(text);
    let parts: Vec<&str> = escaped.split('`').collect();
    let even = parts.len() % 2 == 1;
    let part = |(at, part): (usize, &&str)| match at % 2 {
        0 => (*part).to_owned(),
        // The last of an odd number closes nothing.
        _ if !even && at + 1 == parts.len() => format!("`{part}"),
        _ => format!("<code>{part}</code>"),
    };
    parts.iter().enumerate().map(part).collect()
}

/// `3 seeds`.
pub(super) fn counted(count: usize, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) if !stem.ends_with(['a', 'e', 'o']) => format!("{count} {stem}ies"),
        _ => format!("{count} {what}s"),
    }
}

/// Milliseconds for people.
pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds as f64 / 1000.0;
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..100_000 => format!("{seconds:.1} s"),
        100_000..7_200_000 => format!("{} min {:02} s", milliseconds / 60_000, milliseconds / 1_000 % 60),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// With a sign, and a true minus; what is below 0 has it even where it rounds to 0, as ends of intervals do.
pub(super) fn signed(value: f64) -> String {
    // Of -0 it makes 0.
    format!("{:+.3}", value + 0.0).replace('-', "\u{2212}")
}

/// Names as `a, b and c`; of many, how many more.
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if names.len() <= 4 => format!("{} and {last}", first.join(", ")),
        [a, b, c, rest @ ..] => format!("{a}, {b}, {c} and {} more", rest.len()),
        _ => names.join(" and "),
    }
}

/// How names follow each other: by their letters, and numbers in them by what they count, so that 10 comes after 9.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let number = |text: &str| {
                let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
                let digits = text[..end].trim_start_matches('0').to_owned();
                (digits.len(), digits, end)
            };
            let (m, n) = (number(left), number(right));
            (left, right) = (&left[m.2..], &right[n.2..]);
            (m.0, m.1).cmp(&(n.0, n.1))
        } else {
            (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then(a.cmp(b))
}

/// A name of a metric or variant as part of a file's name.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for letter in text.chars() {
        if letter.is_alphanumeric() {
            slug.extend(letter.to_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    let slug: String = slug.trim_end_matches('-').chars().take(60).collect();
    if slug.is_empty() { "unnamed".into() } else { slug }
}

/// Data in a `script` element: no text of it can end that.
pub(super) fn json(value: &serde_json::Value) -> String {
    let text = value.to_string();
    text.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_people_and_files() {
        assert_eq!(metric("evaluate.macro_f1"), "macro F1");
        assert_eq!(metric("evaluate.accuracy_patient_mean"), "accuracy patient mean");
        let names = ["evaluate.macro_f1", "evaluate.accuracy", "random.macro_f1"].map(str::to_owned);
        assert_eq!(metrics(&names), ["macro F1 (evaluate)", "accuracy", "macro F1 (random)"]);
        assert!(
            less_is_better("pretrain.loss")
                && less_is_better("x.test_nll")
                && !less_is_better("evaluate.macro_f1")
        );
        assert_eq!(slug("PCA + logistic regression"), "pca-logistic-regression");
        assert_eq!(slug("../</script>"), "script");
        assert_eq!(slug("…"), "unnamed");
    }

    #[test]
    fn names_in_a_sentence_are_code_and_nothing_else_is_markup() {
        assert_eq!(prose("of `a <b>`, `c`"), "of <code>a &lt;b&gt;</code>, <code>c</code>");
        assert_eq!(prose("`a` and a lone ` tick"), "<code>a</code> and a lone ` tick");
        assert_eq!(prose("none"), "none");
    }

    #[test]
    fn durations_counts_and_lists() {
        let durations = [12, 1_500, 59_900, 600_000, 7_200_000].map(duration);
        assert_eq!(durations, ["12 ms", "1.5 s", "59.9 s", "10 min 00 s", "2.0 h"]);
        assert_eq!(
            [counted(1, "seed"), counted(2, "seed"), counted(3, "entry"), counted(2, "day")],
            ["1 seed", "2 seeds", "3 entries", "2 days"]
        );
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        assert_eq!(
            [0, 1, 2, 4, 5].map(|count| listed(&names[..count])),
            ["", "a", "a and b", "a, b, c and d", "a, b, c and 2 more"]
        );
        assert_eq!([signed(-0.0), signed(0.25), signed(-0.1)], ["+0.000", "+0.250", "\u{2212}0.100"]);
        assert_eq!([signed(-0.0001), signed(0.0001)], ["\u{2212}0.000", "+0.000"]);
    }

    #[test]
    fn numbers_in_names_are_counted() {
        let mut names = ["10", "9", "Layer_10", "Layer_2", "WM", "Layer_02", "1", "Layer", "tumour"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["1", "9", "10", "Layer", "Layer_02", "Layer_2", "Layer_10", "WM", "tumour"]);
        assert_eq!(natural("a", "a"), Ordering::Equal);
    }

    #[test]
    fn data_ends_no_script() {
        let data = json(&serde_json::json!("</script><img onerror=x>\u{2028}&amp;"));
        assert!(!data.contains(['<', '>', '&', '\u{2028}']));
        assert_eq!(serde_json::from_str::<String>(&data).unwrap(), "</script><img onerror=x>\u{2028}&amp;");
    }
}
