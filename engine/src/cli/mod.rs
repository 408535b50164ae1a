//! The command line: one file a command; they print, and decide nothing.

/// Prints a line. A reader that has seen enough, like `head`, ends the command without a complaint.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::say(format_args!($($text)*))
    };
}

mod cache;
mod check;
mod diff;
mod export;
mod fmt;
mod graph;
mod limits;
mod lock;
mod logs;
mod pilot;
mod plan;
mod plugin;
mod progress;
mod report;
mod run;
mod schema;
mod screen;
mod serve;
mod share;
mod show;
mod status;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use miette::GraphicalReportHandler;
use restage_cache::Store;

use crate::{
    cache::Cache,
    executor::{ExecuteError, slurm::PILOT_COMMAND},
    lock::{self as locks, Contents, Lock, LockError},
    plan::{Plan, PlanError, Selection},
    plugin::{Catalog, CatalogError, HOST_COMMAND},
    run::{
        RunError,
        journal::{self, JournalError},
    },
    site::{Site, SiteError},
    workflow::{self, Diagnostics, LoadError, Workflow, git::Git},
};

/// Runs machine-learning workflows written in YAML; change one line and only what it touches runs again.
#[derive(Parser)]
#[command(name = "restage", version, max_term_width = 100)]
struct Arguments {
    /// What to log: error, warn, info, debug, trace, or a filter like `plugin=debug,restage=info`
    #[arg(long, global = true, env = "RESTAGE_LOG", default_value = "warn")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a workflow: all variants and seeds, except what is in the cache
    Run(run::Arguments),
    /// Tell what would run, and why
    Plan(plan::Arguments),
    /// Tell everything about one stage's decision
    Why(why::Arguments),
    /// Draw the stages and what they read: Graphviz, Mermaid or SVG
    Graph(graph::Arguments),
    /// List a workflow's runs
    Status(status::Arguments),
    /// Show the artifacts of a workflow's last run
    Show(show::Arguments),
    /// Print what stages said when they last ran
    Logs(logs::Arguments),
    /// Write what a run gave: a page with everything, its table, its figures
    Report(report::Arguments),
    /// Write a run in formats that other tools read: TensorBoard's, an RO-Crate, JSON
    Export(export::Arguments),
    /// Show runs in a browser while they go on, and afterwards
    Serve(serve::Arguments),
    /// Give a workflow to somebody as one file, or open one
    Share(share::Arguments),
    /// Compare two workflows, two runs, or what two people shared
    Diff(diff::Arguments),
    /// Find everything that is wrong with a workflow, without running it
    Check(check::Arguments),
    /// Write down what a workflow is made of, for `--locked`: code, data, imports
    Lock(lock::Arguments),
    /// Write the JSON Schema that editors check workflows by
    Schema(schema::Arguments),
    /// Bring workflow files into one style
    Fmt(fmt::Arguments),
    /// Look at plugins
    Plugin(plugin::Arguments),
    /// Look after the cache: what it takes, what may go, whether it is sound
    Cache(cache::Arguments),
    /// Take actions out of a queue, in an allocation (internal)
    #[command(name = PILOT_COMMAND, hide = true)]
    Pilot(pilot::Arguments),
    /// Serve a plugin to the engine (internal)
    #[command(name = HOST_COMMAND, hide = true)]
    Host,
}

