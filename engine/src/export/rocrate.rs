//! A run as a Workflow Run RO-Crate, by the profile "Provenance Run Crate" 0.5:
//! <https://www.researchobject.org/workflow-run-crate/profiles/provenance_run_crate>.
//!
//! Stages are `HowToStep`s, stage types the tools, actions what those created; artifacts are known by their BLAKE3 digests and
//! stay where they are. With it lie the workflow's files and `metrics.json`.

mod graph;

use std::collections::{BTreeMap, BTreeSet};

use restage_cache::Digest;
use serde_json::{Value, json};

use self::graph::{ARTIFACT, Graph, artifact, blake3, escaped, filled, kind, to};
use super::{metrics::time, owners, stages};
use crate::{
    plan::name,
    report::{ActionOutcome, ActionState, Outcome},
    run::{
        event::{ActionId, InstanceHead},
        journal::Kept,
    },
};

const CONTEXTS: [&str; 2] =
    ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"];

/// What the crate says that it conforms to.
const PROFILES: [(&str, &str, &str); 4] = [
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
];

const ROOT: &str = "./";
pub(crate) const DESCRIPTOR: &str = "ro-crate-metadata.json";
const METRICS: &str = "metrics.json";
const ENGINE: &str = "#restage";
const LANGUAGE: &str = "#restage-workflow";
const RUN: &str = "#run";

/// What a crate is made of.
pub(crate) struct Crate<'a> {
    pub(crate) outcome: &'a Outcome,
    /// Per action what its record says of how it came to be; null where there is none.
    pub(crate) records: Vec<Value>,
    /// The workflow's files.
    pub(crate) kept: Kept,
    /// `metrics.json`.
    pub(crate) metrics: Vec<u8>,
    /// Under what licence it may be used.
    pub(crate) license: &'a str,
}

