//! A workflow goes from one person to another as one file: with a store, a folder and an environment of their own each.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::path::Path;

use harness::Sandbox;

const SECRET: &str = "only-here-and-nowhere-else";

/// A workflow with an import, data, the environment and a sweep, in a folder of its own.
fn written(text: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    for folder in ["flows", "flows/parts", "data"] {
        std::fs::create_dir(sandbox.path(folder)).expect("a folder");
    }
    sandbox.write("data/first.csv", "1,2\n");
    sandbox.write(
        "flows/parts/p.yaml",
        "restage: 1\nparams: { text: p }\nstages:\n  written: { uses: test/write, with: { text: \"${params.text}\", file: ../../data/first.csv } }\n",
    );
    sandbox.workflow(
        "flows/w.yaml",
        &format!(
            "import: {{ prep: {{ path: parts/p.yaml }} }}\nenv: [WHO]\nstages:\n  own: {{ uses: test/write, with: {{ text: \"{text}${{env.WHO}}\" }} }}\n  \
             drawn: {{ uses: test/draw, in: {{ text: own }} }}\n  joined: {{ uses: test/join, in: {{ texts: [drawn, prep.written] }} }}\n  \
             noise: {{ uses: test/noise }}\nsweep:\n  metric: noise.last\n  seeds: [0, 1]\n  ablate: {{ short: {{ set: {{ own.text: s }} }} }}\n"
        ),
    );
    sandbox
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> harness::Ended {
    let output = sandbox.command(arguments).env("WHO", SECRET).env("USER", "alice").output();
    let ended = harness::Ended(output.expect("the binary starts"));
    assert_eq!(ended.code(), Some(0), "{arguments:?}: {}", ended.all());
    ended
}

/// What of a run's output is the table.
fn table(ended: &harness::Ended) -> String {
    let out = ended.out();
    let start = out.find("variant").expect("a table");
    let lines = out[start..].lines().map(|line| {
        // How much of it ran is another thing each time.
        line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn what_one_packs_with_its_results_the_other_need_not_run() {
    let alice = written("a");
    run(&alice, &["run", "flows/w.yaml"]);
    run(&alice, &["share", "pack", "flows/w.yaml", "-o", "w.restage", "--artifacts", "--report", "--data"]);
    let theirs = run(&alice, &["run", "flows/w.yaml"]);

    let bob = Sandbox::new();
    std::fs::copy(alice.path("w.restage"), bob.path("w.restage")).expect("a copy");
    // Nothing of it is built, loaded or run: there is no cargo to be found, and no shell.
    let opened =
        bob.command(&["share", "open", "w.restage", "theirs"]).env("PATH", "").env("CARGO", "none").output();
    let opened = harness::Ended(opened.expect("the binary starts"));
    assert_eq!(opened.code(), Some(0), "{}", opened.all());
    assert!(opened.out().contains("in it, for") || opened.out().contains("the same"), "{}", opened.out());
    assert!(
        bob.path("theirs/data/first.csv").is_file() && bob.path("theirs/from-share/report.html").is_file()
    );

    let ours = run(&bob, &["run", "theirs/flows/w.yaml"]);
    assert_eq!(table(&ours), table(&theirs));
    let again = bob.command(&["run", "--json", "theirs/flows/w.yaml"]).env("WHO", SECRET).output();
    assert_eq!(harness::Ended(again.expect("it ends")).json()["ran"], 0);
    let status = bob.json(&["status", "--json", "theirs/flows/w.yaml"]);
    assert_eq!([&status[0]["ran"], &status[1]["ran"]], [0, 0], "neither run of Bob's ran anything: {status}");
    let compared = run(&bob, &["diff", "w.restage", "theirs/from-share"]);
    assert!(compared.out().contains("no difference"), "{}", compared.all());
    let refused = bob.run(&["share", "open", "w.restage", "theirs"]);
    assert!(refused.code() == Some(2) && refused.err().contains("is there already"), "{}", refused.all());
}

#[test]
fn a_workflow_packs_to_the_same_bytes_and_nothing_of_the_machine_is_in_them() {
    let alice = written("a");
    for name in ["one.restage", "two.restage"] {
        run(&alice, &["share", "pack", "flows/w.yaml", "-o", name]);
    }
    let bytes = std::fs::read(alice.path("one.restage")).expect("an archive");
    assert!(bytes == std::fs::read(alice.path("two.restage")).expect("an archive"));
    run(&alice, &["run", "flows/w.yaml"]);
    run(&alice, &["share", "pack", "flows/w.yaml", "-o", "run.restage", "--records", "--report"]);
    let with_run = std::fs::read(alice.path("run.restage")).expect("an archive");
    // The workflow itself names the plugin by an absolute path, which is a user's own doing.
    let folder = Path::new(&alice.path("")).display().to_string();
    for bytes in [&bytes, &with_run] {
        assert!(
            !has(bytes, folder.trim_end_matches('/'))
                && !has(bytes, SECRET)
                && has(bytes, "../../data/first.csv")
        );
    }

    // Changed by one byte, it is refused, and nothing is written.
    let mut changed = bytes.clone();
    let place = bytes.windows(9).rposition(|window| window == b"test/join").expect("the workflow");
    changed[place] = b'T';
    alice.write_bytes("changed.restage", &changed);
    let refused = alice.run(&["share", "open", "changed.restage"]);
    assert_eq!(refused.code(), Some(1), "{}", refused.all());
    assert!(refused.err().contains("is refused") && !alice.path("changed").exists(), "{}", refused.all());
}

#[test]
fn what_two_people_packed_is_compared() {
    let (alice, bob) = (written("a"), written("b"));
    bob.write("data/first.csv", "3,4\n");
    for (sandbox, name) in [(&alice, "alice.restage"), (&bob, "bob.restage")] {
        run(sandbox, &["share", "pack", "flows/w.yaml", "-o", name]);
    }
    std::fs::copy(bob.path("bob.restage"), alice.path("bob.restage")).expect("a copy");
    let compared = run(&alice, &["diff", "alice.restage", "bob.restage"]).out();
    let row = |name: &str| {
        compared.lines().any(|line| line.split_whitespace().next().is_some_and(|word| word.starts_with(name)))
    };
    assert!(row("own.text") && row("prep.written.file") && !row("noise"), "{compared}");
    assert!(compared.contains("alice.restage was packed without a run"), "{compared}");

    run(&bob, &["run", "flows/w.yaml"]);
    run(&bob, &["share", "pack", "flows/w.yaml", "-o", "run.restage", "--records"]);
    let compared = bob.json(&["diff", "--json", "bob.restage", "run.restage"]);
    assert_eq!((&compared["params"], &compared["data"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(compared["notes"][0].as_str().is_some_and(|note| note.contains("without a run")), "{compared}");
}
