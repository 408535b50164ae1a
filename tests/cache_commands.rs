//! `restage cache …`: what it tells, what it removes and keeps, and that the next run is right whatever was done.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use harness::{Ended, Sandbox};
use serde_json::Value;

/// Two stages, the second one reads the first.
fn workflow(sandbox: &Sandbox, text: &str) {
    let stages = "
stages:
  first: { uses: test/write, with: { text: TEXT } }
  second: { uses: test/join, in: { texts: [first, first] } }
";
    sandbox.workflow("w.yaml", &stages.replace("TEXT", text));
}

/// A store in which the workflow ran.
fn that_ran() -> Sandbox {
    let sandbox = Sandbox::new();
    workflow(&sandbox, "one");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    sandbox
}

/// Nothing is kept for its age.
const AGELESS: [&str; 6] = ["cache", "gc", "--keep", "0s", "--grace", "0s"];

fn cache(sandbox: &Sandbox, arguments: &[&str]) -> Ended {
    sandbox.run(&[&["cache"], arguments].concat())
}

/// Where an artifact is, by `cache path`.
#[track_caller]
fn folder(sandbox: &Sandbox, arguments: &[&str]) -> PathBuf {
    let ended = cache(sandbox, &[&["path"], arguments].concat());
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(ended.out().lines().count(), 1, "{}", ended.out());
    ended.out().trim_end().into()
}

fn text(folder: &Path) -> String {
    fs::read_to_string(folder.join("text")).expect("a text")
}

/// The artifact of a folder that `cache path` names: `artifacts/ab/cdef…/tree`.
fn digest(folder: &Path) -> String {
    let parts: Vec<String> =
        folder.iter().rev().skip(1).take(2).map(|part| part.to_string_lossy().into_owned()).collect();
    format!("{}{}", parts[1], parts[0])
}

/// All files of the store, with their sizes.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let all = entries.flat_map(|entry| {
        let (path, meta) = (entry.path(), entry.metadata().expect("it is there"));
        if meta.is_dir() { files(&path) } else { BTreeMap::from([(path, meta.len())]) }
    });
    all.collect()
}

/// Flips the first byte of a file, at the time that it has.
fn flip(path: &Path) {
    let before = fs::metadata(path).expect("a file");
    let mut bytes = fs::read(path).expect("a file");
    bytes[0] ^= 1;
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("it is ours");
    fs::write(path, bytes).expect("it is ours");
    let modified = before.modified().expect("a time");
    File::options().write(true).open(path).and_then(|file| file.set_modified(modified)).expect("it is ours");
    fs::set_permissions(path, before.permissions()).expect("it is ours");
}

