//! Stages and allocations that take more memory than they may.

use crate::{
    beside,
    cluster::{Cluster, SITE},
    daemons::{Kind, Tracking, until},
    harness::kill,
};

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
    assert!((0..3).any(|_| the_kernel_kills_its_host_alone()), "it took the pilot too, three times");
}

/// Whether it did. Where a pilot asks for a page before those of the host are free again, the kernel takes it too, which is another
/// failure.
fn the_kernel_kills_its_host_alone() -> bool {
    let kind = Kind { tracking: Tracking::ControlGroup, ..Kind::default() };
    let Some(cluster) = Cluster::of(&kind, "") else { return true };
    // As at a site whose Slurm gives less than is asked for.
    cluster.instead_of("sbatch", "exec /usr/bin/sbatch \"$@\" --mem=150M");
    // It would be stopped at 400 MiB; the kernel does not let it come so far.
    cluster.sandbox.workflow("w.yaml", &hog("resources: { memory: 400MiB }"));
    let ended = cluster.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    let told = ended.err();
    if told.contains("its allocation ended (OUT_OF_MEMORY)") && told.contains("Detected 2 oom-kill") {
        return false;
    }
    assert!(told.contains("the system killed it, for it had no more memory to give"), "{told}");
    assert!(cluster.kept_log(&told).contains("ends hog: Failed"), "its pilot lived: {told}");
    true
}

/// Without control groups Slurm looks itself, once a second here, and has no state for what it does then.
const WATCHED: Kind =
    Kind { nodes: 1, tracking: Tracking::Tree, more: "JobAcctGatherParams=OverMemoryKill\n" };

fn an_allocation_that_is_out_of_memory_is_asked_for_larger() {
    let Some(cluster) = Cluster::start("") else { return };
    // As with control groups, when the kernel takes the pilot itself.
    cluster
        .instead_of("squeue", "/usr/bin/squeue \"$@\" | sed 's/|FAILED|[^|]*|/|OUT_OF_MEMORY|OutOfMemory|/'");
    let training = "with: { steps: 100, sleep: 100 }, resources: { memory: 200MiB }, retries: { memory: x2 }";
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

/// A cluster in whose first job something takes memory that is none of the pilot's, which so cannot prevent it: once the file
/// `greedy` is there.
fn greedy(more: &str) -> Option<Cluster> {
    let cluster = Cluster::of(&WATCHED, "")?;
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", cluster.sandbox.path("greedy").display());
    let takes = "head -c 600000000 /dev/zero; sleep 60";
    let setup = format!("[ $SLURM_JOB_ID = 1 ] && ({wait}; {takes}) | tail >/dev/null &");
    cluster.sandbox.write("restage.toml", &format!("{SITE}idle = \"0s\"\nsetup = \"{setup}\"\n{more}"));
    Some(cluster)
}

/// Runs a workflow of so many stages, of which each has left a checkpoint before the memory is taken.
fn run_beside_greed(cluster: &Cluster, stages: usize) -> String {
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("all have begun", || cluster.beginnings().len() == stages && cluster.has_begun());
    std::thread::sleep(std::time::Duration::from_secs(1));
    cluster.sandbox.write("greedy", "");
    assert!(run.wait().expect("it ends").success(), "{}", cluster.told());
    cluster.told()
}

fn an_allocation_that_slurm_kills_for_its_memory_is_asked_for_larger() {
    let Some(cluster) = greedy("") else { return };
    let training = "with: { steps: 150, sleep: 100 }, resources: { memory: 200MiB }, retries: { memory: x2 }";
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n  long: {{ uses: test/steps, {training} }}\n"));
    let told = run_beside_greed(&cluster, 1);
    assert!(told.contains("exceeded memory limit") && told.contains("(now with 400.0 MiB)"), "{told}");
    assert_eq!(["1", "2"].map(|job| cluster.slurm.told(job, "%m")), ["328M", "528M"]);
    assert!(cluster.kept_log(&told).contains("exceeded memory limit"), "{told}");
    let beginnings = cluster.beginnings();
    assert!(matches!(beginnings[..], [0, (1..)]), "from its checkpoint: {beginnings:?}");
}

fn who_only_shared_the_allocation_of_one_that_took_too_much_goes_to_another() {
    let Some(cluster) = greedy("[[slurm.profile]]\ncpus = 2\nmemory = \"400MiB\"\n") else { return };
    // Slurm does not tell which of both it was; neither has `retries`.
    let stage = |name: &str, steps: u32| {
        let with = format!("with: {{ steps: {steps}, sleep: 100 }}, resources: {{ memory: 200MiB }}");
        format!("  {name}: {{ uses: test/steps, {with} }}\n")
    };
    let stages = [("one", 150), ("other", 151)].map(|(name, steps)| stage(name, steps)).concat();
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n{stages}"));
    let told = run_beside_greed(&cluster, 2);
    for name in ["one", "other"] {
        assert!(told.contains(&format!("allocation 1 ended (FAILED); {name} goes to another")), "{told}");
    }
    let mut beginnings = cluster.beginnings();
    beginnings.sort_unstable();
    assert!(matches!(beginnings[..], [0, 0, (1..), (1..)]), "from their checkpoints: {beginnings:?}");
}
