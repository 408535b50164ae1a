//! A confusion matrix: how the spots of each region were taken, as shares of the row, with counts.

use std::fmt::Write;

use super::super::{
    plot::{Figure, cut, label, side, text},
    text::escape,
};

/// Rows: truth; columns: prediction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Confusion {
    pub(crate) classes: Vec<String>,
    /// May be means over seeds.
    pub(crate) counts: Vec<Vec<f64>>,
}

const CELL: f64 = 52.0;
const TOP: f64 = 26.0;

pub(crate) fn confusion(name: &str, title: &str, matrix: &Confusion) -> Figure {
    let Confusion { classes, counts } = matrix;
    let (left, columns) = side(classes.iter().map(String::as_str), 20);
    let size = CELL * classes.len() as f64;
    let names = columns as f64 * 5.0 + 16.0;
    let mut body = text("soft", left, TOP - 12.0, "start", "prediction \u{2192}  (rows: truth)");
    for (row, (class, counts)) in classes.iter().zip(counts).enumerate() {
        let y = TOP + CELL * row as f64;
        let total: f64 = counts.iter().sum();
        body += &label("name", left - 8.0, y + CELL / 2.0 + 4.0, "end", class, columns);
        for (column, count) in counts.iter().enumerate() {
            let share = if total > 0.0 { count / total } else { 0.0 };
            let x = left + CELL * column as f64;
            let taken = classes.get(column).map_or("", String::as_str);
            // White to blue; the diagonal is where one looks for dark.
            let _ = writeln!(
                body,
                "<g><title>{} taken for {}: {} of {} ({:.1} %)</title><rect class=\"cell\" x=\"{x:.1}\" y=\"{y:.1}\" \
                 width=\"{CELL}\" height=\"{CELL}\" fill=\"{}\"/>",
                escape(class),
                escape(taken),
                amount(*count),
                amount(total),
                share * 100.0,
                shade(share),
            );
            let ink = if share > 0.6 { "#ffffff" } else { "#1a1d21" };
            let (x, y) = (x + CELL / 2.0, y + CELL / 2.0);
            if total > 0.0 {
                let _ = writeln!(
                    body,
                    "<text style=\"fill:{ink}\" font-size=\"13\" font-weight=\"600\" x=\"{x:.1}\" y=\"{:.1}\" \
                     text-anchor=\"middle\">{}</text>",
                    y + 1.0,
                    escape(&percent(share)),
                );
            }
            let _ = writeln!(
                body,
                "<text style=\"fill:{ink}\" fill-opacity=\".9\" font-size=\"10.5\" x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text></g>",
                y + 15.0,
                amount(*count),
            );
        }
    }
    for (column, class) in classes.iter().enumerate() {
        let (x, y) = (left + CELL * (column as f64 + 0.5) + 4.0, TOP + size + 14.0);
        let _ = writeln!(
            body,
            "<text class=\"name\" transform=\"translate({x:.1} {y:.1}) rotate(-40)\" text-anchor=\"end\">{}<title>{}</title></text>",
            escape(&cut(class, columns)),
            escape(class)
        );
    }
    let (width, height) = (left + size + 12.0, TOP + size + names + 10.0);
    Figure { name: name.to_owned(), title: title.to_owned(), width, height, body }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".into(),
        percent if percent < 0.5 => "<1".into(),
        percent => format!("{percent:.0} %"),
    }
}

/// A count, or a mean of counts.
fn amount(count: f64) -> String {
    if count.fract().abs() < 1e-9 || count >= 100.0 { format!("{count:.0}") } else { format!("{count:.1}") }
}

/// Light to dark blue, by share.
fn shade(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0).powf(0.85)).round();
    format!("rgb({} {} {})", mix(244.0, 8.0), mix(247.0, 69.0), mix(251.0, 128.0))
}