/// What a user reads, without what differs from run to run: digests, sizes, times, places.
fn told(sandbox: &Sandbox, text: &str) -> String {
    let text = text.replace(&sandbox.path("").display().to_string(), "…/");
    let hidden = |word: &str| {
        let bare = word.trim_matches(['`', ',', ':', ')', '(']);
        let is_digest = bare.len() >= 12 && bare.chars().all(|c| c.is_ascii_hexdigit());
        let is_time = bare.ends_with('Z') && bare.contains('T');
        match (is_digest, is_time) {
            (true, _) => word.replace(bare, "<digest>"),
            (_, true) => word.replace(bare, "<time>"),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let mut words: Vec<String> = line.split_whitespace().map(hidden).collect();
        // How wide a table is depends on what is in it.
        words.iter_mut().filter(|word| word.starts_with(['─', '═'])).for_each(|word| *word = "──".into());
        for unit in (1..words.len()).rev() {
            let is_unit = ["B", "KiB", "MiB", "GiB"]
                .iter()
                .any(|unit_word| words[unit].trim_end_matches([',', ';', ':']) == *unit_word);
            if is_unit && words[unit - 1].parse::<f64>().is_ok() {
                let rest = words.remove(unit).trim_start_matches(|c: char| c.is_alphabetic()).to_owned();
                words[unit - 1] = format!("<size>{rest}");
            }
        }
        format!("{}{}", " ".repeat(indent), words.join(" "))
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// What it prints, in the order of standard output and standard error.
fn told_by(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let ended = cache(sandbox, arguments);
    told(sandbox, &format!("$ cache {}\n{}{}", arguments.join(" "), ended.out(), ended.err()))
}

#[test]
fn du_tells_who_holds_the_space() {
    let sandbox = that_ran();
    let other = "stages: { first: { uses: test/write, with: { text: one } }, own: { uses: test/write, with: { text: alone } } }";
    sandbox.workflow("other.yaml", other);
    assert_eq!(sandbox.ran(&["other.yaml"]), 1, "they share a stage");
    let commands: [&[&str]; 5] = [
        &["du"],
        &["du", "--by", "workflow"],
        &["du", "--by", "stage", "--workflow", "other.yaml"],
        &["du", "--by", "artifact"],
        &["du", "--workflow", "none.yaml"],
    ];
    let said = commands.map(|arguments| told_by(&sandbox, arguments)).join("\n\n");
    // What else lies in a store is not this test's business.
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with(" other ")).collect();
    insta::assert_snapshot!(said.join("\n"));

    let all = sandbox.json(&["cache", "du", "--json"]);
    let of = |list: &str, name: &str| {
        let list = all[list].as_array().expect("a list").iter();
        let found = list.filter(|one| one["name"].as_str().is_some_and(|text| text.ends_with(name)));
        let numbers = ["artifacts", "bytes", "own", "gone"];
        found.map(|one| numbers.map(|key| one[key].as_u64().expect("a number"))).collect::<Vec<_>>()
    };
    // "one" is both workflows'; "one+one" and "alone" are each one's own.
    assert_eq!(of("workflows", "/w.yaml"), [[2, 3 + 7, 7, 0]]);
    assert_eq!(of("workflows", "/other.yaml"), [[2, 3 + 5, 5, 0]]);
    assert_eq!(of("stages", "test/write"), [[2, 3 + 5, 8, 0]]);
    assert_eq!(of("stages", "test/join"), [[1, 7, 7, 0]]);
}

#[test]
fn a_dry_run_removes_nothing() {
    let sandbox = that_ran();
    let before = files(&sandbox.path("store"));
    let everything = [&AGELESS[..], &["--keep-last", "0", "--dry-run"]].concat();
    let plan = sandbox.json(&[&everything[..], &["--json"]].concat());
    assert_eq!(plan["plan"]["removable"]["artifacts"]["count"], 2, "{plan}");
    assert_eq!(plan["old_runs"].as_array().map(Vec::len), Some(1), "{plan}");
    insta::assert_snapshot!(told_by(&sandbox, &everything[1..]));
    assert_eq!(files(&sandbox.path("store")), before);
}

#[test]
fn gc_keeps_the_last_runs_and_says_what_goes() {
    let sandbox = that_ran();
    let young = cache(&sandbox, &["gc", "--keep-last", "0"]);
    assert!(young.out().contains("nothing to remove") && young.err().is_empty(), "{}", young.all());
    workflow(&sandbox, "two");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    let mut said = vec![told_by(&sandbox, &[&AGELESS[1..], &["--keep-last", "1"]].concat())];
    assert_eq!(sandbox.ran(&["w.yaml"]), 0, "the last run is kept");
    assert_eq!(text(&folder(&sandbox, &["w.yaml", "second"])), "two+two");
    let runs = sandbox.json(&["status", "--json", "w.yaml"]);
    assert_eq!(runs.as_array().map(Vec::len), Some(2), "the first one is forgotten: {runs}");

    // Another second than that in which the trash was filled.
    std::thread::sleep(Duration::from_millis(1100));
    said.push(told_by(&sandbox, &[&AGELESS[1..], &["--keep-last", "0"]].concat()));
    insta::assert_snapshot!(said.join("\n\n"));
    workflow(&sandbox, "one");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    workflow(&sandbox, "two");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    assert_eq!(sandbox.text("w.yaml", "second"), "two+two");
}

#[test]
fn builds_of_plugins_that_nobody_uses_any_more_go_and_are_built_again() {
    let sandbox = that_ran();
    let builds = sandbox.path("store/plugins");
    let copies = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&builds).expect("a folder of builds").flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "so" || kind == "tmp")).collect()
    };
    let forty_days_pass = || {
        for copy in copies() {
            let file = fs::File::options().append(true).open(copy).expect("a copy");
            let then = SystemTime::now() - Duration::from_secs(40 * 24 * 60 * 60);
            file.set_modified(then).expect("its time");
        }
    };
    // What a process left that was killed.
    fs::write(builds.join("half.7.tmp"), "half").expect("a file");
    assert_eq!(copies().len(), 2);
    assert!(!cache(&sandbox, &AGELESS[1..]).out().contains("of plugins"), "what is young stays");

    // The plugin is of use today, the rest of a copy is not.
    forty_days_pass();
    assert_eq!(sandbox.run(&["plan", "w.yaml"]).code(), Some(0));
    let told = cache(&sandbox, &["gc", "--dry-run"]).out();
    assert!(
        told.contains("1 build of plugins that no workflow used lately, 4 B, would be removed"),
        "{told}"
    );
    assert_eq!(copies().len(), 2);
    forty_days_pass();
    let told = cache(&sandbox, &["gc"]).out();
    assert!(told.contains("2 builds of plugins") && !told.contains("nothing to remove"), "{told}");
    assert_eq!(copies().len(), 0);
    workflow(&sandbox, "two");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    assert_eq!(copies().len(), 1);
}

