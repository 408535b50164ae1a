//! `restage.lock`, and what is imported from git repositories.

#![expect(clippy::unwrap_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use harness::{Ended, Sandbox};

/// The `test` plugin as a library, which a test may change.
fn library() -> &'static [u8] {
    static LIBRARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let sandbox = Sandbox::new();
        sandbox.workflow("w.yaml", "stages: { a: { uses: test/write } }");
        assert_eq!(sandbox.run(&["check", "w.yaml"]).code(), Some(0));
        let kept = fs::read_dir(sandbox.path("store/plugins")).unwrap().flatten().map(|entry| entry.path());
        let library = kept.into_iter().find(|path| path.extension().is_some_and(|name| name == "so"));
        fs::read(library.unwrap()).unwrap()
    });
    &LIBRARY
}

/// A workflow of the `test` plugin that lies beside it.
fn workflow(sandbox: &Sandbox, name: &str, rest: &str) {
    if !sandbox.path("test.so").exists() {
        sandbox.write_bytes("test.so", library());
    }
    sandbox.write(name, &format!("restage: 1\nplugins: [{{ path: test.so }}]\n{rest}"));
}

fn refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code(), Some(2), "{}", ended.all());
    for word in words {
        assert!(ended.err().contains(word), "`{word}` is missing: {}", ended.err());
    }
}

/// What was told, without digests and the folder of this run.
fn plain(sandbox: &Sandbox, text: &str) -> String {
    let text = text.replace(&format!("{}/", sandbox.path("").display()).replace("//", "/"), "/here/");
    let mut plain = String::new();
    let mut digits = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_hexdigit() && !c.is_ascii_uppercase() {
            digits.push(c);
            continue;
        }
        let is_digest = digits.len() >= 12 && digits.contains(|c: char| c.is_ascii_digit());
        plain += &if is_digest { format!("{:.<1$}", "DIGEST", digits.len()) } else { digits.clone() };
        digits.clear();
        plain.extend((c != '\0').then_some(c));
    }
    let lines: Vec<&str> = plain.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[test]
fn what_differs_from_the_lock_is_told_all_at_once_and_not_run() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("parts/data")).unwrap();
    fs::create_dir_all(sandbox.path("elsewhere")).unwrap();
    sandbox.write("parts/data/there.txt", "t");
    sandbox.write("here.txt", "h");
    sandbox.write("elsewhere/x.txt", "x");
    sandbox.write(
        "parts/prep.yaml",
        "restage: 1\nstages: { there: { uses: test/write, with: { file: data/there.txt } } }\n",
    );
    let text = "env: { DATA: elsewhere/ }
import: { prep: { path: parts/prep.yaml } }
stages:
  here: { uses: test/write, with: { file: here.txt } }
  far: { uses: test/write, with: { file: '${env.DATA}x.txt' } }
  all: { uses: test/join, in: { texts: [prep.there, here, far] } }
