//! A property test of planning and running together: of any workflow after any edits, exactly those actions run whose
//! result is not known, and every result is the one that computing everything anew would give.
//!
//! The oracle knows nothing of keys, merging or artifacts: it evaluates each stage of each variant and seed, and keeps a
//! set of what was ever computed. Planner, scheduler and store are the real ones; only stages are plain functions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    path::Path,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use restage_cache::{Digest, Store};
use restage_stage::catalogue::{Catalogue, InputPort, OutputPort, PortType, StageType};
use serde_json::json;

use super::{BASELINE, History, Past, Plan, Selection};
use crate::{
    cache::Cache,
    executor::{
        Executor,
        model::{Model, material, value},
    },
    machine::Machine,
    plugin::Catalog,
    run::{self, End},
    workflow::{self, git::Git},
};

/// Values of the one dimension that stages are mapped over.
const POINTS: [&str; 3] = ["p", "q", "r"];

#[derive(Clone, Debug)]
struct Stage {
    seeded: bool,
    /// Stages before this one, in the order in which it reads them.
    inputs: Vec<usize>,
    param: u8,
    /// A data file that it reads.
    file: Option<usize>,
    /// Maps it over the points, if it reads nothing.
    mapped: bool,
    /// Collects what its inputs are mapped over, if they are.
    gathers: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Drop(usize),
}

#[derive(Clone, Debug)]
struct World {
    stages: Vec<Stage>,
    ablations: Vec<Change>,
    seeds: usize,
    files: [u8; 2],
    code: u8,
}

#[derive(Clone, Debug)]
enum Edit {
    Param(usize, u8),
    File(usize, u8),
    Touch(usize),
    Code(u8),
    Seeds(usize),
    Ablate(Change),
    /// Somebody removes the record of a result.
    Forget(usize),
    Rewire(usize, usize),
}

fn stage(index: usize) -> impl Strategy<Value = Stage> {
    let inputs = proptest::collection::vec(0..index.max(1), 0..3);
    (
        any::<bool>(),
        inputs,
        0..3_u8,
        proptest::option::weighted(0.2, 0..2_usize),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(move |(seeded, inputs, param, file, mapped, gathers)| Stage {
            seeded: seeded && index.is_multiple_of(3),
            inputs: if index == 0 { Vec::new() } else { inputs },
            param,
            file,
            mapped,
            gathers,
        })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..40_usize, 0..3_u8).prop_map(|(stage, value)| Change::Set(stage, value)),
        (0..40_usize).prop_map(Change::Drop)
    ]
}

fn world() -> impl Strategy<Value = World> {
    // Most cases small, so that many are looked at; some large.
    let size = prop_oneof![8 => 1..8_usize, 3 => 8..16_usize, 1 => 16..=40_usize];
    let stages = size.prop_flat_map(|size| (0..size).map(stage).collect::<Vec<_>>());
    (stages, proptest::collection::vec(change(), 0..3), 1..3_usize, any::<[bool; 2]>()).prop_map(
        |(stages, ablations, seeds, files)| World {
            stages,
            ablations,
            seeds,
            files: files.map(u8::from),
            code: 0,
        },
    )
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (0..40_usize, 0..3_u8).prop_map(|(stage, value)| Edit::Param(stage, value)),
        2 => (0..2_usize, 0..3_u8).prop_map(|(file, content)| Edit::File(file, content)),
        1 => (0..2_usize).prop_map(Edit::Touch),
        1 => (0..2_u8).prop_map(Edit::Code),
        1 => (1..4_usize).prop_map(Edit::Seeds),
        1 => change().prop_map(Edit::Ablate),
        1 => (0..400_usize).prop_map(Edit::Forget),
        1 => (0..40_usize, 0..40_usize).prop_map(|(stage, input)| Edit::Rewire(stage, input)),
    ]
}