#[test]
fn gc_leaves_a_run_that_goes_on_what_it_reads() {
    let sandbox = Sandbox::new();
    let stages = "
stages:
  first: { uses: test/write, with: { text: one } }
  long: { uses: test/misbehave, in: { text: first }, with: { how: hang } }
";
    sandbox.workflow("w.yaml", stages);
    let claims = sandbox.path("store/v1/claims");
    let names_what_it_reads =
        |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.contains("\"reads\":[\""));
    let mut run = sandbox.start(&["run", "w.yaml"], |_| {
        fs::read_dir(&claims).is_ok_and(|all| all.flatten().any(|claim| names_what_it_reads(&claim.path())))
    });
    let swept = sandbox.json(&[&AGELESS[..], &["--keep-last", "0", "--json"]].concat());
    assert_eq!(swept["plan"]["kept_by"]["claims"], 1, "{swept}");
    assert_eq!(swept["plan"]["removals"].as_array().map(Vec::len), Some(0), "{swept}");
    assert_eq!(swept["old_runs"].as_array().map(Vec::len), Some(0), "{swept}");
    harness::kill(run.id());
    run.wait().expect("it was killed");
}

#[test]
fn verify_finds_and_mends() {
    let sandbox = that_ran();
    let sound = cache(&sandbox, &["verify"]);
    assert_eq!(sound.code(), Some(0), "{}", sound.all());
    let part = sandbox.json(&["cache", "verify", "--json", "--sample", "0.0001%", "--seed", "7"]);
    assert_eq!(
        (&part["sound"], part["found"]["artifacts"].as_array().map(Vec::len)),
        (&true.into(), Some(0))
    );

    // A byte that no look at the file's time or size shows. Its only copy is the same file by another name.
    let first = folder(&sandbox, &["w.yaml", "first"]);
    flip(&first.join("text"));
    let mut said = vec![told_by(&sandbox, &["verify"])];
    assert_eq!(cache(&sandbox, &["verify"]).code(), Some(1));
    let found = cache(&sandbox, &["verify", "--json"]).json();
    assert_eq!(found["sound"], false);
    said.push(told_by(&sandbox, &["verify", "--repair"]));
    assert_eq!(cache(&sandbox, &["verify"]).code(), Some(0));
    assert_eq!(sandbox.ran(&["w.yaml"]), 0, "nobody needs the first stage's result");
    workflow(&sandbox, "two");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    workflow(&sandbox, "one");
    let forced = sandbox.ran(&["w.yaml", "--force", "second"]);
    assert_eq!((forced, sandbox.text("w.yaml", "second")), (2, "one+one".into()));

    // A copy in its place: the shared one is good.
    let second = folder(&sandbox, &["w.yaml", "second"]).join("text");
    fs::rename(&second, second.with_extension("aside")).expect("it is ours");
    fs::copy(second.with_extension("aside"), &second).expect("it is ours");
    fs::remove_file(second.with_extension("aside")).expect("it is ours");
    flip(&second);
    said.push(told_by(&sandbox, &["verify", "--repair"]));
    assert_eq!(fs::read_to_string(&second).expect("it is there"), "one+one");
    assert_eq!(cache(&sandbox, &["verify"]).code(), Some(0));
    insta::assert_snapshot!(said.join("\n\n"));
}