";
    workflow(&sandbox, "w.yaml", text);
    let none = sandbox.run(&["run", "--locked", "w.yaml"]);
    refused(&none, &["there is no restage.lock beside w.yaml", "`restage lock w.yaml` writes it"]);
    assert_eq!(sandbox.run(&["lock", "--check", "w.yaml"]).code(), Some(2));

    let written = sandbox.run(&["lock", "w.yaml"]);
    assert_eq!(written.code(), Some(0), "{}", written.all());
    let lock = fs::read_to_string(sandbox.path("restage.lock")).unwrap();
    insta::assert_snapshot!("lock", plain(&sandbox, &lock));
    let again = sandbox.run(&["lock", "w.yaml"]);
    assert!(again.out().contains("restage.lock is current"), "{}", again.all());
    assert_eq!(fs::read_to_string(sandbox.path("restage.lock")).unwrap(), lock);
    assert_eq!(sandbox.run(&["lock", "--check", "w.yaml"]).code(), Some(0));
    // Locking ran nothing.
    assert_eq!(sandbox.ran(&["--locked", "w.yaml"]), 4);
    assert_eq!(sandbox.text("w.yaml", "all"), "t+h+x");

    // The same data at another place, by the variable that says where, are the same.
    fs::rename(sandbox.path("elsewhere"), sandbox.path("moved")).unwrap();
    let moved = sandbox
        .command(&["plan", "--locked", "w.yaml"])
        .env("DATA", sandbox.path("moved/"))
        .output()
        .unwrap();
    assert_eq!(moved.status.code(), Some(0), "{}", Ended(moved).all());
    fs::rename(sandbox.path("moved"), sandbox.path("elsewhere")).unwrap();
    // A part of the variants needs a part of the lock.
    let part = sandbox.run(&["plan", "--locked", "w.yaml", "--set", "far.file=here.txt"]);
    assert_eq!(part.code(), Some(0), "{}", part.all());

    // Everything changes.
    sandbox.write("here.txt", "other");
    let mut other = library().to_vec();
    other.push(0);
    sandbox.write_bytes("test.so", &other);
    sandbox.write("new.txt", "n");
    sandbox
        .write("parts/prep.yaml", "restage: 1\nstages: { there: { uses: test/write, with: { text: x } } }\n");
    workflow(
        &sandbox,
        "w.yaml",
        &text
            .replace("  far:", "  new: { uses: test/draw, in: { text: here } }\n  far:")
            .replace("x.txt", "../new.txt"),
    );
    let locked = sandbox.run(&["run", "--locked", "w.yaml"]);
    refused(&locked, &[]);
    insta::assert_snapshot!("differences", plain(&sandbox, &locked.err()));
    let check = sandbox.run(&["lock", "--check", "w.yaml"]);
    assert_eq!((check.code(), check.err()), (Some(1), locked.err()));
    let listed = sandbox.run(&["plan", "--locked", "--json", "w.yaml"]);
    assert_eq!((listed.code(), listed.json()["diagnostics"].as_array().unwrap().len()), (Some(2), 7));

    // Without being asked for, the lock is in nobody's way.
    let plan = sandbox.run(&["plan", "w.yaml"]);
    assert_eq!(plan.code(), Some(0), "{}", plan.all());
    assert!(plan.err().contains("7 things differ from restage.lock"), "{}", plan.err());
    let accepted = sandbox.run(&["lock", "w.yaml"]);
    assert!(accepted.out().contains("data `here.txt`: content changed"), "{}", accepted.all());
    assert_eq!(sandbox.ran(&["--locked", "w.yaml"]), 5);
}

#[test]
fn data_that_lie_elsewhere_are_locked_by_what_says_where() {
    let sandbox = Sandbox::new();
    for folder in ["mine", "theirs", "others"] {
        fs::create_dir(sandbox.path(folder)).unwrap();
        sandbox.write(&format!("{folder}/A1"), if folder == "others" { "other" } else { "same" });
    }
    let rest =
        "params: { data: mine }\nstages: { a: { uses: test/write, with: { file: '${params.data}/A1' } } }\n";
    workflow(&sandbox, "w.yaml", rest);
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));
    let lock = fs::read_to_string(sandbox.path("restage.lock")).unwrap();
    assert!(lock.contains("\n\"${params.data}/A1\" = "), "{lock}");
    let planned = |folder: &str| {
        let set = format!("params.data={}", sandbox.path(folder).display());
        sandbox.run(&["plan", "--locked", "w.yaml", "--set", &set])
    };
    assert_eq!(planned("theirs").code(), Some(0), "{}", planned("theirs").all());
    refused(&planned("others"), &["data `${params.data}/A1`: content changed"]);
}

