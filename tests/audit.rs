//! `restage cache audit`: what it runs again, what it finds, and that the store is afterwards what it was.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{collections::BTreeMap, fs, path::Path};

use harness::{Ended, Sandbox};
use serde_json::Value;

/// Stages that give the same each time.
const STEADY: &str = "
stages:
  first: { uses: test/write, with: { text: one, file: words.txt } }
  drawn: { uses: test/draw, in: { text: first } }
  steps: { uses: test/steps, with: { steps: 2, sleep: 0 } }
  joined: { uses: test/join, in: { texts: [drawn, steps] } }
sweep:
  seeds: [0, 1]
  ablate: { dash: { set: { joined.between: '-' } } }
";

/// A store in which a workflow ran.
fn that_ran(stages: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("words.txt", "words");
    sandbox.workflow("w.yaml", stages);
    sandbox.json(&["run", "--json", "w.yaml", "--cpus", "1"]);
    sandbox
}

fn audit(sandbox: &Sandbox, arguments: &[&str]) -> Ended {
    sandbox.run(&[&["cache", "audit"], arguments].concat())
}

/// Everything in the store that results are made of, byte for byte, and all journals.
fn kept(sandbox: &Sandbox) -> BTreeMap<String, Vec<u8>> {
    fn add(folder: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                add(&path, all);
            } else {
                all.insert(path.display().to_string(), fs::read(&path).expect("a file"));
            }
        }
    }
    let mut all = BTreeMap::new();
    let parts = [
        "v1/actions",
        "v1/artifacts",
        "v1/files",
        "v1/staging",
        "v1/scratch",
        "v1/claims",
        "runs",
        "definitions",
    ];
    for part in parts {
        add(&sandbox.path("store").join(part), &mut all);
    }
    all
}

