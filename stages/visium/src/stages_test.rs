//! The stages from folder to folder, as a host runs them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use restage_stage::{
    Context, Stage,
    artifact::{Artifact, Csr, Embedding, Frame, Image, Labels, Metrics, Patches, Role, Split, Table},
    context::Silence,
    marks::{MarkKind, Marks},
    task::Task,
};
use serde_json::{Value, json};

use crate::{normalize::Normalize, patches::MakePatches, pca::Pca, qc::Qc, scale::Scale, simulate::Simulate};

/// Runs a stage into `folder/<stage>/<output>`.
pub(crate) fn run<S: Stage>(folder: &Path, params: Value, inputs: &[(&str, &[PathBuf])], outputs: &[&str]) {
    let home = folder.join(S::NAME);
    std::fs::create_dir_all(&home).unwrap();
    let task = Task {
        stage: S::NAME.into(),
        params: params.clone(),
        inputs: inputs.iter().map(|(port, paths)| (port.to_string(), paths.to_vec())).collect(),
        outputs: outputs.iter().map(|port| (port.to_string(), home.join(port))).collect::<BTreeMap<_, _>>(),
        seed: 0,
        streams: Default::default(),
        threads: 1,
        gpus: 0,
        scratch: home,
    };
    restage_stage::stage::run::<S>(params, &Context::new(task, Box::new(Silence))).unwrap();
}

/// A context of a stage without ports.
pub(crate) fn context(folder: &Path) -> Context {
    let task = Task {
        stage: "test".into(),
        params: json!({}),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        seed: 0,
        streams: Default::default(),
        threads: 1,
        gpus: 0,
        scratch: folder.into(),
    };
    Context::new(task, Box::new(Silence))
}

/// What is fitted on all spots says so, and so does what is made of it; with a split nothing is told.
#[test]
fn what_is_fitted_on_test_spots_says_so_as_far_as_it_gets() {
    let folder = tempfile::tempdir().unwrap();
    let at = |place: &str| vec![folder.path().join(place)];
    run::<Simulate>(
        folder.path(),
        json!({ "section": "S", "rows": 8, "cols": 8, "genes": 120 }),
        &[],
        &["table", "image", "labels", "section"],
    );
    let table = Table::read(&at("simulate/table")[0]).unwrap();
    let split = Split {
        roles: (0..table.n_spots())
            .map(|spot| if spot % 4 == 0 { Role::Test } else { Role::Train })
            .collect(),
        spots: table.obs.index.clone(),
    };
    split.write(&at("split")[0]).unwrap();
    let told = |place: &str| -> Vec<String> {
        let marks = Marks::read(&at(place)[0]).unwrap();
        assert!(marks.iter().all(|mark| mark.kind == MarkKind::Transductive));
        marks.iter().map(|mark| mark.what).collect()
    };
    let (genes, components) =
        ("visium/normalize: variable genes are chosen", "visium/pca: components are fitted");
    for (connected, fit_on, expected) in [
        (true, "train", vec![]),
        (false, "train", vec![format!("{genes} on all spots"), format!("{components} on all spots")]),
        (true, "all", vec![format!("{genes} on all spots"), format!("{components} on all spots")]),
    ] {
        let splits = if connected { at("split") } else { vec![] };
        let tables = at("simulate/table");
        let inputs: [(&str, &[PathBuf]); 2] = [("table", &tables), ("split", &splits)];
        let _ = std::fs::remove_dir_all(folder.path().join("qc"));
        run::<Qc>(folder.path(), json!({ "fit_on": fit_on }), &inputs, &["table", "summary"]);
        let judged = if connected && fit_on == "all" { 1 } else { 0 };
        assert_eq!(told("qc/table").len(), judged, "split: {connected}, fit_on: {fit_on}");
        for stage in ["normalize", "pca"] {
            let _ = std::fs::remove_dir_all(folder.path().join(stage));
        }
        let tables = at("simulate/table");
        let inputs: [(&str, &[PathBuf]); 2] = [("table", &tables), ("split", &splits)];
        run::<Normalize>(folder.path(), json!({ "n_top_genes": 50, "fit_on": fit_on }), &inputs, &["table"]);
        let tables = at("normalize/table");
        let inputs: [(&str, &[PathBuf]); 2] = [("table", &tables), ("split", &splits)];
        run::<Pca>(folder.path(), json!({ "n_components": 3, "fit_on": fit_on }), &inputs, &["embedding"]);
        assert_eq!(told("pca/embedding"), expected, "split: {connected}, fit_on: {fit_on}");
        assert!(Embedding::read(&at("pca/embedding")[0]).is_ok(), "a mark is in nobody's way");
    }
}

