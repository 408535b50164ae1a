//! `restage share`: a workflow as one file to give away, and what somebody gave.

use std::{
    collections::BTreeSet,
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use comfy_table::{Table as Drawing, presets::UTF8_HORIZONTAL_ONLY};
use restage_cache::Store;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Failure, chosen_run, load, many, open_catalog, open_store, print_json, shown_time};
use crate::{
    plan::{Plan, Selection},
    plugin::{Found, changed_sources, look, source_list},
    report::size,
    run::{self, journal},
    share::{self, BESIDE, DataHead, Opened, Packed, PluginHead, Run, Unpacked, What, clean, led},
    site::Site,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write a workflow into one file, with what it imports, and if wanted what it gave
    Pack(PackArguments),
    /// Show what such a file would run, and unpack it; nothing of it is run
    Open(OpenArguments),
}

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage share pack workflows/her2st.yaml -o her2st.restage      # the workflow alone\n  \
                        restage share pack workflows/her2st.yaml -o her2st.restage --records   # and the numbers of its last run\n  \
                        restage share pack workflows/her2st.yaml -o her2st.restage --artifacts --report\n\n\
                        Plugins go along as the identity of their sources, scripts as they are, data files as digests. Paths of this machine and values \
                        of its environment stay here; artifacts are packed as they are."
)]
struct PackArguments {
    /// The workflow file
    workflow: PathBuf,
    /// The file to write, which must not be there; default is the workflow's name with `.restage`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The run that goes along: a folder as `restage status` lists them; default is the last one
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// With what the run did, and its metrics: enough to compare it by `restage diff`
    #[arg(long)]
    records: bool,
    /// With all results of the run, and their records: who opens it need not run it again
    #[arg(long)]
    artifacts: bool,
    /// With the page of the run
    #[arg(long)]
    report: bool,
    /// With the data files that params name
    #[arg(long)]
    data: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage share open her2st.restage --list         # only shows\n  \
                        restage share open her2st.restage workflows-of-alice\n\n\
                        No plugin is built or loaded, no command is run, nothing is fetched. What is not as it announces is refused \
                        before anything is written. Results go into the cache, checked.")]
struct OpenArguments {
    /// The file that `restage share pack` wrote
    file: PathBuf,
    /// The folder to unpack it into, which must not be there; default is the file's name
    folder: Option<PathBuf>,
    /// Only show what is in it
    #[arg(long)]
    list: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Pack(arguments) => arguments.json,
            Command::Open(arguments) => arguments.json,
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Pack(arguments) => pack(arguments).await,
        Command::Open(arguments) => open(&arguments),
    }
}