impl Crate<'_> {
    /// Its files.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let metadata = serde_json::to_vec_pretty(&self.metadata()).unwrap_or_default();
        let own = [(DESCRIPTOR.to_owned(), metadata), (METRICS.to_owned(), self.metrics.clone())];
        self.kept.files.iter().cloned().chain(own).collect()
    }

    /// `ro-crate-metadata.json`.
    fn metadata(&self) -> Value {
        let mut graph = Graph::default();
        let outcome = self.outcome;
        let workflow = self.kept.files.first().map_or("workflow.yaml", |(file, _)| file);
        let title = workflow.rsplit('/').next().unwrap_or(workflow).trim_end_matches(".yaml");
        let ended = outcome.milliseconds.map(|took| outcome.time + took);

        graph.add(
            DESCRIPTOR,
            "CreativeWork",
            json!({
                "about": to(ROOT),
                "conformsTo": [to("https://w3id.org/ro/crate/1.1"), to(PROFILES[3].0)],
            }),
        );
        for (id, name, version) in PROFILES {
            graph.add(id, "CreativeWork", json!({ "name": name, "version": version }));
        }
        let (files, results) = (self.add_files(&mut graph), self.add_actions(&mut graph));
        let agent = outcome.by.as_deref().map(|by| graph.person(by.split('@').next().unwrap_or(by)));
        graph.add(
            ENGINE,
            "SoftwareApplication",
            json!({
                "name": "restage", "softwareVersion": outcome.version,
                "description": "runs machine-learning workflows written in YAML",
            }),
        );
        let seeds = self.add_seeds(&mut graph);
        graph.add(
            RUN,
            "CreateAction",
            filled(json!({
                "name": format!("run of {title}"),
                "instrument": to(workflow),
                "agent": agent,
                "startTime": time(outcome.time),
                "endTime": ended.map(time),
                "actionStatus": status_of_run(outcome),
                "object": seeds,
                "result": results.iter().map(String::as_str).chain([METRICS]).map(to).collect::<Vec<_>>(),
            })),
        );
        graph.add(
            "#orchestration",
            "OrganizeAction",
            filled(json!({
                "name": format!("restage {} runs {title}", outcome.version),
                "instrument": to(ENGINE),
                "agent": agent,
                "object": (0..outcome.actions.len()).map(|id| to(&control(id))).collect::<Vec<_>>(),
                "result": to(RUN),
                "startTime": time(outcome.time),
                "endTime": ended.map(time),
            })),
        );
        let artifacts: Vec<String> = graph.0.keys().filter(|id| id.starts_with(ARTIFACT)).cloned().collect();
        let parts = files.into_iter().chain([METRICS.to_owned()]).chain(artifacts);
        let how = if self.kept.as_it_ran {
            ""
        } else {
            ". The workflow's files are as they were when this was exported"
        };
        graph.add(ROOT, "Dataset", filled(json!({
            "name": format!("{title}: a run of {}", time(outcome.time)),
            "description": format!("{} actions of {} variants of {title}, run by restage{how}", outcome.actions.len(), outcome.variants.len()),
            "datePublished": time(ended.unwrap_or(outcome.time)),
            "license": self.license,
            "conformsTo": PROFILES.map(|(id, ..)| to(id)),
            "mainEntity": to(workflow),
            "hasPart": parts.map(|id| to(&id)).collect::<Vec<_>>(),
            "mentions": [to(RUN), to("#orchestration")],
            "author": agent,
        })));
        json!({ "@context": CONTEXTS, "@graph": graph.compact() })
    }

    /// The workflow, its language and what it imports; and `metrics.json`.
    fn add_files(&self, graph: &mut Graph) -> Vec<String> {
        graph.add(
            LANGUAGE,
            "ComputerLanguage",
            json!({
                "name": "restage workflow", "alternateName": "restage", "version": "1",
                "description": "YAML: stages, what they read, and a sweep over them",
            }),
        );
        let stages = stages(self.outcome);
        let tools: BTreeSet<String> =
            self.outcome.actions.iter().map(|action| tool(&action.head.uses)).collect();
        for (position, (file, bytes)) in self.kept.files.iter().enumerate() {
            let mut fields = json!({
                "name": file,
                "programmingLanguage": to(LANGUAGE),
                "encodingFormat": "application/yaml",
                "contentSize": bytes.len().to_string(),
                "identifier": blake3(&Digest::of(bytes)),
            });
            if position > 0 {
                graph.add(file, ["File", "SoftwareSourceCode"], fields);
                continue;
            }
            let steps: Vec<_> = stages.iter().map(|stage| to(&step(stage))).collect();
            for (name, value) in [
                ("hasPart", tools.iter().map(|tool| to(tool)).collect::<Vec<_>>()),
                ("step", steps),
                ("input", vec![to("#seed")]),
            ] {
                fields[name] = value.into();
            }
            graph.add(file, ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"], fields);
        }
        graph.add(
            METRICS,
            "File",
            json!({
                "name": "what the stages measured", "encodingFormat": "application/json",
                "contentSize": self.metrics.len().to_string(),
                "identifier": blake3(&Digest::of(&self.metrics)),
            }),
        );
        self.kept.files.iter().map(|(file, _)| file.clone()).collect()
    }

    /// The seeds of the run: what it was given beside the workflow.
    fn add_seeds(&self, graph: &mut Graph) -> Vec<Value> {
        let seeds: BTreeSet<u64> =
            self.outcome.instances.iter().filter_map(|instance| instance.seed).collect();
        let seeds: Vec<_> =
            seeds.into_iter().map(|seed| to(&graph.value("#seed", "seed", &seed.into()))).collect();
        graph.add(
            "#seed",
            "FormalParameter",
            json!({
                "name": "seed", "additionalType": "Integer", "valueRequired": false,
                "description": "what every stage that draws random numbers draws them from",
            }),
        );
        seeds
    }

    /// Steps, tools and actions. Returns the artifacts that no action reads.
    fn add_actions(&self, graph: &mut Graph) -> Vec<String> {
        let outcome = self.outcome;
        let owners = owners(outcome);
        let stages = stages(outcome);
        for (position, stage) in stages.iter().enumerate() {
            let is_of_it = |instance: &&InstanceHead| instance.stage == **stage;
            let of_it = outcome
                .instances
                .iter()
                .filter(is_of_it)
                .filter_map(|instance| outcome.actions.get(instance.action));
            let tools: BTreeSet<String> = of_it.map(|action| tool(&action.head.uses)).collect();
            graph.add(
                &step(stage),
                "HowToStep",
                json!({
                    "name": stage, "position": position + 1,
                    "workExample": tools.iter().map(|tool| to(tool)).collect::<Vec<_>>(),
                }),
            );
        }
        let mut results = BTreeSet::new();
        for (id, action) in outcome.actions.iter().enumerate() {
            self.add_tool(graph, action);
            let owner = owners.get(&id).copied();
            self.add_action(graph, id, action, owner);
            results.extend(action.done().into_iter().flat_map(|done| done.outputs.values()).map(artifact));
        }
        for done in outcome.actions.iter().filter_map(ActionOutcome::done) {
            for digest in done.past.inputs.values().flatten() {
                results.remove(&artifact(digest));
            }
        }
        results.into_iter().collect()
    }

    fn add_tool(&self, graph: &mut Graph, action: &ActionOutcome) {
        let uses = &action.head.uses;
        let identity = action.done().map(|done| done.past.identity.to_string());
        let mut ports = |list: Vec<&String>, side: &str| -> Vec<Value> {
            let add = |port: &String| {
                let id = format!("{}/{side}/{}", tool(uses), escaped(port));
                graph.add(&id, "FormalParameter", json!({ "name": port, "additionalType": "Dataset" }));
                to(&id)
            };
            list.into_iter().map(add).collect()
        };
        let (inputs, outputs) = (
            ports(action.head.inputs.keys().collect(), "in"),
            ports(action.head.outputs.keys().collect(), "out"),
        );
        graph.add(
            &tool(uses),
            "SoftwareApplication",
            filled(json!({
                "name": uses,
                "description": format!("the stage type {uses} of restage"),
                "softwareVersion": identity,
            })),
        );
        // What an action has beside others is the tool's as well.
        graph.extend(&tool(uses), "input", inputs);
        graph.extend(&tool(uses), "output", outputs);
    }

    fn add_action(
        &self,
        graph: &mut Graph,
        id: ActionId,
        action: &ActionOutcome,
        owner: Option<&InstanceHead>,
    ) {
        let record = self.records.get(id).unwrap_or(&Value::Null);
        let text = |field: &str| record.get(field).and_then(Value::as_str);
        let finished = record.get("finished").and_then(Value::as_u64);
        let took = record.get("milliseconds").and_then(Value::as_u64);
        let (mut objects, mut results) = (Vec::new(), Vec::new());
        let uses = &action.head.uses;
        if let Some(done) = action.done() {
            for (port, digest) in
                done.past.inputs.iter().flat_map(|(port, all)| all.iter().map(move |one| (port, one)))
            {
                objects.push(graph.artifact(digest, None, &format!("{}/in/{}", tool(uses), escaped(port))));
            }
            let params = done.past.keyed_params.as_object().into_iter().flatten();
            for (name, value) in params.filter(|(_, value)| !value.is_null()) {
                let formal = format!("{}/with/{}", tool(uses), escaped(name));
                graph.add(&formal, "FormalParameter", json!({ "name": name, "additionalType": kind(value) }));
                graph.extend(&tool(uses), "input", vec![to(&formal)]);
                objects.push(graph.value(&formal, name, value));
            }
            objects.extend(done.past.seed.map(|seed| graph.value("#seed", "seed", &seed.into())));
            if let Some((stream, seed)) = &done.past.stream {
                let (formal, name) = (
                    format!("{}/seed/{}", tool(uses), escaped(stream)),
                    format!("seed of the stream {stream}"),
                );
                let about = json!({ "name": name, "additionalType": "Integer", "valueRequired": false });
                graph.add(&formal, "FormalParameter", about);
                graph.extend(&tool(uses), "input", vec![to(&formal)]);
                objects.push(graph.value(&formal, &name, &(*seed).into()));
            }
            for (port, digest) in &done.outputs {
                let told = format!("{}.{port}", action.head.name);
                results.push(graph.artifact(
                    digest,
                    Some(&told),
                    &format!("{}/out/{}", tool(uses), escaped(port)),
                ));
            }
        }
        let (status, error) = match &action.state {
            ActionState::Done(_) => ("CompletedActionStatus", None),
            ActionState::Failed { message, .. } => ("FailedActionStatus", Some(message.clone())),
            ActionState::Skipped { because } => {
                let because = outcome_name(self.outcome, *because);
                ("PotentialActionStatus", Some(format!("did not run: it reads {because}, which failed")))
            }
            ActionState::Pending | ActionState::Waiting => ("PotentialActionStatus", None),
            ActionState::Running => ("ActiveActionStatus", None),
        };
        let told = owner.map_or_else(|| action.head.name.clone(), shown);
        let links = |ids: &[String]| ids.iter().map(|id| to(id)).collect::<Vec<_>>();
        let agent = text("user").map(|user| graph.person(user));
        graph.add(
            &create(id),
            "CreateAction",
            filled(json!({
                "name": told,
                "instrument": to(&tool(uses)),
                "agent": agent,
                "startTime": finished.zip(took).map(|(finished, took)| time(finished.saturating_sub(took))),
                "endTime": finished.map(time),
                "actionStatus": to(&format!("http://schema.org/{status}")),
                "error": error,
                "object": links(&objects),
                "result": links(&results),
                "description": circumstances(record),
                "identifier": action.done().map(|done| format!("action key {}", done.key)),
            })),
        );
        let stage = owner.map_or(action.head.name.as_str(), |owner| owner.stage.as_str());
        graph.add(
            &control(id),
            "ControlAction",
            json!({
                "name": format!("orchestrates {told}"),
                "instrument": to(&step(stage)),
                "object": to(&create(id)),
            }),
        );
    }
}

