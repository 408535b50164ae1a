//! `restage plugin new`: a crate with one stage, its test, and a workflow that uses it.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    cli::Failure,
    plugin::{self, BuildError},
    workflow::is_name,
};

#[derive(clap::Args)]
#[command(after_help = "Example: restage plugin new mine && restage run mine/workflow.yaml")]
pub(super) struct Arguments {
    /// The plugin's name: what stands before the slash in `uses: name/stage`
    name: String,
    /// The folder in which the crate's folder is made; by default this one
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    at: PathBuf,
    /// Where the crate `restage-stage` lies; by default that of the checkout around the folder, or that restage was built from
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// Why there is no new plugin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewError {
    #[error("`{0}` cannot be a plugin's name")]
    Name(String),
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    #[error("the crate `restage-stage` is not found")]
    NoSdk,
    #[error("cannot write {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lock(#[from] BuildError),
}

impl NewError {
    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::Name(_) => {
                "it becomes a crate's: lower-case letters, digits and `-`, a letter first".to_owned()
            }
            Self::Exists(_) => "choose another name, or another folder by `--at`".to_owned(),
            Self::NoSdk => {
                "it lies in a checkout of restage: give its folder, `--sdk …/stages/sdk`".to_owned()
            }
            Self::Io { .. } | Self::Lock(_) => return None,
        })
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let folder = make(arguments)?;
    let shown = folder.display();
    say!("{shown} is a plugin with one stage type, `{}/estimate`. Try", arguments.name);
    say!("    restage run {shown}/workflow.yaml");
    say!("    cargo test --manifest-path {shown}/Cargo.toml");
    say!("    restage plugin test {shown}");
    Ok(ExitCode::SUCCESS)
}

fn make(arguments: &Arguments) -> Result<PathBuf, NewError> {
    let name = arguments.name.as_str();
    let is_crate = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !is_name(name) || !name.chars().all(is_crate) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(NewError::Name(name.to_owned()));
    }
    let folder = arguments.at.join(name);
    if folder.exists() {
        return Err(NewError::Exists(folder));
    }
    let at = std::fs::canonicalize(&arguments.at).map_err(NewError::io(&arguments.at))?;
    let sdk = sdk(&at, arguments.sdk.as_deref())?;
    // Complete or not at all: made beside, then named.
    let draft = tempfile::tempdir_in(&at).map_err(NewError::io(&at))?;
    write(draft.path(), name, &at, &sdk)?;
    let draft = draft.keep();
    std::fs::rename(&draft, &folder).map_err(NewError::io(&folder))?;
    plugin::lock(&folder.join("Cargo.toml"))?;
    Ok(folder)
}

fn write(draft: &Path, name: &str, at: &Path, sdk: &Path) -> Result<(), NewError> {
    // In the checkout's own folder of plugins the crate is one of its workspace; else its own.
    let is_member = sdk.parent() == Some(at);
    let path = if is_member { "../sdk".to_owned() } else { sdk.display().to_string() };
    let workspace = if is_member {
        ""
    } else {
        concat!(
            "\n[workspace]\n",
            "\n[profile.release]\ndebug = \"line-tables-only\" # a panic tells where, in this crate\n",
            "\n[profile.release.package.\"*\"]\ndebug = false # as restage builds them: what it has built is not built again\n",
        )
    };
    let fill = |text: &str| {
        let text = text.replace("_CRATE_", &name.replace('-', "_")).replace("_NAME_", name);
        text.replace("_SDK_", &path).replace("_WORKSPACE_\n", workspace)
    };
    let files = [
        ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
        ("workflow.yaml", include_str!("template/workflow.yaml.txt")),
        ("src/lib.rs", include_str!("template/lib.rs.txt")),
        ("src/estimate.rs", include_str!("template/estimate.rs.txt")),
    ];
    let source = draft.join("src");
    std::fs::create_dir(&source).map_err(NewError::io(&source))?;
    for (file, text) in files {
        let path = draft.join(file);
        std::fs::write(&path, fill(text)).map_err(NewError::io(&path))?;
    }
    // The versions that restage was built with: nothing else need be fetched.
    let lock = sdk.join("../../Cargo.lock");
    if !is_member && lock.is_file() {
        let path = draft.join("Cargo.lock");
        std::fs::copy(lock, &path).map_err(NewError::io(&path))?;
    }
    Ok(())
}

/// The folder of `restage-stage`.
fn sdk(at: &Path, given: Option<&Path>) -> Result<PathBuf, NewError> {
    let around = at.ancestors().map(|folder| folder.join("stages/sdk"));
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stages/sdk");
    let known = match given {
        Some(given) => vec![given.to_owned()],
        None => around.chain([built_from]).collect(),
    };
    let found =
        known.into_iter().find(|folder| folder.join("Cargo.toml").is_file()).ok_or(NewError::NoSdk)?;
    std::fs::canonicalize(&found).map_err(NewError::io(&found))
}
