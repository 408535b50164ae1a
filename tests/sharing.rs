//! Two runs at once in one store: what one computes the other waits for, and a dead one's work is taken over.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::process::Child;

use harness::{Sandbox, hosts, kill};
use serde_json::Value;

/// One stage of about four seconds with checkpoints, and one that reads it.
const WORKFLOW: &str = "
stages:
  long: { uses: test/steps, with: { steps: 200, sleep: 20 } }
  reader: { uses: test/join, in: { texts: [long, long] } }
";

/// Starts a run and waits until its long stage has made steps.
fn start(sandbox: &Sandbox) -> Child {
    sandbox.start(&["run", "w.yaml"], |_| sandbox.scratch_has("steps"))
}

fn result(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_one_run_computes_the_other_waits_for() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", WORKFLOW);
    let mut first = start(&sandbox);
    let second = sandbox.command(&["run", "--json", "w.yaml"]).output().expect("it ends");
    assert!(first.wait().expect("it ends").success());
    assert!(second.status.success());
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(told.contains("wait long:") && told.contains(&format!("process {}", first.id())), "{told}");
    assert!(result(&second)["ran"].as_u64() <= Some(1), "`reader` at most: {}", result(&second));
    let status = sandbox.json(&["status", "--json", "w.yaml"]);
    let ran: u64 = [0, 1].iter().map(|run| status[run]["ran"].as_u64().expect("a number")).sum();
    assert_eq!(ran, 2, "each action ran in one of the two");
}

#[test]
fn the_work_of_a_run_that_is_killed_is_taken_over_where_it_was() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", WORKFLOW);
    let mut first = start(&sandbox);
    let second = sandbox.command(&["run", "--json", "w.yaml"]).stdout(std::process::Stdio::piped()).spawn();
    let second = second.expect("it starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let alive = hosts(first.id());
    kill(first.id());
    first.wait().expect("it was killed");
    assert!(alive.into_iter().all(harness::ends), "its hosts end with it");
    let second = second.wait_with_output().expect("it ends");
    assert!(second.status.success());
    assert_eq!(result(&second)["ran"], 2, "nobody else did");
    let log = std::fs::read_dir(sandbox.path("store/runs")).expect("runs").flatten();
    let begins = log.flat_map(|workflow| std::fs::read_dir(workflow.path()).expect("runs").flatten());
    let begins: Vec<String> = begins
        .filter_map(|run| std::fs::read_to_string(run.path().join("logs/0.log")).ok())
        .filter(|log| log.contains("begins"))
        .collect();
    assert_eq!(begins.len(), 2);
    let fresh = begins.iter().filter(|log| log.contains("done=0")).count();
    assert_eq!(fresh, 1, "the second one went on from the checkpoint: {begins:?}");
}
