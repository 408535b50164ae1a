//! For tests: stages run in a temporary folder, small artifacts, golden values.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use restage_stage::{
    Context, Result, Stage,
    artifact::{
        Artifact, Categorical, Column, Csr, Embedding, Frame, Labels, Table, TestLabels, TrainLabels,
    },
    context::Silence,
    marks::{MarkKind, Marks},
    task::Task,
};
use serde_json::Value;
use tempfile::TempDir;

/// A temporary folder with inputs and outputs of one stage.
pub(crate) struct Bench {
    folder: TempDir,
    inputs: BTreeMap<String, Vec<PathBuf>>,
    seed: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), inputs: BTreeMap::new(), seed: 0 }
    }

    /// Connects an artifact to an input port, after those already there.
    pub(crate) fn input<A: Artifact>(mut self, port: &str, artifact: &A) -> Self {
        let paths = self.inputs.entry(port.into()).or_default();
        let path = self.folder.path().join(format!("in-{port}-{}", paths.len()));
        artifact.write(&path).unwrap();
        paths.push(path);
        self
    }

    /// Connects another artifact in place of those on an input port.
    pub(crate) fn replace<A: Artifact>(mut self, port: &str, artifact: &A) -> Self {
        let path = self.folder.path().join(format!("in-{port}-instead"));
        artifact.write(&path).unwrap();
        self.inputs.insert(port.into(), vec![path]);
        self
    }

    /// Leaves an input port open.
    pub(crate) fn without(mut self, port: &str) -> Self {
        self.inputs.remove(port);
        self
    }

    /// The seed of the run.
    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs the stage.
    pub(crate) fn run<S: Stage>(self, params: Value) -> Result<Self> {
        let outputs = [
            "split",
            "train",
            "validation",
            "test",
            "predictions",
            "training",
            "metrics",
            "embedding",
            "summary",
        ];
        let task = Task {
            stage: S::NAME.into(),
            params: params.clone(),
            inputs: self.inputs.clone(),
            outputs: outputs.iter().map(|&port| (port.to_owned(), self.path(port))).collect(),
            seed: self.seed,
            streams: Default::default(),
            threads: 1,
            gpus: 0,
            scratch: self.folder.path().into(),
        };
        restage_stage::stage::run::<S>(params, &Context::new(task, Box::new(Silence)))?;
        Ok(self)
    }

    /// Does something to the artifacts on an input port.
    pub(crate) fn add(self, change: impl FnOnce(&[PathBuf]) -> Result<()>, port: &str) -> Self {
        change(&self.inputs[port]).unwrap();
        self
    }

    /// Tells of the last artifact of an input port what an earlier stage would have told.
    pub(crate) fn marked(self, port: &str, kind: MarkKind, what: &str, spots: &[&str]) -> Self {
        let mut marks = Marks::default();
        marks.add(kind, what, spots.iter().copied());
        assert!(marks.write(self.inputs[port].last().unwrap()).unwrap());
        self
    }

    /// What is told of an output, in words.
    pub(crate) fn marks(&self, port: &str) -> Vec<String> {
        Marks::read(&self.path(port)).unwrap().iter().map(|mark| mark.what).collect()
    }

    /// Reads what the stage wrote.
    pub(crate) fn output<A: Artifact>(&self, port: &str) -> A {
        A::read(&self.path(port)).unwrap()
    }

    fn path(&self, port: &str) -> PathBuf {
        self.folder.path().join(format!("out-{port}"))
    }
}

/// A table without genes, with a spot per (section, patient).
pub(crate) fn table(spots: &[(&str, &str)]) -> Table {
    let sections = spots.iter().map(|spot| Some(spot.0));
    let patients = spots.iter().map(|spot| Some(spot.1));
    let index: Vec<String> =
        spots.iter().enumerate().map(|(i, (section, _))| format!("{section}_{i}")).collect();
    let mut obs = Frame { index: index.clone(), columns: vec![("barcode".into(), Column::Text(index))] };
    obs.push("section", Column::Categorical(Categorical::encode(sections)));
    obs.push("patient", Column::Categorical(Categorical::encode(patients)));
    Table {
        x: Csr { n_cols: 0, indptr: vec![0; spots.len() + 1], ..Csr::default() },
        spatial: vec![[0.0, 0.0]; spots.len()],
        obs,
        ..Table::default()
    }
}

