//! The display of a run. In a terminal a few lines at its bottom that stay where they are: how the run stands, and what
//! runs. Elsewhere a line for each action that ends, and once in a while the same lines.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use unicode_width::UnicodeWidthChar;

use super::screen::{self, width};
use crate::run::{
    board::{Board, Doing, Left, Now},
    event::{Event, How},
};

/// How many of an action's last log lines a failure shows.
const LAST_LINES: usize = 8;

/// How often the lines are drawn.
pub(super) const EVERY: Duration = Duration::from_millis(200);

/// Where lines cannot be drawn again, how a run stands is told after a minute, and then whenever a minute and a tenth of the run
/// so far have passed: a run of a day is told of some sixty times.
const OFTEN: u64 = 60_000;

/// How wide lines are that nobody's terminal limits.
const PLAIN_COLUMNS: usize = 100;

/// Fewer columns than this are too few for a name and how far it is.
const FEWEST_COLUMNS: usize = 40;

/// Of what runs at once, so many are shown.
const MOST_ROWS: usize = 12;

/// An action that took longer than this, and a tenth of the run so far, is told of when it is done. So the lines that stay become
/// rarer the longer a run takes.
const LONG: u64 = 10_000;

/// How a run is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Style {
    /// `bars` in a terminal that can, else `plain`
    #[default]
    Auto,
    /// A few lines that are drawn again and again, and one for what failed or took long
    Bars,
    /// A line for each action that ends, and after a minute, then ever more rarely, how the run stands
    Plain,
    /// Only what failed
    None,
}

impl Style {
    /// What `auto` is here.
    fn here(self) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let columns = screen::size().map_or(0, |(columns, _)| columns);
        match self {
            Self::Auto if columns < FEWEST_COLUMNS || is_dumb || is_set("NO_COLOR") => Self::Plain,
            Self::Auto => Self::Bars,
            Self::Bars if columns == 0 => Self::Plain,
            chosen => chosen,
        }
    }
}

pub(super) struct Progress {
    style: Style,
    colours: bool,
    board: Board,
    began: Instant,
    /// When how the run stands is told next, in milliseconds of the run.
    tells_next: u64,
    last_lines: BTreeMap<usize, VecDeque<String>>,
    /// What stages warned of, and how often: variants, seeds and places say the same.
    warned: BTreeMap<(String, String), usize>,
}