#[test]
fn workflows_of_a_folder_share_a_lock_and_do_not_touch_each_others_lines() {
    let sandbox = Sandbox::new();
    let text = "stages: { a: { uses: test/write, with: { text: x } } }\n";
    workflow(&sandbox, "a.yaml", text);
    workflow(&sandbox, "b.yaml", text);
    let lock = |name: &str| {
        assert_eq!(sandbox.run(&["lock", name]).code(), Some(0));
        fs::read_to_string(sandbox.path("restage.lock")).unwrap()
    };
    let first = lock("b.yaml");
    refused(
        &sandbox.run(&["plan", "--locked", "a.yaml"]),
        &["has nothing of it", "`restage lock a.yaml` writes it"],
    );
    let both = lock("a.yaml");
    assert!(both.contains("\"a.yaml\"") && first.lines().all(|line| both.contains(line)), "{both}");
    fs::remove_file(sandbox.path("a.yaml")).unwrap();
    assert_eq!(lock("b.yaml"), first, "what is no longer there is forgotten");
    // In the middle of a merge.
    sandbox.write("restage.lock", &format!("{first}<<<<<<< HEAD\n"));
    refused(
        &sandbox.run(&["plan", "--locked", "b.yaml"]),
        &["cannot be understood", "two branches changed it"],
    );
    refused(&sandbox.run(&["lock", "b.yaml"]), &["two branches changed it"]);
    assert_eq!(sandbox.run(&["plan", "b.yaml"]).code(), Some(0), "nobody asked for it");
}

/// A repository of this test.
struct Repository<'a> {
    sandbox: &'a Sandbox,
    name: &'static str,
}

impl<'a> Repository<'a> {
    /// `None`, and says so, where there is no git.
    fn new(sandbox: &'a Sandbox, name: &'static str) -> Option<Self> {
        if !Command::new("git").arg("--version").output().is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no git");
            return None;
        }
        fs::create_dir_all(sandbox.path(name)).unwrap();
        let repository = Self { sandbox, name };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        Some(repository)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path(self.name).join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@host", "-c", "commit.gpgSign=false"]);
        git.arg("-C").arg(self.path("")).args(arguments);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let ended = Ended(git.output().unwrap());
        assert_eq!(ended.code(), Some(0), "git {arguments:?}: {}", ended.all());
        ended.out().trim().to_owned()
    }

    /// Commits all there is.
    fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn url(&self) -> String {
        format!("file://{}", fs::canonicalize(self.path("")).unwrap().display())
    }
}

const PREP: &str = "restage: 1
import: { inner: { path: ../inner.yaml } }
stages:
  data: { uses: test/write, with: { file: data/there.txt } }
  both: { uses: test/join, in: { texts: [data, inner.word] } }
";

/// A repository with a workflow that has a neighbour and data.
fn with_prep(repository: &Repository<'_>) -> String {
    repository.write("flows/prep.yaml", PREP);
    repository.write("flows/data/there.txt", "there");
    repository
        .write("inner.yaml", "restage: 1\nstages: { word: { uses: test/write, with: { text: '!' } } }\n");
    repository.commit()
}

/// A workflow that imports `flows/prep.yaml` of a repository.
fn importing(sandbox: &Sandbox, url: &str, which: &str) {
    importing_path(sandbox, url, which, "flows/prep.yaml");
}

fn importing_path(sandbox: &Sandbox, url: &str, which: &str, path: &str) {
    let rest = format!(
        "import:\n  prep:\n    git: '{url}'\n    {which}\n    path: {path}\nstages:\n  all: {{ uses: test/join, in: {{ texts: [prep.both] }} }}\n"
    );
    workflow(sandbox, "w.yaml", &rest);
}

