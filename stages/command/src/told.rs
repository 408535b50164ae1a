//! What a program tells while it runs: lines of JSON on the descriptor that `RESTAGE_EVENTS_FD` names.

use restage_stage::Context;
use serde::Deserialize;

/// One line.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Told {
    /// `{"progress": [3, 50, "epochs"]}`.
    Progress { progress: (u64, u64, String) },
    /// `{"metric": "loss", "step": 3, "value": 0.25}`; a value that is not finite is null.
    Metric { metric: String, step: u64, value: Option<f64> },
    /// `{"log": "text", "level": "warn"}`.
    Log {
        log: String,
        #[serde(default)]
        level: Level,
    },
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

impl Told {
    /// Reads a line. What is none of the above is a line of the log: nothing that a program says ends it.
    pub(crate) fn read(line: &str) -> Self {
        // Python writes what is not finite as no JSON has it, and a loss that diverged is worth a point.
        let finite = || line.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        let read = serde_json::from_str(line).or_else(|_| serde_json::from_str(&finite()));
        read.unwrap_or_else(|_| Self::Log { log: line.to_owned(), level: Level::Info })
    }

    pub(crate) fn tell(self, ctx: &Context) {
        match self {
            Self::Progress { progress: (done, total, unit) } => ctx.progress(done, total, &unit),
            Self::Metric { metric, step, value } => ctx.metric(&metric, step, value.unwrap_or(f64::NAN)),
            Self::Log { log, level: Level::Debug } => tracing::debug!("{log}"),
            Self::Log { log, level: Level::Info } => tracing::info!("{log}"),
            Self::Log { log, level: Level::Warn } => tracing::warn!("{log}"),
            Self::Log { log, level: Level::Error } => tracing::error!("{log}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_are_logged() {
        let progress = Told::Progress { progress: (3, 50, "epochs".into()) };
        assert_eq!(Told::read(r#"{"progress": [3, 50, "epochs"]}"#), progress);
        let metric = Told::Metric { metric: "loss".into(), step: 3, value: Some(0.25) };
        assert_eq!(Told::read(r#"{"metric": "loss", "step": 3, "value": 0.25}"#), metric);
        assert_eq!(
            Told::read(r#"{"log": "x", "level": "warn"}"#),
            Told::Log { log: "x".into(), level: Level::Warn }
        );
        let diverged = Told::Metric { metric: "loss".into(), step: 4, value: None };
        for value in ["NaN", "-Infinity", "Infinity", "null"] {
            let line = format!(r#"{{"metric": "loss", "step": 4, "value": {value}}}"#);
            assert_eq!(Told::read(&line), diverged, "{line}");
        }
        for odd in ["hello", r#"{"progress": "half"}"#, "{", r#"{"log": "x", "level": "loud"}"#] {
            assert_eq!(Told::read(odd), Told::Log { log: odd.into(), level: Level::Info });
        }
    }
}
