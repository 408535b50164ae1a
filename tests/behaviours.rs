//! Fourteen behaviours of a workflow engine, by number: which stages run after something happened, and what the plan had
//! said before. Each on `src --s1--> a --s2(p)--> b`, where `s1` keeps the first character of `src` only, once with `a` a
//! file and once with `a` a Zarr array of 4,096 files. Which stages ran is told by the stages themselves, which add their
//! names to a file.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use harness::{Ended, Sandbox, checkout, ends, hosts, kill};

/// What the first stage writes.
#[derive(Clone, Copy, PartialEq)]
enum Output {
    File,
    Zarr,
}

/// Each probe is a test for each kind of output.
macro_rules! probes {
    ($($(#[$attribute:meta])* $name:ident)+) => {
        mod file { $(#[test] $(#[$attribute])* fn $name() { super::$name(super::Output::File); })+ }
        mod zarr { $(#[test] $(#[$attribute])* fn $name() { super::$name(super::Output::Zarr); })+ }
    };
}

probes! {
    probe_01_touched_source_runs_nothing
    probe_02_edited_source_with_equal_output_runs_the_first_stage_only
    probe_03_edited_source_runs_both
    probe_04_reverted_source_runs_nothing
    probe_05_changed_param_runs_the_second_stage_only
    probe_06_param_changed_back_runs_nothing
    probe_07_comment_in_the_code_runs_nothing
    probe_08_changed_helper_runs_the_stage_that_uses_it
    probe_09_deleted_intermediate_runs_nothing
    probe_10_tampered_output_is_restored
    probe_11_killed_in_the_second_stage_runs_that_again
    probe_12_two_runs_at_once_both_end_well
    probe_12_two_runs_at_once_do_the_work_once
    probe_13_a_plan_of_what_never_ran_is_whole_and_gives_reasons
    probe_14_a_plan_after_an_edit_tells_run_from_may_run
}

fn probe_01_touched_source_runs_nothing(output: Output) {
    let project = Project::that_ran(output);
    let later = SystemTime::now() + Duration::from_secs(60);
    File::open(project.path("src")).and_then(|file| file.set_modified(later)).expect("src is touched");
    project.expect(["cached", "cached"], "", "1 f");
}

fn probe_02_edited_source_with_equal_output_runs_the_first_stage_only(output: Output) {
    let project = Project::that_ran(output);
    project.write("src", "fresh");
    project.expect(["run", "may run"], "s1", "1 f");
}

fn probe_03_edited_source_runs_both(output: Output) {
    let project = Project::that_ran(output);
    project.write("src", "second");
    project.expect(["run", "may run"], "s1 s2", "1 s");
}

fn probe_04_reverted_source_runs_nothing(output: Output) {
    let project = Project::that_ran(output);
    project.write("src", "second");
    project.expect(["run", "may run"], "s1 s2", "1 s");
    project.write("src", "first");
    project.expect(["cached", "cached"], "", "1 f");
}

fn probe_05_changed_param_runs_the_second_stage_only(output: Output) {
    let project = Project::that_ran(output);
    project.workflow(2, 0);
    project.expect(["cached", "run"], "s2", "2 f");
}

fn probe_06_param_changed_back_runs_nothing(output: Output) {
    let project = Project::that_ran(output);
    project.workflow(2, 0);
    project.expect(["cached", "run"], "s2", "2 f");
    project.workflow(1, 0);
    project.expect(["cached", "cached"], "", "1 f");
}

fn probe_07_comment_in_the_code_runs_nothing(output: Output) {
    let sources = Sources::take();
    let project = Project::of_sources(output, &sources);
    let line = "let text: Text = ctx.read(\"in\")?;";
    sources.edit("late/src/lib.rs", line, &format!("/* all\n of it */ {line} // here"));
    project.expect(["cached", "cached"], "", "1 f");
    sources.edit("helper/src/lib.rs", "/// How", "// Thought about.\n/// How, as text,");
    project.expect(["cached", "cached"], "", "1 f");
}

fn probe_08_changed_helper_runs_the_stage_that_uses_it(output: Output) {
    let sources = Sources::take();
    let project = Project::of_sources(output, &sources);
    sources.edit("helper/src/lib.rs", "\"{number}\"", "\"<{number}>\"");
    let plan = project.sandbox.run_in(&["plan", "--all", &project.name("w.yaml")]).out();
    assert!(plan.contains("the code of plugin late changed: pipeline-helper/src/lib.rs"), "{plan}");
    project.expect(["cached", "run"], "s2", "<1> f");
    sources.edit("helper/src/lib.rs", "\"<{number}>\"", "\"{number}\"");
    project.expect(["cached", "cached"], "", "1 f");
}

fn probe_09_deleted_intermediate_runs_nothing(output: Output) {
    let project = Project::that_ran(output);
    fs::remove_dir_all(project.artifact("s1")).expect("a is deleted");
    project.expect(["cached", "cached"], "", "1 f");
    assert!(project.artifact("s1").is_dir(), "it is there again");

    // With all that the store has of it: whoever needs it then makes it again.
    let artifact = project.artifact("s1");
    fs::remove_dir_all(artifact.parent().expect("an artifact's folder")).expect("a is deleted");
    fs::remove_dir_all(project.path("store/v1/files")).expect("its files are deleted");
    project.expect(["cached", "cached"], "", "1 f");
    project.workflow(2, 0);
    project.expect(["run", "run"], "s1 s2", "2 f");
}

fn probe_10_tampered_output_is_restored(output: Output) {
    let project = Project::that_ran(output);
    let result = project.artifact("s2").join("text");
    for bytes in ["1 B", "tampered", ""] {
        overwrite(&result, bytes.as_bytes());
        let plan = project.sandbox.run(&["plan", "--all", &project.name("w.yaml")]).out();
        assert!(plan.contains("s2: run: its output `out` is damaged in the store: tree/text"), "{plan}");
        project.expect(["cached", "run"], "s2", "1 f");
    }
    // Saved as editors do, under another inode: the store has the right one yet.
    fs::remove_file(&result).and_then(|()| fs::write(&result, "1 B")).expect("b is replaced");
    project.expect(["cached", "cached"], "", "1 f");
}

fn probe_11_killed_in_the_second_stage_runs_that_again(output: Output) {
    let project = Project::new(output);
    project.workflow(1, 60_000);
    let name = project.name("w.yaml");
    let mut engine = project.sandbox.start(&["run", &name], |_| project.witnessed() == "s1 s2");
    let hosts = hosts(engine.id());
    assert!(!hosts.is_empty());
    kill(engine.id());
    engine.wait().expect("the engine was started");
    assert!(hosts.into_iter().all(ends), "a host outlived its engine");
    project.workflow(1, 0);
    project.expect(["cached", "run"], "s2", "1 f");
}

fn probe_12_two_runs_at_once_both_end_well(output: Output) {
    let project = two_runs_at_once(output);
    project.expect(["cached", "cached"], "", "1 f");
    let disagreements = project.path("store/v1/actions");
    assert!(!find(&disagreements, "seen"), "the results are equal");
}

fn probe_12_two_runs_at_once_do_the_work_once(output: Output) {
    let project = two_runs_at_once(output);
    assert_eq!(project.witnessed(), "s1 s2");
}

fn probe_13_a_plan_of_what_never_ran_is_whole_and_gives_reasons(output: Output) {
    let project = Project::new(output);
    assert_eq!(project.plan(), [("run", "never run before"), ("run", "never run before")].map(owned));
    assert_eq!(project.witnessed(), "", "a plan runs nothing");
    project.expect(["run", "run"], "s1 s2", "1 f");
}

fn probe_14_a_plan_after_an_edit_tells_run_from_may_run(output: Output) {
    let project = Project::that_ran(output);
    project.write("src", "second");
    let changed = format!("the content of {} changed (s1.file)", project.path("src").display());
    assert_eq!(project.plan(), [("run", &*changed), ("may run", "reads s1, which will run")].map(owned));
    assert_eq!(project.witnessed(), "s1 s2", "a plan runs nothing");
    project.expect(["run", "may run"], "s1 s2", "1 s");
}

/// Two people on one machine: other folders, other homes, other cargo homes; one store.
#[test]
fn two_people_with_clones_of_their_own_share_hits() {
    let sources = Sources::take();
    let alice = Project::of_sources(Output::File, &sources);
    let home = tempfile::tempdir().expect("a folder");
    let clone = home.path().join("clone/of/bob");
    copy(&sources.folder, &clone);
    // What cargo has fetched is not fetched again; its place is another one all the same.
    let cargo_home = home.path().join("cargo");
    fs::create_dir(&cargo_home).expect("a folder");
    let theirs = std::env::var_os("CARGO_HOME")
        .map_or_else(|| std::env::home_dir().expect("a home").join(".cargo"), PathBuf::from);
    for name in ["registry", "config.toml", "config", "env"] {
        if theirs.join(name).exists() {
            std::os::unix::fs::symlink(theirs.join(name), cargo_home.join(name)).expect("a link");
        }
    }
    let bob = alice.neighbour("bob");
    let workflow = fs::read_to_string(alice.path("w.yaml")).expect("a workflow");
    let [here, there] = [&sources.folder, &clone].map(|folder| folder.display().to_string());
    assert_eq!(workflow.matches(&here).count(), 1);
    bob.write("w.yaml", &workflow.replace(&here, &there));
    let ask = |command: &str| {
        let mut command = bob.sandbox.command(&[command, "--json", "bob/w.yaml"]);
        command.env("CARGO_HOME", &cargo_home).env("CARGO_TARGET_DIR", place().join("build"));
        Ended(command.output().expect("the binary starts"))
    };
    let decisions = |plan: serde_json::Value| {
        let actions = plan["actions"].as_array().expect("actions").clone();
        actions.iter().map(|action| action["decision"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(decisions(ask("plan").json()), ["cached", "cached"]);
    assert_eq!(ask("run").json()["ran"], 0);
}

#[test]
fn what_the_compiler_is_told_is_part_of_the_code() {
    let sources = Sources::take();
    let project = Project::of_sources(Output::File, &sources);
    let plan_with = |flags: &str| {
        let mut command = project.sandbox.command(&["plan", "--all", "w.yaml"]);
        command.env("CARGO_TARGET_DIR", place().join("build")).env("RUSTFLAGS", flags);
        Ended(command.output().expect("the binary starts")).out()
    };
    assert!(plan_with("-L/nowhere").contains("s2: cached"), "where libraries lie changes nothing");
    // Of this crate only, as all others would be built again.
    let profile = "[profile.release.package.pipeline-late]\nopt-level = 1\n";
    sources.edit("Cargo.toml", "[profile.release]", &format!("{profile}[profile.release]"));
    let plan = project.sandbox.run_in(&["plan", "--all", "w.yaml"]).out();
    assert!(plan.contains("the code of plugin late changed: profile.release.package"), "{plan}");
    assert!(plan.contains("plugin early is known by its binary only"), "{plan}");
    sources.edit("Cargo.toml", profile, "");
}

#[test]
fn zarr_row_1_unchanged_runs_nothing() {
    Project::that_ran(Output::Zarr).expect(["cached", "cached"], "", "1 f");
}

#[test]
fn zarr_row_2_touched_files_run_nothing() {
    let project = Project::that_ran(Output::Zarr);
    let later = SystemTime::now() + Duration::from_secs(60);
    let chunks = chunks(&project.artifact("s1"));
    assert_eq!(chunks.len(), 4096);
    for chunk in chunks {
        File::open(chunk).and_then(|file| file.set_modified(later)).expect("a chunk is touched");
    }
    project.expect(["cached", "cached"], "", "1 f");
}

#[test]
fn zarr_row_3_an_overwritten_chunk_is_restored() {
    let project = Project::that_ran(Output::Zarr);
    let chunk = project.artifact("s1").join("c/7/9");
    let good = fs::read(&chunk).expect("a chunk");
    overwrite(&chunk, &tampered(&good));
    project.expect(["run", "may run"], "s1", "1 f");
    assert_eq!(fs::read(&chunk).expect("a chunk"), good);
    // The same with a reader that has to run: it reads what was restored.
    overwrite(&chunk, &tampered(&good));
    project.workflow(2, 0);
    project.expect(["run", "run"], "s1 s2", "2 f");
    // Replaced and not written to, the store has the right chunk yet.
    fs::remove_file(&chunk).and_then(|()| fs::write(&chunk, tampered(&good))).expect("a chunk is replaced");
    project.workflow(3, 0);
    project.expect(["cached", "run"], "s2", "3 f");
    assert_eq!(fs::read(&chunk).expect("a chunk"), good);
}

#[test]
fn zarr_row_4_a_deleted_folder_is_restored_from_the_cache() {
    let project = Project::that_ran(Output::Zarr);
    let folder = project.artifact("s1");
    fs::remove_dir_all(&folder).expect("the folder is deleted");
    project.expect(["cached", "cached"], "", "1 f");
    assert_eq!(chunks(&folder).len(), 4096);
    fs::remove_dir_all(&folder).expect("the folder is deleted");
    project.workflow(2, 0);
    project.expect(["cached", "run"], "s2", "2 f");
}

/// Two people with one store; the first overwrites a chunk of what a run gave, in place. Nobody computes with it, and
/// nobody else had the right to.
#[test]
fn a_shared_store_is_not_poisoned() {
    for second_p in [1, 2] {
        let first = Project::that_ran(Output::Zarr);
        let folder = first.artifact("s1");
        let chunk = folder.join("c/7/9");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o222;
        assert_eq!((mode(&chunk), mode(&folder), mode(&folder.join("c"))), (0, 0o200, 0o200));

        overwrite(&chunk, &tampered(&fs::read(&chunk).expect("a chunk")));
        let second = first.neighbour("second");
        second.workflow(second_p, 0);
        let (planned, ran) =
            if second_p == 1 { (["run", "may run"], "s1") } else { (["run", "run"], "s1 s2") };
        second.expect(planned, ran, &format!("{second_p} f"));
        first.expect(["cached", "cached"], "", "1 f");
    }
}

#[test]
fn a_record_that_is_cut_off_is_not_believed() {
    let project = Project::that_ran(Output::File);
    for record in records(&project.path("store/v1/actions")) {
        let bytes = fs::read(&record).expect("a record");
        overwrite(&record, &bytes[..bytes.len() / 2]);
    }
    project.expect(["run", "may run"], "s1 s2", "1 f");
}

/// A folder with a source and a workflow, and the store that it uses.
struct Project {
    sandbox: Rc<Sandbox>,
    folder: &'static str,
    output: Output,
    late: PathBuf,
}

impl Project {
    /// One that never ran.
    fn new(output: Output) -> Self {
        Self::at(Rc::new(Sandbox::in_memory()), ".", output, libraries().late.clone())
    }

    /// One that ran a moment ago.
    fn that_ran(output: Output) -> Self {
        let project = Self::new(output);
        project.expect(["run", "run"], "s1 s2", "1 f");
        project
    }

    /// One that ran a moment ago, with plugin `late` built from sources.
    fn of_sources(output: Output, sources: &Sources) -> Self {
        let project = Self::at(Rc::new(Sandbox::in_memory()), ".", output, sources.folder.join("late"));
        project.expect(["run", "run"], "s1 s2", "1 f");
        project
    }

    /// Another one with the same store.
    fn neighbour(&self, folder: &'static str) -> Self {
        fs::create_dir(self.sandbox.path(folder)).expect("the sandbox takes folders");
        Self::at(self.sandbox.clone(), folder, self.output, self.late.clone())
    }

    fn at(sandbox: Rc<Sandbox>, folder: &'static str, output: Output, late: PathBuf) -> Self {
        let project = Self { sandbox, folder, output, late };
        project.write("src", "first");
        project.workflow(1, 0);
        project
    }

    /// The workflow; `sleep` says how long the second stage takes.
    fn workflow(&self, p: u64, sleep: u64) {
        self.workflow_that_takes(p, [0, sleep]);
    }

    fn workflow_that_takes(&self, p: u64, [first, second]: [u64; 2]) {
        let uses = if self.output == Output::File { "text" } else { "chunks" };
        let (early, late) = (libraries().early.display(), self.late.display());
        let witness = self.path("witness");
        let witness = witness.display();
        self.write(
            "w.yaml",
            &format!(
                "restage: 1
plugins: [{{ path: {early} }}, {{ path: {late} }}]
stages:
  s1: {{ uses: early/{uses}, with: {{ file: src, witness: {witness}, sleep: {first} }} }}
  s2: {{ uses: late/label, in: {{ in: s1 }}, with: {{ p: {p}, witness: {witness}, sleep: {second} }} }}
"
            ),
        );
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        let folder = self.sandbox.path("");
        if self.folder == "." { folder.join(name) } else { folder.join(self.folder).join(name) }
    }

    fn write(&self, name: &str, text: &str) {
        self.sandbox.write(&self.name(name), text);
    }

    /// What the plan decides on both stages, and why.
    fn plan(&self) -> [(String, String); 2] {
        let plan = self.sandbox.run_in(&["plan", "--json", &self.name("w.yaml")]);
        assert_eq!(plan.code(), Some(0), "{}", plan.all());
        let plan = plan.json();
        assert_eq!(plan["actions"].as_array().map(Vec::len), Some(2), "{plan}");
        ["s1", "s2"].map(|stage| {
            let actions = plan["actions"].as_array().into_iter().flatten();
            let action = actions.into_iter().find(|action| action["stage"] == stage).expect("the stage");
            let [decision, why] = ["decision", "explanation"].map(|key| action[key].as_str().unwrap_or(""));
            owned((decision, why))
        })
    }

    /// The stages that ran since this was asked for the last time by [`Project::expect`], in order.
    fn witnessed(&self) -> String {
        let text = fs::read_to_string(self.path("witness")).unwrap_or_default();
        text.lines().collect::<Vec<_>>().join(" ")
    }

    /// Expects of the next plan that it decides so, and of the run after it that these stages run and that the result is
    /// this; and that everything is cached then.
    #[track_caller]
    fn expect(&self, planned: [&str; 2], ran: &str, result: &str) {
        let _ = fs::remove_file(self.path("witness"));
        let plan = self.plan();
        assert_eq!(plan.each_ref().map(|(decision, _)| &**decision), planned, "{plan:?}");
        assert_eq!(self.witnessed(), "", "a plan runs nothing");
        let run = self.sandbox.run_in(&["run", "--json", &self.name("w.yaml")]);
        assert_eq!(run.code(), Some(0), "{}", run.all());
        assert_eq!(self.witnessed(), ran, "{}", run.all());
        assert_eq!(run.json()["ran"], ran.split_whitespace().count());
        assert_eq!(self.sandbox.text(&self.name("w.yaml"), "s2"), result);
        let after = self.plan().map(|(decision, _)| decision);
        assert_eq!(after, ["cached", "cached"], "after the run");
    }

    /// The folder that a stage of the last run wrote.
    fn artifact(&self, stage: &str) -> PathBuf {
        let list = self.sandbox.json(&["show", "--json", &self.name("w.yaml"), stage]);
        list[0]["path"].as_str().expect("a path").into()
    }
}

impl Sandbox {
    /// As `run`; what cargo builds is kept between tests.
    fn run_in(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        Ended(command.env("CARGO_TARGET_DIR", place().join("build")).output().expect("the binary starts"))
    }
}

/// Two runs of a project that never ran, the second started while the first is in its first stage.
fn two_runs_at_once(output: Output) -> Project {
    let project = Project::new(output);
    project.workflow_that_takes(1, [1_000, 1_000]);
    let name = project.name("w.yaml");
    let mut first = project.sandbox.start(&["run", &name], |_| project.witnessed() == "s1");
    let second = project.sandbox.run(&["run", &name]);
    assert_eq!(second.code(), Some(0), "{}", second.all());
    assert_eq!(first.wait().expect("the engine was started").code(), Some(0));
    assert_eq!(project.sandbox.text(&name, "s2"), "1 f");
    project
}

/// Where the plugins are built, once for all runs of the tests.
fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("behaviours")
}

/// The plugins' sources, in a copy that the test may edit. One test at a time has it.
struct Sources {
    folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Sources {
    fn take() -> Self {
        // They need a turn of their own, once.
        libraries();
        Self::as_they_are()
    }

    fn as_they_are() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = place().join("sources");
        copy(&checkout().join("tests/fixtures/pipeline"), &folder);
        // The versions of the checkout's own lock file; cargo drops the packages that are not used.
        fs::copy(checkout().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a lock file");
        let metadata = cargo(&folder, &["metadata", "--format-version", "1"]);
        assert_eq!(metadata.code(), Some(0), "{}", metadata.err());
        Self { folder, _turn: turn }
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).expect("a source file");
        assert_eq!(text.matches(from).count(), 1, "`{from}` stands once in {file}");
        fs::write(&path, text.replace(from, to)).expect("a source file");
    }
}

/// Both plugins, built from sources as they are.
struct Libraries {
    early: PathBuf,
    late: PathBuf,
}

fn libraries() -> &'static Libraries {
    static LIBRARIES: OnceLock<Libraries> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let sources = Sources::as_they_are();
        let built = cargo(&sources.folder, &["build", "--release", "--lib", "--locked"]);
        assert_eq!(built.code(), Some(0), "{}", built.err());
        let keep = |name: &str| {
            let library = place().join(format!("{name}.so"));
            let temporary = place().join(format!("{name}.{}", std::process::id()));
            let from = place().join(format!("build/release/libpipeline_{name}.so"));
            fs::copy(from, &temporary).and_then(|_| fs::rename(&temporary, &library)).expect("a library");
            library
        };
        Libraries { early: keep("early"), late: keep("late") }
    })
}

fn cargo(folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(folder).env("CARGO_TARGET_DIR", place().join("build"));
    Ended(command.output().expect("cargo starts"))
}

/// Copies a folder. A file that is the same already is left alone, so that cargo builds nothing again.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
            continue;
        }
        let sdk = checkout().join("stages/sdk").display().to_string();
        let text = fs::read_to_string(from).expect("a text").replace("../../../../stages/sdk", &sdk);
        if fs::read_to_string(&to).ok().as_ref() != Some(&text) {
            fs::write(to, text).expect("a copy");
        }
    }
}

/// Writes other bytes into a file that the store protects, as its owner can.
fn overwrite(path: &Path, bytes: &[u8]) {
    let set_mode = |mode| fs::set_permissions(path, Permissions::from_mode(mode));
    set_mode(0o644).and_then(|()| fs::write(path, bytes)).and_then(|()| set_mode(0o444)).expect("a file");
}

/// A chunk with another character, of the same size.
fn tampered(chunk: &[u8]) -> Vec<u8> {
    chunk.iter().map(|byte| if *byte == b'f' { b'B' } else { *byte }).collect()
}

fn chunks(array: &Path) -> Vec<PathBuf> {
    files(array).into_iter().filter(|path| !path.ends_with("zarr.json")).collect()
}

fn records(actions: &Path) -> Vec<PathBuf> {
    files(actions).into_iter().filter(|path| path.ends_with("record.json")).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn find(folder: &Path, name: &str) -> bool {
    files(folder).iter().any(|path| path.components().any(|part| part.as_os_str() == name))
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}