impl Progress {
    pub(super) fn new(board: Board, style: Style) -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            style: style.here(),
            colours,
            board,
            began: Instant::now(),
            tells_next: OFTEN,
            last_lines: BTreeMap::new(),
            warned: BTreeMap::new(),
        }
    }

    /// How the run stands.
    pub(super) fn now(&self) -> Now {
        self.board.now(self.elapsed())
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Draws how the run stands, or tells it, where it is time to.
    pub(super) fn draw(&mut self, now: &Now) {
        match self.style {
            Style::Bars => {
                if let Some((columns, rows)) = screen::size() {
                    screen::draw(lines(now, columns, rows, self.colours));
                }
            }
            Style::Plain if now.elapsed >= self.tells_next => {
                self.tells_next = now.elapsed + OFTEN.max(now.elapsed / 10);
                screen::above(&stands(now));
            }
            Style::Plain | Style::Auto | Style::None => {}
        }
    }

    /// Takes away what is drawn, and tells how often what was warned of once.
    pub(super) fn end(self) {
        if self.style == Style::Bars {
            screen::draw(Vec::new());
        }
        for ((stage, message), count) in self.warned.iter().filter(|(_, count)| **count > 1) {
            tracing::warn!(target: "plugin", stage, "said {count} times: {message}");
        }
    }

    /// Tells of an event. `log` is where the action's whole log lies.
    pub(super) fn show(&mut self, event: &Event, log: impl FnOnce(usize) -> PathBuf) {
        let elapsed = self.elapsed();
        self.board.take(event, elapsed);
        if let Event::Log { action, level, target, message } = event {
            self.log(*action, level, target, message);
        }
        let told = match (self.style, event) {
            (Style::Bars, Event::Done { how: How::Ran { milliseconds }, .. })
                if *milliseconds < LONG || *milliseconds < elapsed / 10 =>
            {
                None
            }
            // The lines at the bottom tell.
            (Style::Bars, Event::Skipped { .. } | Event::Waiting { .. }) => None,
            (Style::Bars, Event::Done { how: How::Fetched, .. }) => None,
            (Style::None, Event::Failed { .. }) | (Style::Auto | Style::Bars | Style::Plain, _) => {
                self.told(event, log)
            }
            (Style::None, _) => None,
        };
        if let Some(told) = told {
            screen::above(&told);
        }
    }

    /// What is told of an event, as lines.
    fn told(&mut self, event: &Event, log: impl FnOnce(usize) -> PathBuf) -> Option<String> {
        let name = |action: &usize| self.board.name(*action);
        let line = match event {
            Event::Done { action, how: How::Ran { milliseconds }, .. } => {
                format!("  done {} in {:.1} s\n", name(action), *milliseconds as f64 / 1000.0)
            }
            Event::Done { action, how: How::Fetched, .. } => {
                format!("  got  {} from the remote\n", name(action))
            }
            Event::Failed { action, message, .. } => {
                let mut lines = format!("FAILED {}: {message}\n", name(action));
                // A program's last errors are in the message already.
                let is_new = |line: &String| !message.lines().any(|said| said == line);
                for line in self.last_lines.remove(action).into_iter().flatten().filter(is_new) {
                    let _ = writeln!(lines, "     | {line}");
                }
                let log = log(*action);
                if log.exists() {
                    let _ = writeln!(lines, "     its log: {}", log.display());
                }
                lines
            }
            Event::Waiting { action, holder, since } => {
                let since = super::shown_time(*since);
                format!("  wait {}: {holder} computes it since {since}\n", name(action))
            }
            Event::Retrying { action, message, left, memory } => {
                let next = match memory {
                    Some(memory) => format!("now with {}", bytesize::ByteSize::b(*memory)),
                    None => format!("{left} more if this fails too"),
                };
                format!(" again {}: {message} ({next})\n", name(action))
            }
            Event::Notice { message } => format!("{message}\n"),
            Event::Skipped { action, because } => {
                format!("  skip {}: it reads {}\n", name(action), name(because))
            }
            Event::Started(_)
            | Event::Running { .. }
            | Event::Log { .. }
            | Event::Progress { .. }
            | Event::Metric { .. }
            | Event::Done { how: How::Cached, .. }
            | Event::Finished { .. } => return None,
        };
        Some(line)
    }

    /// Joins a plugin's log to the engine's stream.
    fn log(&mut self, action: usize, level: &str, target: &str, message: &str) {
        let lines = self.last_lines.entry(action).or_default();
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(message.to_owned());
        let stage = self.board.name(action);
        if level == "WARN" {
            let of = stage.split(['[', ' ']).next().unwrap_or_default().to_owned();
            let count = self.warned.entry((of, message.to_owned())).or_default();
            *count += 1;
            if *count > 1 {
                tracing::debug!(target: "plugin", stage, source = target, "{message}");
                return;
            }
        }
        match level {
            "ERROR" => tracing::error!(target: "plugin", stage, source = target, "{message}"),
            "WARN" => tracing::warn!(target: "plugin", stage, source = target, "{message}"),
            "INFO" => tracing::info!(target: "plugin", stage, source = target, "{message}"),
            "DEBUG" => tracing::debug!(target: "plugin", stage, source = target, "{message}"),
            _ => tracing::trace!(target: "plugin", stage, source = target, "{message}"),
        }
    }
}

/// How a run stands, as lines narrower than a terminal of so many columns, and fewer than its rows.
fn lines(now: &Now, columns: usize, rows: usize, colours: bool) -> Vec<String> {
    let paint = |code: &str, text: &str| match (colours, text) {
        (false, _) | (_, "") => text.to_owned(),
        _ => format!("\x1b[{code}m{text}\x1b[0m"),
    };
    // The last column stays free: terminals differ in what comes after it.
    let columns = columns.saturating_sub(1);
    let mut lines = vec![head(now, columns, &paint)];
    let room = rows.saturating_sub(3).min(MOST_ROWS);
    let shown = if now.doing.len() > room { room.saturating_sub(1) } else { now.doing.len() };
    let (first, rest) = now.doing.split_at(shown);
    lines.extend(table(first, &FORMS, columns, &paint));
    let waiting = rest.iter().filter(|doing| doing.waits_for.is_some()).count();
    if let Some(more) = [(rest.len() - waiting, "more run"), (waiting, "more wait")]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .reduce(|all, one| format!("{all}, {one}"))
    {
        lines.push(paint("2", &cut(&format!("  and {more}"), columns)));
    }
    lines
}

