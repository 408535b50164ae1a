//! The report of a run as one HTML file that needs nothing else: no network, no other file. Light and dark, on a phone and on
//! paper. A run that failed or goes on has one too.
//!
//! Everything that is a user's text is escaped; the file's own policy lets nothing run but its own script.

mod ablation;
mod artifact;
mod confusions;
mod figures;
mod learning;
mod maps;
mod packed;
mod palette;
mod plot;
mod provenance;
mod raster;
mod records;
#[cfg(test)]
mod tests;
mod text;
mod tissue;
mod verdict;
mod workflow;

use std::fmt::Write;

use restage_cache::Store;

pub(crate) use learning::kept_curves;
pub(crate) use plot::Figure;
pub(crate) use raster::png;

use self::{
    confusions::OfVariant,
    learning::Curve,
    maps::{Kind, Maps},
    records::Records,
    text::{counted, duration, escape, metrics},
    workflow::Times,
};
use super::{Outcome, Table, graph::Graph};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Everything that a report shows, read from the store once.
pub(crate) struct Page<'a> {
    outcome: &'a Outcome,
    table: &'a Table,
    /// Of the table's rows, in milliseconds.
    variant_times: Vec<u64>,
    strips: Vec<Figure>,
    curves: Vec<Curve>,
    confusions: Vec<OfVariant>,
    maps: Maps,
    graph: Graph,
    times: Times,
    records: Records,
}

/// A part of the page, with an id of its own.
pub(crate) struct Part {
    pub(crate) id: &'static str,
    title: &'static str,
    /// Below its heading.
    pub(crate) html: String,
}

/// The page of a run. A `script` is what a server adds to keep it up to date, which may then ask that server.
pub(crate) fn html(outcome: &Outcome, table: &Table, store: &Store, script: Option<&str>) -> String {
    Page::read(outcome, table, store).html(script)
}

impl<'a> Page<'a> {
    /// Reads what there is to show. What is gone from the store is left out, and told.
    pub(crate) fn read(outcome: &'a Outcome, table: &'a Table, store: &Store) -> Self {
        let records = Records::of(outcome, store);
        let judge = maps::judges(outcome).into_iter().find(|(_, kind)| *kind == Kind::HeldOut);
        let confusions = judge.map(|(stage, _)| confusions::confusions(outcome, store, &stage));
        Self {
            outcome,
            table,
            variant_times: table
                .rows
                .iter()
                .map(|row| workflow::of_variant(outcome, &records, &row.variant))
                .collect(),
            strips: ablation::strips(outcome, table),
            curves: learning::curves(outcome, store),
            confusions: confusions.unwrap_or_default(),
            maps: Maps::of(outcome, store),
            graph: workflow::graph(outcome, &records),
            times: workflow::times(outcome, &records),
            records,
        }
    }

    /// The same for who is not here: without the places of files that stages read.
    pub(crate) fn for_others(mut self) -> Self {
        self.records.forget("params");
        self
    }

    /// The whole file.
    pub(crate) fn html(&self, script: Option<&str>) -> String {
        assemble(&self.title(), &self.header(), &self.parts(), script)
    }

    /// The workflow's name.
    fn title(&self) -> String {
        let file = self.outcome.workflow.file_stem().unwrap_or_default();
        file.to_string_lossy().into_owned()
    }

