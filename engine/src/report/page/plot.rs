//! What figures are drawn with: scales with round ticks, and SVG as text.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{palette, text::escape};

/// A drawing with what it shows in words. Its classes are those of `figure.css`, which a page has and a file brings along.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What its file is called, without the suffix.
    pub(crate) name: String,
    /// What it shows: for those who cannot see it.
    pub(super) title: String,
    pub(super) width: f64,
    pub(super) height: f64,
    /// What is inside of the `svg` element.
    pub(super) body: String,
}

/// Looks of figures, in a page and in files.
pub(super) const STYLE: &str = include_str!("figure.css");
/// Colours in files: on paper. They stand for the variables of the style sheet, which few programs but browsers know.
const PAPER: [(&str, &str); 8] = [
    ("ink", "#1a1d21"),
    ("soft", "#5b646e"),
    ("line", "#d5dae0"),
    ("paper", "#fff"),
    ("accent", "#0b5cad"),
    ("accent-soft", "#b9d3ee"),
    ("good", "#0b7a55"),
    ("bad", "#b3471a"),
];

/// What a figure in a page is made smaller by at most.
const SMALLEST: f64 = 0.58;

impl Figure {
    /// As part of a page, which can be scrolled where letters would become too small.
    pub(super) fn in_page(&self) -> String {
        self.svg(&format!(" style=\"min-width:{:.0}px\"", self.width * SMALLEST), "")
    }

    /// As a file of its own: in vectors, with light colours, at 96 pixels to the inch.
    pub(crate) fn file(&self) -> String {
        let on_paper =
            |style: String, (name, colour): &(&str, &str)| style.replace(&format!("var(--{name})"), colour);
        let style = PAPER.iter().fold(STYLE.to_owned(), on_paper);
        let lines = (0..).zip(palette::LINES);
        let style = lines.fold(style + &palette::line_style(), |style, (at, [light, _])| {
            style.replace(&format!("var(--line-{at})"), light)
        });
        self.svg(
            "",
            &format!(
                "<style>\n{style}</style>\n<rect class=\"fig-paper\" width=\"100%\" height=\"100%\"/>\n"
            ),
        )
    }

    fn svg(&self, attribute: &str, style: &str) -> String {
        let Self { title, width, height, body, .. } = self;
        let title = escape(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"fig\" role=\"img\" aria-label=\"{title}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\"{attribute}>\n<title>{title}</title>\n\
             {style}{body}</svg>\n"
        )
    }
}

/// Values to pixels, linear or by powers of ten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// Over all these values and some room beside them. Values that are not finite do not count; without any it is 0 to 1.
    pub(super) fn over(values: impl IntoIterator<Item = f64>, start: f64, end: f64) -> Self {
        let (from, to) = range(values).unwrap_or((0.0, 1.0));
        let room = if to > from { (to - from) * 0.05 } else { (from.abs() * 0.1).max(0.01) };
        Self { from: from - room, to: to + room, start, end, logarithmic: false }
    }

    /// From the first to the last value, without room.
    pub(super) fn exact(from: f64, to: f64, start: f64, end: f64) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        Self { from, to, start, end, logarithmic: false }
    }

    /// By powers of ten, where all values are positive and far apart; else as [`Scale::over`].
    pub(super) fn fitting(values: impl IntoIterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        match range(values.clone()) {
            Some((from, to)) if from > 0.0 && to / from >= 30.0 => {
                Self { from: from / 1.15, to: to * 1.15, start, end, logarithmic: true }
            }
            _ => Self::over(values, start, end),
        }
    }

    pub(super) fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }

    /// Where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(f64::MIN_POSITIVE) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + share.clamp(-0.02, 1.02) * (self.end - self.start)
    }

    /// Round values on it, about so many, each with its text.
    pub(super) fn ticks(&self, about: usize) -> Vec<(f64, String)> {
        if self.logarithmic {
            return self.powers();
        }
        let step = round_step((self.to - self.from) / about.max(1) as f64);
        let digits = usize::try_from((-step.log10().floor()).max(0.0) as i64).unwrap_or_default().min(8);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step).floor() as i64;
        let value = |tick: i64| tick as f64 * step;
        (first..=last).map(|tick| (value(tick), number(value(tick), digits))).collect()
    }

    fn powers(&self) -> Vec<(f64, String)> {
        let decades = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
        let steps: &[f64] = if (self.to / self.from).log10() > 3.2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = decades.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        all.filter(|value| (self.from..=self.to).contains(value)).map(|value| (value, short(value))).collect()
    }
}

