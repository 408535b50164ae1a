//! The ablation table, to be sorted and read, with intervals drawn; and every value behind it.

use std::fmt::Write;

use super::{
    super::{
        outcome::Outcome,
        table::{Row, Series, Table, p_text},
    },
    figures::{self, Strip},
    plot::{Figure, Scale},
    text::{counted, escape, metric, metrics, prose, sentence, signed},
    verdict::{Worth, worth},
};

use crate::plan::BASELINE;

/// The table with its notes.
pub(super) fn table(table: &Table, milliseconds: &[u64]) -> String {
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Ablation table\">\n<table class=\"sortable\">\n",
    );
    let _ = write!(html, "<caption><span>{}</span></caption>\n<thead><tr>", caption(table));
    let columns = Columns::of(table);
    head(&mut html, "variant", "variant", "");
    for (place, (name, said)) in table.metrics.iter().zip(metrics(&table.metrics)).enumerate() {
        let claim = table.claims.get(place).and_then(Option::as_ref);
        let label = claim.map_or(said.clone(), |claim| format!("{said}, {claim}"));
        head(&mut html, &label, name, "number");
    }
    if !table.metrics.is_empty() {
        head(&mut html, "Δ", "mean over seeds of the difference to the baseline", "number");
    }
    if columns.compared {
        head(
            &mut html,
            "Δ by group, 95 % CI",
            "paired difference to the baseline over groups, with a bootstrap interval",
            "number",
        );
        head(
            &mut html,
            "d<sub>z</sub>",
            "effect size: mean of the paired differences over their standard deviation",
            "number",
        );
        head(&mut html, "p (Holm)", "two-sided, corrected over the family of comparisons", "number");
    }
    if columns.setting {
        head(&mut html, "setting", "what the scores speak of", "");
    }
    head(&mut html, "ran / reused", "actions that ran for it, and that did not have to", "number spent");
    head(&mut html, "time", "stages of this variant, each as long as it took when it was computed", "number");
    html += "</tr></thead>\n<tbody>\n";
    for (row, time) in table.rows.iter().zip(milliseconds.iter().copied().chain(std::iter::repeat(0))) {
        body(&mut html, row, table, &columns, time);
    }
    html += "</tbody>\n</table>\n</div>\n";
    if !table.notes.is_empty() {
        html += "<ul class=\"notes\">\n";
        for note in &table.notes {
            let alarm = ["underpowered", "suspicious", "optimistic", "transductive"]
                .iter()
                .any(|word| note.starts_with(word));
            let class = if alarm { " class=\"alarm\"" } else { "" };
            let _ = writeln!(html, "<li{class}>{}.</li>", prose(&sentence(note)));
        }
        html += "</ul>\n";
    }
    html
}

fn caption(table: &Table) -> String {
    let variants = counted(table.rows.len(), "variant");
    let groups = match table.groups.len() {
        0 => String::new(),
        groups => format!(", compared over {}", counted(groups, "group")),
    };
    let baseline = match table.baseline.as_str() {
        BASELINE => String::new(),
        name => format!(" They are compared with {}.", escape(name)),
    };
    let seeds = |row: &Row| row.values.iter().flatten().map(|series| series.values.len()).max();
    let values = match table.rows.iter().filter_map(seeds).max() {
        None => "",
        Some(0 | 1) => " One seed, or none that matters: there is no spread over seeds.",
        Some(_) => " Mean ± standard deviation over seeds; dots are seeds, the bar is their mean.",
    };
    format!("{variants}{groups}.{values}{baseline}")
}

fn head(html: &mut String, label: &str, about: &str, class: &str) {
    let label = if label.contains("<sub>") { label.to_owned() } else { escape(label) };
    let _ = write!(
        html,
        "<th scope=\"col\" class=\"{class}\"><button type=\"button\" title=\"{}\">{label}</button></th>",
        escape(about)
    );
}

/// What there is to show, and on which scales.
struct Columns {
    values: Vec<Scale>,
    differences: Scale,
    compared: bool,
    setting: bool,
}

impl Columns {
    fn of(table: &Table) -> Self {
        let values = |place: usize| {
            let series = table.rows.iter().filter_map(move |row| row.values.get(place)?.as_ref());
            figures::cell_scale(series.flat_map(|series| series.values.iter().copied()))
        };
        let paired = || table.rows.iter().filter_map(|row| row.comparison.as_ref());
        let ends = paired().flat_map(|paired| paired.interval.into_iter().flatten().chain([paired.mean]));
        Self {
            values: (0..table.metrics.len()).map(values).collect(),
            differences: figures::cell_scale(ends.chain([0.0])),
            compared: paired().next().is_some(),
            setting: table
                .rows
                .iter()
                .any(|row| row.setting.as_deref().is_some_and(|setting| setting != "inductive")),
        }
    }
}

