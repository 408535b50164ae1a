//! GPUs: found through the driver's library, lent to one stage at a time, given back whatever becomes of it, and computed on. The
//! driver is a pretended one, of two GPUs; restage loads it as it loads the real one.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::process::Command;

use harness::{Ended, Sandbox, checkout};

/// A sandbox with the pretended driver.
fn sandbox(workflow: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("driver")).expect("a folder");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .args([sandbox.path("driver/libnvidia-ml.so.1"), checkout().join("tests/c/nvml.c")])
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    sandbox.workflow("w.yaml", workflow);
    std::fs::create_dir(sandbox.path("taken")).expect("a folder");
    sandbox
}

/// Runs with the driver; `visible` is what the user, or Slurm, lets it see. Without the sandbox: what the stages write for each
/// other is what they must not.
fn run(sandbox: &Sandbox, arguments: &[&str], visible: Option<&str>) -> Ended {
    let mut command = sandbox.command(arguments);
    command.env("LD_LIBRARY_PATH", sandbox.path("driver")).env("RESTAGE_SANDBOX", "off");
    command.env_remove("CUDA_VISIBLE_DEVICES");
    if let Some(visible) = visible {
        command.env("CUDA_VISIBLE_DEVICES", visible);
    }
    Ended(command.output().expect("the binary starts"))
}

/// What a stage saw, by its place: `device GPUs`.
fn seen(sandbox: &Sandbox) -> Vec<String> {
    let mut seen: Vec<String> = sandbox.texts("w.yaml", "train").into_iter().map(|(_, text)| text).collect();
    seen.sort();
    seen
}

const EIGHT: &str = "
stages:
  train:
    uses: test/device
    foreach: { fold: [a, b, c, d, e, f, g, h] }
    with: { name: \"${foreach.fold}\", taken: TAKEN, sleep: 40 }
    resources: GPUS
";

fn eight(gpus: &str) -> Sandbox {
    let sandbox = sandbox("");
    let taken = sandbox.path("taken").display().to_string();
    sandbox.workflow("w.yaml", &EIGHT.replace("TAKEN", &taken).replace("GPUS", gpus));
    sandbox
}

#[test]
fn each_stage_has_a_gpu_of_its_own() {
    let sandbox = eight("{ cpus: 1, gpus: required }");
    let ended = run(&sandbox, &["run", "--cpus", "4", "w.yaml"], None);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    let seen = seen(&sandbox);
    let both = ["Cuda { count: 1 } GPU-00", "Cuda { count: 1 } GPU-11"];
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|seen| both.contains(&&**seen)), "{seen:?}");
    assert!(both.iter().all(|gpu| seen.contains(&(*gpu).to_owned())), "both are used: {seen:?}");
    let why = sandbox.run(&["why", "w.yaml", "train"]);
    assert!(why.out().contains("1 thread, Pretended"), "{}", why.out());
}

/// As CUDA does, which fails where it may not.
#[test]
fn a_stage_with_a_gpu_may_name_its_threads() {
    let workflow = "
stages:
  train: { uses: test/device, with: { names: true }, resources: { gpus: required } }
";
    let sandbox = sandbox(workflow);
    let mut command = sandbox.command(&["run", "w.yaml"]);
    command.env("LD_LIBRARY_PATH", sandbox.path("driver")).env_remove("CUDA_VISIBLE_DEVICES");
    let ended = Ended(command.output().expect("the binary starts"));
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
}

#[test]
fn what_is_not_asked_for_is_not_seen() {
    let sandbox = eight("{ cpus: 1 }");
    assert_eq!(run(&sandbox, &["run", "w.yaml"], None).code(), Some(0));
    assert!(seen(&sandbox).iter().all(|seen| seen == "Cpu "), "{:?}", seen(&sandbox));
}

#[test]
fn what_the_user_hides_is_not_there() {
    let sandbox = eight("{ gpus: 2 }");
    let ended = run(&sandbox, &["run", "w.yaml"], Some("1"));
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert!(ended.err().contains("fewer GPUs than asked for (1 here)"), "{}", ended.err());
    assert!(seen(&sandbox).iter().all(|seen| seen == "Cuda { count: 1 } GPU-11"), "{:?}", seen(&sandbox));
}

