//! Files of git repositories, by the `git` program: a commit is fetched once and then lies in the store.
//!
//! `<store>/git/<commit>/tree` holds the files of the commit, `seal.json` beside it their digest. Both appear in one rename, so
//! that two who fetch at once are both right. A tree that is not what its seal says is fetched again. Nothing of a repository is
//! run: no hooks, no filters (so none of LFS), no submodules. Links that lead to a folder or out of the repository are not there.

mod program;

use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use restage_cache::{Digest, Store};
use serde::{Deserialize, Serialize};

use program::{finished, inward, outward};

use crate::last_use;

/// The store's folder of repositories.
const BUCKET: &str = "git";

/// What the files of a commit were when they were checked out.
const SEAL: &str = "seal.json";

/// Their folder.
const TREE: &str = "tree";

/// What the names of folders begin with that are being filled.
const FRESH: &str = "new-";

/// One that is older than this is of a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// A commit, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// The repository.
    pub(crate) git: String,
    /// The branch or tag that it was looked up by.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// Its full id.
    pub(crate) commit: String,
}

/// Where files of repositories come from.
pub(crate) struct Git {
    store: Store,
    /// What branches and tags were, by the prefix of the import.
    pins: BTreeMap<String, Pin>,
    /// Whether branches and tags are looked up anew.
    fresh: bool,
    /// Told before something takes long.
    notice: fn(&str),
}

/// The files of a commit.
pub(super) struct Checkout {
    /// Their folder, without links.
    pub(super) root: PathBuf,
    /// Links that were left out.
    pub(super) links: Vec<String>,
}

/// What is kept beside a tree.
#[derive(Serialize, Deserialize)]
struct Seal {
    digest: Digest,
    links: Vec<String>,
}

/// Why a commit cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    /// There is no `git`.
    #[error("the program `git` cannot be started: {0}")]
    NoProgram(io::Error),
    /// The URL is none, or one that is not asked.
    #[error("{0}")]
    Url(&'static str),
    /// The name of a branch or tag is none.
    #[error("`{0}` is not the name of a branch or a tag")]
    Name(String),
    /// The repository did not answer, or refused.
    #[error("the repository cannot be read; git says: {0}")]
    Repository(String),
    /// It answered, and has no such commit.
    #[error("the repository has no commit {0}")]
    Commit(String),
    /// It answered, and has no such branch or tag.
    #[error("the repository has no branch or tag `{0}`")]
    Reference(String),
    /// A branch and a tag are called so.
    #[error("the repository has both a branch and a tag `{0}`")]
    Ambiguous(String),
    /// The store cannot be used.
    #[error("the commit cannot be kept in the store: {0}")]
    Store(String),
}

impl GitError {
    /// Whether a branch or a tag is wrong, and not its repository.
    pub(super) fn is_of_reference(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Reference(_) | Self::Ambiguous(_))
    }

    /// What to do.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::NoProgram(_) => "install git: it fetches what is imported by `git:`",
            Self::Url(_) => {
                "write `https://…`, `ssh://…`, `user@host:path`, or `file:///…` for a folder of this machine"
            }
            Self::Name(_) => "write it as git does, e.g. `main`, `v1.2`, or `refs/heads/main`",
            Self::Repository(_) => {
                "is the URL right, is there a network, and may you read it? try `git ls-remote URL`; nobody is asked for a password"
            }
            Self::Commit(_) => {
                "is it pushed? `git rev-parse HEAD` in the repository tells the id of what is checked out there"
            }
            Self::Reference(_) => "`git ls-remote URL` lists them",
            Self::Ambiguous(_) => "write `refs/heads/…` for the branch, or `refs/tags/…` for the tag",
            Self::Store(_) => "is there room for it? `restage cache doctor` looks at the store",
        }
    }
}

fn kept(error: impl std::error::Error) -> GitError {
    GitError::Store(crate::causes(&error).join(": "))
}

