//! `restage plugin …`: look at plugins, and try them.

mod list;
mod test;

use std::process::ExitCode;

use super::Failure;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show the stage types of a workflow's plugins, with ports and params
    List(list::Arguments),
    /// Try whether a plugin, in whatever language, is one that can be relied on
    Test(test::Arguments),
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::List(list) => list.json,
            Command::Test(test) => test.json(),
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::List(list) => list::run(list).await,
        Command::Test(test) => test::run(test).await,
    }
}
