//! Results that a team shares: what one has computed another one gets, from a remote or from a file.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::Sandbox;

/// Two students, each with a checkout and a store of their own, and a folder that both see.
struct Team {
    alice: Sandbox,
    bob: Sandbox,
    remote: tempfile::TempDir,
}

const STAGES: &str = "
stages:
  first: { uses: test/write, with: { text: TEXT } }
  second: { uses: test/join, in: { texts: [first, first] } }
";

impl Team {
    fn new() -> Self {
        let team = Self {
            alice: Sandbox::new(),
            bob: Sandbox::new(),
            remote: tempfile::tempdir().expect("a folder"),
        };
        for sandbox in [&team.alice, &team.bob] {
            team.workflow(sandbox, "one");
            team.site(sandbox, "write_back = true");
        }
        team
    }

    fn workflow(&self, sandbox: &Sandbox, text: &str) {
        sandbox.workflow("w.yaml", &STAGES.replace("TEXT", text));
    }

    fn site(&self, sandbox: &Sandbox, more: &str) {
        sandbox.write("restage.toml", &format!("[cache]\nremote = \"{}\"\n{more}\n", self.url()));
    }

    fn url(&self) -> String {
        format!("file://{}", self.remote.path().display())
    }

    /// All objects of one kind.
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        files(&self.remote.path().join("v1").join(kind))
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// How many artifacts are in a sandbox's store.
fn artifacts(sandbox: &Sandbox) -> usize {
    files(&sandbox.path("store/v1/artifacts")).iter().filter(|path| path.ends_with("manifest")).count()
}

#[test]
fn what_a_team_mate_has_run_is_not_run_again() {
    let team = Team::new();
    let told = team.alice.run(&["run", "w.yaml"]);
    assert!(
        told.out().contains("2 ran") && told.out().contains("2 new results were given"),
        "{}",
        told.all()
    );

    let plan = team.bob.run(&["plan", "w.yaml"]).out();
    assert!(plan.contains("2 actions: 1 cached, 1 to fetch, 0 to run"), "{plan}");
    let told = team.bob.run(&["run", "w.yaml"]);
    assert!(
        told.out().contains("nothing had to run") && told.out().contains("1 of them in the remote"),
        "{}",
        told.all()
    );
    assert!(told.err().contains("got  second from the remote"), "{}", told.err());
    assert_eq!(artifacts(&team.bob), 1, "what nobody reads did not travel");
    assert_eq!(team.bob.text("w.yaml", "second"), team.alice.text("w.yaml", "second"));
    assert_eq!(team.bob.ran(&["w.yaml"]), 0);

    // A change of his own: what it reads travels, what is new goes back.
    let changed = "
stages:
  first: { uses: test/write, with: { text: one } }
  second: { uses: test/join, in: { texts: [first, first, first] } }
";
    team.bob.workflow("w.yaml", changed);
    let told = team.bob.run(&["run", "w.yaml"]);
    assert!(told.out().contains("1 ran, 1 reused, 1 of them fetched"), "{}", told.all());
    team.alice.workflow("w.yaml", changed);
    assert_eq!(team.alice.ran(&["w.yaml"]), 0);
}

#[test]
fn what_depends_on_what_runs_is_found_there_too() {
    let team = Team::new();
    assert_eq!(team.alice.ran(&["w.yaml"]), 2);
    // Bob's `first` has to run, and comes out as Alice's: nobody could know before.
    let plan = team.bob.decisions(&["--force", "first", "w.yaml"]);
    assert_eq!(plan, [("first".to_owned(), "run".to_owned()), ("second".to_owned(), "may run".to_owned())]);
    let told = team.bob.json(&["run", "--json", "--force", "first", "w.yaml"]);
    assert_eq!((told["ran"].as_u64(), told["fetched"].as_u64()), (Some(1), Some(1)));
}

#[test]
fn a_remote_that_is_not_there_is_in_nobodys_way() {
    let team = Team::new();
    let place = "http://127.0.0.1:9/nobody"; // the port that discards
    team.bob.write("restage.toml", &format!("[cache]\nremote = \"{place}\"\n"));
    let told = team.bob.run(&["run", "w.yaml"]);
    assert_eq!(told.code(), Some(0), "{}", told.all());
    assert!(told.out().contains("2 ran"), "{}", told.all());
    assert_eq!(told.err().matches("going on without").count(), 1, "{}", told.err());
}

#[test]
fn what_is_damaged_there_is_computed_and_mended() {
    let team = Team::new();
    assert_eq!(team.alice.ran(&["w.yaml"]), 2);
    for file in team.objects("files") {
        let mut bytes = fs::read(&file).expect("an object");
        bytes[0] ^= 1;
        fs::remove_file(&file).expect("ours");
        fs::write(&file, bytes).expect("ours");
    }
    let told = team.bob.run(&["run", "w.yaml"]);
    assert_eq!(told.code(), Some(0), "{}", told.all());
    assert!(told.out().contains("2 ran"), "{}", told.all());
    assert!(told.err().contains("not those that its name says"), "{}", told.err());
    assert_eq!(team.bob.text("w.yaml", "second"), team.alice.text("w.yaml", "second"));
    let carol = Sandbox::new();
    team.workflow(&carol, "one");
    team.site(&carol, "");
    let told = carol.run(&["run", "w.yaml"]);
    assert!(told.out().contains("nothing had to run"), "what Bob computed was given back: {}", told.all());
}

#[test]
fn what_is_damaged_here_is_fetched_and_not_computed() {
    let team = Team::new();
    assert_eq!(team.alice.ran(&["w.yaml"]), 2);
    let damaged = files(&team.alice.path("store/v1/files"));
    for file in damaged {
        // One file, by all its names.
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("ours");
        fs::write(&file, "damaged").expect("ours");
    }
    let told = team.alice.run(&["run", "w.yaml"]);
    assert!(told.out().contains("nothing had to run"), "{}", told.all());
    assert_eq!(team.alice.text("w.yaml", "second"), "one+one");
    let quarantine = files(&team.alice.path("store/v1/quarantine"));
    assert!(!quarantine.is_empty(), "what was damaged is kept to be looked at");
}

#[test]
fn pushing_and_pulling_by_hand() {
    let team = Team::new();
    for sandbox in [&team.alice, &team.bob] {
        fs::remove_file(sandbox.path("restage.toml")).expect("it was written");
    }
    assert_eq!(team.alice.ran(&["w.yaml"]), 2);
    let without = team.alice.run(&["cache", "push", "w.yaml"]);
    assert_eq!(without.code(), Some(2));
    assert!(
        without.err().contains("no remote is named") && without.err().contains("restage.toml"),
        "{}",
        without.err()
    );

    let url = team.url();
    let pushed = team.alice.json(&["cache", "push", "--json", "w.yaml", "--remote", &url]);
    assert_eq!((pushed["records"].as_u64(), pushed["artifacts"].as_u64()), (Some(2), Some(2)));
    let again = team.alice.run(&["cache", "push", "w.yaml", "--remote", &url]);
    assert!(again.out().contains("has it all: 2 artifacts"), "{}", again.all());

    let pulled = team.bob.json(&["cache", "pull", "--json", "w.yaml", "--remote", &url]);
    assert_eq!((pulled["records"].as_u64(), pulled["artifacts"].as_u64()), (Some(1), Some(1)));
    assert_eq!(team.bob.run(&["cache", "pull", "--all", "w.yaml", "--remote", &url]).code(), Some(0));
    assert_eq!(artifacts(&team.bob), 2);
    assert_eq!(team.bob.ran(&["w.yaml"]), 0);

    let nowhere = team.alice.run(&["cache", "push", "w.yaml", "--remote", "file:///not/there"]);
    assert_eq!(nowhere.code(), Some(1));
    assert!(nowhere.err().contains("there is no such folder"), "{}", nowhere.err());
    let read_only = team.alice.run(&["cache", "push", "w.yaml", "--remote", "https://host.invalid/x"]);
    assert!(read_only.err().contains("can only be read"), "{}", read_only.err());
}

#[test]
fn a_file_takes_results_to_who_has_no_remote() {
    let team = Team::new();
    fs::remove_file(team.bob.path("restage.toml")).expect("it was written");
    assert_eq!(team.alice.ran(&["w.yaml"]), 2);
    let told = team.alice.run(&["cache", "export", "w.yaml", "-o", "results.tar"]);
    assert!(told.out().starts_with("results.tar: 2 artifacts and 2 records"), "{}", told.all());
    let again = team.alice.run(&["cache", "export", "w.yaml", "-o", "results.tar"]);
    assert_eq!(again.code(), Some(1), "what is there is not written over");

    fs::copy(team.alice.path("results.tar"), team.bob.path("results.tar")).expect("a copy");
    let told = team.bob.run(&["cache", "import", "results.tar"]);
    assert!(told.out().starts_with("2 artifacts and 2 records"), "{}", told.all());
    assert!(told.out().contains("test/join"), "what came is told: {}", told.out());
    assert_eq!(team.bob.ran(&["w.yaml"]), 0);

    team.bob.write("hostile.tar", "not a bundle");
    let refused = team.bob.run(&["cache", "import", "hostile.tar"]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.err().contains("was not taken"), "{}", refused.err());
}

#[test]
fn a_site_file_that_is_wrong_is_told() {
    let team = Team::new();
    team.bob.write("restage.toml", "[cache]\nremot = \"file:///x\"\n");
    let told = team.bob.run(&["run", "w.yaml"]);
    assert_eq!(told.code(), Some(2), "{}", told.all());
    assert!(
        told.err().contains("restage.toml") && told.err().contains("unknown field `remot`"),
        "{}",
        told.err()
    );
}