/// The same lines for where they stay: as wide as they like, without bars.
fn stands(now: &Now) -> String {
    let mut told = format!("  {}\n", head(now, PLAIN_COLUMNS - 2, &|_, text| text.to_owned()));
    let shown = &now.doing[..now.doing.len().min(MOST_ROWS)];
    for line in table(shown, &FORMS[WITHOUT_BARS..], PLAIN_COLUMNS, &|_, text| text.to_owned()) {
        let _ = writeln!(told, "  {}", line.trim_end());
    }
    told
}

type Paint<'a> = &'a dyn Fn(&str, &str) -> String;

/// How many of how many, and how long: as much of it as there is room for.
fn head(now: &Now, columns: usize, paint: Paint<'_>) -> String {
    let waiting = now.doing.iter().filter(|doing| doing.waits_for.is_some()).count();
    let running = now.doing.len() - waiting;
    let ended = now.ran + now.reused;
    let counts = [
        (now.reused, "cached", ""),
        (running, "running", "36"),
        (waiting, "waiting", "33"),
        (now.failed, "failed", "1;31"),
        (now.skipped, "skipped", "33"),
    ];
    let counts: Vec<_> = counts.into_iter().filter(|(count, ..)| *count > 0).collect();
    let elapsed = time(now.elapsed);
    let with_left = |about: &str, more: &str| {
        now.left.map_or(elapsed.clone(), |Left { milliseconds, at_least }| {
            let how = if at_least { more } else { about };
            format!("{elapsed}, {how}{} left", rounded(milliseconds))
        })
    };
    let (wide, narrow) = (with_left("about ", "more than "), with_left("~", ">"));
    // What went wrong is told in however little room.
    let matters = |what: &str| matches!(what, "failed" | "running");
    for (all, time) in [(true, &wide), (true, &narrow), (false, &wide), (false, &narrow), (false, &elapsed)] {
        let (mut plain, mut painted) = (format!("{ended}/{} done", now.actions), String::new());
        painted.push_str(&paint("1", &plain));
        for (count, what, code) in counts.iter().filter(|(_, what, _)| all || matters(what)) {
            let part = format!("{count} {what}");
            let _ = write!(plain, ", {part}");
            let _ = write!(painted, ", {}", if code.is_empty() { part } else { paint(code, &part) });
        }
        let taken = width(&plain) + 2 + width(time);
        if taken <= columns {
            return format!("{painted}{}{}", " ".repeat(columns - taken + 2), paint("2", time));
        }
    }
    cut(&format!("{ended}/{} done", now.actions), columns)
}

/// What a table has beside names and times, from much to little.
const FORMS: [Form; 6] = [
    Form { bar: 16, metric: true, unit: true },
    Form { bar: 8, metric: true, unit: true },
    Form { bar: 0, metric: true, unit: true },
    Form { bar: 8, metric: false, unit: true },
    Form { bar: 0, metric: false, unit: true },
    Form { bar: 0, metric: false, unit: false },
];

/// The first of them that has no bars.
const WITHOUT_BARS: usize = 2;

#[derive(Clone, Copy)]
struct Form {
    bar: usize,
    metric: bool,
    unit: bool,
}

/// In so many columns most names can be told apart.
const NAME: usize = 28;

/// A row for each action, in columns: as much as there is room for beside the names.
fn table(doing: &[Doing], forms: &[Form], columns: usize, paint: Paint<'_>) -> Vec<String> {
    let longest = doing.iter().map(|doing| width(&doing.name)).max().unwrap_or(0);
    let mut fitting = forms.iter().map(|form| Table::of(doing, *form));
    let roomy = |table: &Table| columns.saturating_sub(table.taken() + 2) >= longest.min(NAME);
    let Some(table) = fitting.clone().find(roomy).or_else(|| fitting.next_back()) else { return Vec::new() };
    let names = longest.min(columns.saturating_sub(table.taken() + 2));
    let row = |(doing, row): (&Doing, &Row)| {
        let mut line = format!("  {}", padded(&shortened(&doing.name, names), names));
        if let Some(holder) = &doing.waits_for {
            let room = columns.saturating_sub(width(&line) + 2);
            let _ = write!(line, "  {}", paint("33", &cut(&format!("waits for {holder}"), room)));
            return line;
        }
        if table.bar > 0 {
            let full = row.share.map_or(0, |share| (share * table.bar as f64) as usize).min(table.bar);
            let (done, rest) = ("━".repeat(full), "╌".repeat(table.bar - full));
            let rest = if row.share.is_some() { paint("2", &rest) } else { " ".repeat(table.bar) };
            let _ = write!(line, "  {}{rest}", paint("36", &done));
        }
        let cells = [(&row.steps, table.steps), (&row.metric, table.metric)];
        for (text, wide) in cells.into_iter().filter(|(_, wide)| *wide > 0) {
            let _ = write!(line, "  {}", padded(text, wide));
        }
        let _ = write!(line, "  {}{}", " ".repeat(table.time - width(&row.time)), paint("2", &row.time));
        if width(&line) > columns { cut(&line, columns) } else { line }
    };
    doing.iter().zip(&table.rows).map(row).collect()
}

