//! Runs whose stages go through a real Slurm, in all its moods.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;
#[path = "harness/slurm.rs"]
mod slurm;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Once,
};

use harness::{Ended, Sandbox, kill};
use serde_json::Value;
use slurm::{Kind, Slurm, Tracking, until};

/// A sandbox whose site says that stages run in Slurm's allocations.
struct Cluster {
    slurm: Slurm,
    sandbox: Sandbox,
}

/// Slurm is asked more often than a cluster's would be, so that tests do not wait.
const SITE: &str = "executor = \"slurm\"\n[slurm]\nlook = \"1s\"\n";

impl Cluster {
    fn start(more: &str) -> Option<Self> {
        Self::of(&Kind::default(), more)
    }

    fn of(kind: &Kind, more: &str) -> Option<Self> {
        let slurm = Slurm::start(kind)?;
        let sandbox = Sandbox::new();
        // What waits for something to happen does not wait for a compiler.
        static BUILT: Once = Once::new();
        BUILT.call_once(|| {
            sandbox.workflow("any.yaml", "stages: { any: { uses: test/write } }\n");
            sandbox.json(&["plan", "--json", "any.yaml"]);
        });
        sandbox.write("restage.toml", &format!("{SITE}{more}"));
        Some(Self { slurm, sandbox })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        let path = std::env::var("PATH").expect("a path");
        command.env("PATH", format!("{}:{path}", self.sandbox.path("programs").display()));
        command.env("SLURM_CONF", self.slurm.configuration());
        command
    }

    /// Has the run meet this in the place of a program of Slurm's.
    fn instead_of(&self, program: &str, lines: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(self.sandbox.path("programs")).expect("a folder");
        let script = self.sandbox.write(&format!("programs/{program}"), &format!("#!/bin/sh\n{lines}\n"));
        std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).expect("its own");
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended(self.command(arguments).output().expect("the binary starts"))
    }

    /// Starts a run whose words go into the file `told`.
    fn begin(&self, arguments: &[&str]) -> Child {
        let told = std::fs::File::create(self.sandbox.path("told")).expect("a file");
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(told).spawn().expect("the binary starts")
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.sandbox.path("told")).unwrap_or_default()
    }

    /// Whether `steps` has left a checkpoint.
    fn has_begun(&self) -> bool {
        self.sandbox.scratch_has("steps")
    }

    /// The queue's folder, while a run waits.
    fn queue(&self) -> PathBuf {
        let folders = std::fs::read_dir(self.sandbox.path("store/slurm")).expect("a queue");
        folders.flatten().next().expect("a queue").path()
    }

    /// Those of them that live.
    fn working(&self) -> Vec<u32> {
        let lives = |pilot: &u32| std::path::Path::new("/proc").join(pilot.to_string()).exists();
        self.pilots().into_iter().filter(lives).collect()
    }

    /// Processes of pilots that have not said that they end.
    fn pilots(&self) -> Vec<u32> {
        let pilots = std::fs::read_dir(self.queue().join("pilots")).into_iter().flatten().flatten();
        pilots
            .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .filter(|pilot: &Value| pilot["ended"].is_null())
            .filter_map(|pilot| pilot["process"].as_u64()?.try_into().ok())
            .collect()
    }

    fn has_no_job_left(&self) {
        until("no job is left", || {
            ["RUNNING", "PENDING", "COMPLETING"].iter().all(|state| self.slurm.in_state(state).is_empty())
        });
    }

    /// What `steps` said at the beginnings of its attempts, of all runs.
    fn beginnings(&self) -> Vec<u64> {
        fn logs(folder: PathBuf, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => logs(path, found),
                    path if path.extension().is_some_and(|extension| extension == "log") => found.push(path),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        logs(self.sandbox.path("store/runs"), &mut found);
        found.sort();
        let texts = found.iter().map(|path| std::fs::read_to_string(path).expect("a log"));
        let text = texts.collect::<String>();
        let begun = text.lines().filter(|line| line.contains("begins"));
        begun.filter_map(|line| line.rsplit_once("done=")?.1.trim().parse().ok()).collect()
    }
}

const CHAIN: &str = "
stages:
  first: { uses: test/steps, with: { steps: 10, sleep: 100 } }
  second: { uses: test/steps, in: { after: first }, with: { steps: 11, sleep: 91 } }
  third: { uses: test/steps, in: { after: second }, with: { steps: 12, sleep: 84 } }
  both: { uses: test/join, in: { texts: [first, third] } }
