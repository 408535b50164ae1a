//! `restage plugin new` makes a crate that compiles, passes the kit, and runs; a change to it runs again.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use harness::{Ended, Sandbox};

/// The dependencies that the workspace's tests have built serve the new crate too.
fn run(sandbox: &Sandbox, arguments: &[&str]) -> Ended {
    let target =
        std::path::Path::new(env!("CARGO_BIN_EXE_restage")).ancestors().nth(2).expect("a target folder");
    Ended(sandbox.command(arguments).env("CARGO_TARGET_DIR", target).output().expect("the binary starts"))
}

#[test]
fn a_new_plugin_runs_and_a_change_to_it_runs_again() {
    let sandbox = Sandbox::new();
    let made = run(&sandbox, &["plugin", "new", "my-own"]);
    assert_eq!(made.code(), Some(0), "{}", made.all());
    insta::assert_snapshot!("made", made.out());
    let ran = run(&sandbox, &["run", "--json", "my-own/workflow.yaml"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.all());
    assert_eq!(ran.json()["ran"], 9, "three variants, three seeds");
    let tried = run(&sandbox, &["plugin", "test", "my-own"]);
    assert_eq!(tried.code(), Some(0), "{}", tried.out());
    assert!(tried.out().contains("0 failed"), "{}", tried.out());

    let source = std::fs::read_to_string(sandbox.path("my-own/src/estimate.rs")).expect("the stage");
    sandbox.write("my-own/src/estimate.rs", &source.replace("\"points\");", "\"other points\"); // others"));
    let again = run(&sandbox, &["run", "--json", "my-own/workflow.yaml"]);
    assert_eq!(again.json()["ran"], 9, "{}", again.all());

    for (name, told) in
        [("my-own", "is there already"), ("My_own", "cannot be a plugin's name"), ("../x", "cannot be")]
    {
        let refused = run(&sandbox, &["plugin", "new", name]);
        assert_eq!(refused.code(), Some(2), "{name}: {}", refused.all());
        assert!(refused.err().contains(told), "{name}: {}", refused.err());
    }
}