/// An embedding of (spot, vector).
pub(crate) fn embedding(rows: impl IntoIterator<Item = (String, Vec<f32>)>) -> Embedding {
    let (spots, values): (Vec<String>, Vec<Vec<f32>>) = rows.into_iter().unzip();
    Embedding { spots, dims: values[0].len(), values: values.concat() }
}

/// Labels of (spot, patient, region).
fn labels<'a>(spots: impl IntoIterator<Item = (impl Into<String>, &'a str, &'a str)>) -> Labels {
    let mut labels = Labels::default();
    for (spot, patient, region) in spots {
        labels.spots.push(spot.into());
        labels.sections.push(format!("{patient}1"));
        labels.patients.push(patient.into());
        labels.regions.push(Some(region.into()));
    }
    labels
}

/// Training labels of (spot, patient, region).
pub(crate) fn train_labels<'a>(
    spots: impl IntoIterator<Item = (impl Into<String>, &'a str, &'a str)>,
) -> TrainLabels {
    TrainLabels(labels(spots))
}

/// Test labels of (spot, patient, region).
pub(crate) fn test_labels<'a, const N: usize>(spots: [(&'a str, &'a str, &'a str); N]) -> TestLabels {
    TestLabels(labels(spots))
}

/// What scikit-learn makes of a small classification; none where the shared folder is absent.
pub(crate) fn golden_metrics() -> Option<Value> {
    golden("losses_metrics.json").map(|golden| golden["metrics"].clone())
}

/// A file of golden values; none where the shared folder is absent.
pub(crate) fn golden(file: &str) -> Option<Value> {
    let shared = std::env::var_os("RESTAGE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = shared.join("golden").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not there", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

/// 120 spots of overlapping regions, in scikit-learn's words `i = np.arange(120); y = i*i % 11 % 3`,
/// `X = np.stack([np.sin(i) + .5*y, np.cos(2*i) - .4*y, np.sin(3*i)*np.cos(i), np.sin(.7*i)*y], 1).astype(np.float32)`,
/// and the labels of the first, of these patients in turn (`i % 7 % len(patients)`).
pub(crate) fn overlapping(patients: &[&'static str], labelled: usize) -> (Embedding, TrainLabels) {
    let region = |i: usize| i * i % 11 % 3;
    let features = embedding((0..120).map(|i| {
        let (x, y) = (i as f64, region(i) as f64);
        let row =
            [x.sin() + 0.5 * y, (2.0 * x).cos() - 0.4 * y, (3.0 * x).sin() * x.cos(), (0.7 * x).sin() * y];
        (format!("S_{i}"), row.map(|value| value as f32).to_vec())
    }));
    let labels = (0..labelled)
        .map(|i| (format!("S_{i}"), patients[i % 7 % patients.len()], ["a", "b", "c"][region(i)]));
    (features, train_labels(labels))
}

/// Asserts that numbers are near those of a reference.
pub(crate) fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < tolerance, "{found} is not {expected}");
    }
}

/// 90 points in the plane, of three blobs in turn. In NumPy's words: `i = np.arange(90); c = i % 3`,
/// `X = np.stack([3*(c==1) + .9*np.sin(7*i) + .3*np.cos(3*i), 2.5*(c==2) + .7*np.cos(5*i) + .4*np.sin(7*i)], 1)`.
pub(crate) fn blobs() -> Vec<f64> {
    (0..90_u32)
        .flat_map(|i| {
            let (t, blob) = (f64::from(i), i % 3);
            let (x, y) = (f64::from(u8::from(blob == 1)), f64::from(u8::from(blob == 2)));
            [
                3.0 * x + 0.9 * (7.0 * t).sin() + 0.3 * (3.0 * t).cos(),
                2.5 * y + 0.7 * (5.0 * t).cos() + 0.4 * (7.0 * t).sin(),
            ]
        })
        .collect()
}
