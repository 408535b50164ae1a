//! Where the time went, stage by stage: what ran, and what did not have to.

use std::fmt::Write;

use super::super::{
    plot::{Figure, Scale, label, line, side, text},
    text::{duration, escape},
};

/// A stage.
pub(crate) struct Bar {
    pub(crate) name: String,
    /// Milliseconds of what ran in this run.
    pub(crate) ran: u64,
    /// Milliseconds of what was there already, when it was computed.
    pub(crate) saved: u64,
}

const WIDTH: f64 = 520.0;
const ROW: f64 = 26.0;
const TOP: f64 = 30.0;
/// What a letter of the numbers at the ends of the bars takes, and what is left free beside them.
const LETTER: f64 = 6.6;
const BESIDE: f64 = 12.0;

pub(crate) fn bars(name: &str, title: &str, rows: &[Bar]) -> Figure {
    let (left, columns) = side(rows.iter().map(|row| row.name.as_str()), 26);
    let longest = rows.iter().map(|row| row.ran + row.saved).max().unwrap_or(0).max(1);
    let numbers = rows.iter().map(|row| duration(row.ran + row.saved).chars().count()).max().unwrap_or(0);
    let x = Scale::exact(0.0, longest as f64, left, WIDTH - BESIDE - LETTER * numbers as f64);
    let bottom = TOP + ROW * rows.len() as f64;
    let mut body = String::new();
    for (place, (class, word)) in
        [("ran", "ran"), ("saved", "reused: took so long when it was computed")].iter().enumerate()
    {
        let at = left + 60.0 * place as f64;
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{at:.1}\" y=\"6\" width=\"12\" height=\"12\" rx=\"2\"/>"
        );
        body += &text("soft", at + 18.0, 16.0, "start", word);
    }
    body += &line("axis", (left, TOP - 4.0), (left, bottom));
    for (place, row) in rows.iter().enumerate() {
        let y = TOP + ROW * place as f64;
        body += &label("name", left - 8.0, y + 16.0, "end", &row.name, columns);
        let (ran, end) = (x.at(row.ran as f64), x.at((row.ran + row.saved) as f64));
        for (class, from, to, word) in [("ran", left, ran, "ran for"), ("saved", ran, end, "saved")] {
            if to - from > 0.05 {
                let time = duration(if class == "ran" { row.ran } else { row.saved });
                let _ = writeln!(
                    body,
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\"><title>{}: {word} {time}</title></rect>",
                    y + 4.0,
                    to - from,
                    escape(&row.name),
                );
            }
        }
        body += &text("tick", end + 6.0, y + 16.0, "start", &duration(row.ran + row.saved));
    }
    Figure { name: name.to_owned(), title: title.to_owned(), width: WIDTH, height: bottom + 8.0, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_ends_of_bars_are_in_the_picture() {
        let row = |ran| Bar { name: "pretrain".into(), ran, saved: 0 };
        for longest in [12, 99_900, 6_521_000, 7_199_000, 500 * 3_600_000] {
            let drawn = bars("time", "Time", &[row(longest), row(1)]).body;
            let number = format!(">{}</text>", duration(longest));
            let line = drawn.lines().find(|line| line.ends_with(&number)).unwrap();
            let at: f64 =
                line.split("x=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().parse().unwrap();
            // 11 px of a sans-serif are at most 0.6 em a letter on average.
            let end = at + duration(longest).chars().count() as f64 * 6.6;
            assert!(end <= WIDTH, "{line} ends at {end}");
        }
    }
}