impl Git {
    /// `pins` is what branches and tags were.
    pub(crate) fn new(store: &Store, pins: BTreeMap<String, Pin>, notice: fn(&str)) -> Self {
        Self { store: store.clone(), pins, fresh: false, notice }
    }

    /// Branches and tags are looked up anew.
    pub(crate) fn afresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    /// The commit that a branch or tag is, or was when it was pinned; `None` if it is not pinned.
    pub(super) fn commit_of(
        &self,
        prefix: &str,
        url: &str,
        reference: &str,
    ) -> Result<Option<String>, GitError> {
        check_url(url)?;
        if self.fresh {
            return self.look_up(url, reference).map(Some);
        }
        let pin = self.pins.get(prefix);
        let pin = pin.filter(|pin| pin.git == url && pin.reference.as_deref() == Some(reference));
        Ok(pin.map(|pin| pin.commit.clone()))
    }

    fn look_up(&self, url: &str, reference: &str) -> Result<String, GitError> {
        let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        if reference.is_empty() || reference.starts_with('-') || reference.contains(odd) {
            return Err(GitError::Name(reference.to_owned()));
        }
        let names = match reference.strip_prefix("refs/") {
            Some(_) => vec![reference.to_owned()],
            None => vec![format!("refs/heads/{reference}"), format!("refs/tags/{reference}")],
        };
        let mut git = outward();
        git.args(["ls-remote", "--quiet", "--", url]);
        // A tag that says who made it is an object of its own; the commit is behind it.
        git.args(names.iter().flat_map(|name| [name.clone(), format!("{name}^{{}}")]));
        let listed = finished(&mut git)?.map_err(GitError::Repository)?;
        let found: BTreeMap<&str, &str> =
            listed.lines().filter_map(|line| line.split_once('\t')).map(|(id, name)| (name, id)).collect();
        let commit =
            |name: &String| found.get(format!("{name}^{{}}").as_str()).or_else(|| found.get(name.as_str()));
        let commits: Vec<&&str> = names.iter().filter_map(commit).collect();
        match commits.as_slice() {
            [] => Err(GitError::Reference(reference.to_owned())),
            [commit] if super::check::is_commit(commit) => Ok((**commit).to_owned()),
            [_] => Err(GitError::Repository("an answer that is no commit".to_owned())),
            _ => Err(GitError::Ambiguous(reference.to_owned())),
        }
    }

    /// The files of a commit: those in the store, or fetched.
    pub(super) fn checkout(&self, url: &str, commit: &str) -> Result<Checkout, GitError> {
        check_url(url)?;
        let folder = self.store.folder(BUCKET).map_err(kept)?;
        let place = folder.join(commit);
        if let Some(checkout) = self.sealed(&place)? {
            return Ok(checkout);
        }
        (self.notice)(&format!("fetching {} of {url}", short(commit)));
        sweep(&folder);
        let aside = tempfile::Builder::new().prefix(FRESH).tempdir_in(&folder).map_err(kept)?;
        fetch(url, commit, aside.path())?;
        let ready = aside.path().join("ready");
        let tree = ready.join(TREE);
        let links = drop_links(&tree).map_err(kept)?;
        let digest = self.store.digest_outside(&tree).map_err(kept)?;
        let seal = serde_json::to_vec(&Seal { digest, links }).map_err(kept)?;
        std::fs::write(ready.join(SEAL), seal).map_err(kept)?;
        // What lies there is damaged, or somebody was faster: then it is as good as ours.
        if std::fs::rename(&ready, &place).is_err() {
            if let Some(checkout) = self.sealed(&place)? {
                return Ok(checkout);
            }
            std::fs::rename(&place, aside.path().join("damaged")).map_err(kept)?;
            if std::fs::rename(&ready, &place).is_err() && !place.is_dir() {
                return Err(GitError::Store(format!("cannot make the folder {}", place.display())));
            }
        }
        let damaged = || GitError::Store(format!("{} is not what was fetched", place.display()));
        self.sealed(&place)?.ok_or_else(damaged)
    }

