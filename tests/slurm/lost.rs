//! Allocations that end before their work: killed, started again, out of time, put out, on a node that fails.

use crate::{
    beside,
    cluster::Cluster,
    daemons::{Kind, Tracking, until},
    harness::kill,
    long,
};

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
    cluster.sandbox.workflow("w.yaml", &long(200));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    // More often than an action may be lost that gets no further.
    for time in 1..=4 {
        until("it goes on", || cluster.beginnings().len() == time);
        // What it says is written down a moment later.
        std::thread::sleep(std::time::Duration::from_secs(1));
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
fn nodes_fail_and_jobs_are_put_out_or_suspended() {
    beside(&[
        what_a_dead_node_had_goes_on_on_another_and_what_was_done_stays_done,
        who_works_on_a_node_that_slurm_has_lost_is_waited_for,
        a_preempted_training_is_asked_for_again_and_goes_on_from_its_checkpoint,
        a_preempted_training_that_slurm_puts_in_again_goes_on_from_its_checkpoint,
        a_suspended_training_uses_up_none_of_its_time,
    ]);
}

/// Two nodes, of which the first one gets the first job.
const TWO: Kind = Kind { nodes: 2, tracking: Tracking::Group, more: "" };

fn what_a_dead_node_had_goes_on_on_another_and_what_was_done_stays_done() {
    let Some(mut cluster) = Cluster::of(&TWO, "") else { return };
    let stages = "
stages:
  first: { uses: test/steps, with: { steps: 3, sleep: 10 } }
  long: { uses: test/steps, in: { after: first }, with: { steps: 150, sleep: 100 } }
";
    cluster.sandbox.workflow("w.yaml", stages);
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("both have begun", || cluster.beginnings().len() == 2);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(cluster.slurm.told("1", "%N"), "n1");
    // Its power is gone: nobody on it says anything any more.
    let on_it: Vec<u32> = cluster.working().into_iter().flat_map(|pilot| [parent(pilot), pilot]).collect();
    cluster.slurm.kill_node(1);
    on_it.into_iter().for_each(kill);
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
    // Long enough for a busy machine to start the second pilot meanwhile.
    cluster.sandbox.workflow("w.yaml", &long(150));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    let above: Vec<u32> = cluster.working().into_iter().map(parent).collect();
    // Its network is gone, but for the file server.
    cluster.slurm.kill_node(1);
    cluster.slurm.lose_node(1);
    until("another one is there", || cluster.working().len() == 2);
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.slurm.in_state("NODE_FAIL"), ["1"]);
    assert_eq!(cluster.beginnings(), [0], "the other waited for the first one's claim");
    // Nobody else ends what a dead daemon has started. The pilot itself may have ended by now.
    above.into_iter().for_each(kill);
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
    cluster.sandbox.workflow("w.yaml", &long(120));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    std::thread::sleep(std::time::Duration::from_secs(1));
    // As long as `PENDING` can be seen of who waits for it.
    let urgent =
        ["--partition=urgent", "--cpus-per-task=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 6"];
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

fn a_suspended_training_uses_up_none_of_its_time() {
    let Some(cluster) = Cluster::of(&Kind { tracking: Tracking::Tree, ..Kind::default() }, "") else {
        return;
    };
    let stage = "{ uses: test/steps, with: { steps: 80, sleep: 100 }, timeout: 20s }";
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n  long: {stage}\n"));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    assert!(cluster.slurm.ask("scontrol", &["suspend", "1"]).status.success());
    std::thread::sleep(std::time::Duration::from_secs(20));
    assert!(cluster.told().contains("job 1 is suspended by Slurm"), "{}", cluster.told());
    assert!(cluster.slurm.ask("scontrol", &["resume", "1"]).status.success());
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.beginnings(), [0], "nobody else did it");
}
