//! How Slurm is asked: what it refuses, does not answer, answers late, or keeps waiting.

use crate::{
    cluster::{Cluster, interrupt},
    daemons::until,
    long,
};

#[test]
fn what_slurm_will_never_give_is_told_in_its_words() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\npartition = \"moon\"\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(1));
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert!(ended.err().contains("Invalid partition name"), "{}", ended.err());
}

#[test]
fn where_a_user_may_have_few_jobs_fewer_are_asked_for() {
    let Some(cluster) = Cluster::start("at_most = 9\n") else { return };
    // As with `slurmdbd` and `MaxSubmitJobsPerUser=2`.
    let policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)";
    let refuse = format!("echo \"sbatch: error: Batch job submission failed: {policy}\" >&2; exit 1");
    let many = format!("case \"$*\" in *--array=0-[2-9]*) {refuse};; esac");
    cluster.instead_of("sbatch", &format!("{many}\nexec /usr/bin/sbatch \"$@\""));
    let workflow = "stages: { draw: { uses: test/draw } }\nsweep: { seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8] }\n";
    cluster.sandbox.workflow("w.yaml", workflow);
    let ended = cluster.run(&["run", "--json", "w.yaml"]);
    assert_eq!(ended.json()["ran"], 9, "{}", ended.all());
    assert!(ended.err().contains("asked for 2 allocations"), "{}", ended.err());
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
fn what_keeps_a_job_waiting_is_told() {
    let Some(cluster) = Cluster::start("[[slurm.profile]]\nargs = [\"--hold\"]\n") else { return };
    cluster.sandbox.workflow("w.yaml", &long(1));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it is told", || cluster.told().contains("job 1 waits: Slurm's reason is JobHeldUser"));
    interrupt(&run);
    assert_eq!(run.wait().expect("it ends").code(), Some(1), "{}", cluster.told());
    assert!(!cluster.told().contains("cannot be cancelled"), "{}", cluster.told());
    cluster.has_no_job_left();

    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("it is told", || cluster.told().contains("job 2 waits: Slurm's reason is JobHeldUser"));
    assert!(cluster.slurm.ask("scontrol", &["release", "2"]).status.success());
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    assert_eq!(cluster.told().matches("Slurm's reason").count(), 1, "once: {}", cluster.told());
}
