//! Small drawings for the cells of a table; all of a column share one scale.

use std::fmt::Write;

use super::super::plot::Scale;

const WIDTH: f64 = 132.0;
const HEIGHT: f64 = 20.0;

/// A scale for the cells of a column.
pub(crate) fn scale(values: impl IntoIterator<Item = f64>) -> Scale {
    Scale::over(values, 4.0, WIDTH - 4.0)
}

fn svg(inside: &str) -> String {
    // What it shows stands as text beside it.
    format!(
        "<svg class=\"cell-fig\" aria-hidden=\"true\" viewBox=\"0 0 {WIDTH:.0} {HEIGHT:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{HEIGHT:.0}\">{inside}</svg>"
    )
}

/// Values of seeds as dots, their mean as a bar.
pub(crate) fn spread(scale: Scale, values: &[f64], mean: f64) -> String {
    let mut inside = format!("<line class=\"c-line\" x1=\"0\" x2=\"{WIDTH:.0}\" y1=\"10\" y2=\"10\"/>");
    for value in values.iter().filter(|value| value.is_finite()) {
        let _ = write!(inside, "<circle class=\"c-dot\" cx=\"{:.1}\" cy=\"10\" r=\"3\"/>", scale.at(*value));
    }
    let x = scale.at(mean);
    let _ = write!(inside, "<line class=\"c-mean\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"3\" y2=\"17\"/>");
    svg(&inside)
}

/// A difference with its interval, and where none would be. `class` says what it is worth.
pub(crate) fn interval(scale: Scale, value: f64, interval: Option<[f64; 2]>, class: &str) -> String {
    let zero = scale.at(0.0);
    let mut inside =
        format!("<line class=\"c-zero\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"0\" y2=\"{HEIGHT:.0}\"/>");
    if let Some([low, high]) = interval {
        let [low, high] = [scale.at(low), scale.at(high)];
        let _ = write!(
            inside,
            "<line class=\"c-ci {class}\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"10\" y2=\"10\"/>\
             <line class=\"c-ci {class}\" x1=\"{low:.1}\" x2=\"{low:.1}\" y1=\"6\" y2=\"14\"/>\
             <line class=\"c-ci {class}\" x1=\"{high:.1}\" x2=\"{high:.1}\" y1=\"6\" y2=\"14\"/>"
        );
    }
    let _ =
        write!(inside, "<circle class=\"c-at {class}\" cx=\"{:.1}\" cy=\"10\" r=\"4\"/>", scale.at(value));
    svg(&inside)
}
