//! `restage plugin test`: plugins in C and in Rust pass the same kit, and one that breaks a rule fails the check of that rule.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::process::Command;

use harness::{Ended, Sandbox, checkout};

/// The C plugin, with changes to its source.
fn built(sandbox: &Sandbox, changes: &[(&str, &str)]) {
    let mut source =
        std::fs::read_to_string(checkout().join("tests/c/plugin.c")).expect("the plugin's source");
    for (from, to) in changes {
        assert!(source.contains(from), "{from}");
        source = source.replace(from, to);
    }
    let source = sandbox.write("plugin.c", &source);
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-shared", "-fPIC", "-I"])
        .args([checkout().join("stages/sdk/include"), "-o".into(), sandbox.path("c.so"), source])
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

fn test(sandbox: &Sandbox, plugin: &str, more: &[&str]) -> Ended {
    let path = checkout().join(plugin);
    let path = if path.exists() { path } else { sandbox.path(plugin) };
    let path = path.display().to_string();
    sandbox.run(&[&["plugin", "test", &path], more].concat())
}

#[test]
fn a_plugin_in_c_passes() {
    let sandbox = Sandbox::new();
    built(&sandbox, &[]);
    let ended = test(&sandbox, "c.so", &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    insta::assert_snapshot!("c", ended.out());
    // A newer minor only adds; an older one with a whole table is what this restage knows.
    built(&sandbox, &[(".minor = RESTAGE_MINOR", ".minor = RESTAGE_MINOR + 1")]);
    assert_eq!(test(&sandbox, "c.so", &[]).code(), Some(0));
}

#[test]
fn the_plugins_in_rust_pass() {
    let sandbox = Sandbox::new();
    for plugin in ["stages/visium", "stages/ssl", "stages/ssl-cuda", "stages/classify", "stages/command"] {
        let ended = test(&sandbox, plugin, &[]);
        assert_eq!(ended.code(), Some(0), "{plugin}: {}", ended.out());
    }
    let ended = test(&sandbox, "tests/plugin", &["--stage", "write", "--stage", "draw", "--stage", "steps"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.out());
    assert!(
        ended.out().contains("  ok       same-bytes") && ended.out().contains("  ok       cancel"),
        "{}",
        ended.out()
    );
}

#[test]
fn a_workflow_gives_params_and_inputs() {
    let sandbox = Sandbox::new();
    sandbox.workflow(
        "w.yaml",
        "stages:\n  one: { uses: test/write, with: { text: x } }\n  two: { uses: test/join, in: { texts: [one, one] } }\n",
    );
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    let without = test(&sandbox, "tests/plugin", &["--stage", "join"]);
    assert!(without.out().contains("  skipped  runs: it reads inputs"), "{}", without.out());
    let with = test(&sandbox, "tests/plugin", &["--stage", "join", "--workflow", "w.yaml"]);
    assert_eq!(with.code(), Some(0), "{}", with.all());
    assert!(with.out().contains("  ok       runs"), "{}", with.out());
}

#[test]
fn who_breaks_a_rule_fails_the_check_of_that_rule() {
    let sandbox = Sandbox::new();
    let rules = [
        (
            "unknown-param",
            r#"find(params, ",\"", name, sizeof name)"#,
            "0",
            "it says: `fail` is true or false",
        ),
        ("canonical", r#"|| is(params, "{\"fail\":false}")"#, "", "it says: `fail` is true or false"),
        ("wrong-shape", r#""[\"`fail` is true or false\"]""#, r#""[]""#, "it is refused without a word"),
        ("docs", r#"\"description\": \"Whether it fails.\""#, r#"\"x\": 1"#, "none on param `fail`"),
        ("names", r#"\"name\": \"greet\""#, r#"\"name\": \"gr.eet\""#, "a stage type is called `gr.eet`"),
        (
            "runs",
            "    host->emit(host->ctx",
            "    if (host) return 77;\n    host->emit(host->ctx",
            "status 77",
        ),
        (
            "defaults",
            r#"    if (is(params, "{}")"#,
            "    __builtin_trap();\n    if (is(params, \"{}\")",
            "was killed by SIGILL",
        ),
    ];
    for (check, from, to, found) in rules {
        built(&sandbox, &[(from, to)]);
        let ended = test(&sandbox, "c.so", &[]);
        assert_eq!(ended.code(), Some(1), "{check}: {}", ended.all());
        let failure =
            ended.out().split_once(&format!("  FAILED   {check}\n")).map(|(_, rest)| rest.to_owned());
        let failure: String = failure.unwrap_or_default().lines().take(3).collect();
        assert!(failure.contains(found), "{check}: {}", ended.out());
    }
    built(&sandbox, &[(r#"[{\"name"#, r#"{\"name"#)]);
    let ended = test(&sandbox, "c.so", &[]);
    assert!(ended.out().contains("no plugin\n  FAILED   loads"), "{}", ended.all());

    let ended = test(&sandbox, "tests/plugin", &["--stage", "clock"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert!(
        ended.out().contains("FAILED   same-bytes") && ended.out().contains("other bytes"),
        "{}",
        ended.out()
    );
    let ended = test(&sandbox, "tests/plugin", &["--stage", "wirte"]);
    assert_eq!(ended.code(), Some(2));
    assert!(
        ended.err().contains("has no stage type `wirte`") && ended.err().contains("`write`"),
        "{}",
        ended.err()
    );
    let ended = test(&sandbox, "nowhere", &[]);
    assert_eq!(ended.code(), Some(2), "{}", ended.all());
}