/// What it prints, without what differs from run to run: folders, hosts, digests, times, distances.
fn told(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let ended = audit(sandbox, arguments);
    let text = format!("$ audit {}\n{}{}", arguments.join(" "), ended.out(), ended.err());
    let text = text.replace(&sandbox.path("").display().to_string(), "…/");
    let text = text.replace(concat!("restage ", env!("CARGO_PKG_VERSION")), "restage <version>");
    let hidden = |word: &str| {
        let bare = word.trim_matches(['(', ')', ',', ';', '`']);
        let kind = if bare.len() == 12 && bare.chars().all(|c| c.is_ascii_hexdigit()) {
            "<digest>"
        } else if bare.ends_with('Z') && bare.contains('T') {
            "<time>"
        } else if bare.parse::<f64>().is_ok() && bare.contains("e-") && bare.contains('.') {
            "<distance>"
        } else if bare.contains('@') {
            "<who>"
        } else {
            return word.to_owned();
        };
        word.replace(bare, kind)
    };
    let line = |line: &str| {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        // Who runs tests in a container often has no name.
        let rest = match rest.strip_prefix("then: ").or_else(|| rest.strip_prefix("now:  ")) {
            Some(origin) => {
                let word = rest.split_whitespace().next().unwrap_or_default();
                let after = origin.split_once(", ").map_or("", |(_, after)| after);
                format!("{word} <who>, {after}")
            }
            None => rest.to_owned(),
        };
        format!("{indent}{}", rest.split(' ').map(hidden).collect::<Vec<_>>().join(" "))
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_deterministic_is_bit_equal_and_the_store_stays_as_it_was() {
    let sandbox = that_ran(STEADY);
    let before = kept(&sandbox);
    insta::assert_snapshot!(told(&sandbox, &["w.yaml", "--sample", "100%", "--cpus", "1"]));
    let found = sandbox.json(&["cache", "audit", "--json", "--sample", "1"]);
    let counts = ["candidates", "bit_equal", "within", "different", "failed"].map(|key| found[key].as_u64());
    assert_eq!(counts, [Some(8), Some(8), Some(0), Some(0), Some(0)], "the workflow is found by its run");
    assert_eq!(found["sound"], true);
    for action in found["actions"].as_array().expect("actions") {
        let outputs = action["outputs"].as_object().expect("outputs");
        assert!(
            outputs
                .values()
                .all(|output| output["then"] == output["now"] && output["verdict"] == "bit-equal")
        );
        assert_eq!(action["then"]["plugin"], action["now"]["plugin"]);
        assert!(
            action["then"]["host"].is_string() && action["then"]["finished"] != action["now"]["finished"]
        );
    }
    assert!(before == kept(&sandbox), "nothing is recorded, changed or left");
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
}

#[test]
fn a_part_is_chosen_by_the_seed() {
    let sandbox = that_ran(STEADY);
    let chosen = |arguments: &[&str]| {
        let found = sandbox.json(&[&["cache", "audit", "--json", "w.yaml"], arguments].concat());
        let actions = found["actions"].as_array().expect("actions").iter();
        actions.map(|action| action["key"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&[]).len(), 1, "at least one");
    let half = chosen(&["--sample", "50%", "--seed", "1"]);
    assert_eq!(half.len(), 4);
    assert_eq!(half, chosen(&["--sample", "50%", "--seed", "1"]));
    assert!((2..20).any(|seed| chosen(&["--sample", "50%", "--seed", &seed.to_string()]) != half));
    let told = told(&sandbox, &["w.yaml", "--seed", "3"]);
    assert!(told.ends_with("chosen from 8 by `--seed 3`"), "{told}");
}

#[test]
fn what_is_as_near_as_the_stage_says_is_within_and_what_is_not_is_different() {
    let sandbox = that_ran("stages: { noise: { uses: test/noise }, steady: { uses: test/write } }");
    let before = kept(&sandbox);
    let ended = audit(&sandbox, &["w.yaml", "--sample", "100%"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    insta::assert_snapshot!("within", told(&sandbox, &["w.yaml", "--sample", "100%", "--cpus", "1"]));
    let found = sandbox.json(&["cache", "audit", "--json", "--sample", "1"]);
    let noise = found["actions"].as_array().expect("actions").iter().find(|one| one["stage"] == "noise");
    let noise = noise.expect("it ran again");
    assert_eq!((&noise["verdict"], &noise["tolerance"]["absolute"]), (&"within".into(), &1e-6.into()));
    let parts = noise["outputs"]["numbers"]["parts"].as_array().expect("parts");
    let told_of = |part: &Value| (part["name"].to_string(), part["differing"].as_u64(), part["of"].as_u64());
    assert_eq!(
        parts.iter().map(told_of).collect::<Vec<_>>(),
        [("\"/\"".into(), Some(1), Some(1)), ("\"/values\"".into(), Some(2), Some(4))]
    );
    let distance = parts[1]["absolute"].as_f64().expect("a distance");
    assert!(distance > 0.0 && distance < 1e-6, "{distance}");
    assert!(before == kept(&sandbox));

    let list = sandbox.run(&["plugin", "list", "w.yaml"]).out();
    assert!(list.contains("two runs of it may be apart by 1e-6"), "{list}");
}

#[test]
fn what_is_not_deterministic_is_different_and_both_origins_are_told() {
    let stages = "stages: { clock: { uses: test/clock }, after: { uses: test/join, in: { texts: clock } } }";
    let sandbox = that_ran(stages);
    let before = kept(&sandbox);
    let ended = audit(&sandbox, &["w.yaml", "--sample", "100%"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    insta::assert_snapshot!("different", told(&sandbox, &["w.yaml", "--sample", "100%", "--cpus", "1"]));
    assert!(before == kept(&sandbox), "the first result stands");
    let json = audit(&sandbox, &["w.yaml", "--sample", "100%", "--json"]);
    let found = json.json();
    assert_eq!((json.code(), &found["sound"], &found["different"]), (Some(1), &false.into(), &1.into()));
}

#[test]
fn what_cannot_run_again_is_counted() {
    let sandbox = that_ran(STEADY);
    let other = "stages: { flaky: { uses: test/fail-first, with: { times: 1 }, retries: 1 } }";
    sandbox.workflow("other.yaml", other);
    sandbox.json(&["run", "--json", "other.yaml", "--cpus", "1"]);
    // No checkpoint of the run is left to it, and it is tried again as in a run.
    let found = sandbox.json(&["cache", "audit", "--json", "--sample", "1", "other.yaml"]);
    assert_eq!(found["bit_equal"], 1);

    // The result of the first stage is gone: it is not needed, but what read it cannot run again.
    let list = sandbox.json(&["show", "--json", "w.yaml", "first"]);
    let tree = Path::new(list[0]["path"].as_str().expect("a folder")).to_owned();
    fs::remove_dir_all(tree.parent().expect("its folder")).expect("the store is ours");
    insta::assert_snapshot!("lacks", told(&sandbox, &["w.yaml", "--sample", "100%", "--cpus", "1"]));

    // A workflow that is wrong by now keeps no other one from its audit; one that is named does.
    sandbox.workflow("w.yaml", "stages: { first: { uses: test/wrote } }");
    let ended = audit(&sandbox, &["--sample", "100%"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert!(ended.out().contains("1 action run again: 1 bit-equal"), "{}", ended.all());
    assert!(ended.out().contains("not run again: 1 workflow, which cannot be planned"), "{}", ended.all());
    assert!(ended.err().contains("test/wrote"), "{}", ended.err());
    assert_eq!(audit(&sandbox, &["w.yaml"]).code(), Some(2));
    assert_eq!(audit(&sandbox, &["none.yaml"]).code(), Some(2));
    assert_eq!(audit(&sandbox, &["--sample", "0%"]).code(), Some(2));
}

#[test]
fn an_action_that_fails_now_is_told() {
    let flaky = |retries: u8| {
        format!("stages: {{ flaky: {{ uses: test/fail-first, with: {{ times: 1 }}, retries: {retries} }} }}")
    };
    let sandbox = that_ran(&flaky(1));
    sandbox.workflow("w.yaml", &flaky(0));
    let ended = audit(&sandbox, &["w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    insta::assert_snapshot!("failed", told(&sandbox, &["w.yaml"]));
    let found = audit(&sandbox, &["w.yaml", "--json"]).json();
    assert_eq!((&found["failed"], &found["sound"]), (&1.into(), &false.into()));
    assert!(found["actions"][0]["failed"].as_str().is_some_and(|why| why.contains("not yet")), "{found}");
}

#[test]
fn an_empty_cache_has_nothing_to_audit() {
    let sandbox = Sandbox::new();
    let nothing = audit(&sandbox, &[]);
    assert_eq!(nothing.code(), Some(0), "{}", nothing.all());
    assert!(nothing.out().starts_with("0 actions run again"), "{}", nothing.all());
}
