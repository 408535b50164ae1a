//! A plugin that misbehaves costs one action; a killed run goes on where it was.

mod harness;

use harness::{Sandbox, ends, hosts, kill};

fn misbehave(how: &str) -> (Sandbox, harness::Ended) {
    let sandbox = Sandbox::new();
    let workflow = format!(
        "
stages:
  good: {{ uses: test/write, with: {{ text: fine }} }}
  bad: {{ uses: test/misbehave, in: {{ text: good }}, with: {{ how: {how} }} }}
  after: {{ uses: test/join, in: {{ texts: bad }} }}
  beside: {{ uses: test/join, in: {{ texts: good }} }}
"
    );
    sandbox.workflow("w.yaml", &workflow);
    let ended = sandbox.run(&["run", "w.yaml"]);
    (sandbox, ended)
}

/// Every misbehaviour: exit status 1, the stage named with the reason, what does not depend on it done, the store usable.
#[test]
fn a_stage_that_misbehaves_costs_one_action_and_is_named_with_the_reason() {
    for (how, reason) in [
        ("fail", "the slide is empty; scan it again"),
        ("panic", "panicked: a bug on purpose (src/misbehave.rs:"),
        ("panic_in_thread", "a thread of the stage panicked"),
        ("segfault", "killed by SIGSEGV"),
        ("abort", "killed by SIGABRT"),
        ("exit_zero", "exited with status 0 before the stage finished"),
        ("stack_overflow", "killed by SIG"),
        ("no_output", "without writing its output `text`"),
    ] {
        let (sandbox, ended) = misbehave(how);
        assert_eq!(ended.code(), Some(1), "{how}: {}", ended.all());
        let failed =
            ended.err().lines().find(|line| line.starts_with("FAILED")).unwrap_or_default().to_owned();
        let place = failed.replace("tests/plugin/", "");
        assert!(failed.starts_with("FAILED bad: ") && place.contains(reason), "{how}: {}", ended.all());
        assert!(ended.err().contains("skip after: it reads bad"), "{how}: {}", ended.all());
        assert!(ended.out().contains("2 ran, 0 reused, 1 failed, 1 skipped"), "{how}: {}", ended.all());
        let again = sandbox.run(&["run", "w.yaml"]);
        assert!(again.out().contains("0 ran, 2 reused, 1 failed"), "{how}: {}", again.all());
    }
}

#[test]
fn a_flood_of_output_is_survived() {
    let (_sandbox, ended) = misbehave("flood");
    assert_eq!(ended.code(), Some(0), "{}", ended.err().lines().last().unwrap_or_default());
}

const STEPS: &str = "
stages:
  count: { uses: test/steps, with: { steps: 40, sleep: 25 } }
  after: { uses: test/join, in: { texts: [count, count] } }
";

fn undisturbed() -> Vec<String> {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", STEPS);
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    sandbox.digests("w.yaml")
}

#[test]
fn a_killed_engine_leaves_no_host_and_the_next_run_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", STEPS);
    let mut engine = sandbox.start(&["run", "w.yaml"], |_| sandbox.scratch_has("steps"));
    let hosts = hosts(engine.id());
    assert!(!hosts.is_empty());
    kill(engine.id());
    engine.wait().expect("the engine was started");
    assert!(hosts.into_iter().all(ends), "a host outlived its engine");

    // Then a host, in the middle of the second attempt.
    let mut engine = sandbox.start(&["run", "w.yaml"], |pid| !harness::hosts(pid).is_empty());
    let mut killed = false;
    while engine.try_wait().expect("the engine was started").is_none() {
        // The first hosts only describe the plugin; the one of the running stage may take a moment to come.
        if let Some(host) = harness::hosts(engine.id()).first() {
            std::thread::sleep(std::time::Duration::from_millis(60));
            killed |= std::process::Command::new("kill")
                .args(["-9", &host.to_string()])
                .status()
                .is_ok_and(|s| s.success());
        }
    }
    assert!(killed, "no host was there to kill");

    let ended = sandbox.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(sandbox.digests("w.yaml"), undisturbed());
}

/// Neither waits for the other yet; neither breaks the other.
#[test]
fn two_runs_at_once_both_end_well() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", STEPS);
    sandbox.json(&["plan", "--json", "w.yaml"]);
    let mut first = sandbox.start(&["run", "w.yaml"], |_| sandbox.scratch_has("steps"));
    let second = sandbox.run(&["run", "w.yaml"]);
    assert_eq!(second.code(), Some(0), "{}", second.all());
    assert_eq!(first.wait().expect("the engine was started").code(), Some(0));
    assert_eq!(sandbox.digests("w.yaml"), undisturbed());
    assert!(!sandbox.scratch_has("steps"), "checkpoints of what is done are gone");
}

#[test]
fn an_interrupted_stage_goes_on_from_its_checkpoint() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", STEPS);
    let mut engine = sandbox.start(&["run", "w.yaml"], |_| sandbox.scratch_has("steps"));
    let interrupted = std::process::Command::new("kill").args(["-INT", &engine.id().to_string()]).status();
    assert!(interrupted.is_ok_and(|status| status.success()));
    assert_eq!(engine.wait().expect("the engine was started").code(), Some(1));
    let ended = sandbox.run(&["--log", "plugin=info", "run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    let begins =
        ended.err().lines().find(|line| line.contains("begins done=")).unwrap_or_default().to_owned();
    assert!(!begins.is_empty() && !begins.contains("done=0"), "it began anew: {}", ended.all());
    assert_eq!(sandbox.digests("w.yaml"), undisturbed());
}