impl World {
    fn apply(&mut self, edit: &Edit) {
        let count = self.stages.len();
        match edit {
            Edit::Param(stage, value) => self.stages[stage % count].param = *value,
            Edit::File(file, content) => self.files[*file] = *content,
            Edit::Code(code) => self.code = *code,
            Edit::Seeds(seeds) => self.seeds = *seeds,
            Edit::Ablate(change) => self.ablations.push(change.clone()),
            Edit::Rewire(stage, input) => {
                let stage = stage % count;
                if stage > 0 {
                    let input = input % stage;
                    let inputs = &mut self.stages[stage].inputs;
                    match inputs.iter().position(|known| *known == input) {
                        Some(position) => drop(inputs.remove(position)),
                        None => inputs.push(input),
                    }
                }
            }
            Edit::Touch(_) | Edit::Forget(_) => {}
        }
    }

    fn identity(&self) -> Digest {
        Digest::of(&[self.code])
    }

    /// The world with one ablation; `None` where it makes no sense.
    fn changed(&self, change: &Change) -> Option<Self> {
        let mut world = self.clone();
        // What is written stays as it is, whatever the change makes of the inputs.
        for (index, stage) in world.stages.iter_mut().enumerate() {
            stage.gathers = self.gathers(index);
        }
        match change {
            Change::Set(stage, value) => world.stages.get_mut(*stage)?.param = *value,
            Change::Drop(stage) => {
                let dropped = world.stages.get(*stage).filter(|stage| !stage.inputs.is_empty())?.clone();
                let instead =
                    |input: usize| if input == *stage { dropped.inputs.clone() } else { vec![input] };
                for reader in &mut world.stages {
                    reader.inputs = reader.inputs.iter().flat_map(|input| instead(*input)).collect();
                }
            }
        }
        Some(world)
    }

    fn is_mapped(&self, stage: usize) -> bool {
        let own = &self.stages[stage];
        match own.inputs.is_empty() {
            true => own.mapped,
            false => !own.gathers && own.inputs.iter().any(|input| self.is_mapped(*input)),
        }
    }

    fn gathers(&self, stage: usize) -> bool {
        let own = &self.stages[stage];
        own.gathers && own.inputs.iter().any(|input| self.is_mapped(*input))
    }

    /// Ablations that make sense, with the worlds that they make.
    fn variants(&self) -> Vec<(String, Option<&Change>, Self)> {
        let mut variants = vec![(BASELINE.to_owned(), None, self.clone())];
        for (index, change) in self.ablations.iter().enumerate() {
            if let Some(world) = self.changed(change) {
                variants.push((format!("v{index}"), Some(change), world));
            }
        }
        variants
    }

    fn yaml(&self) -> String {
        let mut text = "restage: 1\nstages:\n".to_owned();
        for (index, stage) in self.stages.iter().enumerate() {
            let uses = if stage.seeded { "model/draw" } else { "model/mix" };
            let file = stage.file.map(|file| format!(", file: {{ $path: f{file} }}")).unwrap_or_default();
            let inputs: Vec<String> = stage.inputs.iter().map(|input| format!("s{input:02}")).collect();
            let mapped = stage.inputs.is_empty() && stage.mapped;
            let point = if mapped { ", at: '${foreach.d}'" } else { "" };
            let _ =
                write!(text, "  s{index:02}: {{ uses: {uses}, with: {{ p: {}{file}{point} }}", stage.param);
            if !inputs.is_empty() {
                let _ = write!(text, ", in: {{ in: [{}] }}", inputs.join(", "));
            }
            if mapped {
                let _ = write!(text, ", foreach: {{ d: [{}] }}", POINTS.join(", "));
            }
            if self.gathers(index) {
                text.push_str(", gather: d");
            }
            text.push_str(" }\n");
        }
        let seeds: Vec<String> = (0..self.seeds).map(|seed| seed.to_string()).collect();
        let _ = writeln!(text, "sweep:\n  seeds: [{}]\n  ablate:", seeds.join(", "));
        for (name, change, _) in self.variants() {
            let _ = match change {
                Some(Change::Set(stage, value)) => {
                    writeln!(text, "    {name}: {{ set: {{ s{stage:02}.p: {value} }} }}")
                }
                Some(Change::Drop(stage)) => writeln!(text, "    {name}: {{ drop: s{stage:02} }}"),
                None => Ok(()),
            };
        }
        if self.variants().len() == 1 {
            text.push_str("    {}\n");
        }
        text
    }

