//! Results that two users of one machine share: each has a user id, a home, a cargo home and a checkout of her own, and what
//! one has run the other does not run again.
//!
//! Users are numbers that no list of users knows, so root can be them without making them. Without root this is skipped.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use harness::{Ended, checkout};
use serde_json::Value;

/// The group that both are in, and its members.
const GROUP: u32 = 61_000;
const ADA: u32 = 61_001;
const BEN: u32 = 61_002;

/// Variables of the test's own process that a user has too.
const KEPT: [&str; 2] = ["RUSTFLAGS", "LD_LIBRARY_PATH"];

/// Two students in one group, and a folder for what they share.
struct Team {
    folder: tempfile::TempDir,
    ada: User,
    ben: User,
}

/// A user of this machine.
struct User {
    id: u32,
    home: PathBuf,
    umask: &'static str,
    /// Where the programs are that both use.
    tools: PathBuf,
    /// `PATH`.
    path: String,
}

impl Team {
    /// `None`, said aloud, where nobody can be another user.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can be two users");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let top = folder.path();
        fs::set_permissions(top, PermissionsExt::from_mode(0o755)).expect("ours");
        let tools = top.join("tools");
        fs::create_dir(&tools).expect("a folder");
        if !as_user(ADA, &["true"]).is_ok_and(|output| output.status.success()) {
            println!("skipped: this root cannot be another user (setpriv of util-linux does it)");
            return None;
        }
        // Where all may read it, whoever built it where.
        give(Path::new(env!("CARGO_BIN_EXE_restage")), &tools.join("restage"));
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", toolchain(&tools).display());
        let user = |id: u32, name: &str| User {
            id,
            home: top.join("homes").join(name),
            umask: "022",
            tools: tools.clone(),
            path: path.clone(),
        };
        let team = Self { ada: user(ADA, "ada"), ben: user(BEN, "ben"), folder };
        for user in [&team.ada, &team.ben] {
            // Not at the same depth: two places have nothing in common.
            let checkout = user.checkout();
            fs::create_dir_all(&checkout).expect("a folder");
            copy(&self::checkout().join("tests/course"), &checkout);
            if !lock(&checkout, &user.home.join("cargo")) {
                println!("skipped: cargo has no package here that it could build again without a network");
                return None;
            }
            hand_over(&user.home, user.id);
            fs::set_permissions(&user.home, PermissionsExt::from_mode(0o700)).expect("ours");
        }
        Some(team)
    }

    /// A folder of the group's: `chgrp GROUP` and `chmod 2775`, as its owner does it once, or `2770`.
    fn group_folder(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a folder");
        chown(&path, None, Some(GROUP)).expect("root");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("ours");
        path
    }

    /// The same `restage.toml` for both.
    fn site(&self, text: &str) {
        for user in [&self.ada, &self.ben] {
            user.write("restage.toml", text);
        }
    }
}

