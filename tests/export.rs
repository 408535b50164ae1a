//! `restage export`: what other tools make of it.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path, process::Command};

use harness::{Sandbox, checkout};
use serde_json::Value;

const SWEEP: &str = "
import:
  prep: { path: parts/prep.yaml }
stages:
  train: { uses: test/steps, in: {}, with: { steps: 5, sleep: 1 } }
  draw: { uses: test/draw, in: { text: prep.text } }
sweep:
  seeds: [1, 2]
  streams: [init]
  ablate:
    long/er: { set: { train.steps: 7 } }
";

/// A sweep that ran, and the same again: then everything is cached.
fn that_ran() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("parts")).expect("a folder");
    sandbox.workflow("parts/prep.yaml", "stages: { text: { uses: test/write, with: { text: a } } }");
    sandbox.workflow("w.yaml", SWEEP);
    assert_eq!(sandbox.ran(&["w.yaml"]), 1 + 2 + 2 + 1);
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    sandbox
}

/// A Python that has what a test needs, if one is named.
fn python(variable: &str, package: &str) -> Option<OsString> {
    let python = std::env::var_os(variable);
    if python.is_none() {
        println!("skipped: {variable} names no Python with `{package}`");
    }
    python
}

fn run(python: &OsString, arguments: &[&str]) -> String {
    let ended = Command::new(python).args(arguments).output().expect("Python starts");
    let [out, err] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(ended.status.success(), "{out}\n{err}");
    out
}