    /// What a stage of this world depends on, at a point and with a seed.
    fn material(&self, stage: usize, point: Option<&str>, seed: u64, known: &mut Known) -> String {
        if let Some(material) = known.get(&(stage, point.map(str::to_owned))) {
            return material.clone();
        }
        let own = &self.stages[stage];
        let mut inputs = Vec::new();
        for input in &own.inputs {
            let points: Vec<Option<&str>> = match (self.is_mapped(*input), self.gathers(stage)) {
                (false, _) => vec![None],
                (true, false) => vec![point],
                (true, true) => POINTS.iter().map(|point| Some(*point)).collect(),
            };
            for point in points {
                inputs.push(value(&self.material(*input, point, seed, known)));
            }
        }
        let mut params = serde_json::Map::from_iter([("p".to_owned(), json!(own.param))]);
        if let Some(file) = own.file {
            params.insert("file".into(), json!(self.files[file].to_string()));
        }
        if let (true, Some(point)) = (own.inputs.is_empty() && own.mapped, point) {
            params.insert("at".into(), json!(point));
        }
        let uses = if own.seeded { "model/draw" } else { "model/mix" };
        let material = material(uses, &self.identity(), &params.into(), own.seeded.then_some(seed), &inputs);
        known.insert((stage, point.map(str::to_owned)), material.clone());
        material
    }
}

type Known = HashMap<(usize, Option<String>), String>;

fn catalog(identity: Digest) -> Catalog {
    let stage = |name: &str, seeded| StageType {
        name: name.into(),
        doc: String::new(),
        seeded,
        streams: Vec::new(),
        seeded_if: Vec::new(),
        open: false,
        inputs: vec![InputPort {
            name: "in".into(),
            kind: PortType::Any,
            optional: true,
            needed_if: Vec::new(),
            many: true,
            doc: String::new(),
        }],
        choices: Vec::new(),
        outputs: vec![OutputPort { name: "out".into(), kind: PortType::Any, doc: String::new() }],
        params: json!({}),
        tolerance: None,
    };
    let stages = vec![stage("mix", false), stage("draw", true)];
    Catalog::model(Catalogue { plugin: "model".into(), version: "1".into(), stages }, identity)
}

fn write_file(folder: &Path, file: usize, content: u8) {
    std::fs::write(folder.join(format!("f{file}")), content.to_string()).unwrap();
}