";

/// One stage that takes so many steps of 100 ms.
fn long(steps: u32) -> String {
    format!("stages:\n  long: {{ uses: test/steps, with: {{ steps: {steps}, sleep: 100 }} }}\n")
}

#[test]
fn a_chain_goes_through_one_allocation_and_its_results_are_as_anywhere() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\npartition = \"test\"\ncpus = 2\n") else { return };
    cluster.sandbox.workflow("w.yaml", CHAIN);
    let ended = cluster.run(&["run", "--json", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(ended.json()["ran"], 4);
    assert_eq!(ended.err().matches("asked for").count(), 1, "{}", ended.err());
    assert_eq!(cluster.slurm.jobs().len(), 1, "{:?}", cluster.slurm.jobs());
    assert!(!cluster.queue_is_left(), "what is done leaves nothing");
    let through = cluster.sandbox.digests("w.yaml");
    assert_eq!(cluster.run(&["run", "--json", "w.yaml"]).json()["ran"], 0);

    let elsewhere = Sandbox::new();
    elsewhere.workflow("w.yaml", CHAIN);
    assert_eq!(elsewhere.ran(&["w.yaml"]), 4);
    assert_eq!(elsewhere.digests("w.yaml"), through);
}

impl Cluster {
    fn queue_is_left(&self) -> bool {
        std::fs::read_dir(self.sandbox.path("store/slurm")).is_ok_and(|mut queues| queues.next().is_some())
    }

    /// What is in the allocation's log that an error names.
    fn kept_log(&self, told: &str) -> String {
        let path = told.split("its log: ").find(|text| text.contains("/slurm/")).expect("it names one");
        let path = path.split(')').next().expect("it has an end");
        std::fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}"))
    }
}

#[test]
fn a_sweep_of_200_actions_is_one_array_and_few_allocations() {
    let Some(cluster) = Cluster::start("at_most = 6\n") else { return };
    let seeds = (0..200).map(|seed| seed.to_string()).collect::<Vec<_>>().join(", ");
    let workflow = format!("stages:\n  draw: {{ uses: test/draw }}\nsweep:\n  seeds: [{seeds}]\n");
    cluster.sandbox.workflow("w.yaml", &workflow);
    let ended = cluster.run(&["run", "--json", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(ended.json()["ran"], 200);
    let jobs = cluster.slurm.jobs();
    assert!(jobs.len() <= 6 && jobs.iter().all(|(id, _)| id.starts_with("1_")), "{jobs:?}");
}

#[test]
fn gpus_are_asked_of_slurm_and_who_gets_none_waits() {
    let site = "idle = \"0s\"\n[[slurm.profile]]\ngres = \"gpu:fake\"\n";
    let Some(cluster) = Cluster::start(site) else { return };
    let stage = |name: &str, steps: u32| {
        format!(
            "  {name}: {{ uses: test/steps, with: {{ steps: {steps}, sleep: 100 }}, resources: {{ gpus: 1 }} }}\n"
        )
    };
    let stages = [("a", 30), ("b", 31), ("c", 32)].map(|(name, steps)| stage(name, steps)).concat();
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n{stages}"));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("two run and one waits", || {
        assert!(cluster.slurm.in_state("RUNNING").len() <= 2, "there are two GPUs");
        cluster.slurm.in_state("RUNNING").len() == 2 && cluster.slurm.in_state("PENDING").len() == 1
    });
    until("both have begun", || cluster.pilots().len() == 2);
    let folder = cluster.queue().join("pilots");
    let mut gpus: Vec<String> = std::fs::read_dir(folder)
        .expect("pilots")
        .flatten()
        .filter_map(|entry| serde_json::from_slice::<Value>(&std::fs::read(entry.path()).ok()?).ok())
        .map(|pilot| pilot["gpus"].as_str().unwrap_or("none").to_owned())
        .collect();
    gpus.sort();
    assert_eq!(gpus, ["0", "1"], "each has its own");
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
}