/// A number with its noun.
fn many(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A workflow, and which part of its sweep.
#[derive(clap::Args)]
struct Target {
    /// The workflow file
    workflow: PathBuf,
    /// Set a value of the workflow, e.g. `--set pretrain.temperature=0.2`; may be given again
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Take only this variant of the sweep, e.g. `--only baseline`, or those of this ablation; may be given again
    #[arg(long, value_name = "VARIANT")]
    only: Vec<String>,
    /// Take these seeds instead of the workflow's, e.g. `--seeds 0,1,2`
    #[arg(long, value_delimiter = ',', value_name = "SEEDS")]
    seeds: Option<Vec<u64>>,
    /// Take only this stage and what leads to it, e.g. `--until pretrain`; may be given again
    #[arg(long, value_name = "STAGE")]
    until: Vec<String>,
    /// Run this stage again although its result is there, e.g. `--force regions`; may be given again
    #[arg(long, value_name = "STAGE[@VARIANT]")]
    force: Vec<String>,
    /// Refuse if code, data or imports are not what `restage.lock` says
    #[arg(long)]
    locked: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

impl Target {
    /// All variants of a workflow as it is written.
    fn all_of(workflow: &std::path::Path) -> Self {
        Self {
            workflow: workflow.to_owned(),
            set: Vec::new(),
            only: Vec::new(),
            seeds: None,
            until: Vec::new(),
            force: Vec::new(),
            locked: false,
            json: false,
        }
    }

    fn selection(&self) -> Selection {
        Selection {
            set: self.set.clone(),
            only: self.only.clone(),
            seeds: self.seeds.clone(),
            until: self.until.clone(),
            force: self.force.clone(),
        }
    }
}

/// What a command ends with when it does not end well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Store(#[from] restage_cache::Error),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Format(#[from] fmt::FormatError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{} thing(s) differ from what is locked", .0.0.len())]
    Differs(Diagnostics),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("the workflow has not run yet")]
    NeverRan,
    #[error("there are no two runs of the workflow to compare")]
    OneRun,
    #[error("there is no run in {}", .0.display())]
    NoRun(PathBuf),
    #[error(transparent)]
    Export(#[from] export::ExportError),
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    #[error(transparent)]
    Share(#[from] crate::share::ShareError),
    #[error(transparent)]
    New(#[from] plugin::NewError),
    #[error(transparent)]
    Kit(#[from] crate::conformance::KitError),
    #[error(transparent)]
    Report(#[from] report::ReportError),
    #[error(transparent)]
    Cache(#[from] cache::Wrong),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Pilot(#[from] crate::run::pilot::PilotError),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        Self::Plan(error.into())
    }
}

impl Failure {
    /// Something that was asked for by a name that nothing has.
    fn unknown(problem: workflow::Diagnostic) -> Self {
        Self::Plan(PlanError::Invalid(Diagnostics(vec![problem])))
    }

    /// Mistakes of a workflow, where that is what it is.
    fn diagnostics(&self) -> Option<&Diagnostics> {
        match self {
            Self::Load(LoadError::Invalid(diagnostics))
            | Self::Plan(
                PlanError::Invalid(diagnostics) | PlanError::Catalog(CatalogError::Workflow(diagnostics)),
            ) => Some(diagnostics),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        use miette::Diagnostic;
        match self {
            Self::Site(SiteError::NoFolder) => Some("set RESTAGE_CACHE to a folder".into()),
            Self::NeverRan => Some("run it with `restage run`".into()),
            Self::OneRun => Some("give two runs or two workflows; `restage status` lists the runs".into()),
            Self::NoRun(_) => Some("`restage status WORKFLOW` lists the folders of its runs".into()),
            Self::Lock(error) => error.help(),
            Self::Report(error) => Some(error.help()),
            Self::Cache(wrong) => wrong.help(),
            Self::Export(error) => error.help(),
            Self::Serve(error) => error.help(),
            Self::Share(error) => error.help(),
            Self::New(error) => error.help(),
            Self::Kit(crate::conformance::KitError::NoStage { name, known, .. }) => {
                Some(workflow::suggest(name, known.iter().map(String::as_str)))
            }
            Self::Load(error) => error.help(),
            Self::Plan(PlanError::Catalog(error)) => error.help().map(|help| help.to_string()),
            _ => None,
        }
    }

    /// 2: the workflow or the command is wrong; 1: something failed.
    fn exit(&self) -> ExitCode {
        match self {
            Self::Load(_)
            | Self::Plan(PlanError::Invalid(_) | PlanError::Catalog(_))
            | Self::Lock(LockError::None(_) | LockError::NotOf(_) | LockError::Broken { .. })
            | Self::Differs(_)
            | Self::NeverRan
            | Self::Kit(_)
            | Self::New(_)
            | Self::Site(SiteError::Toml { .. })
            | Self::OneRun
            | Self::NoRun(_)
            | Self::Share(crate::share::ShareError::Occupied(_))
            | Self::Report(report::ReportError::Suffix(_) | report::ReportError::NothingRan(_))
            | Self::Store(restage_cache::Error::PinName(_)) => ExitCode::from(2),
            Self::Cache(wrong) => wrong.exit(),
            _ => ExitCode::from(1),
        }
    }
}

/// The binary: parses the command line, runs the command, returns the exit status.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // `--help` and `--version` are errors to clap, with status 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Command::Host = arguments.command {
        return match crate::plugin::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(1),
        };
    }
    init_log(&arguments.log);
    let json = arguments.command.json();
    match dispatch(arguments.command) {
        Ok(code) => code,
        Err(failure) => {
            tell(&failure, json);
            failure.exit()
        }
    }
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Self::Run(arguments) => arguments.target.json,
            Self::Plan(arguments) => arguments.target.json,
            Self::Why(arguments) => arguments.target.json,
            Self::Show(arguments) => arguments.json,
            Self::Logs(arguments) => arguments.json,
            Self::Check(arguments) => arguments.target.json,
            Self::Lock(arguments) => arguments.json,
            Self::Plugin(arguments) => arguments.json(),
            Self::Cache(arguments) => arguments.json(),
            Self::Status(arguments) => arguments.json,
            Self::Diff(arguments) => arguments.json,
            Self::Share(arguments) => arguments.json(),
            Self::Graph(_)
            | Self::Report(_)
            | Self::Export(_)
            | Self::Serve(_)
            | Self::Schema(_)
            | Self::Fmt(_)
            | Self::Pilot(_)
            | Self::Host => false,
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    // One thread schedules; hashing and stages have their own threads and processes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run(arguments) => run::run(arguments).await,
            Command::Plan(arguments) => plan::run(arguments).await,
            Command::Why(arguments) => why::run(arguments).await,
            Command::Graph(arguments) => graph::run(arguments).await,
            Command::Status(arguments) => status::run(&arguments),
            Command::Show(arguments) => show::run(&arguments),
            Command::Logs(arguments) => logs::run(&arguments),
            Command::Report(arguments) => report::run(&arguments),
            Command::Export(arguments) => export::run(&arguments),
            Command::Serve(arguments) => serve::run(arguments).await,
            Command::Share(arguments) => share::run(arguments).await,
            Command::Diff(arguments) => diff::run(arguments).await,
            Command::Check(arguments) => check::run(arguments).await,
            Command::Lock(arguments) => lock::run(arguments).await,
            Command::Schema(arguments) => schema::run(arguments).await,
            Command::Fmt(arguments) => Ok(fmt::run(&arguments)),
            Command::Plugin(arguments) => plugin::run(arguments).await,
            Command::Cache(arguments) => cache::run(&arguments).await,
            Command::Pilot(arguments) => pilot::run(arguments).await,
            Command::Host => Ok(ExitCode::SUCCESS),
        }
    })
}

