//! Learning curves: a line a variant, the mean over seeds, with what lies between the lowest and the highest as a band.

use std::fmt::Write;

use super::super::{
    palette,
    plot::{Figure, Scale, label, line, text},
    text::escape,
};

/// What a line shows.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The variant, and others whose line is the same one.
    pub(crate) name: String,
    pub(crate) is_baseline: bool,
    /// The variant's place among all: it has one colour in all figures.
    pub(crate) place: usize,
    /// Step, mean, lowest, highest; by step.
    pub(crate) points: Vec<Band>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Band {
    pub(crate) step: f64,
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

const WIDTH: f64 = 520.0;
const PLOT: f64 = 220.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 24.0;
const KEY: f64 = 18.0;

pub(crate) fn curves(name: &str, title: &str, (x_axis, y_axis): (&str, &str), lines: &[Line]) -> Figure {
    let points = || lines.iter().flat_map(|line| &line.points);
    let steps = points().map(|point| point.step);
    let (first, last) = steps.fold((f64::MAX, f64::MIN), |(a, b), step| (step.min(a), step.max(b)));
    let (first, last) = if first <= last { (first, last) } else { (0.0, 1.0) };
    let x = Scale::exact(first, last, LEFT, WIDTH - RIGHT);
    let values: Vec<f64> = points().flat_map(|point| [point.low, point.mean, point.high]).collect();
    let y = Scale::fitting(values.iter().copied(), TOP + PLOT, TOP);
    let mut body = String::new();
    for (value, tick) in y.ticks(5) {
        body += &line("grid", (LEFT, y.at(value)), (WIDTH - RIGHT, y.at(value)));
        body += &text("tick", LEFT - 8.0, y.at(value) + 4.0, "end", &tick);
    }
    for (value, tick) in x.ticks(6).into_iter().filter(|(value, _)| value.fract() == 0.0) {
        body += &text("tick", x.at(value), TOP + PLOT + 17.0, "middle", &tick);
    }
    body += &line("axis", (LEFT, TOP + PLOT), (WIDTH - RIGHT, TOP + PLOT));
    let note = if y.is_logarithmic() { " (log scale)" } else { "" };
    body += &text("soft", LEFT - 50.0, 12.0, "start", &format!("{y_axis}{note}"));
    body += &text("soft", f64::midpoint(LEFT, WIDTH - RIGHT), TOP + PLOT + 34.0, "middle", x_axis);
    // The baseline on top.
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|series| lines[*series].is_baseline);
    for series in order {
        body += &drawn(&lines[series], series, (x, y));
    }
    let top = TOP + PLOT + 58.0;
    let across = if lines.iter().any(|line| line.name.chars().count() > 30) { 1 } else { 2 };
    let column = (WIDTH - 16.0) / across as f64;
    for (place, entry) in lines.iter().enumerate() {
        let (left, middle) = (8.0 + column * (place % across) as f64, top + KEY * (place / across) as f64);
        let _ = writeln!(body, "<g class=\"key\" data-series=\"{place}\">");
        let _ = writeln!(
            body,
            "<path class=\"curve{}\"{} d=\"M{left:.1} {:.1}h24\"/>",
            class(entry),
            dashes(entry),
            middle - 4.0
        );
        let class = if entry.is_baseline { "name strong" } else { "name" };
        body += &label(class, left + 32.0, middle, "start", &entry.name, if across == 1 { 66 } else { 30 });
        body += "</g>\n";
    }
    let rows = lines.len().div_ceil(across);
    Figure {
        name: name.to_owned(),
        title: title.to_owned(),
        width: WIDTH,
        height: top + KEY * rows as f64 - 4.0,
        body,
    }
}

/// What says its colour.
fn class(line: &Line) -> String {
    if line.is_baseline {
        " curve-base".to_owned()
    } else {
        format!(" l{}", line.place % palette::LINES.len())
    }
}

/// Dashes, where colours begin again.
fn dashes(line: &Line) -> &'static str {
    let again = if line.is_baseline { 0 } else { line.place / palette::LINES.len() };
    ["", " stroke-dasharray=\"6 3\"", " stroke-dasharray=\"2 3\""][again.min(2)]
}

fn drawn(line: &Line, series: usize, (x, y): (Scale, Scale)) -> String {
    let mut body = format!("<g data-series=\"{series}\">\n");
    let points: Vec<&Band> = line.points.iter().filter(|point| point.mean.is_finite()).collect();
    let at = |step: f64, value: f64| format!("{:.1} {:.1}", x.at(step), y.at(value));
    if points.iter().any(|point| point.high > point.low) {
        let there = points.iter().map(|point| at(point.step, point.high));
        let back = points.iter().rev().map(|point| at(point.step, point.low));
        let way: Vec<String> = there.chain(back).collect();
        let _ = writeln!(body, "<path class=\"spread{}\" d=\"M{}Z\"/>", class(line), way.join("L"));
    }
    let name = escape(&line.name);
    match points[..] {
        [] => {}
        [only] => {
            let _ = writeln!(
                body,
                "<circle class=\"curve{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{name}</title></circle>",
                class(line),
                x.at(only.step),
                y.at(only.mean)
            );
        }
        _ => {
            let way: Vec<String> = points.iter().map(|point| at(point.step, point.mean)).collect();
            let _ = writeln!(
                body,
                "<path class=\"curve{}\"{} d=\"M{}\"><title>{name}</title></path>",
                class(line),
                dashes(line),
                way.join("L")
            );
        }
    }
    body += "</g>\n";
    body
}