#[test]
fn what_fails_fails_alone_and_says_why() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow(
        "w.yaml",
        "
stages:
  bad: { uses: test/misbehave, with: { how: fail } }
  reader: { uses: test/join, in: { texts: [bad] } }
  good: { uses: test/write, with: { text: fine } }
  after: { uses: test/join, in: { texts: [good] } }
",
    );
    let ended = cluster.run(&["run", "--json", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert_eq!(ended.json()["ran"], 2);
    assert!(ended.err().contains("the slide is empty; scan it again"), "{}", ended.err());
    let log = cluster.kept_log(&ended.err());
    assert!(log.contains("ends bad"), "it outlives the queue: {log}");
    assert!(!cluster.queue().join("jobs").exists(), "nothing else does");
    cluster.sandbox.workflow("w.yaml", "stages: { good: { uses: test/write, with: { text: better } } }\n");
    assert_eq!(cluster.run(&["run", "w.yaml"]).code(), Some(0));
    assert!(!cluster.queue_is_left(), "until a run ends well");
}

#[test]
fn what_slurm_will_never_give_is_told_in_its_words() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\npartition = \"moon\"\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(1));
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert!(ended.err().contains("Invalid partition name"), "{}", ended.err());
}

#[test]
fn a_job_whose_number_was_never_heard_is_found_again() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(20));
    let once = "[ -e asked ] && exec /usr/bin/sbatch \"$@\"";
    let lost = "/usr/bin/sbatch \"$@\" >/dev/null; : >asked; echo 'Socket timed out on send/recv operation' >&2; exit 1";
    cluster.instead_of("sbatch", &format!("{once}\n{lost}"));
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert!(ended.err().contains("takes no jobs now"), "{}", ended.err());
    assert!(cluster.beginnings() == [0], "one allocation did it: {:?}", cluster.beginnings());
    cluster.has_no_job_left();
}

#[test]
fn allocations_that_never_begin_to_work_are_not_asked_for_for_ever() {
    let Some(cluster) = Cluster::start("setup = \"echo no module cuda >&2; exit 3\"\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(1));
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert!(ended.err().contains("before they begin to work"), "{}", ended.err());
    assert!(ended.err().contains("no module cuda"), "its log is quoted: {}", ended.err());
    assert!(cluster.kept_log(&ended.err()).contains("no module cuda"), "and kept: {}", ended.err());
}

#[test]
fn a_controller_that_goes_and_comes_is_waited_for() {
    let Some(mut cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(30));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    cluster.slurm.kill_controller();
    assert!(run.wait().expect("it ends").success(), "its records tell that it is done: {}", cluster.told());

    cluster.sandbox.workflow("v.yaml", &long(3));
    let mut run = cluster.begin(&["run", "v.yaml"]);
    until("it is told", || cluster.told().contains("takes no jobs now"));
    cluster.slurm.start_controller();
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
}

#[test]
fn a_node_whose_daemon_is_killed_loses_nothing() {
    let Some(mut cluster) = Cluster::start("") else { return };
    cluster.slurm.kill_node(1);
    cluster.sandbox.workflow("w.yaml", &long(3));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it is asked for", || cluster.told().contains("asked for"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(run.try_wait().expect("it runs").is_none(), "nothing is concluded: {}", cluster.told());
    cluster.slurm.start_node(1);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
}

#[test]
fn an_action_whose_pilots_are_killed_goes_on_as_long_as_it_gets_further() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(60));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    // More often than an action may be lost that gets no further.
    for time in 1..=4 {
        until("it goes on", || cluster.beginnings().len() == time);
        // What it says is written down a moment later.
        std::thread::sleep(std::time::Duration::from_millis(700));
        for pilot in cluster.working() {
            kill(pilot);
        }
    }
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.told().matches("goes to another").count(), 4, "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(beginnings.is_sorted() && beginnings[0] == 0 && beginnings.len() == 5, "{beginnings:?}");
    assert!(beginnings.windows(2).all(|two| two[0] < two[1]), "from its checkpoints: {beginnings:?}");
}

#[test]
fn a_job_that_slurm_starts_again_is_another_pilot() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\nargs = [\"--requeue\"]\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(60));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    assert!(cluster.slurm.ask("scontrol", &["requeue", "1"]).status.success());
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(matches!(beginnings[..], [0, (1..)]), "from its checkpoint: {beginnings:?}");
}

#[test]
fn an_action_goes_from_one_allocation_to_the_next_when_its_time_is_over() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\ntime = \"1m\"\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(600));
    let mut run = cluster.begin(&["run", "--grace", "2s", "w.yaml"]);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert!(cluster.told().contains("goes on in another"), "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(matches!(beginnings[..], [0, (1..)]), "from its checkpoint: {beginnings:?}");
}