#[test]
fn those_that_say_how_much_memory_share_one() {
    let sandbox = eight("{ gpus: { memory: 1GiB } }");
    // So long that two are there at once, however busy the machine is.
    let workflow = std::fs::read_to_string(sandbox.path("w.yaml")).expect("it was written");
    sandbox.write("w.yaml", &workflow.replace("sleep: 40", "sleep: 1000"));
    let ended = run(&sandbox, &["run", "--cpus", "4", "w.yaml"], None);
    assert_eq!(ended.code(), Some(1), "{}", ended.all());
    assert!(
        ended.err().contains("somebody else has GPU-00"),
        "they share it, and the test stage tells: {}",
        ended.err()
    );
}

#[test]
fn a_gpu_comes_back_whatever_becomes_of_its_stage() {
    let workflow = "
stages:
  bad:
    uses: test/misbehave
    foreach: { how: [panic, segfault, abort, exit_zero, fail, hang, memory_hog] }
    with: { how: \"${foreach.how}\" }
    resources: { gpus: required, memory: 64MiB }
    timeout: 2s
  train:
    uses: test/device
    foreach: { fold: [a, b] }
    with: { name: \"${foreach.fold}\" }
    resources: { gpus: { count: 2, required: true } }
";
    let sandbox = sandbox(workflow);
    let ended = run(&sandbox, &["run", "--grace", "100ms", "w.yaml"], None);
    assert_eq!(ended.code(), Some(1));
    assert!(ended.out().contains("2 ran, 0 reused, 7 failed"), "{}", ended.all());
    assert_eq!(seen(&sandbox), ["Cuda { count: 2 } GPU-00,GPU-11"; 2]);
}

#[test]
fn without_a_gpu_what_requires_one_is_refused_before_anything_runs_unless_it_is_cached() {
    let sandbox = eight("{ gpus: required }");
    // Built before, so that what is shown is the mistake only.
    sandbox.run(&["check", "w.yaml"]);
    for command in ["plan", "run"] {
        let ended = run(&sandbox, &[command, "w.yaml"], Some(""));
        assert_eq!(ended.code(), Some(2), "{}", ended.all());
        let shown = ended.err().replace(&sandbox.path("").display().to_string(), "");
        insta::assert_snapshot!("requires_a_gpu", shown);
    }
    let more = eight("{ gpus: { count: 3, required: true } }");
    let ended = run(&more, &["run", "w.yaml"], None);
    assert!(ended.err().contains("`train` requires 3 GPUs, and this machine has 2 GPUs"), "{}", ended.err());
    let larger = eight("{ gpus: { memory: 20GiB, required: true } }");
    let ended = run(&larger, &["run", "w.yaml"], None);
    assert!(ended.err().contains("has 0 of 2 with so much free memory"), "{}", ended.err());

    assert_eq!(run(&sandbox, &["run", "w.yaml"], None).code(), Some(0));
    let cached = run(&sandbox, &["run", "w.yaml"], Some(""));
    assert_eq!(cached.code(), Some(0), "what somebody has computed is used anywhere: {}", cached.all());
}

#[test]
fn as_available_falls_back_and_says_so() {
    let sandbox = eight("{ gpus: as available }");
    let ended = run(&sandbox, &["run", "w.yaml"], Some(""));
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert!(ended.err().contains("no GPU here: on the CPU runs train"), "{}", ended.err());
    assert!(seen(&sandbox).iter().all(|seen| seen == "Cpu "), "{:?}", seen(&sandbox));
    let again = run(&sandbox, &["run", "w.yaml"], None);
    assert!(again.out().contains("nothing had to run"), "the device is not part of the key: {}", again.all());
}

const TRAINED: &str = "
params: { objective: graph_ae, encoder: { kind: gat, hidden: [16], heads: 2 } }
stages:
  section:
    uses: visium/simulate
    foreach: { section: [P1, P2] }
    with: { section: \"${foreach.section}\", seed: 7 }
  all: { uses: visium/concat, in: { tables: section.table }, gather: section }
  split:
    uses: classify/split
    in: { table: all, labels: section.labels }
    gather: section
    with: { by: patient, test: [P2] }
  counts:
    uses: visium/normalize
    in: { table: all, split: split.split }
    with: { target_sum: 10000, n_top_genes: 50 }
  near: { uses: visium/graph, in: { table: all, split: split.split }, with: { kind: knn, k: 4 } }
  pretrain:
    uses: ssl-cuda/pretrain
    in: { table: counts, graph: near.graph, split: split.split }
    with: { objective: \"${params.objective}\", encoder: \"${params.encoder}\", epochs: 3, dim: 8 }
  features:
    uses: ssl-cuda/embed
    in: { model: pretrain.model, table: counts, graph: near.graph }
  tuned:
    uses: ssl-cuda/finetune
    in: { model: pretrain.model, table: counts, graph: near.graph, train: split.train }
    with: { head_epochs: 3, epochs: 3, encoder_lr: 0.01, freeze: 1 }
  regions: { uses: classify/probe, in: { features: [features], train: split.train } }
  evaluate: { uses: classify/evaluate, in: { predictions: regions.predictions, test: split.test } }
sweep:
  metric: [evaluate.nll, pretrain.loss, tuned.loss]
  seeds: [0]
  ablate:
    on the CPU: { set: { pretrain.uses: ssl/pretrain, features.uses: ssl/embed, tuned.uses: ssl/finetune } }
    trained on the GPU: { set: { features.uses: ssl/embed, tuned.uses: ssl/finetune } }
    dgi: { set: { params.objective: dgi } }
    dgi on the CPU:
      set:
        params.objective: dgi
        pretrain.uses: ssl/pretrain
        features.uses: ssl/embed
        tuned.uses: ssl/finetune
    byol: { set: { params.objective: gene_contrast, pretrain.contrast: byol, pretrain.projector: [16, 16] } }
    byol on the CPU:
      set:
        params.objective: gene_contrast
        pretrain.contrast: byol
        pretrain.projector: [16, 16]
        pretrain.uses: ssl/pretrain
        features.uses: ssl/embed
        tuned.uses: ssl/finetune
";

/// What computes is the real plugin, by a pretended driver and cuBLAS, which run its kernels on the CPU.
#[test]
fn with_a_gpu_stages_compute_what_they_compute_without() {
    let sandbox = Sandbox::new();
    let source = checkout().join("stages/ssl-cuda/src/pretended.cpp");
    std::fs::create_dir(sandbox.path("driver")).expect("a folder");
    for name in ["libcuda.so", "libcublas.so", "libnvrtc.so"] {
        let compiled = Command::new("c++")
            .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-o"])
            .args([sandbox.path(&format!("driver/{name}")), source.clone()])
            .arg(format!("-Wl,-soname,{name}"))
            .arg("-ldl")
            .output()
            .expect("a C++ compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    }
    let plugins = ["stages/visium", "stages/ssl", "stages/ssl-cuda", "stages/classify"];
    sandbox.workflow_of("w.yaml", &plugins, TRAINED);
    let ended = run(&sandbox, &["run", "--json", "w.yaml"], None);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    let result = ended.json();
    let values = |variant: &str| -> Vec<f64> {
        let rows = result["table"]["rows"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["variant"] == variant).expect("its row");
        let values = row["values"].as_array().expect("values");
        values.iter().map(|value| value["mean"].as_f64().expect("a number")).collect()
    };
    // Of BYOL the heads are networks with batch norms between them, which the CPU computes.
    for (gpu, cpu) in [
        ("baseline", "on the CPU"),
        ("baseline", "trained on the GPU"),
        ("dgi", "dgi on the CPU"),
        ("byol", "byol on the CPU"),
    ] {
        for (gpu, cpu) in values(gpu).into_iter().zip(values(cpu)) {
            assert!((gpu - cpu).abs() < 1e-3 * cpu.abs(), "{gpu} {cpu}");
        }
    }
    assert!((values("dgi")[1] - values("baseline")[1]).abs() > 0.01);
    for place in ["pretrain.model", "tuned.model"] {
        let model = sandbox.run(&["cache", "path", "w.yaml", place]);
        let written = std::fs::read_to_string(format!("{}/zarr.json", model.out().trim())).expect("a model");
        assert!(written.contains("a CPU in its place"), "{place} tells what it was computed on: {written}");
    }
}