/// What nothing expresses, and a spot that expresses nothing, go through every step without becoming NaN.
#[test]
fn a_gene_and_a_spot_of_zeros_stay_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |place: &str| vec![folder.path().join(place)];
    let row = |spot: usize| {
        let genes = (1..30).filter(move |gene| spot > 0 && (gene * 7 + spot * 3) % 5 < 3);
        genes.map(|gene| (gene as i32, ((gene * spot) % 11 + 1) as f32)).collect()
    };
    let names = |prefix: &str, count: usize| (0..count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>();
    let table = Table {
        x: Csr::from_rows(30, (0..40).map(row)),
        obs: Frame { index: names("s_", 40), ..Frame::default() },
        var: Frame { index: names("g", 30), ..Frame::default() },
        spatial: (0..40).map(|spot| [f64::from(spot), 0.0]).collect(),
        ..Table::default()
    };
    table.write(&folder.path().join("raw")).unwrap();
    let keep_all = json!({ "min_counts": 0, "min_cells": 0 });
    run::<Qc>(folder.path(), keep_all, &[("table", &at("raw"))], &["table", "summary"]);
    assert_eq!(Table::read(&folder.path().join("qc/table")).unwrap().x, table.x);
    for flavor in ["seurat", "cell_ranger", "seurat_v3"] {
        let home = folder.path().join(flavor);
        let params = json!({ "flavor": flavor, "n_top_genes": 12, "subset": false, "span": 0.8 });
        run::<Normalize>(&home, params, &[("table", &at("qc/table"))], &["table"]);
        let normalized = vec![home.join("normalize/table")];
        run::<Scale>(&home, json!({}), &[("table", &normalized)], &["table"]);
        for scale in [false, true] {
            let params = json!({ "n_components": 5, "scale": scale });
            let home = home.join(format!("scaled_{scale}"));
            run::<Pca>(&home, params, &[("table", &normalized)], &["embedding"]);
            let scores = Embedding::read(&home.join("pca/embedding")).unwrap().values;
            assert!(scores.iter().all(|score| score.is_finite()), "{flavor} {scores:?}");
        }
        for path in [&normalized[0], &home.join("scale/table")] {
            let values = Table::read(path).unwrap().x.data;
            assert!(values.iter().all(|value| value.is_finite()), "{flavor}");
        }
    }
}

#[test]
fn a_simulated_section_goes_all_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let at = |place: &str| vec![folder.join(place)];

    let small = json!({ "section": "A", "patient": "p", "rows": 8, "cols": 8, "genes": 60 });
    run::<Simulate>(folder, small, &[], &["table", "image", "labels", "section"]);
    let simulated = Table::read(&folder.join("simulate/table")).unwrap();
    let labels = Labels::read(&folder.join("simulate/labels")).unwrap();
    assert_eq!(simulated.obs.index, labels.spots);
    assert_eq!(
        simulated.libraries["A"].images["hires"].pixels,
        Image::read(&folder.join("simulate/image")).unwrap().pixels
    );

    run::<Qc>(folder, json!({}), &[("table", &at("simulate/table"))], &["table", "summary"]);
    let summary = Metrics::read(&folder.join("qc/summary")).unwrap();
    assert_eq!(summary.values["spots_before"], 64.0);

    let roles = (0..64).map(|spot| if spot % 3 == 0 { Role::Test } else { Role::Train }).collect();
    Split { spots: labels.spots.clone(), roles }.write(&folder.join("split")).unwrap();
    let inputs: [(&str, &[PathBuf]); 2] = [("table", &at("qc/table")), ("split", &at("split"))];
    run::<Normalize>(folder, json!({ "n_top_genes": 40 }), &inputs, &["table"]);
    let normalized = Table::read(&folder.join("normalize/table")).unwrap();
    assert_eq!((normalized.n_spots(), normalized.n_genes()), (64, 40));

    let inputs: [(&str, &[PathBuf]); 2] = [("table", &at("normalize/table")), ("split", &at("split"))];
    run::<Pca>(folder, json!({ "n_components": 5 }), &inputs, &["embedding"]);
    let embedding = Embedding::read(&folder.join("pca/embedding")).unwrap();
    assert_eq!((embedding.spots.len(), embedding.dims), (64, 5));

    let inputs: [(&str, &[PathBuf]); 2] =
        [("images", &at("simulate/image")), ("table", &at("simulate/table"))];
    run::<MakePatches>(folder, json!({}), &inputs, &["patches"]);
    let patches = Patches::read(&folder.join("patches/patches")).unwrap();
    assert_eq!((patches.spots, patches.size), (labels.spots, 32));
}

#[test]
fn a_default_written_out_is_the_default() {
    fn canonical<S: Stage>(params: Value) -> Value {
        serde_json::to_value(serde_json::from_value::<S::Params>(params).unwrap()).unwrap()
    }
    assert_eq!(
        canonical::<Normalize>(json!({})),
        canonical::<Normalize>(json!({ "target_sum": 10_000, "flavor": "seurat" }))
    );
    assert_eq!(
        canonical::<MakePatches>(json!({})),
        canonical::<MakePatches>(json!({ "size": 32, "edge": "reflect" }))
    );
    assert_eq!(
        canonical::<Simulate>(json!({ "section": "A" })),
        canonical::<Simulate>(json!({ "section": "A", "rows": 16 }))
    );
    assert!(serde_json::from_value::<<Qc as Stage>::Params>(json!({ "min_count": 1 })).is_err());
}