impl User {
    fn checkout(&self) -> PathBuf {
        let place = if self.id == ADA { "course" } else { "work/of/this/term/course" };
        self.home.join(place)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.checkout().join(name);
        fs::write(&path, text).expect("a file");
        chown(&path, Some(self.id), Some(self.id)).expect("root");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let umask = format!("umask {}; exec \"$@\"", self.umask);
        let binary = self.tools.join("restage");
        let words = ["sh", "-c", &umask, "sh", binary.to_str().expect("text")];
        let mut command = setpriv(self.id);
        command
            .args(words)
            .args(arguments)
            .current_dir(self.checkout())
            .env_clear()
            .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("PATH", &self.path)
            .env("HOME", &self.home)
            .env("USER", if self.id == ADA { "ada" } else { "ben" })
            .env("CARGO_HOME", self.home.join("cargo"))
            .env("CARGO_NET_OFFLINE", "true")
            .env("AWS_ACCESS_KEY_ID", "anybody")
            .env("AWS_SECRET_ACCESS_KEY", "anything")
            .env("AWS_REGION", "us-east-1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended(self.command(arguments).output().expect("it starts"))
    }

    /// The run's numbers, and the table that it showed.
    fn runs(&self, more: &[&str]) -> (Value, String) {
        let ended = self.run(&[&["run", "--json", "w.yaml"], more].concat());
        assert_eq!(ended.code(), Some(0), "{}", ended.all());
        let table = self.run(&["report", "w.yaml"]);
        assert_eq!(table.code(), Some(0), "{}", table.all());
        // The last two columns say what ran this time.
        let scores = |line: &str| line.rsplitn(4, '|').nth(3).unwrap_or(line).to_owned();
        (ended.json(), table.out().lines().map(scores).collect::<Vec<_>>().join("\n"))
    }

    /// The artifacts of the last run, wherever they are.
    fn digests(&self) -> Vec<String> {
        let ended = self.run(&["show", "--json", "--all", "w.yaml"]);
        let of = |artifact: &Value| {
            ["stage", "variant", "port", "digest"].map(|key| artifact[key].to_string()).join(" ")
        };
        let mut digests: Vec<String> = ended.json().as_array().expect("a list").iter().map(of).collect();
        digests.sort();
        digests
    }

    /// How many actions ran.
    fn ran(&self, more: &[&str]) -> u64 {
        self.runs(more).0["ran"].as_u64().expect("a number")
    }
}

/// A command as this user: with a group of her own, and in the common one.
fn setpriv(id: u32) -> Command {
    let mut command = Command::new("setpriv");
    let (id, groups) = (id.to_string(), format!("{id},{GROUP}"));
    command.args(["--reuid", &id, "--regid", &id, "--groups", &groups, "--inh-caps=-all", "--no-new-privs"]);
    command.stdin(Stdio::null());
    command
}

fn as_user(id: u32, words: &[&str]) -> std::io::Result<Output> {
    setpriv(id).args(words).output()
}

/// Folders of `rustc` and `cargo` that everybody may read: where they are, or else by other names.
fn toolchain(tools: &Path) -> PathBuf {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).current_dir(checkout()).output();
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.expect("rustc").stdout).trim());
    let rustc = sysroot.join("bin/rustc").display().to_string();
    if as_user(ADA, &["test", "-x", &rustc]).is_ok_and(|output| output.status.success()) {
        return sysroot.join("bin");
    }
    for part in ["bin", "lib"] {
        // Links, where that is possible: it is half a gigabyte.
        let from = sysroot.join(part);
        let copied = |how: &str| Command::new("cp").arg(how).args([&from, &tools.join(part)]).output();
        if !copied("-al").is_ok_and(|output| output.status.success()) {
            let _ = fs::remove_dir_all(tools.join(part));
            let copied = copied("-a").expect("cp");
            assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        }
    }
    tools.join("bin")
}

/// One file by another name.
fn give(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).expect("a copy");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &place);
        } else {
            fs::copy(&path, &place).expect("a copy");
        }
    }
}

/// Everything below is the user's.
fn hand_over(folder: &Path, id: u32) {
    let owner = format!("{id}:{id}");
    let done = Command::new("chown").args(["-R", &owner]).arg(folder).output().expect("chown");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Writes the lock file of the course, and gives a cargo home what it needs of the registry: one package, by restage's own
/// lock file. False where it is not on this machine.
fn lock(course: &Path, home: &Path) -> bool {
    let lock = fs::read_to_string(checkout().join("Cargo.lock")).expect("restage's lock file");
    let package =
        lock.split("\n\n").find(|package| package.contains("name = \"cfg-if\"")).expect("it is used");
    let own = |name: &str, uses: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [\n \"{uses}\",\n]\n")
    };
    let text = format!("version = 4\n\n{package}\n\n{}\n{}", own("course", "words"), own("words", "cfg-if"));
    fs::write(course.join("Cargo.lock"), text).expect("a lock file");
    let version = package.split('"').nth(3).expect("a version");
    let theirs = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let Some(registry) = theirs.map(|home| home.join("registry")) else { return false };
    let archives = fs::read_dir(registry.join("cache")).into_iter().flatten().flatten();
    for folder in archives {
        let name = folder.file_name();
        let index = registry.join("index").join(&name);
        let found = [
            (folder.path(), registry.join("cache"), format!("cfg-if-{version}.crate")),
            (index.clone(), registry.join("index"), ".cache/cf/g-/cfg-if".to_owned()),
            (index, registry.join("index"), "config.json".to_owned()),
        ];
        if found.iter().all(|(folder, _, file)| folder.join(file).is_file()) {
            for (folder, above, file) in found {
                let kind = above.file_name().expect("cache or index");
                let place = home.join("registry").join(kind).join(&name).join(&file);
                fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
                fs::copy(folder.join(&file), &place).expect("a copy");
            }
            return true;
        }
    }
    false
}