#[track_caller]
fn export(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let ended = sandbox.run(&[&["export", "w.yaml"], arguments].concat());
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    ended.out()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<String> {
    fn find(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() { find(&entry.path(), found) } else { found.push(entry.path()) }
        }
    }
    let mut found = Vec::new();
    find(folder, &mut found);
    let names = found.iter().map(|path| path.strip_prefix(folder).expect("inside").display().to_string());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn tensorboard_reads_the_curves_of_what_was_cached_as_well() {
    let sandbox = that_ran();
    assert!(export(&sandbox, &["--tensorboard", "curves"]).contains("curves of 2 actions"));
    let name = "events.out.tfevents.restage";
    let expected = [format!("baseline/train/{name}"), format!("long_er/train/{name}")];
    assert_eq!(files(&sandbox.path("curves")), expected);
    let before = fs::read(sandbox.path("curves").join(&expected[0])).expect("it is there");
    export(&sandbox, &["--tensorboard", "curves"]);
    assert_eq!(fs::read(sandbox.path("curves").join(&expected[0])).expect("it is there"), before);

    let Some(python) = python("RESTAGE_TENSORBOARD_PYTHON", "tensorboard") else { return };
    let script = "
import json, sys
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
runs = EventMultiplexer().AddRunsFromDirectory(sys.argv[1]).Reload()
told = {}
for run, tags in runs.Runs().items():
    for tag in tags['scalars']:
        points = runs.Scalars(run, tag)
        told[f'{run} {tag}'] = [[point.step, point.value] for point in points]
        assert all(1.7e9 < point.wall_time < 1e10 for point in points), points
print(json.dumps(told))
";
    let folder = sandbox.path("curves").display().to_string();
    let told: BTreeMap<String, Value> =
        serde_json::from_str(&run(&python, &["-c", script, &folder])).expect("JSON");
    let line = |last: u64| (1..=last).map(|step| (step, step as f64)).collect::<Vec<_>>();
    let expected = [("baseline/train train/done", line(5)), ("long_er/train train/done", line(7))];
    let expected = expected.map(|(name, points)| (name.to_owned(), serde_json::json!(points)));
    assert_eq!(told, BTreeMap::from(expected));
}

#[test]
fn metrics_are_printed_or_written() {
    let sandbox = that_ran();
    let printed: Value =
        serde_json::from_str(&export(&sandbox, &["--metrics", "-", "--curves"])).expect("JSON");
    let results = printed["results"].as_array().expect("results");
    let trained: Vec<_> =
        results.iter().map(|result| [&result["variant"], &result["stage"], &result["seed"]]).collect();
    assert_eq!(
        serde_json::json!(trained),
        serde_json::json!([
            ["baseline", "train", null],
            ["long/er", "train", null],
            ["init alone", "train", null]
        ])
    );
    assert_eq!(results[1]["curves"]["done"]["steps"], serde_json::json!([1, 2, 3, 4, 5, 6, 7]));
    export(&sandbox, &["--metrics", "out/metrics.json"]);
    let written = fs::read_to_string(sandbox.path("out/metrics.json")).expect("it is there");
    assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON")["baseline"], "baseline");
}

#[test]
fn a_crate_has_the_workflow_as_it_ran_and_the_validator_takes_it() {
    let sandbox = that_ran();
    let ran = fs::read_to_string(sandbox.path("w.yaml")).expect("the workflow");
    sandbox.write("w.yaml", "changed since");
    export(&sandbox, &["--ro-crate", "crate", "--license", "CC-BY-4.0"]);
    assert_eq!(
        files(&sandbox.path("crate")),
        ["metrics.json", "parts/prep.yaml", "ro-crate-metadata.json", "w.yaml"]
    );
    assert_eq!(fs::read_to_string(sandbox.path("crate/w.yaml")).expect("kept"), ran);
    let text = fs::read_to_string(sandbox.path("crate/ro-crate-metadata.json")).expect("metadata");
    assert!(!text.contains(&sandbox.path("").display().to_string()), "names no place of this machine");
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let graph = metadata["@graph"].as_array().expect("a graph");
    let entity = |id: &str| graph.iter().find(|entity| entity["@id"] == id).expect("it is there");
    let of_kind = |kind: &str| graph.iter().filter(|entity| entity["@type"] == kind).collect::<Vec<_>>();
    // Six actions, and the run itself.
    let created = of_kind("CreateAction");
    assert_eq!(created.len(), 7);
    for action in &created {
        let [start, end] = ["startTime", "endTime"].map(|time| action[time].as_str().expect("a time"));
        assert!(start <= end, "{action}");
        assert_eq!(action["actionStatus"]["@id"], "http://schema.org/CompletedActionStatus");
    }
    assert_eq!(of_kind("HowToStep").len(), 3);
    assert_eq!(entity("./")["license"], "CC-BY-4.0");
    // One stream with a seed of its own, beside the seed of all others.
    assert_eq!(entity("#test/draw/seed/init")["@type"], "FormalParameter");
    let values: Vec<_> = of_kind("PropertyValue")
        .into_iter()
        .filter(|value| value["name"] == "seed of the stream init")
        .collect();
    assert!(values.len() == 1 && values[0]["value"] == 2, "{values:?}");
    let given = values[0]["@id"].to_string();
    let drawn = created.iter().filter(|action| action["object"].to_string().contains(&given));
    assert_eq!(drawn.count(), 1);
    // Every reference within the crate has an end.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) if fields.len() == 1 => {
                found.extend(fields.get("@id").and_then(Value::as_str))
            }
            Value::Object(fields) => fields.values().for_each(|value| references(value, found)),
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    graph.iter().for_each(|entity| references(entity, &mut found));
    for id in found.into_iter().filter(|id| !id.starts_with("http")) {
        assert!(graph.iter().any(|entity| entity["@id"] == id), "{id}");
    }

    let occupied = sandbox.run(&["export", "w.yaml", "--ro-crate", "parts"]);
    assert!(occupied.code() == Some(1) && occupied.err().contains("is no RO-Crate"), "{}", occupied.all());
    export(&sandbox, &["--ro-crate", "crate.zip", "--license", "CC-BY-4.0"]);
    if let Some(python) = std::env::var_os("RESTAGE_PYTHON").or_else(|| Some("python3".into())) {
        let script = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).testzip(), len(zipfile.ZipFile(sys.argv[1]).namelist()))";
        let archive = sandbox.path("crate.zip").display().to_string();
        assert_eq!(run(&python, &["-c", script, &archive]), "None 4\n");
    }
    let Some(python) = python("RESTAGE_ROCRATE_PYTHON", "roc-validator") else { return };
    let script = checkout().join("tests/fixtures/rocrate.py").display().to_string();
    run(&python, &[&script, &sandbox.path("crate").display().to_string(), "REQUIRED"]);
}

#[test]
fn what_cannot_be_exported_is_told() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", "stages: { a: { uses: test/write } }");
    let never = sandbox.run(&["export", "w.yaml", "--metrics", "-"]);
    assert!(never.code() == Some(2) && never.err().contains("has not run yet"), "{}", never.all());
    let nothing = sandbox.run(&["export", "w.yaml"]);
    assert!(nothing.code() == Some(2) && nothing.err().contains("--tensorboard"), "{}", nothing.all());
    let no_run = sandbox.run(&["export", ".", "--metrics", "-"]);
    assert!(no_run.code() == Some(2) && no_run.err().contains("there is no run in"), "{}", no_run.all());
}