    /// What was run, by whom, and what came out, in a few lines.
    fn header(&self) -> String {
        let outcome = self.outcome;
        let count = |wanted: fn(&super::outcome::State) -> bool| {
            outcome.actions.iter().filter(|action| wanted(&action.state)).count()
        };
        let failed = count(|state| matches!(state, super::outcome::State::Failed { .. }));
        let all = outcome.actions.len();
        let done = outcome.actions.iter().filter(|action| action.done().is_some()).count();
        let ran = outcome.actions.iter().filter(|action| {
            action.done().is_some_and(|done| matches!(done.how, crate::run::event::How::Ran { .. }))
        });
        let ran = ran.count();
        let (class, word) = match (failed, outcome.milliseconds) {
            (0, Some(_)) if done == all => ("good", "complete".to_owned()),
            (0, Some(_)) => ("waiting", "interrupted".to_owned()),
            (0, None) => ("waiting", format!("not ended: {done} of {all} done")),
            (failed, Some(_)) => ("bad", format!("{failed} failed")),
            (failed, None) => ("bad", format!("not ended: {done} of {all} done, {failed} failed")),
        };
        let mut html = format!(
            "<p class=\"kicker\">restage report <span class=\"state {class}\">{}</span></p>\n<h1>{}</h1>\n<p class=\"verdict\">{}</p>\n<dl class=\"run\">\n",
            escape(&word),
            escape(&self.title()),
            escape(&verdict::verdict(outcome, self.table)),
        );
        let file = outcome.workflow.file_name().unwrap_or_default().to_string_lossy();
        let took = outcome.milliseconds.map_or("not ended".to_owned(), duration);
        let seeds: Vec<String> = outcome.comparison.seeds.iter().map(ToString::to_string).collect();
        let metrics = metrics(&self.table.metrics);
        for (name, value) in [
            ("workflow", file.into_owned()),
            ("run", time(outcome.time)),
            ("by", outcome.by.clone().unwrap_or_default()),
            ("took", took),
            ("variants", workflow::compared(outcome).count().to_string()),
            ("seeds", seeds.join(", ")),
            ("metrics", metrics.join(", ")),
            ("groups", self.table.groups.len().to_string()),
            ("actions", format!("{all}: {ran} ran, {} reused", done - ran)),
            ("restage", outcome.version.clone()),
        ] {
            if !value.is_empty() && value != "0" {
                let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
            }
        }
        html + "</dl>\n"
    }

    /// What there is to show, each part with a heading.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let part = |id, title, html: String| (!html.is_empty()).then_some(Part { id, title, html });
        let parts = [
            part("failures", "What failed", workflow::failures(self.outcome).unwrap_or_default()),
            part("ablation", "Ablation", ablation::table(self.table, &self.variant_times)),
            part("values", "Every seed and group", figures_html(self.strips.iter())),
            part("tissue", "Regions on the tissue", self.tissue_html()),
            part("confusion", "Confusion matrices", self.confusion_html()),
            part("curves", "Learning curves", self.curves_html()),
            part("time", "Time", self.time_html()),
            part("workflow", "Workflow", self.workflow_html()),
            part("provenance", "Provenance", provenance::html(self.outcome, &self.records)),
        ];
        parts.into_iter().flatten().collect()
    }

    /// Everything that is drawn, for files of their own.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut all: Vec<Figure> = self.strips.clone();
        all.extend(self.curves.iter().map(|curve| curve.figure.clone()));
        all.extend(self.confusions.iter().map(|confusion| confusion.figure.clone()));
        all.extend(self.times.figure.clone());
        all.extend(self.maps_in_files());
        all
    }

    /// The graph of stages as a file.
    pub(crate) fn graph_file(&self) -> String {
        self.graph.svg()
    }

    /// The variant with the best score.
    fn best(&self) -> Option<&str> {
        self.best_of(|_| true)
    }

    /// The best one but for the baseline.
    fn rival(&self) -> Option<&str> {
        self.best_of(|variant| variant != self.table.baseline)
    }

    fn best_of(&self, is_meant: impl Fn(&str) -> bool) -> Option<&str> {
        let less = text::less_is_better(self.table.metrics.first()?);
        let rows = self.table.rows.iter().filter(|row| is_meant(&row.variant));
        let scored = rows.filter_map(|row| Some((row, row.values.first()?.as_ref()?.mean)));
        let best = scored.reduce(|a, b| if (b.1 > a.1) != less && b.1 != a.1 { b } else { a });
        best.map(|(row, _)| row.variant.as_str())
    }

    fn curves_html(&self) -> String {
        let (losses, others): (Vec<&Curve>, Vec<&Curve>) =
            self.curves.iter().partition(|curve| curve.is_loss);
        // A stage that minimises nothing has all that it has in front.
        let with_loss: Vec<&str> = losses.iter().map(|curve| curve.stage.as_str()).collect();
        let (behind, alone): (Vec<&Curve>, Vec<&Curve>) =
            others.into_iter().partition(|curve| with_loss.contains(&curve.stage.as_str()));
        let titled = |curves: &[&Curve]| -> String {
            let figure = |curve: &&Curve| figure_html(&curve.figure, &curve.figure.title);
            let all: String = curves.iter().map(figure).collect();
            if all.is_empty() { all } else { format!("<div class=\"figures\">\n{all}</div>\n") }
        };
        let front: Vec<&Curve> = losses.into_iter().chain(alone).collect();
        let mut html = titled(&front);
        if !behind.is_empty() {
            let _ = write!(
                html,
                "<details>\n<summary>{} more</summary>\n{}</details>\n",
                counted(behind.len(), "curve"),
                titled(&behind)
            );
        }
        html
    }

    fn confusion_html(&self) -> String {
        if self.confusions.is_empty() {
            return String::new();
        }
        let shown = [Some(self.table.baseline.as_str()), self.rival()];
        let mut html = String::from("<div class=\"choose\" data-choose=\"confusion\" hidden>\n");
        for (place, label) in ["Variant", "beside"].into_iter().enumerate() {
            let _ = write!(html, "<label>{label} <select>");
            for (index, confusion) in self.confusions.iter().enumerate() {
                let wanted = shown[place].is_some_and(|name| name == confusion.variant);
                let chosen = if wanted { " selected" } else { "" };
                let _ =
                    write!(html, "<option value=\"{index}\"{chosen}>{}</option>", escape(&confusion.variant));
            }
            html += "</select></label>\n";
        }
        // Beside each other they could not be read.
        let widest = self.confusions.iter().map(|confusion| confusion.figure.width).fold(0.0, f64::max);
        let large = if widest > 640.0 { " large" } else { "" };
        let _ = writeln!(html, "</div>\n<div class=\"figures{large}\" id=\"confusion-figures\">");
        for (index, confusion) in self.confusions.iter().enumerate() {
            let _ = write!(
                html,
                "<figure data-index=\"{index}\"><figcaption>{}</figcaption><div class=\"drawing\">\n{}</div></figure>\n",
                escape(&confusion.figure.title),
                confusion.figure.in_page()
            );
        }
        html + "</div>\n"
    }

    fn time_html(&self) -> String {
        let figure =
            self.times.figure.iter().map(|figure| figure_html(figure, &figure.title)).collect::<String>();
        if figure.is_empty() {
            return figure;
        }
        workflow::times_html(&self.times, &format!("<div class=\"figures one\">\n{figure}</div>\n"))
    }

    fn workflow_html(&self) -> String {
        format!(
            "<div class=\"scroll graph\" tabindex=\"0\" role=\"region\" aria-label=\"Graph of stages: what each reads, and what became of it\">\n{}</div>\n",
            self.graph.svg_for_page()
        )
    }
}