#[test]
fn a_commit_is_imported_with_its_neighbours_and_data_and_needs_no_repository_afterwards() {
    let sandbox = Sandbox::new();
    let Some(repository) = Repository::new(&sandbox, "theirs") else { return };
    let commit = with_prep(&repository);
    let url = repository.url();
    importing(&sandbox, &url, &format!("commit: {commit}"));
    assert_eq!(sandbox.ran(&["w.yaml"]), 4);
    assert_eq!(sandbox.text("w.yaml", "all"), "t+!");

    // The journal has the files as they were.
    let kept = |name: &str| {
        let found =
            Command::new("find").arg(sandbox.path("store/runs")).args(["-name", name]).output().unwrap();
        !found.stdout.is_empty()
    };
    assert!(kept("prep.yaml") && kept("inner.yaml") && kept("w.yaml"));

    // A later commit is another one.
    repository.write("flows/data/there.txt", "elsewhere");
    let later = repository.commit();
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));
    importing(&sandbox, &url, &format!("commit: {later}"));
    let locked = sandbox.run(&["run", "--locked", "w.yaml"]);
    let message = format!("import `prep`: commit is {}, locked {}", &later[..12], &commit[..12]);
    refused(&locked, &[&message, "`restage lock", "1 thing differs from restage.lock"]);
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));
    sandbox.ran(&["--locked", "w.yaml"]);
    assert_eq!(sandbox.text("w.yaml", "all"), "e+!");
    assert!(kept("restage.lock"));

    // Both are here now.
    fs::rename(sandbox.path("theirs"), sandbox.path("gone")).unwrap();
    assert_eq!(sandbox.ran(&["--locked", "w.yaml"]), 0);
    importing(&sandbox, &url, &format!("commit: {commit}"));
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    let path = std::env::join_paths([sandbox.path("nothing")]).unwrap();
    let without = sandbox.command(&["plan", "w.yaml"]).env("PATH", path).output().unwrap();
    assert_eq!(without.status.code(), Some(0), "{}", Ended(without).all());

    // An old server gives branches and tags only.
    fs::rename(sandbox.path("gone"), sandbox.path("theirs")).unwrap();
    fs::remove_dir_all(sandbox.path("store/git")).unwrap();
    let old = sandbox.write("gitconfig", "[protocol]\n\tversion = 0\n");
    let fetched = sandbox.command(&["plan", "w.yaml"]).env("GIT_CONFIG_GLOBAL", old).output().unwrap();
    assert_eq!(fetched.status.code(), Some(0), "{}", Ended(fetched).all());
    fs::rename(sandbox.path("theirs"), sandbox.path("gone")).unwrap();

    // What was changed in the store is not believed.
    let data = sandbox.path("store/git").join(&commit).join("tree/flows/data/there.txt");
    fs::write(&data, "tampered").unwrap();
    let gone = sandbox.run(&["plan", "w.yaml"]);
    refused(&gone, &["the repository cannot be read; git says: fatal:", "git ls-remote"]);
    fs::rename(sandbox.path("gone"), sandbox.path("theirs")).unwrap();
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    assert_eq!(fs::read_to_string(&data).unwrap(), "there");
}

#[test]
fn a_branch_is_what_the_lock_says() {
    let sandbox = Sandbox::new();
    let Some(repository) = Repository::new(&sandbox, "theirs") else { return };
    let first = with_prep(&repository);
    repository.git(&["tag", "--annotate", "--message=x", "v1"]);
    let url = repository.url();
    importing(&sandbox, &url, "ref: main");
    refused(&sandbox.run(&["plan", "w.yaml"]), &["no `restage.lock` says which commit `main` is"]);
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));
    let lock = fs::read_to_string(sandbox.path("restage.lock")).unwrap();
    assert!(lock.contains(&format!("ref = \"main\", commit = \"{first}\"")), "{lock}");
    sandbox.ran(&["--locked", "w.yaml"]);
    assert_eq!(sandbox.text("w.yaml", "all"), "t+!");
    repository.write("flows/data/there.txt", "later");
    let later = repository.commit();
    assert_eq!(sandbox.ran(&["--locked", "w.yaml"]), 0, "the branch went on, and the lock did not");
    let locked = sandbox.run(&["lock", "w.yaml"]);
    let message = format!("import `prep`: commit is {}, locked {}", &later[..12], &first[..12]);
    assert!(locked.out().contains(&message), "{}", locked.all());
    sandbox.ran(&["--locked", "w.yaml"]);
    assert_eq!(sandbox.text("w.yaml", "all"), "l+!");
    // A tag is its commit. What is pinned is that of the branch.
    importing(&sandbox, &url, "ref: v1");
    refused(&sandbox.run(&["plan", "w.yaml"]), &["which commit `v1` is"]);
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));
    let lock = fs::read_to_string(sandbox.path("restage.lock")).unwrap();
    assert!(lock.contains(&format!("ref = \"v1\", commit = \"{first}\"")), "{lock}");
    importing(&sandbox, &url, "ref: v2");
    refused(&sandbox.run(&["lock", "w.yaml"]), &["the repository has no branch or tag `v2`"]);
    importing(&sandbox, &format!("{url}-not"), "ref: main");
    refused(
        &sandbox.run(&["lock", "w.yaml"]),
        &["the repository cannot be read; git says: fatal: ", "git ls-remote"],
    );
    // A nested one is pinned as well, under its whole prefix.
    let other = Repository::new(&sandbox, "other").unwrap();
    other.write("outer.yaml", format!("restage: 1\nimport: {{ in: {{ git: '{url}', ref: v1, path: flows/prep.yaml }} }}\nstages: {{ both: {{ uses: test/join, in: {{ texts: [in.both] }} }} }}\n"));
    importing_path(&sandbox, &other.url(), &format!("commit: {}", other.commit()), "outer.yaml");
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));
    let lock = fs::read_to_string(sandbox.path("restage.lock")).unwrap();
    assert!(
        lock.contains("\"prep.in\" = {") && lock.lines().any(|line| line.starts_with("\"prep\" = {")),
        "{lock}"
    );
    sandbox.ran(&["--locked", "w.yaml"]);
    assert_eq!(sandbox.text("w.yaml", "all"), "t+!");
}

