//! Runs and their queue: interrupted, killed, of other settings, and two at once.

use crate::{
    cluster::{Cluster, SITE, interrupt},
    daemons::until,
    harness::kill,
    long,
};

#[test]
fn ctrl_c_cancels_its_jobs_and_the_next_run_goes_on() {
    let Some(cluster) = Cluster::start("at_most = 1\n") else { return };
    let stages = format!("{}  other: {{ uses: test/steps, with: {{ steps: 41, sleep: 100 }} }}\n", long(40));
    cluster.sandbox.workflow("w.yaml", &stages);
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("one runs", || cluster.has_begun());
    interrupt(&run);
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
    cluster.sandbox.workflow("w.yaml", &long(150));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    kill(run.id());
    drop(run.wait());
    let before = cluster.slurm.jobs();
    let mut again = cluster.begin(&["run", "w.yaml"]);
    assert!(again.wait().expect("it ends").success(), "{}", cluster.told());
    assert!(cluster.told().contains("of an earlier run go"), "{}", cluster.told());
    let ids = |jobs: Vec<(String, String)>| jobs.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(cluster.slurm.jobs()), ids(before), "no other job was needed");
    let beginnings = cluster.beginnings();
    assert!(beginnings.iter().all(|done| *done == 0), "it was never interrupted: {beginnings:?}");
}

#[test]
fn what_an_allocation_of_other_settings_puts_back_goes_on_by_the_new_ones() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(150));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    kill(run.id());
    drop(run.wait());
    cluster.sandbox.write("restage.toml", &format!("{SITE}[[slurm.profile]]\ncpus = 2\n"));
    let mut again = cluster.begin(&["run", "w.yaml"]);
    until("it is picked up", || cluster.told().contains("of an earlier run go"));
    assert!(cluster.slurm.ask("scancel", &["--batch", "--signal=TERM", "1"]).status.success());
    assert!(again.wait().expect("it ends").success(), "{}", cluster.told());
    assert!(cluster.told().contains("goes on in another"), "{}", cluster.told());
    let beginnings = cluster.beginnings();
    assert!(beginnings.iter().any(|done| *done > 0), "from its checkpoint: {beginnings:?}");
}

#[test]
fn who_leaves_a_queue_to_another_run_leaves_its_logs_too() {
    let Some(cluster) = Cluster::start("") else { return };
    let stages = "stages:\n  bad: { uses: test/misbehave, with: { how: fail } }\n";
    cluster.sandbox.workflow(
        "w.yaml",
        &format!("{stages}  waits: {{ uses: test/steps, with: {{ steps: 80, sleep: 100 }} }}\n"),
    );
    let first = std::fs::File::create(cluster.sandbox.path("told by the first")).expect("a file");
    let mut first = cluster.command(&["run", "w.yaml"]).stderr(first).spawn().expect("the binary starts");
    until("it runs", || cluster.has_begun());
    // The same file says something else now: another run of it has the same queue.
    cluster.sandbox.workflow("w.yaml", &long(160));
    let mut second = cluster.begin(&["run", "w.yaml"]);
    until("its work is taken in", || cluster.told().contains("of an earlier run go"));
    assert_eq!(first.wait().expect("it ends").code(), Some(1));
    assert!(second.try_wait().expect("it runs").is_none(), "the first one leaves first");
    assert!(second.wait().expect("it ends").success(), "{}", cluster.told());
    let told = std::fs::read_to_string(cluster.sandbox.path("told by the first")).expect("its words");
    assert!(cluster.kept_log(&told).contains("ends bad"), "{told}");
    assert!(!cluster.told().contains("goes on in another"), "its jobs are left alone: {}", cluster.told());
}

#[test]
fn who_is_interrupted_cancels_nobody_elses_jobs() {
    let Some(cluster) = Cluster::start("") else { return };
    cluster.sandbox.workflow("w.yaml", &long(100));
    let mut first = cluster.begin(&["run", "w.yaml"]);
    until("it runs", || cluster.has_begun());
    cluster
        .sandbox
        .workflow("w.yaml", "stages: { other: { uses: test/steps, with: { steps: 300, sleep: 100 } } }\n");
    let mut second = cluster.command(&["run", "w.yaml"]).spawn().expect("the binary starts");
    until("two work", || cluster.working().len() == 2);
    interrupt(&second);
    assert_eq!(second.wait().expect("it ends").code(), Some(1));
    assert!(first.wait().expect("it ends").success(), "{}", cluster.told());
    assert!(!cluster.told().contains("goes on in another"), "it was not disturbed: {}", cluster.told());
    cluster.has_no_job_left();
}
