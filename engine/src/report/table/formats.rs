//! The table as people take it along: for the terminal, for a README, a spreadsheet, a program, a paper.

use comfy_table::{CellAlignment, Table as Drawing, presets::UTF8_HORIZONTAL_ONLY};

use super::{Row, Table, p_text};

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Markdown.
    Md,
    /// Comma-separated, a row per variant, numbers in full.
    Csv,
    /// All that is known, for programs.
    Json,
    /// LaTeX, with booktabs.
    Tex,
}

/// A column's head and what a row has there.
struct Column {
    head: String,
    cell: Box<dyn Fn(&Row) -> String>,
}

fn column(head: impl Into<String>, cell: impl Fn(&Row) -> String + 'static) -> Column {
    Column { head: head.into(), cell: Box::new(cell) }
}

impl Table {
    /// In a format.
    pub(crate) fn write(&self, format: Format) -> String {
        match format {
            Format::Md => self.markdown(),
            Format::Csv => self.csv(),
            Format::Json => serde_json::to_string_pretty(self).unwrap_or_default() + "\n",
            Format::Tex => self.tex(),
        }
    }

    /// For the terminal.
    pub(crate) fn draw(&self) -> String {
        let columns = self.columns();
        let mut drawing = Drawing::new();
        drawing.load_style(UTF8_HORIZONTAL_ONLY);
        drawing.set_header(columns.iter().map(|column| column.head.as_str()));
        for row in &self.rows {
            drawing.add_row(columns.iter().map(|column| (column.cell)(row)));
        }
        for column in drawing.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let notes: String = self.notes.iter().map(|note| format!("\n{note}")).collect();
        drawing.trim_fmt() + &notes
    }

