//! `ssl-cuda` is `ssl` with a GPU where there is one: on the CPU its models are the same bytes, a GPU that is not there is named, and a
//! model of one embeds by the other.

mod harness;

use harness::Sandbox;

/// A workflow in which both plugins train and embed; `device` is what those of `ssl-cuda` compute on.
fn sandbox(device: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.workflow_of(
        "w.yaml",
        &["stages/visium", "stages/ssl", "stages/ssl-cuda"],
        &format!(
            "stages:
  section: {{ uses: visium/simulate, with: {{ section: P1, seed: 7 }} }}
  clean: {{ uses: visium/qc, in: {{ table: section.table }} }}
  table: {{ uses: visium/normalize, in: {{ table: clean.table }} }}
  cpu: {{ uses: ssl/pretrain, in: {{ table: table }}, with: {{ objective: gene_mask, epochs: 3 }} }}
  gpu: {{ uses: ssl-cuda/pretrain, in: {{ table: table }}, with: {{ objective: gene_mask, epochs: 3, device: {device} }}, resources: {{ gpus: 1 }} }}
  cpu_by_gpu: {{ uses: ssl-cuda/embed, in: {{ model: cpu.model, table: table }}, with: {{ device: {device} }}, resources: {{ gpus: 1 }} }}
  gpu_by_cpu: {{ uses: ssl/embed, in: {{ model: gpu.model, table: table }} }}
"
        ),
    );
    sandbox
}

#[test]
fn on_the_cpu_both_plugins_give_the_same_bytes() {
    let sandbox = sandbox("cpu");
    assert_eq!(sandbox.ran(&["w.yaml"]), 7);
    let list = sandbox.json(&["show", "--json", "--all", "w.yaml"]);
    let digest = |stage: &str, port: &str| {
        let artifact =
            list.as_array().into_iter().flatten().find(|a| a["stage"] == stage && a["port"] == port);
        artifact.map(|artifact| artifact["digest"].clone())
    };
    assert!(digest("cpu", "model").is_some(), "{list}");
    assert_eq!(digest("cpu", "model"), digest("gpu", "model"));
    assert_eq!(digest("cpu_by_gpu", "embedding"), digest("gpu_by_cpu", "embedding"));
}

/// With a GPU or without one: `auto` takes what there is, and says what.
#[test]
fn auto_takes_what_there_is() {
    let sandbox = sandbox("auto");
    let ended = sandbox.run(&["--log", "info", "run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    let told = ended.all();
    let on_cpu = told.contains("computes on the CPU: there is no");
    assert!(on_cpu || told.contains("computes on NVIDIA"), "{told}");
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let sandbox = sandbox("cuda:77");
    let ended = sandbox.run(&["run", "w.yaml"]);
    assert_ne!(ended.code(), Some(0));
    let told = ended.all();
    assert!(told.contains("`device: cuda:77`: there is no"), "{told}");
}