/// Rows, and how wide their columns are.
struct Table {
    rows: Vec<Row>,
    bar: usize,
    steps: usize,
    metric: usize,
    time: usize,
}

/// Cells of an action's row.
struct Row {
    share: Option<f64>,
    steps: String,
    metric: String,
    time: String,
}

impl Table {
    fn of(doing: &[Doing], form: Form) -> Self {
        let rows: Vec<Row> = doing.iter().map(|doing| Row::of(doing, form)).collect();
        let widest = |cell: fn(&Row) -> &String| rows.iter().map(|row| width(cell(row))).max().unwrap_or(0);
        let bar = if rows.iter().any(|row| row.share.is_some()) { form.bar } else { 0 };
        let (steps, metric) = (widest(|row| &row.steps), widest(|row| &row.metric));
        // Wide enough for what is told next, so that columns stay where they are.
        Self { bar, steps, metric, time: widest(|row| &row.time).max("59s left".len()), rows }
    }

    /// Columns, with what stands between them.
    fn taken(&self) -> usize {
        [self.bar, self.steps, self.metric, self.time]
            .iter()
            .filter(|cell| **cell > 0)
            .map(|cell| cell + 2)
            .sum()
    }
}

impl Row {
    fn of(doing: &Doing, form: Form) -> Self {
        if doing.waits_for.is_some() {
            return Self { share: None, steps: String::new(), metric: String::new(), time: String::new() };
        }
        let steps = doing.steps.as_ref().filter(|steps| steps.total > 0);
        let share = steps.map(|steps| steps.done as f64 / steps.total as f64);
        let told = steps.map_or(String::new(), |steps| {
            let unit = if form.unit { format!(" {}", steps.unit) } else { String::new() };
            format!("{}/{}{unit}", steps.done, steps.total)
        });
        let metric = match &doing.metric {
            Some((name, value)) if form.metric => format!("{} {}", cut(name, 16), number(*value)),
            _ => String::new(),
        };
        let time = match doing.left {
            Some(left) if left > 0 => format!("{} left", rounded(left)),
            _ => time(doing.elapsed),
        };
        Self { share, steps: told, metric, time }
    }
}

/// Four digits, however large.
fn number(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && !(0.001..10_000.0).contains(&size) => format!("{value:.2e}"),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    }
}

/// A time as it was taken.
fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A time that is to come, no finer than it can be known.
fn rounded(milliseconds: u64) -> String {
    let seconds = milliseconds.div_ceil(1000);
    match seconds {
        0..20 => format!("{seconds}s"),
        20..90 => format!("{}s", seconds.next_multiple_of(5)),
        90..5_400 => format!("{}m", seconds.div_ceil(60)),
        5_400..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => time(milliseconds),
    }
}

fn padded(text: &str, wide: usize) -> String {
    format!("{text}{}", " ".repeat(wide.saturating_sub(width(text))))
}