/// The smallest and the largest finite value.
fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((from, to)) => Some((value.min(from), value.max(to))),
    })
}

/// 1, 2 or 5 times a power of ten that is near.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = match step / power {
        ratio if ratio < 1.5 => 1.0,
        ratio if ratio < 3.5 => 2.0,
        ratio if ratio < 7.5 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// With so many digits, and a true minus; never `-0`.
fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(positive) if positive.chars().all(|digit| digit == '0' || digit == '.') => positive.to_owned(),
        Some(positive) => format!("\u{2212}{positive}"),
        None => text,
    }
}

/// A number in few letters, of any size.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (0.001..100_000.0).contains(&size) {
        let digits = if size >= 100.0 || value.fract() == 0.0 {
            0
        } else if size >= 1.0 {
            2
        } else {
            4
        };
        let text = number(value, digits);
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        format!("{value:.0e}").replace('-', "\u{2212}")
    }
}

/// Text in a figure. `anchor`: start, middle or end.
pub(super) fn text(class: &str, x: f64, y: f64, anchor: &str, content: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
        escape(content)
    )
}

/// Text that is cut to so many columns; the whole is its tooltip.
pub(super) fn label(class: &str, x: f64, y: f64, anchor: &str, content: &str, columns: usize) -> String {
    if content.width() <= columns {
        return text(class, x, y, anchor, content);
    }
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}<title>{}</title></text>\n",
        escape(&cut(content, columns)),
        escape(content)
    )
}

/// At most so many columns, with `…` where something is left out.
pub(super) fn cut(content: &str, columns: usize) -> String {
    if content.width() <= columns {
        return content.to_owned();
    }
    let mut used = 1;
    let kept = content.chars().take_while(|letter| {
        used += letter.width().unwrap_or(0);
        used <= columns
    });
    kept.chain(['…']).collect()
}

/// Room that names take at the side of a figure, and how many columns of each are shown.
pub(super) fn side<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> (f64, usize) {
    let widest = names.into_iter().map(UnicodeWidthStr::width).max().unwrap_or(0).min(most);
    (widest as f64 * 6.9 + 16.0, widest)
}

pub(super) fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale, about: usize) -> Vec<String> {
        scale.ticks(about).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(texts(Scale::exact(0.0, 1.0, 0.0, 100.0), 5), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(
            texts(Scale::exact(-0.13, 0.06, 0.0, 1.0), 4),
            ["\u{2212}0.10", "\u{2212}0.05", "0.00", "0.05"]
        );
        assert_eq!(texts(Scale::exact(0.0, 1234.0, 0.0, 1.0), 3), ["0", "500", "1000"]);
        assert_eq!(texts(Scale::exact(0.7, 0.7, 0.0, 1.0), 2), ["1.0", "1.5"]);
    }

    #[test]
    fn what_spans_powers_of_ten_is_drawn_by_them() {
        let wide = Scale::fitting([0.02, 5.0], 0.0, 100.0);
        assert!(wide.is_logarithmic());
        assert_eq!(texts(wide, 5), ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]);
        let [low, middle, high] = [0.02, 0.316_227_766, 5.0].map(|value| wide.at(value));
        assert!(low < middle && middle < high && (middle - f64::midpoint(low, high)).abs() < 0.5);
        assert!(!Scale::fitting([0.0, 5.0], 0.0, 1.0).is_logarithmic(), "zero has no logarithm");
        assert!(!Scale::fitting([1.0, 5.0], 0.0, 1.0).is_logarithmic());
    }

    #[test]
    fn values_that_are_none_change_no_scale() {
        let scale = Scale::over([0.2, f64::NAN, 0.8, f64::INFINITY], 0.0, 100.0);
        assert!(scale.at(0.2) > 0.0 && scale.at(0.8) < 100.0);
        assert_eq!(texts(Scale::over([], 0.0, 1.0), 2).len(), 3);
        assert!(Scale::over([0.5, 0.5], 0.0, 100.0).at(0.5).is_finite());
    }

    #[test]
    fn numbers_in_few_letters() {
        let cases = [
            (0.0, "0"),
            (0.25, "0.25"),
            (12.5, "12.5"),
            (1500.0, "1500"),
            (1e-5, "1e\u{2212}5"),
            (-3.0, "\u{2212}3"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
        assert_eq!(number(-0.0001, 2), "0.00");
    }

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(cut("größer als", 6), "größe…");
        assert_eq!(cut("漢字漢字", 4), "漢…");
        assert!(
            label("a", 0.0, 0.0, "end", "a <very> long name", 6)
                .contains("<title>a &lt;very&gt; long name</title>")
        );
    }
}