async fn pack(arguments: PackArguments) -> Result<ExitCode, Failure> {
    let cache = Site::find()?.cache()?;
    let workflow = load(&arguments.workflow, &cache.store)?;
    let mut catalog = open_catalog(&workflow, &cache.store).await?;
    let history = journal::history(&workflow.path, &cache.store);
    let plan = Plan::new(&workflow, &Selection::default(), &mut catalog, &cache, &history).await?;
    let PackArguments { artifacts, report, .. } = arguments;
    let records = arguments.records || arguments.run.is_some();
    let run = if records || artifacts || report {
        let folder = chosen_run(arguments.run.as_ref().unwrap_or(&arguments.workflow), &cache.store)?;
        Some(Run { folder, records, artifacts, report })
    } else {
        None
    };
    let name = Path::new(arguments.workflow.file_name().unwrap_or_default()).with_extension("restage");
    let output = arguments.output.unwrap_or(name);
    let packed = share::pack(
        &What {
            workflow: &workflow,
            plan: &plan,
            catalog: &catalog,
            store: &cache.store,
            by: Some(run::by()),
            run,
            data: arguments.data,
        },
        &output,
    )?;
    if arguments.json {
        let results = &packed.results;
        print_json(
            &json!({ "file": output, "bytes": packed.bytes, "share": packed.manifest, "results": results }),
        );
    } else {
        tell_packed(&packed, &output, arguments.data);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_packed(packed: &Packed, output: &Path, with_data: bool) {
    let Packed { manifest, results, bytes } = packed;
    let sized = |heads: &[&DataHead]| size(heads.iter().map(|data| data.bytes).sum());
    say!("{}: {}, {}", output.display(), manifest.workflow, size(*bytes));
    for plugin in &manifest.plugins {
        say!("    plugin {} {}, identity {:.12}", plugin.name, plugin.version, plugin.identity);
    }
    let (inside, outside): (Vec<&DataHead>, Vec<&DataHead>) =
        manifest.data.iter().partition(|data| data.packed);
    if !inside.is_empty() {
        let what = if with_data { "data" } else { "scripts" };
        say!("    {what} in it: {}, {}", many(inside.len(), "path"), sized(&inside));
    }
    if !outside.is_empty() {
        let hint = if with_data { "" } else { "; `--data` packs it" };
        say!("    data by its digest: {}, {}{hint}", many(outside.len(), "path"), sized(&outside));
    }
    if let Some(run) = &manifest.run {
        say!("    run of {}: {} of {} done", shown_time(run.time), run.done, many(run.actions, "action"));
    }
    if let Some(results) = results {
        let artifacts = many(results.artifacts.len(), "artifact");
        say!("    {artifacts} and {}, {}", many(results.records.len(), "record"), size(results.bytes));
        if !results.missing.is_empty() {
            let missing = many(results.missing.len(), "result");
            eprintln!("warning: {missing} not in this cache any more, and left out");
        }
    }
    for data in outside.iter().filter(|data| Path::new(&data.path).is_absolute()) {
        eprintln!("warning: the workflow names {}: others need it at that very place", data.path);
    }
    if manifest.run.as_ref().is_some_and(|run| run.of_this < run.actions) {
        eprintln!(
            "warning: the run is not of the workflow as it is now, or did not get to its end: run it again before you pack it"
        );
    }
}

fn open(arguments: &OpenArguments) -> Result<ExitCode, Failure> {
    let opened = Opened::read(&arguments.file)?;
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => Path::new(arguments.file.file_name().unwrap_or_default()).with_extension(""),
    };
    let store = open_store()?;
    let unpacked = if arguments.list { None } else { Some(opened.unpack(&folder, &store)?) };
    let here = std::path::absolute(&folder)?;
    let shown = Shown::of(&opened, &here, &store);
    if arguments.json {
        print_json(&json!({
            "share": opened.manifest, "workflow": opened.sketch, "plugins": shown.plugins, "data": shown.data,
            "unpacked": unpacked,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    say!("{}", shown.text(&opened));
    match unpacked {
        Some(unpacked) => say!("\n{}", told(&opened, &unpacked, &folder, &shown.absent())),
        None => say!("\nonly shown: without `--list` it is unpacked into {}", folder.display()),
    }
    Ok(ExitCode::SUCCESS)
}

/// How it is told that there is no plugin.
const NOWHERE: &str = "no plugin at";

/// What is known here of what a workflow needs.
struct Shown {
    plugins: Vec<Needed>,
    data: Vec<Needed>,
}

/// Something that a workflow needs, and whether it is here.
#[derive(Serialize)]
struct Needed {
    name: String,
    what: String,
    /// Whether the very same is here; `None` if that is not known.
    same: Option<bool>,
    here: String,
}

impl Shown {
    /// Plugins that are not where the workflow names them.
    fn absent(&self) -> Vec<String> {
        let missing = self.plugins.iter().filter(|plugin| plugin.here.starts_with(NOWHERE));
        missing.map(|plugin| clean(plugin.name.split(' ').next().unwrap_or_default())).collect()
    }

    fn of(opened: &Opened, folder: &Path, store: &Store) -> Self {
        let plugins = opened.manifest.plugins.iter();
        let data = opened.manifest.data.iter();
        Self {
            plugins: plugins.map(|plugin| of_plugin(plugin, opened, folder, store)).collect(),
            data: data.map(|data| of_data(data, folder, store)).collect(),
        }
    }

    fn text(&self, opened: &Opened) -> String {
        let (manifest, sketch) = (&opened.manifest, &opened.sketch);
        let mut text = format!("{}, packed", clean(&manifest.workflow));
        if let Some(by) = &manifest.by {
            let _ = write!(text, " by {}", clean(by));
        }
        if let Some(time) = manifest.time {
            let _ = write!(text, ", {}", shown_time(time));
        }
        let _ = writeln!(text, ", restage {}", clean(&manifest.restage));
        let stages =
            sketch.stages.iter().map(|stage| [stage.name.clone(), stage.uses.clone(), brief(&stage.with)]);
        text += &drawn(["stage", "uses", "with"], stages);
        let variants: Vec<String> = manifest.variants.iter().take(8).map(|name| clean(name)).collect();
        let more = if manifest.variants.len() > variants.len() { ", …" } else { "" };
        let seeds: Vec<String> = manifest.seeds.iter().map(ToString::to_string).collect();
        let count = many(manifest.variants.len(), "variant");
        let _ = write!(text, "\n{count} ({}{more}), seeds {}", variants.join(", "), seeds.join(", "));
        if !sketch.params.is_null() {
            let _ = write!(text, "\nparams: {}", clean(&sketch.params.to_string()));
        }
        if !sketch.env.is_empty() {
            let names: BTreeSet<String> = sketch.env.iter().map(|name| clean(name)).collect();
            let names: Vec<String> = names.into_iter().collect();
            let _ = write!(text, "\nreads the environment: {}", names.join(", "));
        }
        for import in &sketch.elsewhere {
            let _ = write!(text, "\nimports from elsewhere, when it is run: {}", clean(&import.to_string()));
        }
        let unknown = sketch.plugins.iter().filter(|(folder, path)| {
            !manifest.plugins.iter().any(|known| known.folder == *folder && known.path == *path)
        });
        for (_, path) in unknown {
            let _ = write!(text, "\nnames a plugin that is not described here: {}", clean(path));
        }
        let rows = |needed: &[Needed]| {
            let row = |needed: &Needed| [needed.name.clone(), needed.what.clone(), needed.here.clone()];
            needed.iter().map(row).collect::<Vec<_>>()
        };
        text += "\n\n";
        text += &drawn(["plugin", "code", "here"], rows(&self.plugins).into_iter());
        if !self.data.is_empty() {
            text += "\n\n";
            text += &drawn(["data", "content", "here"], rows(&self.data).into_iter());
        }
        match &manifest.run {
            Some(run) => {
                let by = run.by.as_ref().map(|by| format!(" by {}", clean(by))).unwrap_or_default();
                let done = format!("{} of {} done", run.done, many(run.actions, "action"));
                let _ = write!(text, "\n\nrun of {}{by}: {done}", shown_time(run.time));
                if let Some(bytes) = opened.results() {
                    let _ = write!(text, "; its results, {}", size(bytes));
                }
            }
            None => text += "\n\nno run is in it",
        }
        text
    }
}

fn of_plugin(plugin: &PluginHead, opened: &Opened, folder: &Path, store: &Store) -> Needed {
    let place = led(folder, &plugin.folder, &plugin.path);
    let lists = store.root().join("plugins");
    let known_code = source_list(&lists, &plugin.identity);
    let (same, here) = match look(&place, store) {
        Found::Known(identity) if identity == plugin.identity => (Some(true), "the same".to_owned()),
        Found::Known(identity) => {
            let changed = opened.sources(&plugin.identity).zip(source_list(&lists, &identity));
            let changed = changed.map(|(theirs, ours)| changed_sources(&theirs, &ours)).unwrap_or_default();
            let mut told = format!("other code, {identity:.12}");
            if !changed.is_empty() {
                let few: Vec<String> = changed.iter().take(3).map(|name| clean(name)).collect();
                let more = changed.len().saturating_sub(few.len());
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let _ = write!(told, ": {}{more}", few.join(", "));
            }
            (Some(false), told)
        }
        Found::Changed => (None, "changed since it was built here: a run will tell".to_owned()),
        Found::Unbuilt => (None, "there, never built here: a run will tell".to_owned()),
        Found::Missing => (Some(false), format!("{NOWHERE} {}", place.display())),
    };
    let here = match same {
        Some(true) => here,
        _ if known_code.is_some() => format!("{here}; that code was built here before"),
        _ => here,
    };
    let kind = if plugin.from_sources { "sources" } else { "library" };
    Needed {
        name: format!("{} {}", plugin.name, plugin.version),
        what: format!("{kind} {:.12}, {}", plugin.identity, plugin.path),
        same,
        here,
    }
}

fn of_data(data: &DataHead, folder: &Path, store: &Store) -> Needed {
    let place = led(folder, &data.folder, &data.path);
    let nowhere = data.path.starts_with("${") || data.path.starts_with('…');
    let (same, here) = match place.exists() {
        _ if nowhere => (None, "where it is, your environment or params say".to_owned()),
        true if !is_as_large(&place, data) => {
            (Some(false), format!("something else lies at {}", place.display()))
        }
        true => match store.digest_outside(&place) {
            Ok(digest) if digest == data.digest => (Some(true), "the same".to_owned()),
            Ok(_) => (Some(false), format!("something else lies at {}", place.display())),
            Err(error) => (None, format!("cannot be read: {error}")),
        },
        false if data.packed => (None, format!("in it, for {}", place.display())),
        false => (Some(false), format!("put it at {}", place.display())),
    };
    let files = if data.files == 1 { String::new() } else { format!(" in {} files", data.files) };
    let code = if data.code { "script, " } else { "" };
    Needed {
        name: data.path.clone(),
        what: format!("{code}{}{files}, {:.12}", size(data.bytes), data.digest),
        same,
        here,
    }
}

/// Whether a file or folder has as many files and bytes as are told. Looks at no more of it: who sent this may name anything.
fn is_as_large(path: &Path, data: &DataHead) -> bool {
    let (mut files, mut bytes, mut seen) = (0, 0, 0);
    let mut queue = vec![path.to_owned()];
    while let Some(path) = queue.pop() {
        seen += 1;
        let Ok(metadata) = std::fs::metadata(&path) else { return false };
        if metadata.is_dir() {
            queue.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else {
            (files, bytes) = (files + 1, bytes + metadata.len());
        }
        if files > data.files || bytes > data.bytes || seen > 8 * data.files.saturating_add(8) {
            return false;
        }
    }
    (files, bytes) == (data.files, data.bytes)
}

fn told(opened: &Opened, unpacked: &Unpacked, folder: &Path, absent: &[String]) -> String {
    let mut text = format!("unpacked into {}: {}", folder.display(), many(unpacked.files.len(), "file"));
    if let Some(results) = &unpacked.results {
        let artifacts = many(results.artifacts.len(), "artifact");
        let records = many(results.records.len(), "record");
        let _ = write!(text, "\nin the cache now: {artifacts} and {records}, {}", size(results.bytes));
        if !results.different.is_empty() {
            let different = many(results.different.len(), "action");
            let _ = write!(text, "\nof {different} this cache has another result, which stays");
        }
    }
    if opened.has_report() {
        let _ = write!(text, "\nits page: {}", folder.join(BESIDE).join("report.html").display());
    }
    let workflow = folder.join(&opened.manifest.workflow);
    if !absent.is_empty() {
        let _ = write!(
            text,
            "\nfirst: write under `plugins:` of {} where your {} {}",
            workflow.display(),
            absent.join(", "),
            if absent.len() == 1 { "is" } else { "are" }
        );
    }
    let _ = write!(text, "\nnext: restage plan {}", workflow.display());
    text
}

/// Params on one line.
fn brief(with: &Value) -> String {
    const WIDTH: usize = 70;
    let entries = with.as_object().into_iter().flatten();
    let text = entries.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ");
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn drawn(head: [&str; 3], rows: impl Iterator<Item = [String; 3]>) -> String {
    let mut drawing = Drawing::new();
    drawing.load_style(UTF8_HORIZONTAL_ONLY);
    drawing.set_header(head);
    drawing.add_rows(rows.map(|row| row.map(|cell| clean(&cell))));
    drawing.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_archive_would_run_is_shown() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let opened = Opened::read(&share::tests::good(root.path())).unwrap();
        // Nobody has it: how long its name is counts in the table.
        let text = Shown::of(&opened, Path::new("/nowhere/out"), &store).text(&opened);
        insta::assert_snapshot!(text);
    }
}