#[test]
fn a_pin_survives_every_gc_until_it_is_removed() {
    let sandbox = that_ran();
    let second = folder(&sandbox, &["w.yaml", "second.text"]);
    let prefix = digest(&second)[..8].to_owned();
    let pin = cache(&sandbox, &["pin", "paper", &prefix]);
    assert_eq!(pin.code(), Some(0), "{}", pin.all());
    let sweep = [&AGELESS[1..], &["--keep-last", "0"]].concat();
    let mut said = vec![told_by(&sandbox, &["pins"]), told_by(&sandbox, &sweep)];
    assert_eq!(text(&second), "one+one");
    assert_eq!(folder(&sandbox, &[&prefix]), second);
    assert_eq!(
        sandbox.ran(&["w.yaml"]),
        1,
        "the first stage, as what the second one gave is known by its inputs"
    );

    said.push(told_by(&sandbox, &["pin", "paper", "--run", "w.yaml"]));
    said.push(told_by(&sandbox, &["pin", "one", "--run", "w.yaml", "--stage", "first"]));
    assert_eq!(sandbox.json(&["cache", "pins", "--json"])[1]["artifacts"].as_array().map(Vec::len), Some(2));
    cache(&sandbox, &sweep);
    said.push(told_by(&sandbox, &["unpin", "paper"]));
    said.push(told_by(&sandbox, &["unpin", "paper"]));
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    said.push(told_by(&sandbox, &["pin", "a/b", "--run", "w.yaml"]));
    assert_eq!(cache(&sandbox, &["pin", "a/b", "--run", "w.yaml"]).code(), Some(2));
    cache(&sandbox, &["unpin", "one"]);
    cache(&sandbox, &sweep);
    assert_eq!(cache(&sandbox, &["path", &prefix]).code(), Some(2), "it is gone");
    let mistakes: [&[&str]; 4] =
        [&["pin", "paper"], &["pin", "paper", "12345"], &["pins"], &["pin", "paper", "--run", "w.yaml"]];
    said.extend(mistakes.map(|arguments| told_by(&sandbox, arguments)));
    insta::assert_snapshot!(said.join("\n\n"));
}

