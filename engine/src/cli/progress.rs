//! The display of a run: a bar for each running action where there is a terminal, a line for each that ends.

use std::{
    collections::{BTreeMap, VecDeque},
    io::IsTerminal,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    plan::Plan,
    run::event::{Event, How},
};

/// How many of an action's last log lines a failure shows.
const LAST_LINES: usize = 8;

pub(super) struct Progress {
    names: Vec<String>,
    bars: Option<MultiProgress>,
    running: BTreeMap<usize, ProgressBar>,
    last_lines: BTreeMap<usize, VecDeque<String>>,
}

impl Progress {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            names: plan.labels(),
            bars: std::io::stderr().is_terminal().then(MultiProgress::new),
            running: BTreeMap::new(),
            last_lines: BTreeMap::new(),
        }
    }

    fn line(&self, line: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{line}"),
        }
    }

    fn name(&self, action: usize) -> &str {
        self.names.get(action).map_or("?", String::as_str)
    }

    /// Shows an event. `log` is where the action's whole log lies.
    pub(super) fn show(&mut self, event: &Event, log: impl FnOnce(usize) -> std::path::PathBuf) {
        match event {
            Event::Running { action } => {
                if let Some(bars) = &self.bars {
                    let bar = bars.add(ProgressBar::new_spinner());
                    bar.set_message(self.name(*action).to_owned());
                    bar.enable_steady_tick(std::time::Duration::from_millis(200));
                    self.running.insert(*action, bar);
                }
            }
            Event::Progress { action, done, total, unit } => {
                if let Some(bar) = self.running.get(action) {
                    if bar.length() != Some(*total)
                        && let Ok(style) =
                            ProgressStyle::with_template("{bar:24} {pos}/{len} {prefix} {msg} {eta}")
                    {
                        bar.set_style(style);
                        bar.set_length(*total);
                        bar.set_prefix(unit.clone());
                    }
                    bar.set_position(*done);
                }
            }
            Event::Log { action, level, target, message } => self.log(*action, level, target, message),
            Event::Done { action, how: How::Ran { milliseconds }, .. } => {
                self.end(*action);
                self.line(&format!(
                    "  done {} in {:.1} s",
                    self.name(*action),
                    *milliseconds as f64 / 1000.0
                ));
            }
            Event::Done { action, how: How::Fetched, .. } => {
                self.end(*action);
                self.line(&format!("  got  {} from the remote", self.name(*action)));
            }
            Event::Failed { action, message, .. } => {
                self.end(*action);
                self.line(&format!("FAILED {}: {message}", self.name(*action)));
                for line in self.last_lines.remove(action).into_iter().flatten() {
                    self.line(&format!("     | {line}"));
                }
                let log = log(*action);
                if log.exists() {
                    self.line(&format!("     its log: {}", log.display()));
                }
            }
            Event::Waiting { action, holder, since } => {
                let since = super::shown_time(*since);
                self.line(&format!("  wait {}: {holder} computes it since {since}", self.name(*action)));
            }
            Event::Retrying { action, message, left, memory } => {
                self.end(*action);
                let next = match memory {
                    Some(memory) => format!("now with {}", bytesize::ByteSize::b(*memory)),
                    None => format!("{left} more if this fails too"),
                };
                self.line(&format!(" again {}: {message} ({next})", self.name(*action)));
            }
            Event::Skipped { action, because } => {
                self.line(&format!("  skip {}: it reads {}", self.name(*action), self.name(*because)));
            }
            Event::Started(_) | Event::Metric { .. } | Event::Done { .. } | Event::Finished { .. } => {}
        }
    }

    /// Joins a plugin's log to the engine's stream.
    fn log(&mut self, action: usize, level: &str, target: &str, message: &str) {
        let lines = self.last_lines.entry(action).or_default();
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(message.to_owned());
        let stage = self.name(action);
        match level {
            "ERROR" => tracing::error!(target: "plugin", stage, source = target, "{message}"),
            "WARN" => tracing::warn!(target: "plugin", stage, source = target, "{message}"),
            "INFO" => tracing::info!(target: "plugin", stage, source = target, "{message}"),
            "DEBUG" => tracing::debug!(target: "plugin", stage, source = target, "{message}"),
            _ => tracing::trace!(target: "plugin", stage, source = target, "{message}"),
        }
    }

    fn end(&mut self, action: usize) {
        if let Some(bar) = self.running.remove(&action) {
            bar.finish_and_clear();
        }
    }
}
