//! A plugin that misbehaves costs one action; a killed run goes on where it was.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

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

/// A sandbox with one stage that misbehaves, and one beside it; `more` are the stage's other keys.
fn one_that(how: &str, with: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let workflow = format!(
        "stages:\n  good: {{ uses: test/write, with: {{ text: fine }} }}\n  \
         bad: {{ uses: test/misbehave, with: {{ how: {how}{with} }}{more} }}\n"
    );
    sandbox.workflow("w.yaml", &workflow);
    // Built now, so that what is timed and watched below is the run.
    sandbox.json(&["plan", "--json", "w.yaml"]);
    sandbox
}

/// The line that says how the stage failed.
fn failure(ended: &harness::Ended) -> String {
    let line = ended.err().lines().find(|line| line.starts_with("FAILED bad: ")).map(str::to_owned);
    line.unwrap_or_else(|| format!("no failure: {}", ended.all()))
}

/// Most memory that a process and its thread had, in bytes, looked at while it runs.
fn peak(engine: &mut std::process::Child) -> u64 {
    let mut most = 0;
    while engine.try_wait().expect("the engine was started").is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        most = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(most);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    most << 10
}

#[test]
fn the_engine_stays_small_whatever_a_plugin_prints() {
    for how in ["flood", "endless_line", "endless_event"] {
        let sandbox = one_that(how, "", "");
        let mut engine = sandbox.start(&["run", "w.yaml"], |_| true);
        let peak = peak(&mut engine);
        assert_eq!(engine.wait().expect("the engine was started").code(), Some(0), "{how}");
        assert!(peak > 0 && peak < 200 << 20, "{how}: {peak} bytes");
        assert!(sandbox.size("store/v1/runs") < 24 << 20, "{how}: the log fills the disk");
    }
}

#[test]
fn a_stage_that_does_not_stop_is_stopped() {
    for how in ["hang", "spin", "ignore_termination", "close_descriptors"] {
        // Its descriptors must be closed by then.
        let timeout = if how == "close_descriptors" { "2s" } else { "300ms" };
        let sandbox = one_that(how, "", &format!(", timeout: {timeout}"));
        let ended = sandbox.run(&["run", "--grace", "200ms", "w.yaml"]);
        assert_eq!(ended.code(), Some(1), "{how}: {}", ended.all());
        let told = failure(&ended);
        let expected = match how {
            "close_descriptors" => "the plugin's process ",
            _ => "it took longer than its timeout of 300ms, and was stopped",
        };
        assert!(told.contains(expected), "{how}: {told}");
        assert!(ended.out().contains("1 ran, 0 reused, 1 failed"), "{how}: {}", ended.all());
    }
}