#[test]
fn ctrl_c_cancels_its_jobs_and_the_next_run_goes_on() {
    let Some(cluster) = Cluster::start("at_most = 1\n") else { return };
    let stages = format!("{}  other: {{ uses: test/steps, with: {{ steps: 41, sleep: 100 }} }}\n", long(40));
    cluster.sandbox.workflow("w.yaml", &stages);
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("one runs", || cluster.has_begun());
    drop(Command::new("kill").args(["-INT", &run.id().to_string()]).status());
    assert_eq!(run.wait().expect("it ends").code(), Some(1), "{}", cluster.told());
    cluster.has_no_job_left();
    assert!(cluster.has_begun(), "its checkpoint is kept");
    let mut run = cluster.begin(&["run", "w.yaml"]);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(beginnings.iter().any(|done| *done > 0), "from its checkpoint: {beginnings:?}");
}

#[test]
fn a_run_survives_the_death_of_its_driver() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(50));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    kill(run.id());
    drop(run.wait());
    let before = cluster.slurm.jobs();
    let mut again = cluster.begin(&["run", "w.yaml"]);
    assert!(again.wait().expect("it ends").success(), "{}", cluster.told());
    assert!(cluster.told().contains("of an earlier run go on"), "{}", cluster.told());
    let ids = |jobs: Vec<(String, String)>| jobs.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(cluster.slurm.jobs()), ids(before), "no other job was needed");
    let beginnings = cluster.beginnings();
    assert!(beginnings.iter().all(|done| *done == 0), "it was never interrupted: {beginnings:?}");
}

#[test]
fn what_an_allocation_of_other_settings_puts_back_goes_on_by_the_new_ones() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(60));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    kill(run.id());
    drop(run.wait());
    cluster.sandbox.write("restage.toml", &format!("{SITE}[[slurm.profile]]\ncpus = 2\n"));
    let mut again = cluster.begin(&["run", "w.yaml"]);
    until("it is picked up", || cluster.told().contains("of an earlier run go on"));
    assert!(cluster.slurm.ask("scancel", &["--batch", "--signal=TERM", "1"]).status.success());
    assert!(again.wait().expect("it ends").success(), "{}", cluster.told());
    assert!(cluster.told().contains("goes on in another"), "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(beginnings.iter().any(|done| *done > 0), "from its checkpoint: {beginnings:?}");
}

/// Runs tests beside each other: most of the time they wait for clocks of Slurm's.
fn beside(tests: &[fn()]) {
    std::thread::scope(|scope| tests.iter().for_each(|test| drop(scope.spawn(test))));
}

#[test]
fn nodes_fail_and_jobs_are_put_out_or_held() {
    beside(&[
        what_a_dead_node_had_goes_on_on_another_and_what_was_done_stays_done,
        who_works_on_a_node_that_slurm_has_lost_is_waited_for,
        a_preempted_training_is_asked_for_again_and_goes_on_from_its_checkpoint,
        a_preempted_training_that_slurm_puts_in_again_goes_on_from_its_checkpoint,
        what_keeps_a_job_waiting_is_told,
    ]);
}

#[test]
fn memory_that_is_too_little_is_asked_for_again() {
    beside(&[
        who_takes_more_memory_than_asked_for_gets_a_larger_allocation_until_slurm_has_none,
        a_stage_that_the_kernel_kills_has_failed_for_memory,
        an_allocation_that_is_out_of_memory_is_asked_for_larger,
        an_allocation_that_slurm_kills_for_its_memory_is_asked_for_larger,
        who_only_shared_the_allocation_of_one_that_took_too_much_goes_to_another,
    ]);
}

fn what_keeps_a_job_waiting_is_told() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\nargs = [\"--hold\"]\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(1));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it is told", || cluster.told().contains("job 1 waits: Slurm's reason is JobHeldUser"));
    assert!(cluster.slurm.ask("scontrol", &["release", "1"]).status.success());
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.told().matches("Slurm's reason").count(), 1, "once: {}", cluster.told());
}

/// Two nodes, of which the first one gets the first job.
const TWO: Kind = Kind { nodes: 2, tracking: Tracking::Group, more: "" };