fn init_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| screen::Above).with_ansi(colours).init();
}

/// Where the store is.
fn store_root() -> Result<PathBuf, Failure> {
    Ok(Site::find()?.folder()?)
}

/// The folder of a run: as it is given, or a workflow's last one.
fn chosen_run(path: &std::path::Path, store: &Store) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path)?;
    if path.is_dir() {
        return if journal::is_run(&path) { Ok(path) } else { Err(Failure::NoRun(path)) };
    }
    journal::runs(&path, store)?.into_iter().next().ok_or(Failure::NeverRan)
}

fn open_store() -> Result<Store, Failure> {
    Ok(Site::find()?.store()?)
}

/// A workflow with its plan, as most commands need it.
struct Planned {
    workflow: Workflow,
    cache: Cache,
    plan: Plan,
}

/// Loads a workflow and its plugins, and plans what the target asks for.
async fn planned(target: &Target) -> Result<Planned, Failure> {
    planned_with(target, Site::find()?.cache()?).await
}

/// The same, where it is said where results are.
async fn planned_with(target: &Target, cache: Cache) -> Result<Planned, Failure> {
    let lock = locked(&target.workflow, target.locked)?;
    let git = Git::new(&cache.store, lock.pins(&target.workflow), fetching);
    let workflow = workflow::load(&target.workflow, &git)?;
    let planned = planned_of(workflow, target, cache).await?;
    if target.locked || lock.has(&target.workflow) {
        compare(&lock, target, &planned)?;
    }
    Ok(planned)
}

/// The same of a workflow that is loaded; locks are not looked at.
async fn planned_of(workflow: Workflow, target: &Target, cache: Cache) -> Result<Planned, Failure> {
    let mut catalog = open_catalog(&workflow, &cache.store).await?;
    let history = journal::history(&workflow.path, &cache.store);
    let plan = Plan::new(&workflow, &target.selection(), &mut catalog, &cache, &history).await?;
    Ok(Planned { workflow, cache, plan })
}