    /// What there is to show; columns that would be empty are not.
    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![column("variant", |row| row.variant.clone())];
        for (place, metric) in self.metrics.iter().enumerate() {
            columns.push(column(metric, move |row| {
                row.values.get(place).and_then(Option::as_ref).map_or("-".to_owned(), ToString::to_string)
            }));
        }
        if !self.metrics.is_empty() {
            let difference = |row: &Row| row.difference.map_or(String::new(), |d| format!("{d:+.3}"));
            columns.push(column("vs baseline", difference));
        }
        let any = |has: fn(&Row) -> bool| self.rows.iter().any(has);
        if any(|row| row.comparison.as_ref().is_some_and(|paired| paired.interval.is_some())) {
            columns.push(column("by group [95 % CI]", |row| {
                let Some(paired) = &row.comparison else { return String::new() };
                let interval = paired.interval.map(|[low, high]| format!(" [{low:+.3}, {high:+.3}]"));
                format!("{:+.3}{}", paired.mean, interval.unwrap_or_default())
            }));
        }
        if any(|row| row.comparison.as_ref().is_some_and(|paired| paired.p_adjusted.is_some())) {
            columns.push(column("p (Holm)", |row| {
                row.comparison.as_ref().and_then(|paired| paired.p_adjusted).map_or(String::new(), p_text)
            }));
        }
        if any(|row| row.setting.as_deref().is_some_and(|setting| setting != "inductive")) {
            columns.push(column("setting", |row| row.setting.clone().unwrap_or_default()));
        }
        columns.push(column("run", |row| row.ran.to_string()));
        columns.push(column("reused", |row| row.reused.to_string()));
        columns
    }

    fn markdown(&self) -> String {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
        let columns = self.columns();
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(columns.iter().map(|column| escaped(&column.head)).collect());
        text +=
            &line(columns.iter().zip(0..).map(|(_, n)| if n == 0 { "---" } else { "---:" }.into()).collect());
        for row in &self.rows {
            text += &line(columns.iter().map(|column| escaped(&(column.cell)(row))).collect());
        }
        self.notes.iter().for_each(|note| text += &format!("\n{}\n", sentence(note)));
        text
    }

    fn csv(&self) -> String {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let mut heads = vec!["variant".to_owned()];
        for metric in &self.metrics {
            heads.extend(["mean", "sd", "seeds"].map(|what| format!("{metric} {what}")));
        }
        let comparison = [
            "difference",
            "group_difference",
            "ci_low",
            "ci_high",
            "groups",
            "dz",
            "cliffs_delta",
            "p",
            "p_holm",
        ];
        heads.extend(comparison.map(str::to_owned));
        heads.extend(["smallest_attainable_p", "setting", "ran", "reused"].map(str::to_owned));
        heads.extend(self.groups.iter().map(|group| format!("group {group}")));
        let mut lines = vec![heads];
        for row in &self.rows {
            let mut cells = vec![row.variant.clone()];
            for series in &row.values {
                let seeds = series.as_ref().map_or(String::new(), |series| series.values.len().to_string());
                cells.extend([
                    number(series.as_ref().map(|s| s.mean)),
                    number(series.as_ref().and_then(|s| s.sd)),
                ]);
                cells.push(seeds);
            }
            let paired = row.comparison.as_ref();
            let [low, high] = [0, 1].map(|end| paired.and_then(|paired| Some(paired.interval?[end])));
            cells.push(number(row.difference));
            cells.extend([paired.map(|paired| paired.mean), low, high].map(number));
            cells.push(paired.map_or(String::new(), |paired| paired.groups.to_string()));
            cells.extend(
                [
                    paired.and_then(|paired| paired.dz),
                    paired.map(|paired| paired.cliffs_delta),
                    paired.and_then(|paired| paired.p),
                    paired.and_then(|paired| paired.p_adjusted),
                    paired.and_then(|paired| paired.smallest_attainable),
                ]
                .map(number),
            );
            cells.extend([
                row.setting.clone().unwrap_or_default(),
                row.ran.to_string(),
                row.reused.to_string(),
            ]);
            cells.extend(self.groups.iter().map(|group| number(row.groups.get(group).copied())));
            lines.push(cells);
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        for line in lines {
            // Writing into memory does not fail.
            drop(writer.write_record(line.into_iter().map(csv_cell)));
        }
        writer.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn tex(&self) -> String {
        let columns: Vec<Column> = self
            .columns()
            .into_iter()
            .filter(|column| !["run", "reused"].contains(&column.head.as_str()))
            .collect();
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut text = format!(
            "% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{l{}}}\n\\toprule\n",
            "r".repeat(columns.len() - 1)
        );
        text += &line(columns.iter().map(|column| tex(&column.head)).collect());
        text += "\\midrule\n";
        for row in &self.rows {
            text += &line(columns.iter().map(|column| tex(&(column.cell)(row))).collect());
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        self.notes.iter().for_each(|note| text += &format!("% {}\n", note.replace('\n', " ")));
        text
    }
}

/// With a full stop, if it has no mark of its own.
fn sentence(note: &str) -> String {
    if note.ends_with(['?', '.', '!']) { note.to_owned() } else { format!("{note}.") }
}

/// A cell of CSV. What a spreadsheet would take for a formula is a name here, and gets an apostrophe.
fn csv_cell(cell: String) -> String {
    let formula = cell.starts_with(['=', '@', '+', '-']) && cell.parse::<f64>().is_err();
    if formula { format!("'{cell}") } else { cell }
}

/// Text as LaTeX sets it.
fn tex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '±' => escaped.push_str("$\\pm$"),
            '<' => escaped.push_str("$<$"),
            '>' => escaped.push_str("$>$"),
            '\n' => escaped.push(' '),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{super::tests::table, *};

    #[test]
    fn each_format_reads_well() {
        let mut table = table(8);
        table.rows[2].variant = "a|b, \"c\" & 50 %".into();
        for format in [Format::Md, Format::Csv, Format::Json, Format::Tex] {
            insta::assert_snapshot!(format!("{format:?}"), table.write(format));
        }
    }

    #[test]
    fn a_name_is_never_a_formula() {
        assert_eq!(
            ["=1+1", "-x", "-1.5", "a"].map(|cell| csv_cell(cell.into())),
            ["'=1+1", "'-x", "-1.5", "a"]
        );
    }
}