fn figure_html(figure: &Figure, caption: &str) -> String {
    format!(
        "<figure><figcaption>{}</figcaption><div class=\"drawing\">\n{}</div></figure>\n",
        escape(caption),
        figure.in_page()
    )
}

fn figures_html<'f>(figures: impl Iterator<Item = &'f Figure>) -> String {
    let all: String = figures.map(|figure| figure_html(figure, &figure.title)).collect();
    if all.is_empty() { all } else { format!("<div class=\"figures\">\n{all}</div>\n") }
}

/// Milliseconds since 1970 as date and time, UTC.
fn time(milliseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    format!("{} UTC", text.trim_end_matches('Z').replace('T', " "))
}

/// The file: what it may do, how it looks, what it says, what it does.
fn assemble(title: &str, header: &str, parts: &[Part], script: Option<&str>) -> String {
    let mut body = String::new();
    let mut links = String::new();
    for Part { id, title, html } in parts {
        let _ = writeln!(links, "<a href=\"#{id}\">{title}</a>");
        let _ = write!(
            body,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{html}</section>\n"
        );
    }
    // What a user's text says cannot know it, as it depends on all of that text.
    let nonce = blake3::hash([header, &body].concat().as_bytes()).to_hex();
    let nonce = &nonce[..32];
    let (connect, more) = match script {
        Some(script) => ("'self'", format!("<script nonce=\"{nonce}\">\n{script}\n</script>\n")),
        None => ("'none'", String::new()),
    };
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src {connect}; base-uri 'none'; form-action 'none'"
    );
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{} – restage report</title>\n<style>\n{}{}{}{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the results</a>\n<header>\n{header}</header>\n\
         <nav aria-label=\"Parts of the report\">\n{links}</nav>\n<main id=\"main\">\n{body}</main>\n\
         <footer><p>Made by restage; this file needs nothing else. Regions are coloured with Okabe and Ito’s palette.</p></footer>\n\
         <script nonce=\"{nonce}\">\n{SCRIPT}</script>\n{more}</body>\n</html>\n",
        escape(title),
        plot::STYLE,
        palette::line_style(),
        palette::line_colours(),
    )
}