/// Ada runs the workflow, Ben runs nothing and sees the same; Ben changes something, and Ada runs nothing of it.
fn they_share(ada: &User, ben: &User) {
    let (first, shown) = ada.runs(&[]);
    assert_eq!(first["ran"], 5, "{first}");
    assert!(shown.contains("| twice | 6.000 | +3.000"), "{shown}");
    let (second, seen) = ben.runs(&[]);
    assert_eq!(second["ran"], 0, "{second}");
    assert_eq!(seen, shown);
    assert_eq!(ben.digests(), ada.digests());

    let change = ["--set", "score.scale=3"];
    assert_eq!(ben.ran(&change), 2, "the score of the baseline and that of `longer`, no text");
    let (again, seen) = ada.runs(&change);
    assert_eq!(again["ran"], 0, "{again}");
    assert_eq!(seen, ben.runs(&change).1);
    assert_ne!(seen, shown);
}

/// What `doctor` says of permissions and groups; space is the machine's business.
fn problems(user: &User) -> Vec<String> {
    let told = user.run(&["cache", "doctor"]).out();
    let is_of_the_machine =
        |line: &&str| line.contains("MiB are free") || line.contains("more files can be made");
    told.lines()
        .filter(|line| line.contains("problem") && !is_of_the_machine(line))
        .map(str::to_owned)
        .collect()
}