#[test]
fn what_a_repository_says_runs_nothing_and_leads_nowhere() {
    let sandbox = Sandbox::new();
    let Some(repository) = Repository::new(&sandbox, "theirs") else { return };
    with_prep(&repository);
    sandbox
        .write("secret.yaml", "restage: 1\nstages: { both: { uses: test/write, with: { text: secret } } }\n");
    let leading = |path: &str| format!("restage: 1\nimport: {{ x: {{ path: {path} }} }}\n");
    repository.write("up.yaml", leading("flows/../../../../../../secret.yaml"));
    repository.write("absolute.yaml", leading(&sandbox.path("secret.yaml").display().to_string()));
    repository.write("through.yaml", leading("link.yaml"));
    let reading = |file: &str| {
        format!("restage: 1\nstages: {{ both: {{ uses: test/write, with: {{ file: {file} }} }} }}\n")
    };
    repository.write("data.yaml", reading("../../../../secret.yaml"));
    repository.write("linked.yaml", reading("link.yaml"));
    let plugins = |path: &str| {
        format!("restage: 1\nplugins: [{{ path: {path} }}]\nstages: {{ both: {{ uses: own/write }} }}\n")
    };
    repository.write("plugins.yaml", plugins("own.so"));
    repository.write("plugins-out.yaml", plugins("../own.so"));
    symlink(sandbox.path("secret.yaml"), repository.path("link.yaml")).unwrap();
    symlink("inner.yaml", repository.path("good.yaml")).unwrap();
    symlink(".", repository.path("loop")).unwrap();
    repository.write("own.so", library());
    repository.write(".gitattributes", "* filter=trap\n");
    let commit = repository.commit();
    let url = repository.url();
    // Whatever the user's settings say of filters and hooks.
    let pwned = sandbox.path("pwned");
    let trap = format!("sh -c 'touch {}; cat'", pwned.display());
    sandbox.write("hooks-post-checkout", "");
    fs::create_dir(sandbox.path("hooks")).unwrap();
    sandbox.write("hooks/post-checkout", &format!("#!/bin/sh\ntouch {}\n", pwned.display()));
    Command::new("chmod").arg("+x").arg(sandbox.path("hooks/post-checkout")).status().unwrap();
    let config = format!(
        "[filter \"trap\"]\n\tsmudge = \"{trap}\"\n[core]\n\thooksPath = {}\n[protocol \"ext\"]\n\tallow = always\n",
        sandbox.path("hooks").display()
    );
    let config = sandbox.write("gitconfig", &config);
    let check = |which: &str, path: &str| {
        importing_path(&sandbox, &url, which, path);
        let mut command = sandbox.command(&["check", "w.yaml"]);
        // As in a hook of another repository.
        command.env("GIT_CONFIG_GLOBAL", &config).env("GIT_DIR", sandbox.path("nowhere"));
        Ended(command.output().unwrap())
    };
    let which = format!("commit: {commit}");
    let right = check(&which, "flows/prep.yaml");
    assert_eq!(right.code(), Some(0), "{}", right.all());
    assert!(!pwned.exists(), "a filter or a hook ran");
    for (path, words) in [
        ("../secret.yaml", "`../secret.yaml` leads out of the repository"),
        ("up.yaml", "leads out of the repository"),
        ("absolute.yaml", "leads out of the repository"),
        ("link.yaml", "`link.yaml` is a link that leads to a folder, or out of the repository"),
        ("through.yaml", "`link.yaml` is a link"),
        ("data.yaml", "leads out of the repository of the file that names it"),
        ("linked.yaml", "there is no file or folder"),
        ("flows/perp.yaml", "did you mean `prep.yaml`?"),
        ("plugins.yaml", "plugins of an imported repository are not built unasked"),
    ] {
        refused(&check(&which, path), &[words]);
    }
    let trusted = format!("{which}\n    plugins: allow");
    refused(&check(&trusted, "plugins-out.yaml"), &["the plugin `../own.so` lies outside the repository"]);
    // Then it is loaded; that it is the same plugin twice is this test's.
    refused(&check(&trusted, "plugins.yaml"), &["two plugins are called `test`"]);
    let unknown = format!("commit: {}", "0".repeat(40));
    let told = check(&unknown, "flows/prep.yaml");
    refused(&told, &[&format!("the repository has no commit {}", "0".repeat(40))]);
    importing(&sandbox, &url, &unknown);
    let mut without = sandbox.command(&["check", "w.yaml"]);
    let without = without.env("PATH", sandbox.path("nothing")).output().unwrap();
    refused(&Ended(without), &["the program `git` cannot be started", "install git"]);
    let blob = repository.git(&["rev-parse", "HEAD:inner.yaml"]);
    refused(&check(&format!("commit: {blob}"), "flows/prep.yaml"), &["the repository has no commit"]);
    // A repository may import from another one, and itself.
    repository.write(
        "nested.yaml",
        format!("restage: 1\nimport: {{ x: {{ git: '{url}', {which}, path: inner.yaml }} }}\n"),
    );
    let nested = format!("commit: {}", repository.commit());
    refused(&check(&nested, "nested.yaml"), &["there is no stage `prep.both`"]);
    let link = check(&which, "good.yaml");
    refused(&link, &["there is no stage `prep.both`"]);
    assert!(!pwned.exists(), "a filter or a hook ran");
    insta::assert_snapshot!("unknown_commit", plain(&sandbox, &told.err()));
}