fn what_a_dead_node_had_goes_on_on_another_and_what_was_done_stays_done() {
    let Some(mut cluster) = Cluster::of(&TWO, "") else { return };
    let stages = "
stages:
  first: { uses: test/steps, with: { steps: 3, sleep: 10 } }
  long: { uses: test/steps, in: { after: first }, with: { steps: 50, sleep: 100 } }
";
    cluster.sandbox.workflow("w.yaml", stages);
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("both have begun", || cluster.beginnings().len() == 2);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(cluster.slurm.told("1", "%N"), "n1");
    // Its power is gone: nobody on it says anything any more.
    cluster.slurm.kill_node(1);
    for pilot in cluster.working() {
        kill(parent(pilot));
        kill(pilot);
    }
    cluster.slurm.lose_node(1);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.slurm.in_state("NODE_FAIL"), ["1"]);
    assert!(
        cluster.told().contains("allocation 1 ended (NODE_FAIL); long goes to another"),
        "{}",
        cluster.told()
    );
    assert_eq!(cluster.slurm.told("2", "%N"), "n2");
    let mut beginnings = cluster.beginnings();
    beginnings.sort_unstable();
    assert!(
        matches!(beginnings[..], [0, 0, (1..)]),
        "only what was not done, from its checkpoint: {beginnings:?}"
    );
}

fn who_works_on_a_node_that_slurm_has_lost_is_waited_for() {
    let Some(mut cluster) = Cluster::of(&TWO, "") else { return };
    cluster.sandbox.workflow("w.yaml", &long(70));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    let working = cluster.working();
    // Its network is gone, but for the file server.
    cluster.slurm.kill_node(1);
    cluster.slurm.lose_node(1);
    until("another one is there", || cluster.working().len() == 2);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.slurm.in_state("NODE_FAIL"), ["1"]);
    assert_eq!(cluster.beginnings(), [0], "the other waited for the first one's claim");
    // Nobody else ends what a dead daemon has started.
    working.into_iter().for_each(|pilot| kill(parent(pilot)));
}

/// Slurm's own process above a pilot.
fn parent(pilot: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pilot}/stat")).expect("it lives");
    let after = stat.rsplit(") ").next().expect("a state");
    after.split(' ').nth(1).and_then(|parent| parent.parse().ok()).expect("a parent")
}

/// Jobs of the partition `urgent` put others out, whose processes are all told so.
const URGENT: Kind = Kind {
    nodes: 1,
    tracking: Tracking::Tree,
    more: "PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10
",
};

/// A training is put out by an urgent job, and goes on when that is done.
fn is_put_out(site: &str, first: &str) {
    let Some(cluster) = Cluster::of(&URGENT, site) else { return };
    cluster.sandbox.workflow("w.yaml", &long(40));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let urgent =
        ["--partition=urgent", "--cpus-per-task=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 2"];
    assert!(cluster.slurm.ask("sbatch", &urgent).status.success());
    until("it is put out", || cluster.slurm.told("1", "%T") == first);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(matches!(beginnings[..], [0, (1..)]), "from its checkpoint: {beginnings:?}");
}

fn a_preempted_training_is_asked_for_again_and_goes_on_from_its_checkpoint() {
    is_put_out("", "PREEMPTED");
}

fn a_preempted_training_that_slurm_puts_in_again_goes_on_from_its_checkpoint() {
    is_put_out("[[slurm.profile]]\nargs = [\"--requeue\"]\n", "PENDING");
}

/// A stage that takes memory without end.
fn hog(more: &str) -> String {
    format!("stages:\n  hog: {{ uses: test/misbehave, with: {{ how: memory_hog }}, {more} }}\n")
}

fn who_takes_more_memory_than_asked_for_gets_a_larger_allocation_until_slurm_has_none() {
    let kind = Kind { tracking: Tracking::Tree, ..Kind::default() };
    let Some(cluster) = Cluster::of(&kind, "idle = \"0s\"\n") else { return };
    let stage = hog("resources: { memory: 260MiB }, retries: { memory: x2 }");
    cluster.sandbox.workflow("w.yaml", &stage);
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    let told = ended.err();
    for memory in ["520.0 MiB", "1.0 GiB"] {
        assert!(told.contains(&format!("(now with {memory})")), "{memory}: {told}");
    }
    assert!(told.contains("Slurm gives no allocation for it"), "{told}");
    let asked = ["1", "2", "3"].map(|job| cluster.slurm.told(job, "%m"));
    assert_eq!(asked, ["388M", "648M", "1168M"], "for a pilot too");
}