/// Removes all that this user may remove.
fn sweep(user: &User) -> Ended {
    let ended = user.run(&["cache", "gc", "--keep", "0s", "--grace", "0s", "--keep-last", "0"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    ended
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_group_folder_is_a_store_for_both() {
    let Some(team) = Team::new() else { return };
    let (ada, ben, store) = (&team.ada, &team.ben, team.group_folder("store", 0o2775));
    team.site(&format!("[cache]\nfolder = \"{}\"\n", store.display()));
    they_share(ada, ben);

    // Bytes of Ada's that Ben's artifact has too: he may not link to them.
    assert_eq!(ben.ran(&["--set", "text.text=five", "--only", "baseline"]), 2);
    let notices =
        files(&store.join("v1/artifacts")).into_iter().filter(|path| path.ends_with("about/notice"));
    let owners: Vec<u32> = notices.map(|path| fs::metadata(path).expect("it is there").uid()).collect();
    let protected = fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap_or_default();
    let bens = if protected.trim() == "1" { 1 } else { 0 };
    assert_eq!(owners.iter().filter(|owner| **owner == BEN).count(), bens, "{owners:?}");
    assert_eq!(owners.iter().filter(|owner| **owner == ADA).count(), 3 - bens, "{owners:?}");
    let verified = ada.run(&["cache", "verify"]);
    assert!(verified.code() == Some(0) && verified.out().contains("sound"), "{}", verified.all());
    assert_eq!(problems(ada), Vec::<String>::new());
    assert_eq!(problems(ben), Vec::<String>::new());

    // Ben's sweep takes what is his, and says so of what is not; it takes no record of what stays.
    let told = sweep(ben);
    assert!(told.err().contains("belong to other users"), "{}", told.all());
    assert!(!told.all().contains("not removed") && !told.all().contains("denied"), "{}", told.all());
    assert_eq!(ada.ran(&[]), 0);
    assert_eq!(ben.ran(&[]), 0);
    assert_eq!(ben.ran(&["--set", "score.scale=3"]), 2, "his were swept");

    // What Ada has and is damaged is in nobody's way.
    let scores = files(&store.join("v1/artifacts")).into_iter().filter(|path| path.ends_with("zarr.json"));
    for score in scores.filter(|path| fs::metadata(path).expect("it is there").uid() == ADA) {
        let text = fs::read_to_string(&score).expect("a score");
        fs::write(&score, text.replace("words", "sword")).expect("root");
    }
    assert_eq!(ben.ran(&[]), 3, "the scores");
    assert_eq!(ada.ran(&[]), 0);
    assert!(!sweep(ada).all().contains("denied"));
    assert_eq!(ben.ran(&[]), 2, "the texts, which were hers");
}

#[test]
fn a_private_umask_keeps_nothing_from_the_group() {
    let Some(mut team) = Team::new() else { return };
    team.ada.umask = "077";
    let (ada, ben, store) = (&team.ada, &team.ben, team.group_folder("store", 0o2770));
    team.site(&format!("[cache]\nfolder = \"{}\"\n", store.display()));
    they_share(ada, ben);
    assert_eq!(problems(ben), Vec::<String>::new());
    let target = fs::metadata(ada.checkout().join("target")).expect("it was built there");
    assert_eq!(target.mode() & 0o077, 0, "what is not the group's is as private as she wants it");

    // She is killed; he goes on from her checkpoint.
    let long = ["run", "--json", "w.yaml", "--only", "baseline", "--set", "text.wait=60000"];
    let mut killed =
        ada.command(&long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let checkpoint = || files(&store.join("v1/scratch")).into_iter().find(|path| path.ends_with("steps"));
    let began = Instant::now();
    while checkpoint().is_none_or(|path| fs::read_to_string(path).is_ok_and(|text| text.is_empty())) {
        assert!(began.elapsed() < Duration::from_secs(60), "it never got there");
        std::thread::sleep(Duration::from_millis(5));
    }
    let alive = harness::hosts(killed.id());
    assert!(!alive.is_empty());
    harness::kill(killed.id());
    killed.wait().expect("it was killed");
    assert!(alive.into_iter().all(harness::ends), "her host ends with it");
    let checkpoint = checkpoint().expect("it stays");
    assert_eq!(fs::metadata(&checkpoint).expect("it is there").uid(), ADA);
    fs::write(&checkpoint, "59990").expect("root");
    let began = Instant::now();
    assert_eq!(ben.ran(&long[3..]), 1, "the same text as before has its score");
    assert!(began.elapsed() < Duration::from_secs(30), "he began at the beginning");
    assert_eq!(files(&store.join("v1/scratch")), Vec::<PathBuf>::new());

    let told = sweep(ben);
    assert!(!told.all().contains("not removed") && !told.all().contains("denied"), "{}", told.all());
    assert_eq!(ada.ran(&[]), 0);
}

#[test]
fn a_group_folder_is_a_remote_for_both() {
    let Some(mut team) = Team::new() else { return };
    team.ada.umask = "077";
    let remote = team.group_folder("remote", 0o2770);
    team.site(&format!("[cache]\nremote = \"file://{}\"\nwrite_back = true\n", remote.display()));
    they_share(&team.ada, &team.ben);
    let owners = files(&remote).into_iter().map(|path| fs::metadata(path).expect("it is there"));
    let (hers, his): (Vec<_>, Vec<_>) = owners.partition(|meta| meta.uid() == ADA);
    assert!(!hers.is_empty() && !his.is_empty());
    assert!(hers.iter().chain(&his).all(|meta| meta.gid() == GROUP && meta.mode() & 0o777 == 0o444));
    let stores = [&team.ada, &team.ben].map(|user| user.home.join(".cache/restage/v1"));
    assert!(stores.iter().all(|store| store.is_dir()), "each has a store of her own");
}

#[test]
fn a_bucket_is_a_remote_for_both() {
    let Some(team) = Team::new() else { return };
    let Some(moto) = harness::Moto::start() else { return };
    let endpoint = format!("http://127.0.0.1:{}", moto.port);
    let site = "remote = \"s3://bucket/course\"\nwrite_back = true";
    team.site(&format!("[cache]\n{site}\nsettings = {{ aws_endpoint = \"{endpoint}\" }}\n"));
    they_share(&team.ada, &team.ben);
}