    /// The checkout at a place, if it is there and is what its seal says.
    fn sealed(&self, place: &Path) -> Result<Option<Checkout>, GitError> {
        let tree = place.join(TREE);
        let Some(seal) =
            std::fs::read(place.join(SEAL)).ok().and_then(|text| serde_json::from_slice(&text).ok())
        else {
            return Ok(None);
        };
        let Seal { digest, links } = seal;
        if self.store.digest_outside(&tree).ok() != Some(digest) {
            return Ok(None);
        }
        last_use::note(&place.join(SEAL));
        let root = std::fs::canonicalize(&tree).map_err(kept)?;
        Ok(Some(Checkout { root, links }))
    }
}

/// Commits that were of no use for so long; anything may be fetched again.
pub(crate) fn idle(store: &Store, keep: Duration) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store.root().join(BUCKET)).into_iter().flatten().flatten();
    let places = entries.map(|entry| entry.path());
    let mut idle: Vec<PathBuf> =
        places.filter(|place| last_use::age(&place.join(SEAL)).is_some_and(|age| age > keep)).collect();
    idle.sort();
    idle
}

/// Removes a commit's files: at once for whoever looks for them, as far as this user may for the disk.
///
/// # Errors
/// If they stay.
pub(crate) fn forget(place: &Path) -> io::Result<()> {
    let folder = place.parent().unwrap_or(place);
    let aside = tempfile::Builder::new().prefix(FRESH).tempdir_in(folder)?;
    std::fs::rename(place, aside.path().join(TREE))?;
    aside.close()
}

/// The root of the checkout that a path lies in, if it is one in the store.
pub(crate) fn root_of(path: &Path, store: &Store) -> Option<PathBuf> {
    let bucket = store.root().join(BUCKET);
    let commit = path.strip_prefix(&bucket).ok()?.components().next()?;
    Some(bucket.join(commit).join(TREE))
}

/// A path without `.` and `..`, or `None` if it leaves `root`, be it on its way only.
pub(crate) fn within(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.strip_prefix(root).ok()?.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ if plain.pop() => {}
            _ => return None,
        }
    }
    Some(root.join(plain))
}

/// The first digits of a commit's id.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Refuses what git would take for something else than a repository's address.
fn check_url(url: &str) -> Result<(), GitError> {
    let refused = |why| Err(GitError::Url(why));
    if url.starts_with('-') {
        return refused("what begins with `-` is an option of git, not a URL");
    }
    if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return refused("a URL has no spaces");
    }
    match url.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            if host.is_empty() || authority.starts_with('-') || host.starts_with('-') {
                return refused("the URL names no host");
            }
            if user.contains(':') {
                return refused("a password in a workflow is everybody's: git has credential helpers for it");
            }
            Ok(())
        }
        Some(("file", rest)) if rest.starts_with('/') => Ok(()),
        Some(("file", _)) => refused("after `file://` an absolute path is missing"),
        Some(_) => refused("repositories are read by https, http, ssh, git and file only"),
        // `git@host:path`, as `scp` has it.
        None => match url.split_once(':') {
            Some((host, path)) if !host.contains('/') && !path.starts_with(':') && !path.is_empty() => Ok(()),
            _ => refused("this is not the URL of a repository"),
        },
    }
}