fn a_stage_that_the_kernel_kills_has_failed_for_memory() {
    let kind = Kind { tracking: Tracking::ControlGroup, ..Kind::default() };
    let Some(cluster) = Cluster::of(&kind, "[[slurm.profile]]\nargs = [\"--mem=150M\"]\n") else { return };
    // It would be stopped at 400 MiB; the kernel does not let it come so far, and kills its host alone.
    cluster.sandbox.workflow("w.yaml", &hog("resources: { memory: 400MiB }"));
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert!(
        ended.err().contains("the system killed it, for it had no more memory to give"),
        "{}",
        ended.err()
    );
    assert!(cluster.kept_log(&ended.err()).contains("ends hog: Failed"), "its pilot lived: {}", ended.err());
}

/// Without control groups Slurm looks itself, once a second here, and has no state for what it does then.
const WATCHED: Kind =
    Kind { nodes: 1, tracking: Tracking::Tree, more: "JobAcctGatherParams=OverMemoryKill\n" };

fn an_allocation_that_is_out_of_memory_is_asked_for_larger() {
    let Some(cluster) = Cluster::start("") else { return };
    // As with control groups, when the kernel takes the pilot itself.
    cluster
        .instead_of("squeue", "/usr/bin/squeue \"$@\" | sed 's/|FAILED|[^|]*|/|OUT_OF_MEMORY|OutOfMemory|/'");
    let training = "with: { steps: 40, sleep: 100 }, resources: { memory: 200MiB }, retries: { memory: x2 }";
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n  long: {{ uses: test/steps, {training} }}\n"));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    std::thread::sleep(std::time::Duration::from_secs(1));
    cluster.working().into_iter().for_each(kill);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    let told = cluster.told();
    assert!(
        told.contains("its allocation ended (OUT_OF_MEMORY)") && told.contains("(now with 400.0 MiB)"),
        "{told}"
    );
    assert_eq!(cluster.slurm.told("2", "%m"), "528M");
    let beginnings = cluster.beginnings();
    assert!(matches!(beginnings[..], [0, (1..)]), "from its checkpoint: {beginnings:?}");
}

/// In the first job something takes memory that is none of the pilot's, which so cannot prevent it.
const GREEDY: &str = "
idle = \"0s\"
setup = \"[ $SLURM_JOB_ID = 1 ] && (sleep 2; head -c 600000000 /dev/zero; sleep 60) | tail >/dev/null &\"
";

fn an_allocation_that_slurm_kills_for_its_memory_is_asked_for_larger() {
    let Some(cluster) = Cluster::of(&WATCHED, GREEDY) else { return };
    let training = "with: { steps: 60, sleep: 100 }, resources: { memory: 200MiB }, retries: { memory: x2 }";
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n  long: {{ uses: test/steps, {training} }}\n"));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    let told = cluster.told();
    assert!(told.contains("exceeded memory limit") && told.contains("(now with 400.0 MiB)"), "{told}");
    assert_eq!(["1", "2"].map(|job| cluster.slurm.told(job, "%m")), ["328M", "528M"]);
    assert!(cluster.kept_log(&told).contains("exceeded memory limit"), "{told}");
    let beginnings = cluster.beginnings();
    assert!(matches!(beginnings[..], [0, (1..)]), "from its checkpoint: {beginnings:?}");
}

fn who_only_shared_the_allocation_of_one_that_took_too_much_goes_to_another() {
    let site = format!("{GREEDY}[[slurm.profile]]\ncpus = 2\nmemory = \"400MiB\"\n");
    let Some(cluster) = Cluster::of(&WATCHED, &site) else { return };
    // Slurm does not tell which of both it was; neither has `retries`.
    let stage = |name: &str, steps: u32| {
        let with = format!("with: {{ steps: {steps}, sleep: 100 }}, resources: {{ memory: 200MiB }}");
        format!("  {name}: {{ uses: test/steps, {with} }}\n")
    };
    let stages = [("one", 50), ("other", 51)].map(|(name, steps)| stage(name, steps)).concat();
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n{stages}"));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    let told = cluster.told();
    for name in ["one", "other"] {
        assert!(told.contains(&format!("allocation 1 ended (FAILED); {name} goes to another")), "{told}");
    }
    let mut beginnings = cluster.beginnings();
    beginnings.sort_unstable();
    assert!(matches!(beginnings[..], [0, 0, (1..), (1..)]), "from their checkpoints: {beginnings:?}");
}
