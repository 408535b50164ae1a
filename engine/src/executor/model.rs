//! A machine for tests, on which every stage is a plain function of what it may depend on.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use restage_cache::{Digest, Store};
use restage_stage::task::PATH_MARK;
use serde_json::Value;

use super::{Circumstances, Computed, Job};
use crate::plugin::Sandbox;

/// Remembers what it was asked to compute.
pub(crate) struct Model {
    pub(crate) store: Store,
    pub(crate) ran: Arc<Mutex<Vec<String>>>,
}

impl Model {
    pub(super) fn compute(&self, job: &Job) -> Computed {
        let read = |folder: &PathBuf| std::fs::read_to_string(folder.join("value")).unwrap();
        let inputs = job.inputs.values().flatten().map(read).collect::<Vec<_>>();
        let params = with_contents(&job.params);
        let seeded = job.uses.ends_with("draw").then_some(job.seeds.all.unwrap_or(0));
        let material = material(&job.uses, &job.identity, &params, seeded, &inputs);
        let staging = self.store.staging().unwrap();
        let folder = staging.path().join("out");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("value"), value(&material)).unwrap();
        self.ran.lock().unwrap().push(material);
        let how = Circumstances {
            threads: 1,
            gpus: Vec::new(),
            sandbox: Sandbox::Unavailable,
            memory: None,
            milliseconds: 0,
        };
        Computed { _staging: staging, folders: [("out".to_owned(), folder)].into(), how }
    }
}

/// Everything that a stage's result may depend on.
pub(crate) fn material(
    uses: &str,
    identity: &Digest,
    params: &Value,
    seed: Option<u64>,
    inputs: &[String],
) -> String {
    format!("{uses} {identity:.8} {params} {seed:?} {inputs:?}")
}

/// The result: one of few, so that different ways often end in the same bytes.
pub(crate) fn value(material: &str) -> String {
    (blake3::hash(material.as_bytes()).as_bytes()[0] % 3).to_string()
}

/// Params with the content of files in the place of their paths.
fn with_contents(params: &Value) -> Value {
    match params {
        Value::Object(map) if map.contains_key(PATH_MARK) => {
            let path = map.get(PATH_MARK).and_then(Value::as_str).unwrap();
            std::fs::read_to_string(Path::new(path)).unwrap().into()
        }
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), with_contents(value))).collect(),
        other => other.clone(),
    }
}