/// One state of the world planned, run, and compared with the oracle.
async fn step(world: &World, folder: &Path, store: &Store, computed: &mut BTreeSet<String>) -> Plan {
    let path = folder.join("w.yaml");
    std::fs::write(&path, world.yaml()).unwrap();
    let workflow = workflow::load(&path, &Git::new(store, BTreeMap::new(), |_| {})).unwrap();
    let mut catalog = catalog(world.identity());
    let cache = Cache::alone(store.clone());
    let mut plan =
        Plan::new(&workflow, &Selection::default(), &mut catalog, &cache, &History::new(Past::default))
            .await
            .unwrap_or_else(|error| panic!("{error}: {}", world.yaml()));

    // The oracle: what each stage depends on, and what of that was never computed.
    let mut expected: BTreeMap<(String, Option<u64>, usize, Option<String>), String> = BTreeMap::new();
    for (name, change, variant) in world.variants() {
        for seed in 0..world.seeds as u64 {
            let mut known = Known::new();
            for stage in 0..world.stages.len() {
                if matches!(change, Some(Change::Drop(dropped)) if *dropped == stage) {
                    continue;
                }
                let points = if variant.is_mapped(stage) { POINTS.map(Some).to_vec() } else { vec![None] };
                for point in points {
                    let material = variant.material(stage, point, seed, &mut known);
                    expected.insert((name.clone(), Some(seed), stage, point.map(str::to_owned)), material);
                }
            }
        }
    }
    let needed: BTreeSet<String> =
        expected.values().filter(|material| !computed.contains(*material)).cloned().collect();

    // The plan keeps its promises.
    let of_instance = |instance: &super::Instance| {
        let stage: usize = instance.stage[1..].parse().unwrap();
        let point = instance.at.get("d").cloned();
        expected[&(instance.variant.to_string(), Some(instance.seed.unwrap_or(0)), stage, point)].clone()
    };
    for instance in &plan.instances {
        let runs = needed.contains(&of_instance(instance));
        let action = &plan.graph[instance.action];
        match action.decision.word() {
            "cached" => assert!(!runs, "{} is not cached\n{}", action.name(), world.yaml()),
            "run" => assert!(runs, "{} need not run\n{}", action.name(), world.yaml()),
            _ => {}
        }
    }

    let ran = Arc::new(Mutex::new(Vec::new()));
    let machine = Machine { jobs: 4, cpus: 4, memory: 1 << 30, gpus: Vec::new() };
    let executor = Executor::Model(Model { store: store.clone(), ran: ran.clone() });
    let (events, mut received) = tokio::sync::mpsc::channel(64);
    let (_cancel, cancelled) = tokio::sync::watch::channel(false);
    let drain = tokio::spawn(async move { while received.recv().await.is_some() {} });
    let summary = run::run(&mut plan, &cache, executor, None, machine, events, cancelled).await.unwrap();
    drain.await.unwrap();
    assert!(summary.ends.values().all(|end| matches!(end, End::Done(_))));

    // Exactly what was needed ran, once.
    let ran = std::mem::take(&mut *ran.lock().unwrap());
    let once: BTreeSet<String> = ran.iter().cloned().collect();
    assert_eq!(once.len(), ran.len(), "something ran twice\n{}", world.yaml());
    assert_eq!(once, needed, "\n{}", world.yaml());
    computed.extend(once);

    // Nothing stale is used: every artifact holds what computing everything anew gives.
    for instance in &plan.instances {
        let artifact = store.artifact(&plan.graph[instance.action].artifacts["out"]).unwrap().unwrap();
        let found = std::fs::read_to_string(artifact.join("value")).unwrap();
        assert_eq!(found, value(&of_instance(instance)), "{}\n{}", instance.label(BASELINE), world.yaml());
    }
    plan
}

/// A folder in memory, if there is one: syncing is not what is tested here.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn check(mut world: World, edits: &[Edit]) {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut computed = BTreeSet::new();
    for (file, content) in world.files.into_iter().enumerate() {
        write_file(folder.path(), file, content);
    }
    let mut plan = runtime.block_on(step(&world, folder.path(), &store, &mut computed));
    for edit in edits {
        world.apply(edit);
        match edit {
            Edit::File(file, _) | Edit::Touch(file) => write_file(folder.path(), *file, world.files[*file]),
            Edit::Forget(action) => {
                let node = petgraph::graph::NodeIndex::new(action % plan.graph.node_count());
                forget(&plan, node, folder.path(), &store, &mut computed);
            }
            _ => {}
        }
        plan = runtime.block_on(step(&world, folder.path(), &store, &mut computed));
    }
}

/// Removes an action's record, and what the oracle knows of it.
fn forget(
    plan: &Plan,
    node: petgraph::graph::NodeIndex,
    folder: &Path,
    store: &Store,
    computed: &mut BTreeSet<String>,
) {
    let action = &plan.graph[node];
    let key = action.action_key(&super::input_digests(plan, action)).unwrap().to_string();
    std::fs::remove_dir_all(folder.join("store/v1/actions").join(&key[..2]).join(&key[2..])).unwrap();
    let value = |digest: &Digest| {
        std::fs::read_to_string(store.artifact(digest).unwrap().unwrap().join("value")).unwrap()
    };
    let inputs: Vec<String> = super::input_digests(plan, action).values().flatten().map(value).collect();
    let mut params = (*action.step.params).clone();
    if let Some(file) = params.get_mut("file") {
        let path = file["$path"].as_str().unwrap().to_owned();
        *file = std::fs::read_to_string(path).unwrap().into();
    }
    let removed = material(&action.step.uses, &action.step.code.identity, &params, action.seeds.all, &inputs);
    assert!(computed.remove(&removed), "{removed} was computed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn exactly_what_is_not_known_runs_and_nothing_stale_is_used(
        world in world(),
        edits in proptest::collection::vec(edit(), 0..5),
    ) {
        check(world, &edits);
    }
}
