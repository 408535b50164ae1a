//! `restage plugin …`: look at plugins, and try them.

mod list;
mod new;
mod test;

use std::process::ExitCode;

pub(crate) use new::NewError;

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
    /// Make a plugin: a crate with one stage, its test, and a workflow that uses it
    New(new::Arguments),
    /// Try whether a plugin, in whatever language, is one that can be relied on
    Test(test::Arguments),
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::List(list) => list.json,
            Command::New(_) => false,
            Command::Test(test) => test.json(),
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::List(list) => list::run(list).await,
        Command::New(new) => new::run(&new),
        Command::Test(test) => test::run(test).await,
    }
}