fn body(html: &mut String, row: &Row, table: &Table, columns: &Columns, time: u64) {
    let is_baseline = row.variant == table.baseline;
    let class = if is_baseline { " class=\"baseline\"" } else { "" };
    let mark =
        if is_baseline && row.variant != BASELINE { " <span class=\"tag\">baseline</span>" } else { "" };
    let name = escape(&row.variant);
    let _ = write!(html, "<tr{class}><th scope=\"row\" data-sort=\"{name}\">{name}{mark}</th>");
    for (place, scale) in columns.values.iter().enumerate() {
        match row.values.get(place).and_then(Option::as_ref) {
            Some(series) => {
                // One metric decides; only its seeds are drawn.
                let drawn = if place == 0 {
                    figures::spread(*scale, &series.values, series.mean)
                } else {
                    String::new()
                };
                let _ = write!(
                    html,
                    "<td class=\"number\" data-sort=\"{}\">{}{drawn}</td>",
                    series.mean,
                    shown(series)
                );
            }
            None => *html += "<td class=\"number missing\" data-sort=\"\">–</td>",
        }
    }
    if !table.metrics.is_empty() {
        match row.difference {
            Some(value) => {
                let _ = write!(html, "<td class=\"number\" data-sort=\"{value}\">{}</td>", signed(value));
            }
            None => *html += "<td class=\"number\" data-sort=\"\"></td>",
        }
    }
    if columns.compared {
        compared(html, row, table, columns);
    }
    if columns.setting {
        let setting = escape(row.setting.as_deref().unwrap_or_default());
        let _ = write!(html, "<td data-sort=\"{setting}\">{setting}</td>");
    }
    let _ = write!(
        html,
        "<td class=\"number spent\" data-sort=\"{}\">{} / {}</td>",
        row.ran, row.ran, row.reused
    );
    let _ =
        writeln!(html, "<td class=\"number\" data-sort=\"{time}\">{}</td></tr>", super::text::duration(time));
}

fn shown(series: &Series) -> String {
    match series.sd {
        Some(_) if series.is_level() => format!("{:.3}<span class=\"sd\"> ± 0</span>", series.mean),
        Some(sd) => format!("{:.3}<span class=\"sd\"> ± {sd:.3}</span>", series.mean),
        None => format!("{:.3}", series.mean),
    }
}

fn compared(html: &mut String, row: &Row, table: &Table, columns: &Columns) {
    let Some(paired) = &row.comparison else {
        *html += "<td data-sort=\"\"></td><td data-sort=\"\"></td><td data-sort=\"\"></td>";
        return;
    };
    let (class, word) = match worth(row, table) {
        Worth::Better => ("better", "significantly better"),
        Worth::Worse => ("worse", "significantly worse"),
        Worth::Unclear => ("", "not significant"),
        Worth::Underpowered => ("", "underpowered"),
        Worth::Untested => ("", "not tested"),
    };
    let drawn = figures::interval(columns.differences, paired.mean, paired.interval, class);
    let interval = match paired.interval {
        Some([low, high]) => format!("<span class=\"sd\"> [{}, {}]</span>", signed(low), signed(high)),
        None => String::new(),
    };
    let _ = write!(
        html,
        "<td class=\"number interval\" data-sort=\"{}\">{}{interval}{drawn}</td>",
        paired.mean,
        signed(paired.mean)
    );
    match paired.dz {
        Some(dz) => {
            let shown = format!("{dz:.2}").replace('-', "\u{2212}");
            let _ = write!(html, "<td class=\"number\" data-sort=\"{dz}\">{shown}</td>");
        }
        None => *html += "<td class=\"number\" data-sort=\"\">–</td>",
    }
    let p = escape(&paired.p_adjusted.map_or("–".to_owned(), p_text));
    let sort = paired.p_adjusted.map_or(String::new(), |p| p.to_string());
    let _ = write!(
        html,
        "<td class=\"number\" data-sort=\"{sort}\">{p}<span class=\"worth {class}\">{word}</span></td>"
    );
}

/// Every value of the first metric: by seed, and by group.
pub(super) fn strips(outcome: &Outcome, table: &Table) -> Vec<Figure> {
    let Some(name) = table.metrics.first() else { return Vec::new() };
    let axis = sentence(&metric(name));
    let seeds = &outcome.comparison.seeds;
    let seed = |place: usize, of: usize| match seeds.get(place) {
        Some(seed) if of == seeds.len() => format!("seed {seed}"),
        _ => "all seeds".to_owned(),
    };
    let row = |row: &Row, values: Vec<(String, f64)>, series: Option<&Series>| Strip {
        name: row.variant.clone(),
        is_baseline: row.variant == table.baseline,
        mean: series.map_or(f64::NAN, |series| series.mean),
        sd: series.and_then(|series| series.sd),
        values,
    };
    let mut figures = Vec::new();
    let by_seed: Vec<Strip> = table
        .rows
        .iter()
        .filter_map(|found| {
            let series = found.values.first()?.as_ref()?;
            let of = series.values.len();
            let values =
                series.values.iter().enumerate().map(|(place, value)| (seed(place, of), *value)).collect();
            Some(row(found, values, Some(series)))
        })
        .collect();
    if by_seed.iter().any(|strip| strip.values.len() > 1) {
        let title = format!("{axis} of each seed, by variant; bars are means ± standard deviations");
        figures.push(figures::strip("seeds", &title, &format!("{axis}, one dot a seed"), &by_seed, false));
    }
    let by_group: Vec<Strip> = table
        .rows
        .iter()
        .filter(|row| !row.groups.is_empty())
        .map(|found| {
            let values: Vec<(String, f64)> =
                found.groups.iter().map(|(group, value)| (group.clone(), *value)).collect();
            let series = Series::new(values.iter().map(|(_, value)| *value).collect());
            row(found, values, series.as_ref())
        })
        .collect();
    if by_group.iter().any(|strip| strip.values.len() > 1) {
        let title = format!("{axis} of each group, mean over seeds, by variant; lines join a group’s values");
        figures.push(figures::strip("groups", &title, &format!("{axis}, one dot a group"), &by_group, true));
    }
    figures
}
