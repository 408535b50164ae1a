//! A plugin in C, built by a C compiler against the shipped header, is a plugin like any other; and what is no plugin, or
//! one of another version, is told.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{path::PathBuf, process::Command};

use harness::{Ended, Sandbox, checkout};

/// Builds the C plugin, with a change to its source, and a workflow that uses it.
fn built(from: &str, to: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let source = std::fs::read_to_string(checkout().join("tests/c/plugin.c")).expect("the plugin's source");
    assert!(source.contains(from), "{from}");
    let source = sandbox.write("plugin.c", &source.replace(from, to));
    let library = sandbox.path("c.so");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-shared", "-fPIC", "-I"])
        .args([checkout().join("stages/sdk/include"), PathBuf::from("-o"), library, source])
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    sandbox.write("w.yaml", "restage: 1\nplugins: [{ path: c.so }]\nstages: { hello: { uses: c/greet } }\n");
    sandbox
}

fn run(sandbox: &Sandbox) -> Ended {
    sandbox.run(&["run", "w.yaml"])
}

#[test]
fn a_plugin_in_c_is_a_plugin() {
    let sandbox = built("hello from C", "hello from C");
    let list = sandbox.run(&["plugin", "list", "w.yaml"]);
    assert!(list.out().contains("c/greet") && list.out().contains("Writes a greeting."), "{}", list.all());
    assert_eq!(sandbox.ran(&["w.yaml"]), 1);
    assert_eq!(sandbox.text("w.yaml", "hello"), "hello from C");
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    assert_eq!(sandbox.ran(&["--set", "hello.fail=false", "w.yaml"]), 0, "the default, written out");

    let failed = sandbox.run(&["run", "--set", "hello.fail=true", "w.yaml"]);
    assert_eq!(failed.code(), Some(1));
    assert!(failed.err().contains("greeting failed: it was asked to"), "{}", failed.err());
    let wrong = sandbox.run(&["check", "--set", "hello.fial=true", "w.yaml"]);
    assert_eq!(wrong.code(), Some(2));
    assert!(wrong.err().contains("fial") && wrong.err().contains("`fail`"), "{}", wrong.err());
}

#[test]
fn other_code_is_another_plugin() {
    let sandbox = built("hello from C", "hello from C");
    assert_eq!(sandbox.ran(&["w.yaml"]), 1);
    let other = built("hello from C", "good day from C");
    std::fs::copy(other.path("c.so"), sandbox.path("c.so")).expect("a copy");
    assert_eq!(sandbox.ran(&["w.yaml"]), 1, "known by its file, it is another one");
    assert_eq!(sandbox.text("w.yaml", "hello"), "good day from C");
}

#[test]
fn what_is_no_plugin_of_this_version_is_told() {
    let cases = [
        (".magic = RESTAGE_MAGIC", ".magic = 7", "its table does not begin with restage's mark"),
        (
            ".major = RESTAGE_MAJOR",
            ".major = 9",
            "it speaks version 9 of the plugin ABI, this restage speaks 1",
        ),
        (".size = sizeof(RestagePlugin)", ".size = 24", "its table is cut short: 24 bytes of"),
        ("*restage_plugin_entry_v1(void) {", "*other_entry(void) {", "it has no `restage_plugin_entry_v1`"),
    ];
    for (from, to, expected) in cases {
        let sandbox = built(
            from,
            &if to.contains("other_entry") { format!("{to} (void)plugin;") } else { to.to_owned() },
        );
        let told = run(&sandbox);
        assert_eq!(told.code(), Some(2), "{to}: {}", told.all());
        assert!(told.err().contains(expected), "{to}: {}", told.err());
    }
    // A newer minor only adds.
    let newer = built(".minor = RESTAGE_MINOR", ".minor = RESTAGE_MINOR + 1");
    assert_eq!(run(&newer).code(), Some(0));
}