#[test]
fn path_prints_folders_and_nothing_else() {
    let sandbox = Sandbox::new();
    let stages = "
stages:
  first: { uses: test/draw }
  second: { uses: test/join, in: { texts: first } }
sweep:
  seeds: [3, 4]
  ablate: { with slash: { set: { first.after: / } } }
";
    sandbox.workflow("w.yaml", stages);
    sandbox.ran(&["w.yaml"]);
    let both = cache(&sandbox, &["path", "w.yaml", "second"]);
    let texts: Vec<String> = both.out().lines().map(|line| text(Path::new(line))).collect();
    assert_eq!((texts.join(" "), both.err()), ("#3 #4".into(), String::new()));
    let one = folder(&sandbox, &["w.yaml", "second.text", "--seed", "4", "--variant", "with slash"]);
    assert_eq!(text(&one), "#4/");
    let run = sandbox.json(&["status", "--json", "w.yaml"])[0]["run"].as_str().expect("a folder").to_owned();
    assert_eq!(
        folder(&sandbox, &[&run, "first", "--seed", "3"]),
        folder(&sandbox, &["w.yaml", "second", "--seed", "3"])
    );

    // `show` and `why` take the same names.
    let shown = sandbox.run(&["show", "w.yaml", "second.text@with slash"]);
    assert!(
        shown.code() == Some(0) && shown.out().starts_with("second.text seed 3 (with slash)\n"),
        "{}",
        shown.all()
    );
    assert_eq!(shown.out().lines().count(), 4, "{}", shown.out());
    let why = sandbox.run(&["why", "w.yaml", "second.text@with slash"]);
    assert!(why.code() == Some(0) && why.out().starts_with("second seed 3 (with slash)"), "{}", why.all());
    for command in ["show", "why"] {
        let wrong = sandbox.run(&[command, "w.yaml", "secnd"]);
        assert_eq!((wrong.code(), wrong.out()), (Some(2), String::new()));
        assert!(wrong.err().contains("help: did you mean `second`?"), "{}", wrong.err());
    }

    // Another artifact whose digest begins as this one's.
    let whole = digest(&one);
    assert_eq!(folder(&sandbox, &[&whole[..6]]), one);
    let last = if whole.ends_with('0') { "1" } else { "0" };
    let twin = sandbox.path("store/v1/artifacts").join(&whole[..2]).join(format!("{}{last}", &whole[2..63]));
    fs::create_dir(twin).expect("the store is ours");
    assert_eq!(folder(&sandbox, &[&whole]), one);
    let mistakes: [&[&str]; 9] = [
        &["path", &whole[..6]],
        &["path", &whole[..5]],
        &["path", "ABCDEF"],
        &["path", "w.yaml"],
        &["path", "w.yaml", "third"],
        &["path", "w.yaml", "second.txt"],
        &["path", "w.yaml", "second", "--variant", "none"],
        &["path", "w.yaml", "second", "--seed", "5"],
        &["path", "none.yaml", "second"],
    ];
    for arguments in mistakes {
        let ended = cache(&sandbox, arguments);
        assert_eq!((ended.code(), ended.out()), (Some(2), String::new()), "{arguments:?}: {}", ended.err());
    }
    let said = mistakes.map(|arguments| told_by(&sandbox, arguments)).join("\n\n");
    insta::assert_snapshot!(said.replace(&whole[..6], "<six>").replace(&whole[..5], "<five>"));
    fs::remove_dir_all(&one).expect("the store is ours");
    let gone = cache(&sandbox, &["path", "w.yaml", "second", "--variant", "with slash"]);
    assert_eq!((gone.code(), gone.out()), (Some(1), String::new()), "neither the one that is there");
}

#[test]
fn doctor_looks_at_what_cannot_be_opened() {
    let sandbox = that_ran();
    let sound = cache(&sandbox, &["doctor"]);
    // A machine with hardly any space left is told so, which is right.
    if sound.code() == Some(0) {
        assert!(sound.out().ends_with("nothing wrong\n"), "{}", sound.all());
    }
    fs::write(sandbox.path("store/FORMAT"), "a poem\n").expect("the store is ours");
    assert_eq!(cache(&sandbox, &["du"]).code(), Some(1), "it cannot be opened");
    let ended = cache(&sandbox, &["doctor"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    let problem = ended.out().lines().skip(1).take(2).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(told(&sandbox, &problem));
    let json = cache(&sandbox, &["doctor", "--json"]).json();
    assert_eq!(
        (&json["sound"], &json["findings"][0]["finding"]["finding"]),
        (&false.into(), &Value::from("format"))
    );

    fs::remove_dir_all(sandbox.path("store")).expect("the store is ours");
    let missing = cache(&sandbox, &["doctor"]);
    assert!(
        missing.code() == Some(1) && missing.out().contains("there is no such folder"),
        "{}",
        missing.all()
    );
    assert!(!sandbox.path("store").exists(), "it makes none");
    sandbox.write("store", "a file");
    assert_eq!(cache(&sandbox, &["doctor"]).code(), Some(1));
}

#[test]
fn every_subcommand_has_help_with_examples() {
    let sandbox = Sandbox::new();
    for command in ["du", "gc", "verify", "audit", "pin", "unpin", "pins", "path", "doctor"] {
        let help = cache(&sandbox, &[command, "--help"]);
        assert_eq!(help.code(), Some(0));
        assert!(
            help.out().contains(&format!("restage cache {command}")) && help.out().contains("Example"),
            "{}",
            help.all()
        );
    }
    for wrong in [["gc", "--keep", "soon"], ["gc", "--max-size", "much"], ["verify", "--sample", "200%"]] {
        assert_eq!(cache(&sandbox, &wrong).code(), Some(2), "{wrong:?}");
    }
}
