//! What holds for a place and not for a workflow: `restage.toml`, the nearest one above the working folder, else the one in
//! the user's configuration folder.
//!
//! ```toml
//! [cache]
//! folder = "/groups/pathology/restage"     # RESTAGE_CACHE comes before it
//! remote = "s3://bucket/restage"           # RESTAGE_REMOTE comes before it
//! write_back = true                        # what is computed here is given to the remote
//! settings = { aws_endpoint = "https://s3.example.org" }
//! ```
//!
//! With `executor = "slurm"` at the top stages run in allocations; `[slurm]` says which: see `executor/slurm/settings.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use restage_cache::{Remote, Store};
use serde::Deserialize;

use crate::{
    cache::{Cache, Shared},
    executor::slurm::Settings,
};

/// The file's name.
const FILE: &str = "restage.toml";

/// What a site says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    #[serde(default)]
    cache: CacheSite,
    /// Where stages run.
    #[serde(default)]
    pub(crate) executor: Where,
    #[serde(default)]
    pub(crate) slurm: Settings,
}

/// Where stages run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Where {
    /// On this machine
    #[default]
    Local,
    /// In allocations that are asked of Slurm
    Slurm,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheSite {
    folder: Option<PathBuf>,
    remote: Option<String>,
    #[serde(default)]
    write_back: bool,
    /// For the remote, in the words of `object_store`. Secrets belong in the environment.
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

/// Why a site's words cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is no TOML, or says something unknown.
    #[error("`{}` cannot be understood: {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        message: String,
    },
    /// No folder is given, and none can be guessed.
    #[error("cannot find a place for the cache")]
    NoFolder,
    /// The store or the remote cannot be opened.
    #[error(transparent)]
    Cache(#[from] restage_cache::Error),
}

impl Site {
    /// The site of the working folder. Nothing said where there is no file.
    pub(crate) fn find() -> Result<Self, SiteError> {
        let here = std::env::current_dir().ok();
        let above = here.iter().flat_map(|here| here.ancestors()).map(|folder| folder.join(FILE));
        let configured = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")))
            .map(|folder| folder.join("restage").join(FILE));
        match above.chain(configured).find(|path| path.is_file()) {
            Some(path) => Self::read(&path),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, SiteError> {
        let told = |source| SiteError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(told)?;
        let mut site: Self = toml::from_str(&text)
            .map_err(|error| SiteError::Toml { path: path.to_owned(), message: error.to_string() })?;
        // Relative to the file, wherever the command is given.
        if let (Some(folder), Some(here)) = (&mut site.cache.folder, path.parent()) {
            *folder = here.join(&*folder);
        }
        Ok(site)
    }

    /// The store's folder: `$RESTAGE_CACHE`, else the site's, else `restage` in the user's cache folder.
    pub(crate) fn folder(&self) -> Result<PathBuf, SiteError> {
        let path = |name| variable(name).map(PathBuf::from);
        path("RESTAGE_CACHE")
            .or_else(|| self.cache.folder.clone())
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("restage")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/restage")))
            .ok_or(SiteError::NoFolder)
    }

    /// The remote at `url`; without one `$RESTAGE_REMOTE`'s, else the site's, if any.
    pub(crate) fn remote(&self, url: Option<&str>) -> Result<Option<Remote>, SiteError> {
        let url = url
            .map(str::to_owned)
            .or_else(|| variable("RESTAGE_REMOTE"))
            .or_else(|| self.cache.remote.clone());
        Ok(url.map(|url| Remote::open_with(&url, &self.cache.settings)).transpose()?)
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<Store, SiteError> {
        Ok(Store::open(&self.folder()?)?)
    }

    /// The store and the remote behind it.
    pub(crate) fn cache(&self) -> Result<Cache, SiteError> {
        let store = self.store()?;
        let shared = self.remote(None)?.map(|remote| {
            // What can only be read takes nothing, and saying so at each run would help nobody.
            let write_back = self.cache.write_back && !remote.is_read_only();
            Shared::new(remote, write_back).into()
        });
        Ok(Cache { store, shared })
    }
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_read_and_what_it_does_not_know_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "[cache]\nfolder = \"here\"\nremote = \"s3://b/p\"\nwrite_back = true\n")
            .unwrap();
        let site = Site::read(&path).unwrap();
        assert_eq!(site.cache.folder, Some(folder.path().join("here")));
        assert!(site.cache.write_back);

        std::fs::write(&path, "[cache]\nremot = \"s3://b/p\"\n").unwrap();
        let told = Site::read(&path).unwrap_err().to_string();
        assert!(told.contains("line 2") && told.contains("`remot`") && told.contains("`remote`"), "{told}");
    }
}
