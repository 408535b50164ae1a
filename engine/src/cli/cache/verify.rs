//! `restage cache verify`: whether what is stored is what its names say.

use std::{io::IsTerminal, path::Path, process::ExitCode};

use indicatif::{ProgressBar, ProgressStyle};
use restage_cache::{Damage, Repair, Verdict, Verification, Verified, VerifyOptions};
use serde_json::json;

use super::many;
use crate::{
    cli::{Failure, open_store, print_json},
    report::{Origins, size},
    run,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage cache verify\n  restage cache verify --repair\n  \
                        restage cache verify --sample 5%          # another part each time\n\n\
                        Exit status: 0 if all is sound, or was made so; 1 if not. What cannot be repaired from good copies is \
                        moved to the quarantine, and made again by the next run that needs it.")]
pub(super) struct Arguments {
    /// Read only a part, e.g. `5%`
    #[arg(long, default_value = "100%", value_parser = fraction, value_name = "PART")]
    sample: f64,
    /// Repair from good copies what can be, and move the rest to the quarantine
    #[arg(long)]
    repair: bool,
    /// Chooses the part: the same number, the same part
    #[arg(long)]
    seed: Option<u64>,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// `5%` or `0.05`.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let fraction = match text.trim().strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    fraction
        .filter(|fraction| *fraction > 0.0 && *fraction <= 1.0)
        .ok_or_else(|| "expected a part like `5%`, more than 0% and at most 100%".into())
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    // Without a number, another part each time: in the end all of it is read.
    let seed = arguments.seed.unwrap_or_else(run::now);
    let options = VerifyOptions { fraction: arguments.sample, seed, repair: arguments.repair };
    let bar = bar();
    let found = store.verify(&options, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let sound = found.is_sound();
    if arguments.json {
        print_json(&json!({ "sound": sound, "seed": seed, "found": found }));
    } else {
        tell(&found, &Origins::of(&store)?);
        let read = format!(
            "{}, {} and {} read, {}",
            many(found.artifacts.len(), "artifact"),
            many(found.files.len(), "file"),
            many(found.records, "record"),
            size(found.bytes)
        );
        let part =
            if arguments.sample < 1.0 { format!(" (the part of `--seed {seed}`)") } else { String::new() };
        say!("{read}{part}: {}", outcome(&found));
        if !sound && !arguments.repair {
            eprintln!(
                "  help: `restage cache verify --repair` repairs what can be, and puts the rest out of reach"
            );
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Only for people who watch.
pub(super) fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn outcome(found: &Verification) -> String {
    let all = || found.artifacts.iter().chain(&found.files);
    let damaged =
        all().filter(|one| matches!(one.verdict, Verdict::Damaged(_))).count() + found.bad_records.len();
    let unreadable = all().filter(|one| matches!(one.verdict, Verdict::Unreadable { .. })).count();
    match (damaged, unreadable, found.is_sound()) {
        (0, 0, _) => "sound".into(),
        (damaged, _, true) => format!("{damaged} damaged, none any more"),
        (damaged, 0, _) => format!("{damaged} damaged"),
        (damaged, unreadable, _) => format!("{damaged} damaged, {unreadable} cannot be read"),
    }
}

fn tell(found: &Verification, origins: &Origins) {
    for artifact in &found.artifacts {
        tell_one(&format!("artifact {}", origins.told(&artifact.digest)), artifact);
    }
    for file in &found.files {
        tell_one(&format!("file {:.12}", file.digest), file);
    }
    for record in &found.bad_records {
        say!("damaged: record of action {:.12}: {}", record.key, record.why);
        tell_repair(record.repair.as_ref());
    }
}

fn tell_one(name: &str, one: &Verified) {
    match &one.verdict {
        Verdict::Ok => {}
        Verdict::Unreadable { file, why } => say!("cannot be read: {name}\n    {}: {why}", file.display()),
        Verdict::Damaged(damages) => {
            say!("damaged: {name}");
            for Damage { file, expected, found } in damages {
                let file = shorter(file);
                match found {
                    Some(found) => say!("    {file} was {expected:.12}, is {found:.12}"),
                    None => say!("    {file} was {expected:.12}, is gone"),
                }
            }
            tell_repair(one.repair.as_ref());
        }
    }
}

/// A file of an artifact below its folder; of the shared ones the last part is its digest, which is told already.
fn shorter(file: &Path) -> String {
    if file.is_absolute() { "its content".into() } else { file.display().to_string() }
}

fn tell_repair(repair: Option<&Repair>) {
    match repair {
        None => {}
        Some(Repair::Rebuilt) => say!("    rebuilt from good copies; what was damaged is in the quarantine"),
        Some(Repair::Quarantined) => {
            say!("    moved to the quarantine; the next run that needs it makes it again")
        }
        Some(Repair::Settled) => say!("    repaired or removed by somebody else meanwhile"),
        Some(Repair::Failed(why)) => say!("    could not be moved: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_percentage_or_a_fraction() {
        assert_eq!(["5%", " 100 %", "0.5", "1"].map(fraction), [0.05, 1.0, 0.5, 1.0].map(Ok));
        for wrong in ["", "%", "0%", "101%", "5", "-1%", "NaN", "half"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }
}