#[test]
fn a_stage_that_takes_more_memory_than_it_may_is_stopped_and_may_have_more() {
    let sandbox = one_that("memory_hog", "", ", resources: { memory: 96MiB }, retries: { memory: x2 }");
    let ended = sandbox.run(&["run", "--memory", "300MiB", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    let told: Vec<String> = ended
        .err()
        .lines()
        .filter(|line| line.contains(" bad: "))
        .map(|line| {
            // How much it had when it was looked at differs.
            let (before, after) = (line.find("took ").unwrap_or(0), line.find(" of memory").unwrap_or(0));
            format!("{}took …{}", &line[..before], &line[after..])
        })
        .collect();
    assert_eq!(
        told,
        [
            " again bad: it took … of memory, more than its 96.0 MiB, and was stopped (now with 192.0 MiB)",
            " again bad: it took … of memory, more than its 192.0 MiB, and was stopped (now with 300.0 MiB)",
            "FAILED bad: it took … of memory, more than its 300.0 MiB, and was stopped",
        ]
    );
    // One that says nothing may take what the run may take.
    let sandbox = one_that("memory_hog", "", "");
    let ended = sandbox.run(&["run", "--memory", "100MiB", "w.yaml"]);
    assert!(
        failure(&ended).contains("of memory, more than its 100.0 MiB, and was stopped"),
        "{}",
        ended.all()
    );
}

/// Where the kernel has no Landlock, the record says so, and there is nothing to see here.
#[test]
fn a_stage_touches_only_what_it_declares() {
    let sandbox = one_that("read_undeclared", ", path: PATH", "");
    let secret = sandbox.write("secret.txt", "undeclared");
    let workflow = std::fs::read_to_string(sandbox.path("w.yaml")).expect("the workflow");
    sandbox.write("w.yaml", &workflow.replace("PATH", &secret.display().to_string()));
    let ended = sandbox.run(&["run", "w.yaml"]);
    let recorded = sandbox.json(&["why", "--json", "w.yaml", "good"]);
    let kept_by = recorded[0]["last"]["sandbox"].as_str().unwrap_or_default().to_owned();
    if !kept_by.starts_with("landlock") {
        println!("skipped: {kept_by}");
        assert_eq!(kept_by, "none: the kernel has no Landlock");
        assert_eq!(ended.code(), Some(0));
        return;
    }
    let told = failure(&ended);
    assert!(told.contains("it was kept from a file that it did not declare"), "{told}");
    assert!(
        told.contains("secret.txt") && told.contains("its inputs and the files that its params name"),
        "{told}"
    );

    let outside = sandbox.path("outside.txt");
    let workflow = workflow.replace("read_undeclared", "write_outside");
    sandbox.write("w.yaml", &workflow.replace("PATH", &outside.display().to_string()));
    let ended = sandbox.run(&["run", "w.yaml"]);
    assert!(failure(&ended).contains("it was kept from a file that it did not declare"), "{}", ended.all());
    assert!(!outside.exists());

    // To see whether it is the sandbox.
    let mut off = sandbox.command(&["run", "w.yaml"]);
    let off = harness::Ended(off.env("RESTAGE_SANDBOX", "off").output().expect("the binary starts"));
    assert_eq!(off.code(), Some(0), "{}", off.all());
    assert!(outside.exists());
    let recorded = sandbox.json(&["why", "--json", "w.yaml", "bad"]);
    assert_eq!(recorded[0]["last"]["sandbox"], "none: switched off");
}

/// Whatever ends the engine, what a plugin started ends as well.
#[test]
fn what_a_plugin_started_does_not_outlive_the_engine() {
    for signals in [&["-9"][..], &["-INT", "-INT"], &["-TERM"], &["-HUP"], &["host"]] {
        let sandbox = one_that("start_child", "", "");
        let mut child = None;
        let mut engine = sandbox.start(&["run", "--grace", "200ms", "w.yaml"], |engine| {
            let started = hosts(engine).into_iter().flat_map(harness::children_of_all).next();
            child = started;
            started.is_some()
        });
        for signal in signals {
            if *signal == "host" {
                hosts(engine.id()).into_iter().for_each(kill);
                continue;
            }
            let sent = std::process::Command::new("kill").args([signal, &*engine.id().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()), "{signals:?}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        engine.wait().expect("the engine was started");
        assert!(child.is_some_and(ends), "{signals:?}: it lives on");
    }
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
  count: { uses: test/steps, with: { steps: 80, sleep: 25 } }
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

/// As by `cargo install` of a new version.
#[test]
fn a_run_goes_on_when_its_own_binary_is_replaced() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", &STEPS.replace(" } }\n  after", " }, retries: 1 }\n  after"));
    let own = sandbox.path("restage");
    std::fs::copy(env!("CARGO_BIN_EXE_restage"), &own).expect("the sandbox takes files");
    let mut command = std::process::Command::new(&own);
    command.args(["run", "w.yaml"]).current_dir(sandbox.path("")).env("RESTAGE_CACHE", sandbox.path("store"));
    let silent = std::process::Stdio::null;
    let mut engine = command.stdout(silent()).stderr(silent()).spawn().expect("the binary starts");
    while !sandbox.scratch_has("steps") {
        assert!(engine.try_wait().expect("it was started").is_none(), "it ended before its stage began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::remove_file(&own).expect("it is there");
    std::fs::write(&own, "another version").expect("the sandbox takes files");
    // What is tried again gets a host that is started now.
    hosts(engine.id()).into_iter().for_each(kill);
    assert_eq!(engine.wait().expect("it was started").code(), Some(0));
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
