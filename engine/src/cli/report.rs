//! `restage report`: what a run gave, to take along: a page with everything, the table alone, the figures.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rayon::prelude::*;
use restage_cache::Store;

use super::{Failure, open_store};
use crate::{
    report::{self, Outcome, Table, page::Page},
    run::{event::Event, journal},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage report workflows/quickstart.yaml -o report.html\n  \
                        restage report workflows/quickstart.yaml -o report.html --figures figures\n  \
                        restage report workflows/quickstart.yaml --figures figures --figure-format png --dpi 600\n  \
                        restage report workflows/quickstart.yaml --format md\n  \
                        restage report workflows/quickstart.yaml -o table.tex")]
pub(super) struct Arguments {
    /// The workflow file: its last run. Or a run's folder, as `restage status` lists them. Default is the last run of all
    run: Option<PathBuf>,
    /// The file to write; default is the terminal
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// `html` is a page with everything, the others are the table; default is what the file's name ends with, or `md`
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write every figure into this folder; maps of the baseline and of the best variant only
    #[arg(long, value_name = "FOLDER")]
    figures: Option<PathBuf>,
    /// As what: SVG has no pixels and is sharp at every size, PNG is for what takes none; `svg,png` is both
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        value_delimiter = ',',
        default_value = "svg",
        requires = "figures"
    )]
    figure_format: Vec<FigureFormat>,
    /// How many pixels a PNG has to the inch
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(36..=1200), requires = "figures")]
    dpi: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FigureFormat {
    Svg,
    Png,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Html,
    Md,
    Csv,
    Json,
    Tex,
}

/// What `report` cannot do.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    #[error("nothing has run yet in {}", .0.display())]
    NothingRan(PathBuf),
    #[error("the name of {} does not tell which format is wanted", .0.display())]
    Suffix(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot draw `{name}` in pixels: {problem}")]
    Draw { name: String, problem: String },
}

impl ReportError {
    pub(super) fn help(&self) -> String {
        match self {
            Self::NothingRan(_) => "run a workflow with `restage run`".into(),
            Self::Suffix(_) => "end it with .html, .md, .csv, .json or .tex, or say `--format`".into(),
            Self::Write { .. } => {
                "`--output` names a file in a folder that is there, `--figures` a folder".into()
            }
            Self::Draw { .. } => "`--figure-format svg` writes it without pixels".into(),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let format = format(arguments)?;
    let store = open_store()?;
    let outcome = Outcome::of(events(arguments.run.as_deref(), &store)?).ok_or(Failure::NeverRan)?;
    let table = Table::new(&outcome, &store);
    let page = arguments.figures.is_some().then(|| Page::read(&outcome, &table, &store));
    if let Some(format) = format {
        let text = match (format, &page) {
            (Format::Html, Some(page)) => page.html(None),
            (Format::Html, None) => report::page::html(&outcome, &table, &store, None),
            (Format::Csv, _) => table.write(report::Format::Csv),
            (Format::Json, _) => table.write(report::Format::Json),
            (Format::Tex, _) => table.write(report::Format::Tex),
            _ => table.write(report::Format::Md),
        };
        match &arguments.output {
            None => say!("{}", text.trim_end()),
            Some(file) => {
                write(file, &text)?;
                say!("{}", file.display());
            }
        }
    }
    if let (Some(folder), Some(page)) = (&arguments.figures, &page) {
        let count = write_figures(folder, page, &arguments.figure_format, arguments.dpi)?;
        say!("{} figures in {}", count, folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is written besides figures.
fn format(arguments: &Arguments) -> Result<Option<Format>, ReportError> {
    if arguments.format.is_some() {
        return Ok(arguments.format);
    }
    let Some(file) = &arguments.output else {
        return Ok(arguments.figures.is_none().then_some(Format::Md));
    };
    let suffix = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match suffix.as_str() {
        "html" | "htm" => Ok(Some(Format::Html)),
        "md" => Ok(Some(Format::Md)),
        "csv" => Ok(Some(Format::Csv)),
        "json" => Ok(Some(Format::Json)),
        "tex" => Ok(Some(Format::Tex)),
        _ => Err(ReportError::Suffix(file.clone())),
    }
}

/// The events of the run that is meant.
fn events(run: Option<&Path>, store: &Store) -> Result<Vec<Event>, Failure> {
    let Some(run) = run else {
        let runs = journal::runs_of_all(store)?;
        // Names of runs begin with the time.
        let newest = runs.iter().filter_map(|runs| runs.first()).max_by_key(|run| run.file_name());
        let newest = newest.ok_or_else(|| ReportError::NothingRan(store.root().to_owned()))?;
        return Ok(journal::events(newest)?);
    };
    let path = std::path::absolute(run)?;
    if !path.is_dir() {
        return journal::last_run(&path, store)?.ok_or(Failure::NeverRan);
    }
    let events = journal::events(&path)?;
    if events.is_empty() { Err(Failure::NoRun(path)) } else { Ok(events) }
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), ReportError> {
    std::fs::write(path, content).map_err(|source| ReportError::Write { path: path.to_owned(), source })
}

/// Each figure as a file of each format, and the graph of stages; how many figures.
fn write_figures(
    folder: &Path,
    page: &Page<'_>,
    formats: &[FigureFormat],
    dpi: u32,
) -> Result<usize, ReportError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| ReportError::Write { path: folder.to_owned(), source })?;
    let mut figures = vec![("workflow".to_owned(), page.graph_file())];
    let mut names = BTreeSet::from(["workflow".to_owned()]);
    for figure in page.figures() {
        // Names of variants may differ in what a file's name cannot hold.
        let free = std::iter::once(figure.name.clone())
            .chain((2..).map(|number| format!("{}-{number}", figure.name)));
        let name = free.into_iter().find(|name| !names.contains(name)).unwrap_or_default();
        names.insert(name.clone());
        figures.push((name, figure.file()));
    }
    figures.par_iter().try_for_each(|(name, svg)| {
        for format in formats {
            match format {
                FigureFormat::Svg => write(&folder.join(format!("{name}.svg")), svg)?,
                FigureFormat::Png => {
                    let drawn = report::page::png(svg, dpi)
                        .map_err(|problem| ReportError::Draw { name: name.clone(), problem })?;
                    write(&folder.join(format!("{name}.png")), drawn)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(figures.len())
}