/// The beginning of a text, in so many columns.
fn cut(text: &str, columns: usize) -> String {
    let text = anstream::adapter::strip_str(text).to_string();
    if width(&text) <= columns {
        return text;
    }
    let mut room = columns.saturating_sub(1);
    let fits = |char: &char| match room.checked_sub(char.width().unwrap_or(0)) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// A name in so many columns. How it begins and how it ends tell it from others: the stage, and the seed or the variant.
fn shortened(name: &str, columns: usize) -> String {
    if width(name) <= columns || columns < 8 {
        return cut(name, columns);
    }
    let end: String = name
        .chars()
        .rev()
        .scan(0, |wide, char| {
            *wide += char.width().unwrap_or(0);
            (*wide <= columns / 2).then_some(char)
        })
        .collect();
    let end: String = end.chars().rev().collect();
    format!("{}{end}", cut(name, columns - width(&end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::board::Steps;

    fn doing(action: usize, name: &str, elapsed: u64) -> Doing {
        let name = name.to_owned();
        Doing { action, name, elapsed, waits_for: None, steps: None, metric: None, left: None }
    }

    fn steps(done: u64, total: u64, unit: &str) -> Option<Steps> {
        Some(Steps { done, total, unit: unit.into() })
    }

    /// A sweep in the middle.
    fn sweep() -> Now {
        Now {
            actions: 57,
            ran: 12,
            reused: 9,
            failed: 1,
            skipped: 3,
            elapsed: 80_400,
            left: Some(Left { milliseconds: 221_000, at_least: false }),
            doing: vec![
                Doing {
                    steps: steps(12, 50, "epochs"),
                    metric: Some(("loss".into(), 0.123_456)),
                    left: Some(61_234),
                    ..doing(7, "pretrain seed 2 (image only)", 19_000)
                },
                Doing {
                    steps: steps(400, 8_000, "steps"),
                    metric: Some(("loss".into(), 12.5)),
                    left: Some(700_000),
                    ..doing(8, "pretrain seed 3 (no stain normalisation, 200 genes)", 9_000)
                },
                Doing { waits_for: Some("anna@gpu1".into()), ..doing(9, "embed seed 4", 3_000) },
                doing(10, "regions", 1_000),
            ],
        }
    }

    fn drawn(now: &Now, columns: usize, rows: usize) -> String {
        let lines = lines(now, columns, rows, false);
        assert!(lines.len() < rows);
        for line in &lines {
            assert!(width(line) < columns, "{line}");
        }
        lines.iter().map(|line| format!("{line}|\n")).collect()
    }

    #[test]
    fn a_sweep_in_the_middle() {
        let now = sweep();
        let all = [120, 80, 60, 40].map(|columns| format!("{columns}\n{}", drawn(&now, columns, 24)));
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn in_a_log_it_is_told_without_bars() {
        insta::assert_snapshot!(stands(&sweep()));
    }

    #[test]
    fn the_beginning_and_much_at_once() {
        let begins = Now { actions: 3, doing: vec![doing(0, "load", 400)], elapsed: 400, ..Now::default() };
        let many = Now {
            actions: 100_000,
            ran: 40_000,
            elapsed: 90_000_000,
            left: Some(Left { milliseconds: 9_000_000, at_least: true }),
            doing: (0..30).map(|id| doing(id, &format!("train seed {id}"), 5_000)).collect(),
            ..Now::default()
        };
        let all = [drawn(&begins, 80, 24), drawn(&many, 80, 24), drawn(&many, 40, 8), drawn(&many, 40, 4)];
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn colours_take_no_room() {
        let bare = |line: &String| anstream::adapter::strip_str(line).to_string();
        for columns in 40..130 {
            let coloured = lines(&sweep(), columns, 24, true);
            assert_eq!(coloured.iter().map(bare).collect::<Vec<_>>(), lines(&sweep(), columns, 24, false));
        }
    }

    #[test]
    fn wide_letters_and_none_at_all() {
        let now = Now { actions: 1, doing: vec![doing(0, &"組織".repeat(30), 0)], ..Now::default() };
        for columns in 1..90 {
            drawn(&now, columns, 24);
        }
    }

    #[test]
    fn times_are_no_finer_than_they_are_known() {
        let told = [0, 1_400, 59_999, 60_000, 3_599_000, 3_600_000, 90_000_000].map(time);
        assert_eq!(told, ["0s", "1s", "59s", "1m 00s", "59m 59s", "1h 00m", "1d 01h"]);
        let told = [1, 19_001, 41_000, 90_000, 100_000, 5_399_000, 5_400_000].map(rounded);
        assert_eq!(told, ["1s", "20s", "45s", "2m", "2m", "90m", "1h 30m"]);
        let told = [0.0, 0.000_5, 0.25, 12.346, 123.456, 123_456.0, -0.1].map(number);
        assert_eq!(told, ["0.000", "5.00e-4", "0.250", "12.35", "123.5", "1.23e5", "-0.100"]);
    }
}
