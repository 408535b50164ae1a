//! What cargo and rustc are told besides a plugin's sources and may change what it computes: flags and the profile.
//!
//! They are read where cargo reads them: the environment, `.cargo/config.toml` of the workspace and of the folders above
//! it, the user's own. Flags that only say where things lie (linkers, search paths) belong to a machine and are left out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::build::BuildError;

/// Settings by their names in cargo's own words, with where they were read apart.
pub(super) type Settings = BTreeMap<String, String>;

/// Settings of the environment, which can change without a file's change.
pub(super) fn of_environment() -> Settings {
    of_variables(
        std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok())),
    )
}

fn of_variables(variables: impl Iterator<Item = (String, String)>) -> Settings {
    let mut settings = Settings::new();
    for (name, value) in variables {
        let flags = |separator: char| significant(value.split(separator).filter(|flag| !flag.is_empty()));
        let kept = match name.as_str() {
            "CARGO_ENCODED_RUSTFLAGS" => flags('\u{1f}'),
            "RUSTFLAGS" | "CARGO_BUILD_RUSTFLAGS" => flags(' '),
            _ if name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS") => flags(' '),
            _ if name.starts_with("CARGO_PROFILE_RELEASE_") => value,
            _ => continue,
        };
        if !kept.is_empty() {
            settings.insert(name, kept);
        }
    }
    settings
}

/// The files that cargo reads settings from when it builds in a workspace, in their order, and only those that are there.
pub(super) fn files(workspace: &Path) -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let folders = workspace.ancestors().map(|folder| folder.join(".cargo")).chain(home);
    let mut files: Vec<PathBuf> = folders
        .flat_map(|folder| [folder.join("config.toml"), folder.join("config")])
        .filter(|path| path.is_file())
        .collect();
    files.dedup();
    files
}

/// Settings of a workspace: of its manifest and of cargo's configuration.
pub(super) fn of_workspace(workspace: &Path) -> Result<Settings, BuildError> {
    let mut settings = Settings::new();
    let manifest = workspace.join("Cargo.toml");
    // The nearest file wins, as with cargo, whose manifest comes last.
    for path in files(workspace).into_iter().chain([manifest]) {
        let text = std::fs::read_to_string(&path).map_err(BuildError::io(&path))?;
        let file: Table = toml::from_str(&text)
            .map_err(|error| BuildError::Cargo { path: path.clone(), output: error.to_string() })?;
        for (name, value) in of_file(&file) {
            settings.entry(name).or_insert(value);
        }
    }
    Ok(settings)
}

fn of_file(file: &Table) -> Settings {
    let mut settings = Settings::new();
    let profile = file.get("profile").and_then(|profiles| profiles.get("release")).and_then(Value::as_table);
    for (name, value) in profile.into_iter().flatten() {
        settings.insert(format!("profile.release.{name}"), serde_json::json!(value).to_string());
    }
    let mut flags = |name: String, value: Option<&Value>| {
        let flags = match value {
            Some(Value::String(flags)) => significant(flags.split_whitespace()),
            Some(Value::Array(flags)) => significant(flags.iter().filter_map(Value::as_str)),
            _ => return,
        };
        if !flags.is_empty() {
            settings.insert(name, flags);
        }
    };
    flags("build.rustflags".to_owned(), file.get("build").and_then(|build| build.get("rustflags")));
    for (target, told) in file.get("target").and_then(Value::as_table).into_iter().flatten() {
        flags(format!("target.{target}.rustflags"), told.get("rustflags"));
    }
    settings
}

/// Flags of rustc that may change what its output computes, in their order.
fn significant<'a>(flags: impl Iterator<Item = &'a str>) -> String {
    let mut flags = flags.peekable();
    let mut kept = Vec::new();
    while let Some(flag) = flags.next() {
        // `-C target-cpu=native` is one flag in two words.
        let flag = match flag {
            "-C" | "-Z" | "-L" | "--codegen" | "--remap-path-prefix" => {
                let short = if flag == "--codegen" { "-C" } else { flag };
                format!("{short}{}", flags.next().unwrap_or_default())
            }
            _ => flag.replace("--codegen=", "-C"),
        };
        let of_machine = ["-Clink", "-L", "--remap-path-prefix", "-Clinker"];
        if !of_machine.iter().any(|start| flag.starts_with(start)) {
            kept.push(flag);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Settings {
        of_file(&toml::from_str(text).expect("TOML"))
    }

    #[test]
    fn flags_and_the_profile_count_and_what_belongs_to_a_machine_does_not() {
        let machine = "[build]\njobs = 2\nrustflags = [\"-C\", \"link-arg=-fuse-ld=mold\", \"-L/opt/lib\"]\n[net]\noffline = true\n\
                       [target.x86_64-unknown-linux-gnu]\nlinker = \"clang\"\n[profile.dev]\nopt-level = 3\n";
        assert_eq!(of(machine), Settings::new());
        let cpu = of("[build]\nrustflags = \"-C target-cpu=native -C link-arg=-s\"\n");
        assert_eq!(cpu, Settings::from([("build.rustflags".into(), "-Ctarget-cpu=native".into())]));
        assert_eq!(cpu, of("build.rustflags = [\"--codegen=target-cpu=native\"]\n"));
        assert_eq!(
            of("[profile.release]\noverflow-checks = true\n"),
            Settings::from([("profile.release.overflow-checks".into(), "true".into())])
        );
    }

    #[test]
    fn the_environment_counts_as_far_as_it_is_about_results() {
        let variables = [
            ("RUSTFLAGS", "-C target-feature=+avx2"),
            ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Clinker=mold"),
            ("CARGO_PROFILE_RELEASE_LTO", "fat"),
            ("CARGO_HOME", "/home/alice/.cargo"),
            ("CARGO_TARGET_DIR", "/scratch"),
        ];
        let told =
            of_variables(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(told.keys().collect::<Vec<_>>(), ["CARGO_PROFILE_RELEASE_LTO", "RUSTFLAGS"]);
    }

    #[test]
    fn the_nearest_configuration_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        let workspace = folder.path().join("work");
        for (path, level) in
            [("work/Cargo.toml", 1), ("work/.cargo/config.toml", 2), (".cargo/config.toml", 3)]
        {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, format!("[profile.release]\nopt-level = {level}\n")).expect("a file");
        }
        let told = of_workspace(&workspace).expect("settings");
        assert_eq!(told.get("profile.release.opt-level").map(String::as_str), Some("2"));
    }
}