/// Fetches a commit and lays its files out in `ready/tree` of a folder.
fn fetch(url: &str, commit: &str, folder: &Path) -> Result<(), GitError> {
    let repository = folder.join("repository");
    let tree = folder.join("ready").join(TREE);
    std::fs::create_dir_all(&tree).map_err(kept)?;
    let mut init = inward();
    init.args(["init", "--quiet", "--bare", "--template="]);
    init.args((commit.len() == 64).then_some("--object-format=sha256")).arg(&repository);
    finished(&mut init)?.map_err(GitError::Store)?;
    let fetch = |what: &[&str]| {
        let mut git = outward();
        git.arg("--git-dir").arg(&repository);
        git.args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]);
        finished(git.args(what))
    };
    if let Err(said) = fetch(&["--depth=1", "--", url, commit])? {
        // Old servers give branches and tags only.
        if said.contains("not our ref") {
            return Err(GitError::Commit(commit.to_owned()));
        }
        if !said.contains("unadvertised") {
            return Err(GitError::Repository(said));
        }
        fetch(&["--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])?
            .map_err(GitError::Repository)?;
    }
    let inside = || {
        let mut git = inward();
        git.arg("--git-dir").arg(&repository);
        git
    };
    // The id must be that of a commit, and of nothing that leads to one.
    let name = format!("{commit}^{{commit}}");
    let known = finished(inside().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &name]))?;
    if known.as_deref().map(str::trim) != Ok(commit) {
        return Err(GitError::Commit(commit.to_owned()));
    }
    let mut checkout = inside();
    checkout.arg("--work-tree").arg(&tree).args(["checkout", "--quiet", "--force", commit, "--", "."]);
    finished(checkout.current_dir(&tree))?.map(drop).map_err(GitError::Store)
}

/// Removes what killed processes left. What cannot be removed is in nobody's way.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_old = last_use::age(&entry.path()).is_some_and(|age| age > ABANDONED);
        if is_old && entry.file_name().to_str().is_some_and(|name| name.starts_with(FRESH)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes links that do not lead to a file in the tree; tells which.
fn drop_links(tree: &Path) -> io::Result<Vec<String>> {
    let root = std::fs::canonicalize(tree)?;
    let mut links = Vec::new();
    let mut pending = vec![root.clone()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
            let kind = entry?;
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_symlink() {
                // One that is absolute would lead out as soon as the folder has its name.
                let relative = std::fs::read_link(&path)?.is_relative();
                let target = std::fs::canonicalize(&path).ok();
                if !relative || !target.is_some_and(|target| target.is_file() && target.starts_with(&root)) {
                    links.push(path);
                }
            }
        }
    }
    // A link may have led through another one: all are judged before one goes.
    for link in &links {
        std::fs::remove_file(link)?;
    }
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap_or(path).to_string_lossy().into_owned();
    let mut links: Vec<String> = links.iter().map(relative).collect();
    links.sort();
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_of_a_repository_is_refused() {
        for right in [
            "https://host/repo.git",
            "https://user@host:8443/repo",
            "ssh://git@host:22/repo",
            "git://host/repo",
            "git@host:group/repo.git",
            "file:///groups/us/repo",
        ] {
            assert!(check_url(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "-uhttps://host/repo",
            "--upload-pack=touch x",
            "ext::sh -c touch%20x",
            "ext::x",
            "ext://x",
            "https://-oProxyCommand=x/repo",
            "ssh://-oProxyCommand=x/repo",
            "ssh://user@-oProxyCommand=x/repo",
            "https://user:word@host/repo",
            "https:///repo",
            "file://repo",
            "../repo",
            "/groups/us/repo",
            "https://host/re po",
            "https://host/repo\n",
        ] {
            assert!(matches!(check_url(wrong), Err(GitError::Url(_))), "{wrong}");
        }
    }

    #[test]
    fn a_path_cannot_leave_its_root_not_even_on_the_way() {
        let root = Path::new("/store/git/c/tree");
        let inside = |path: &str| within(root, &root.join(path));
        assert_eq!(inside("a/../b.yaml"), Some(root.join("b.yaml")));
        assert_eq!(inside("./b.yaml"), Some(root.join("b.yaml")));
        assert_eq!(inside(""), Some(root.to_owned()));
        for outside in ["../x", "a/../../x", "../tree/b.yaml", "../../../..", "/etc/passwd", "../tree2/x"] {
            assert_eq!(inside(outside), None, "{outside}");
        }
    }
}
