//! `restage cache doctor`: what is wrong with the store's folder, and what to do. Does not open the store, which may be
//! what cannot be done.

use std::process::ExitCode;

use restage_cache::doctor;
use serde_json::json;

use crate::cli::{Failure, print_json, store_root};

#[derive(clap::Args)]
#[command(
    after_help = "Example: restage cache doctor\n\nExit status: 0 if nothing is wrong, 1 if something is. \
                        What is stored is read by `restage cache verify`."
)]
pub(super) struct Arguments {
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let root = store_root()?;
    let findings = doctor(&root)?;
    let wrong = findings.iter().any(restage_cache::Finding::is_problem);
    if arguments.json {
        let told = findings.iter().map(|finding| {
            json!({
                "finding": finding, "message": finding.to_string(), "advice": finding.advice(),
                "problem": finding.is_problem(),
            })
        });
        print_json(&json!({ "root": root, "sound": !wrong, "findings": told.collect::<Vec<_>>() }));
    } else {
        say!("{}", root.display());
        for finding in &findings {
            let kind = if finding.is_problem() { "problem" } else { "note" };
            say!("{kind}: {finding}\n    advice: {}", finding.advice());
        }
        if !wrong {
            say!("nothing wrong");
        }
    }
    Ok(if wrong { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
