//! The table as people take it along: for the terminal, for a README, a spreadsheet, a program, a paper.

use comfy_table::{CellAlignment, ContentArrangement, Table as Drawing, presets::UTF8_HORIZONTAL_ONLY};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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

/// Columns of what ran: nothing that a paper has.
const SPENT: [&str; 2] = ["run", "reused"];

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

    /// For the terminal; in one of so many columns as much as there is room for: names and heads go on in further lines, then what
    /// ran is left out.
    pub(crate) fn draw(&self, terminal: Option<usize>) -> String {
        let room = terminal.unwrap_or(usize::MAX);
        let fits = |drawn: &String| drawn.lines().next().is_none_or(|line| line.width() <= room);
        let forms = [(usize::MAX, true), (28, true), (18, true), (18, false)];
        let drawn = forms.iter().map(|(name, spent)| self.drawing(*name, *spent).trim_fmt()).find(fits);
        let drawn = drawn.unwrap_or_else(|| {
            let mut drawing = self.drawing(18, false);
            drawing.set_content_arrangement(ContentArrangement::Dynamic);
            drawing.set_width(u16::try_from(room).unwrap_or(u16::MAX)).trim_fmt()
        });
        let notes: String = self.notes.iter().map(|note| format!("\n{note}")).collect();
        drawn + &notes
    }

    /// With names in lines of so many columns, and with what ran or without.
    fn drawing(&self, name: usize, spent: bool) -> Drawing {
        let mut columns = self.columns(false);
        columns.retain(|column| spent || !SPENT.contains(&column.head.as_str()));
        let mut drawing = Drawing::new();
        drawing.load_style(UTF8_HORIZONTAL_ONLY);
        let head = |head: &str| if name == usize::MAX { head.to_owned() } else { narrow(head) };
        drawing.set_header(columns.iter().map(|column| head(&column.head)));
        for row in &self.rows {
            let cells = columns.iter().map(|column| (column.cell)(row)).enumerate();
            drawing.add_row(cells.map(|(place, cell)| if place == 0 { wrapped(&cell, name) } else { cell }));
        }
        for column in drawing.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        drawing
    }

    /// What there is to show; columns that would be empty are not. Effect sizes are for what is read at leisure.
    fn columns(&self, at_leisure: bool) -> Vec<Column> {
        let mut columns = vec![column("variant", |row| row.variant.clone())];
        for (place, metric) in self.metrics.iter().enumerate() {
            let claim = self.claims.get(place).and_then(Option::as_ref);
            let head = claim.map_or(metric.clone(), |claim| format!("{metric}\n({claim})"));
            columns.push(column(head, move |row| {
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
        if at_leisure && any(|row| row.comparison.as_ref().is_some_and(|paired| paired.dz.is_some())) {
            columns.push(column("d_z", |row| {
                let dz = row.comparison.as_ref().and_then(|paired| paired.dz);
                dz.map_or(String::new(), |dz| format!("{dz:+.2}"))
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
        let columns = self.columns(true);
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
        let claims: Vec<_> = self
            .metrics
            .iter()
            .zip(&self.claims)
            .filter_map(|(metric, claim)| Some((metric, claim.as_ref()?)))
            .collect();
        heads.extend(claims.iter().map(|(metric, _)| format!("{metric} setting")));
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
            cells.extend(claims.iter().map(|(_, claim)| (*claim).clone()));
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
        let columns: Vec<Column> =
            self.columns(true).into_iter().filter(|column| !SPENT.contains(&column.head.as_str())).collect();
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut text = format!(
            "% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{l{}}}\n\\toprule\n",
            "r".repeat(columns.len() - 1)
        );
        let head =
            |column: &Column| if column.head == "d_z" { "$d_z$".to_owned() } else { tex(&column.head) };
        text += &line(columns.iter().map(head).collect());
        text += "\\midrule\n";
        for row in &self.rows {
            let name = tex_start(tex(&row.variant));
            let others = columns.iter().skip(1).map(|column| tex_number(&(column.cell)(row)));
            text += &line([name].into_iter().chain(others).collect());
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        self.notes.iter().for_each(|note| text += &format!("% {}\n", note.replace('\n', " ")));
        text
    }
}

/// A head in more lines: the stage above the metric, what is in brackets below.
fn narrow(head: &str) -> String {
    head.replace('.', ".\n").replace(" (", "\n(").replace(" [", "\n[")
}

/// Text in lines of so many columns, broken at blanks, and inside of words that are longer.
fn wrapped(text: &str, columns: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_inclusive(' ') {
        let mut fits = line.width() + word.trim_end().width() <= columns;
        for letter in word.chars() {
            let beyond = !fits || line.width() + letter.width().unwrap_or(0) > columns;
            if beyond && letter != ' ' && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            line.push(letter);
            fits = true;
        }
    }
    lines.push(line);
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
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

/// What begins a row of LaTeX: a bracket or a star there would belong to the end of the row before.
fn tex_start(text: String) -> String {
    if text.starts_with(['[', '*']) { format!("{{}}{text}") } else { text }
}

/// Numbers as LaTeX sets them: with a minus instead of a hyphen.
fn tex_number(text: &str) -> String {
    if text == "-" {
        return "--".to_owned();
    }
    let mut set = String::with_capacity(text.len());
    let mut before = ' ';
    let mut letters = tex(text).chars().collect::<Vec<_>>().into_iter().peekable();
    while let Some(letter) = letters.next() {
        let begins = matches!(before, ' ' | '[') && letters.peek().is_some_and(char::is_ascii_digit);
        match letter {
            '-' | '+' if begins => set.extend(['$', letter, '$']),
            _ => set.push(letter),
        }
        before = letter;
    }
    set
}

/// Letters that fonts of text lack in LaTeX, as mathematics.
const TEX_SYMBOLS: [(char, &str); 22] = [
    ('±', "\\pm"),
    ('×', "\\times"),
    ('·', "\\cdot"),
    ('→', "\\to"),
    ('≤', "\\leq"),
    ('≥', "\\geq"),
    ('≈', "\\approx"),
    ('∞', "\\infty"),
    ('\u{2212}', "-"),
    ('<', "<"),
    ('>', ">"),
    ('|', "|"),
    ('Δ', "\\Delta"),
    ('α', "\\alpha"),
    ('β', "\\beta"),
    ('γ', "\\gamma"),
    ('ε', "\\varepsilon"),
    ('λ', "\\lambda"),
    ('μ', "\\mu"),
    ('µ', "\\mu"),
    ('σ', "\\sigma"),
    ('τ', "\\tau"),
];

/// Text as LaTeX sets it.
fn tex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\n' => escaped.push(' '),
            _ => match TEX_SYMBOLS.iter().find(|(symbol, _)| *symbol == letter) {
                Some((_, command)) => escaped.extend(["$", command, "$"]),
                None => escaped.push(letter),
            },
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
        table.claims = vec![None, Some("optimistic".into())];
        for format in [Format::Md, Format::Csv, Format::Json, Format::Tex] {
            insta::assert_snapshot!(format!("{format:?}"), table.write(format));
        }
    }

    #[test]
    fn a_terminal_that_is_narrow_has_more_lines() {
        let mut table = table(8);
        table.rows[2].variant =
            "an encoder that a student has called so: crops of 224 px, third attempt".into();
        insta::assert_snapshot!([130, 110, 100].map(|room| table.draw(Some(room))).join("\n\n"));
        for room in 50..160 {
            let drawn = table.draw(Some(room));
            let lines = drawn.lines().take_while(|line| !line.starts_with("by group:"));
            assert!(lines.map(|line| line.width()).all(|wide| wide <= room), "{room}\n{drawn}");
        }
        assert_eq!(wrapped("組織の領域 of Supercali", 8), "組織の領\n域 of\nSupercal\ni");
        assert_eq!(wrapped("baseline", usize::MAX), "baseline");
    }

    #[test]
    fn latex_sets_names_and_numbers() {
        assert_eq!(
            tex("τ_0 = 10^-3 & 50 % ~ {a}\\b"),
            "$\\tau$\\_0 = 10\\textasciicircum{}-3 \\& 50 \\% \\textasciitilde{} \\{a\\}\\textbackslash{}b"
        );
        assert_eq!(tex_number("-0.337 [-0.382, +0.297]"), "$-$0.337 [$-$0.382, $+$0.297]");
        assert_eq!(["-", "1e-5", "< 0.001"].map(tex_number), ["--", "1e-5", "$<$ 0.001"]);
        assert_eq!([tex_start("[1, 2]".into()), tex_start("a".into())], ["{}[1, 2]", "a"]);
    }

    #[test]
    fn a_name_is_never_a_formula() {
        assert_eq!(
            ["=1+1", "-x", "-1.5", "a"].map(|cell| csv_cell(cell.into())),
            ["'=1+1", "'-x", "-1.5", "a"]
        );
    }
}