/// Loads a workflow; branches and tags that it imports are what its lock says.
fn load(path: &std::path::Path, store: &Store) -> Result<Workflow, Failure> {
    let git = Git::new(store, locked(path, false)?.pins(path), fetching);
    Ok(workflow::load(path, &git)?)
}

/// The lock beside a workflow. One that cannot be understood is in nobody's way unless it is asked for.
fn locked(workflow: &std::path::Path, asked: bool) -> Result<Lock, LockError> {
    match Lock::beside(workflow) {
        Err(error) if !asked => {
            tracing::warn!("{}", crate::causes(&error).join(": "));
            Ok(Lock::default())
        }
        lock => lock,
    }
}

/// Refuses what differs from the lock, if that is asked for; else says in a word that it does.
fn compare(lock: &Lock, target: &Target, planned: &Planned) -> Result<(), Failure> {
    let now =
        Contents::new(&target.workflow, &target.set, &planned.workflow, &planned.plan, &planned.cache.store);
    // A part of the variants, or of their stages, uses a part of what is locked.
    let whole = target.set.is_empty() && target.only.is_empty() && target.until.is_empty();
    let differences = lock.differences(&now, whole)?;
    if target.locked {
        return Diagnostics(differences).or(()).map_err(Failure::Differs);
    }
    if !differences.is_empty() {
        let (count, workflow) = (differences.len(), target.workflow.display());
        let things = if count == 1 { "thing differs" } else { "things differ" };
        eprintln!("{count} {things} from {}: `restage lock --check {workflow}` tells", locks::FILE);
    }
    Ok(())
}

/// Told before something is fetched.
fn fetching(notice: &str) {
    eprintln!("{notice}");
}

async fn open_catalog(workflow: &Workflow, store: &Store) -> Result<Catalog, Failure> {
    Ok(Catalog::open(workflow, store, &|notice| eprintln!("{notice}")).await?)
}

fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Milliseconds since 1970 as a date and time, UTC.
fn shown_time(milliseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn print_json(value: &impl serde::Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        say!("{text}");
    }
}

fn tell(failure: &Failure, json: bool) {
    if let Failure::Differs(differences) = failure {
        return tell_differences(differences, json);
    }
    if let Some(diagnostics) = failure.diagnostics() {
        return tell_diagnostics(diagnostics, json);
    }
    let chain = crate::causes(failure);
    if json {
        return print_json(&serde_json::json!({ "error": chain.join(": "), "help": failure.help() }));
    }
    eprintln!("error: {}", chain.join("\n  because: "));
    if let Some(help) = failure.help() {
        eprintln!("  help: {help}");
    }
}

/// More of one file's mistakes than this scroll out of sight.
const MAX_DRAWN: usize = 20;

fn tell_diagnostics(diagnostics: &Diagnostics, json: bool) {
    let count = diagnostics.0.len();
    tell_counted(diagnostics, json, &format!("{count} mistake{} found", if count == 1 { "" } else { "s" }));
}

/// Differences from a lock.
fn tell_differences(differences: &Diagnostics, json: bool) {
    let count = differences.0.len();
    let things = if count == 1 { "thing differs" } else { "things differ" };
    tell_counted(differences, json, &format!("{count} {things} from {}", locks::FILE));
}

fn tell_counted(diagnostics: &Diagnostics, json: bool, counted: &str) {
    if json {
        let list: Vec<_> = diagnostics.0.iter().map(crate::workflow::Diagnostic::to_json).collect();
        return print_json(&serde_json::json!({ "diagnostics": list }));
    }
    // Terminals wrap by themselves, and know how wide they are.
    let handler = GraphicalReportHandler::new().with_wrap_lines(false);
    for of_file in diagnostics.0.chunk_by(|a, b| a.file() == b.file()) {
        for diagnostic in of_file.iter().take(MAX_DRAWN) {
            let mut text = String::new();
            // Writing to a String cannot fail.
            let _ = handler.render_report(&mut text, &workflow::draw(diagnostic));
            anstream::eprint!("{text}");
        }
        if of_file.len() > MAX_DRAWN {
            let (more, file) = (of_file.len() - MAX_DRAWN, of_file.first().map_or("", |first| first.file()));
            eprintln!("and {more} more in {file}: `--json` lists them all\n");
        }
    }
    eprintln!("{counted}{}", if diagnostics.full() { ", and there may be more" } else { "" });
}