#[test]
fn two_who_fetch_at_once_are_both_right() {
    let sandbox = Sandbox::new();
    let Some(repository) = Repository::new(&sandbox, "theirs") else { return };
    let commit = with_prep(&repository);
    importing(&sandbox, &repository.url(), &format!("commit: {commit}"));
    let start =
        || sandbox.command(&["check", "w.yaml"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    for child in children {
        let ended = Ended(child.wait_with_output().unwrap());
        assert_eq!(ended.code(), Some(0), "{}", ended.all());
    }
    let names: Vec<_> =
        fs::read_dir(sandbox.path("store/git")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, [Path::new(&commit)], "nothing is left over");
}

#[test]
fn commits_that_no_workflow_imports_any_more_go_and_are_fetched_again() {
    let sandbox = Sandbox::new();
    let Some(repository) = Repository::new(&sandbox, "theirs") else { return };
    let commit = with_prep(&repository);
    importing(&sandbox, &repository.url(), &format!("commit: {commit}"));
    assert_eq!(sandbox.ran(&["w.yaml"]), 4);
    let files = sandbox.path("store/git").join(&commit);
    let forty_days_pass = || {
        let seal = fs::File::options().append(true).open(files.join("seal.json")).unwrap();
        seal.set_modified(SystemTime::now() - Duration::from_secs(40 * 24 * 60 * 60)).unwrap();
    };
    let gc = |arguments: &[&str]| sandbox.run(&[&["cache", "gc"], arguments].concat()).all();

    // What was of use yesterday stays.
    forty_days_pass();
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    assert!(!gc(&[]).contains("git commit") && files.exists());

    forty_days_pass();
    let told = gc(&["--dry-run"]);
    assert!(
        told.contains("files of 1 git commit that no workflow imported lately would be removed"),
        "{told}"
    );
    assert!(files.exists());
    assert!(gc(&[]).contains("files of 1 git commit") && !files.exists());
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    assert!(files.exists());
}
