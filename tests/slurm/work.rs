//! What goes as it should: chains, sweeps, GPUs, and a failure in the middle.

use serde_json::Value;

use crate::{
    cluster::Cluster,
    daemons::{Kind, until},
    harness::Sandbox,
};

const CHAIN: &str = "
stages:
  first: { uses: test/steps, with: { steps: 10, sleep: 100 } }
  second: { uses: test/steps, in: { after: first }, with: { steps: 11, sleep: 91 } }
  third: { uses: test/steps, in: { after: second }, with: { steps: 12, sleep: 84 } }
  both: { uses: test/join, in: { texts: [first, third] } }
";

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
fn a_site_whose_arrays_are_small_gets_several() {
    let kind = Kind { more: "MaxArraySize=3\n", ..Kind::default() };
    let Some(cluster) = Cluster::of(&kind, "at_most = 5\n") else { return };
    let seeds = (0..30).map(|seed| seed.to_string()).collect::<Vec<_>>().join(", ");
    let workflow = format!("stages:\n  draw: {{ uses: test/draw }}\nsweep:\n  seeds: [{seeds}]\n");
    cluster.sandbox.workflow("w.yaml", &workflow);
    let ended = cluster.run(&["run", "--json", "w.yaml"]);
    assert_eq!(ended.json()["ran"], 30, "{}", ended.all());
    let jobs: Vec<String> = cluster.slurm.jobs().into_iter().map(|(id, _)| id).collect();
    assert!(jobs.len() <= 5 && jobs.contains(&"1_1".into()) && !jobs.contains(&"1_2".into()), "{jobs:?}");
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
    let stages = [("a", 100), ("b", 101), ("c", 102)].map(|(name, steps)| stage(name, steps)).concat();
    cluster.sandbox.workflow("w.yaml", &format!("stages:\n{stages}"));
    let mut run = cluster.begin(&["run", "w.yaml"]);
    until("two run and one waits", || {
        let jobs = cluster.slurm.jobs();
        let in_state = |state| jobs.iter().filter(|(_, its)| its == state).count();
        assert!(in_state("RUNNING") <= 2, "there are two GPUs");
        (in_state("RUNNING"), in_state("PENDING")) == (2, 1)
    });
    until("both have begun", || cluster.pilots().len() == 2);
    let folder = cluster.queue().join("pilots");
    let mut gpus: Vec<String> = std::fs::read_dir(folder)
        .expect("pilots")
        .flatten()
        .filter_map(|entry| serde_json::from_slice::<Value>(&std::fs::read(entry.path()).ok()?).ok())
        .filter(|pilot| pilot["ended"].is_null())
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