/// Where an action ran, for people.
fn circumstances(record: &Value) -> Option<String> {
    let host = record.get("host")?.as_str()?;
    let threads = record.get("threads").and_then(Value::as_u64).map(|threads| format!(", {threads} threads"));
    let device = match record.get("device") {
        Some(Value::String(device)) => format!(", {device}"),
        Some(Value::Array(gpus)) => {
            format!(", {}", gpus.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" and "))
        }
        _ => String::new(),
    };
    Some(format!("on {host}{device}{}", threads.unwrap_or_default()))
}

fn status_of_run(outcome: &Outcome) -> Value {
    let has_failed = outcome.actions.iter().any(|action| matches!(action.state, ActionState::Failed { .. }));
    let status = match outcome.milliseconds {
        _ if outcome.succeeded() => "CompletedActionStatus",
        None if !has_failed => "ActiveActionStatus",
        _ => "FailedActionStatus",
    };
    to(&format!("http://schema.org/{status}"))
}

fn outcome_name(outcome: &Outcome, action: ActionId) -> &str {
    outcome.actions.get(action).map_or("?", |action| &action.head.name)
}

fn shown(instance: &InstanceHead) -> String {
    let seed = instance.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    format!("{} ({}{seed})", name(&instance.stage, &instance.at), instance.variant)
}

fn tool(uses: &str) -> String {
    format!("#{}", escaped(uses))
}

fn step(stage: &str) -> String {
    format!("#stage/{}", escaped(stage))
}

fn create(action: ActionId) -> String {
    format!("#action/{action}")
}

fn control(action: ActionId) -> String {
    format!("#control/{action}")
}
