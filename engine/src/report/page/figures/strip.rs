//! Every value of each variant: a dot a seed, or a dot a group; never the best one alone.

use std::fmt::Write;

use super::super::{
    plot::{Figure, Scale, label, line, side, text},
    text::escape,
};

/// A variant's values, each with what it is of.
pub(crate) struct Strip {
    pub(crate) name: String,
    pub(crate) is_baseline: bool,
    pub(crate) values: Vec<(String, f64)>,
    pub(crate) mean: f64,
    pub(crate) sd: Option<f64>,
}

const WIDTH: f64 = 520.0;
const ROW: f64 = 30.0;
const TOP: f64 = 10.0;

/// A row a variant, values from left to right. With `paired`, values of the same thing are joined from row to row.
pub(crate) fn strip(name: &str, title: &str, axis: &str, rows: &[Strip], paired: bool) -> Figure {
    let (left, columns) = side(rows.iter().map(|row| row.name.as_str()), 26);
    let whiskers = rows.iter().filter_map(|row| Some([row.mean - row.sd?, row.mean + row.sd?])).flatten();
    let values = rows.iter().flat_map(|row| row.values.iter().map(|(_, value)| *value)).chain(whiskers);
    let scale = Scale::over(values, left, WIDTH - 16.0);
    let bottom = TOP + ROW * rows.len() as f64;
    let mut body = String::new();
    for (value, tick) in scale.ticks(5) {
        body += &line("grid", (scale.at(value), TOP), (scale.at(value), bottom));
        body += &text("tick", scale.at(value), bottom + 16.0, "middle", &tick);
    }
    body += &text("soft", f64::midpoint(left, WIDTH - 16.0), bottom + 34.0, "middle", axis);
    if let Some(place) = rows.iter().position(|row| row.is_baseline) {
        let x = scale.at(rows[place].mean);
        body += &line("zero", (x, TOP), (x, bottom));
    }
    let middle = |place: usize| TOP + ROW * (place as f64 + 0.5);
    if paired {
        body += &pairs(rows, scale, middle);
    }
    for (place, row) in rows.iter().enumerate() {
        let y = middle(place);
        let class = if row.is_baseline { "name strong" } else { "name" };
        body += &label(class, left - 10.0, y + 4.0, "end", &row.name, columns);
        if let Some(sd) = row.sd.filter(|sd| *sd > 0.0) {
            body += &line("sd", (scale.at(row.mean - sd), y), (scale.at(row.mean + sd), y));
        }
        let class = if row.is_baseline { "dot base" } else { "dot" };
        for (what, value) in row.values.iter().filter(|(_, value)| value.is_finite()) {
            let _ = writeln!(
                body,
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4.5\"><title>{}: {value:.4}</title></circle>",
                scale.at(*value),
                escape(what),
            );
        }
        if row.mean.is_finite() {
            body += &line("mean", (scale.at(row.mean), y - 9.0), (scale.at(row.mean), y + 9.0));
        }
    }
    let title = title.to_owned();
    Figure { name: name.to_owned(), title, width: WIDTH, height: bottom + 44.0, body }
}

/// Values of the same thing, from row to row.
fn pairs(rows: &[Strip], scale: Scale, middle: impl Fn(usize) -> f64) -> String {
    let mut body = String::new();
    let Some(first) = rows.iter().max_by_key(|row| row.values.len()) else { return body };
    for (what, _) in &first.values {
        let at = |(place, row): (usize, &Strip)| {
            let (_, value) = row.values.iter().find(|(other, value)| other == what && value.is_finite())?;
            Some(format!("{:.1} {:.1}", scale.at(*value), middle(place)))
        };
        let points: Vec<String> = rows.iter().enumerate().filter_map(at).collect();
        if points.len() > 1 {
            let _ = writeln!(body, "<path class=\"pair\" d=\"M{}\"/>", points.join("L"));
        }
    }
    body
}
